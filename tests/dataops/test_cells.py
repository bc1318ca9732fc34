"""Cells: planted topics fall apart, a fit is what its input makes of it, and it travels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import UsageError
from dataops.cells import AssignCells, FitCells, load_cells, window_keys
from dataops.kernels.embed import embed
from dataops.quality import QualityFilter, Rule
from dataops.windows import windows_of
from tests.dataops.conftest import CONTEXT, Selection, apply, live, rows_of, select


def cells_of(selection: Selection, snapshot_name: str) -> list[dict]:
    columns = ("id", "window", "start", "n_tokens", "cell", "similarity")
    return live(selection.catalog, selection.catalog.snapshot(snapshot_name), *columns, table="cells")


def test_planted_topics_land_in_cells_of_their_own(selection: Selection) -> None:
    topic = selection.topics(selection.pool)
    by_cell: dict[int, Counter[str]] = {}
    for row in cells_of(selection, "pool-cells"):
        by_cell.setdefault(row["cell"], Counter())[topic[row["id"]]] += 1
    assert 4 <= len(by_cell) <= 8
    for counted in by_cell.values():
        assert counted.most_common(1)[0][1] >= 0.95 * counted.total()


def test_the_target_falls_into_the_cells_of_its_topics(selection: Selection) -> None:
    topic = selection.topics(selection.pool)
    home = {row["cell"]: topic[row["id"]] for row in cells_of(selection, "pool-cells")}
    truth = selection.topics(selection.target)
    rows = cells_of(selection, "target-cells")
    assert np.mean([home[row["cell"]] == truth[row["id"]] for row in rows]) >= 0.95


def test_every_window_has_one_row_and_windows_hold_all_tokens(selection: Selection) -> None:
    rows = cells_of(selection, "pool-cells")
    assert len({(row["id"], row["window"]) for row in rows}) == len(rows)
    length: Counter[str] = Counter()
    for row in rows:
        assert row["start"] == row["window"] * CONTEXT
        length[row["id"]] += row["n_tokens"]
    tokens = live(selection.catalog, selection.pool, "id", "n_tokens", table="tokens")
    assert length == {row["id"]: row["n_tokens"] for row in tokens}


def test_a_window_is_in_the_leaf_of_the_nearest_centroid_on_its_path_and_the_similarity_is_its_cosine(
    selection: Selection,
) -> None:
    model = load_cells(selection.catalog.store, selection.pool.artifact("cell-model"))
    (centroids,) = model.tree.centroids
    shard = selection.pool.contents.shards[0]
    from catalog.tokenizer import BpeTokenizer

    lengths = BpeTokenizer(selection.catalog.store.local(selection.pool.artifact("tokenizer"))).byte_lengths
    windows = windows_of(selection.catalog.store, shard, (), context=model.context, byte_lengths=lengths)
    cosine = embed(windows.text, model.idf, model.projection) @ centroids.T
    rows = rows_of(selection.catalog, selection.pool, "cells")[: len(windows)]
    assert [row["cell"] for row in rows] == cosine.argmax(axis=1).tolist()
    np.testing.assert_allclose([row["similarity"] for row in rows], cosine.max(axis=1), atol=1e-5)


def test_assigning_the_snapshot_that_was_fitted_gives_the_same_table(selection: Selection) -> None:
    again = apply(selection.catalog, AssignCells(), selection.tokens, selection.pool, into="again")
    assert again.id == selection.pool.id


def test_the_context_travels_with_the_fit(selection: Selection) -> None:
    fit = FitCells(context=16, cells=4, dimension=8, buckets=1 << 10)
    fitted = apply(selection.catalog, fit, selection.tokens, into="narrow")
    target = apply(selection.catalog, AssignCells(), selection.catalog.snapshot("target-tokens"), fitted, into="n")
    rows = live(selection.catalog, target, "n_tokens", table="cells")
    assert max(row["n_tokens"] for row in rows) == 16
    assert load_cells(selection.catalog.store, target.artifact("cell-model")).context == 16


def test_shards_and_workers_change_neither_cells_nor_the_fit(selection: Selection, tmp_path: Path) -> None:
    other = select(tmp_path, workers=1, shard_bytes=1_000_000)
    assert len(other.pool.contents.shards) < len(selection.pool.contents.shards)
    assert other.pool.artifact("cell-model").sha256 == selection.pool.artifact("cell-model").sha256
    for name in ("pool-cells", "target-cells"):
        assert cells_of(other, name) == cells_of(selection, name)


def test_a_small_sample_gives_fewer_cells_and_still_every_window_one(selection: Selection) -> None:
    fit = FitCells(context=CONTEXT, cells=64, dimension=8, buckets=1 << 10, sample_windows=40)
    fitted = apply(selection.catalog, fit, selection.tokens, into="few")
    summary = fitted.contents.summary
    assert 2 <= summary["cells"] <= 10
    cells = [row["cell"] for row in live(selection.catalog, fitted, "cell", table="cells")]
    assert len(cells) == summary["windows"]
    assert 0 <= min(cells) <= max(cells) < summary["cells"]


def test_nothing_to_cluster_is_one_clear_error(selection: Selection) -> None:
    none = QualityFilter(rules=(Rule(name="endless", statistic="n_words", low=1e9),))
    empty = apply(selection.catalog, none, selection.tokens, into="empty")
    with pytest.raises(UsageError, match="has no live documents"):
        apply(selection.catalog, FitCells(), empty, into="cells")


def test_windows_without_tokens_name_the_missing_table(selection: Selection) -> None:
    with pytest.raises(UsageError, match="has no table 'tokens'"):
        apply(selection.catalog, FitCells(), selection.catalog.snapshot("pool"), into="cells")


@pytest.mark.parametrize("setting", [{"context": 0}, {"cells": 0}, {"branching": 1}])
def test_settings_that_mean_nothing_are_refused(setting: dict) -> None:
    with pytest.raises(UsageError, match="expected context and cells of at least 1"):
        FitCells(**setting)


def test_the_key_of_a_window_depends_on_document_and_number() -> None:
    h64 = np.array([1, 1, 2, 2], np.uint64)
    assert len(set(window_keys(h64, np.array([0, 1, 0, 1], np.int32)).tolist())) == 4

"""Cells: planted topics fall apart, a fit is what its input makes of it, and it travels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import UsageError
from catalog.query import sql
from catalog.tables import read_table
from dataops.cells import FLOOR, AssignCells, FitCells, load_cells, sample_rates, window_keys
from dataops.embedders import Kind
from dataops.quality import QualityFilter, Rule
from dataops.windows import windows_of
from tests.dataops.conftest import CONTEXT, TOPICS, Selection, apply, live, rows_of, select


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
    cosine = model.embedder.embed(windows.text) @ centroids.T
    rows = rows_of(selection.catalog, selection.pool, "cells")[: len(windows)]
    assert [row["cell"] for row in rows] == cosine.argmax(axis=1).tolist()
    np.testing.assert_allclose([row["similarity"] for row in rows], cosine.max(axis=1), atol=1e-5)


def test_assigning_the_snapshot_that_was_fitted_gives_the_same_table(selection: Selection) -> None:
    again = apply(selection.catalog, AssignCells(), selection.tokens, selection.pool, into="again")
    for one, two in zip(again.contents.shards, selection.pool.contents.shards, strict=True):
        assert one.tables["cells"].sha256 == two.tables["cells"].sha256


def test_cards_of_other_cells_do_not_stay_with_a_snapshot(selection: Selection) -> None:
    catalog = selection.catalog
    other = apply(catalog, FitCells(context=CONTEXT, cells=4, dimension=8, seed=2), selection.tokens, into="other-fit")
    moved = apply(catalog, AssignCells(), selection.pool, other, into="moved")
    assert "cards" in selection.pool.contents.artifacts
    assert "cards" not in moved.contents.artifacts


def test_a_refit_on_more_text_keeps_the_embedding_and_the_numbers_of_cells(selection: Selection) -> None:
    catalog = selection.catalog
    target = catalog.snapshot("target-tokens")
    before = load_cells(catalog.store, selection.pool.artifact("cell-model"))
    moved = apply(catalog, FitCells(iterations=3), target, selection.pool, into="moved")
    after = load_cells(catalog.store, moved.artifact("cell-model"))
    assert np.array_equal(after.embedder.arrays["projection"], before.embedder.arrays["projection"])
    assert after.context == moved.contents.summary["context"] == before.context != FitCells().context
    assert after.tree.num_cells == before.tree.num_cells
    old = {(row["id"], row["window"]): row["cell"] for row in cells_of(selection, "target-cells")}
    new = {(row["id"], row["window"]): row["cell"] for row in cells_of(selection, "moved")}
    assert np.mean([old[key] == new[key] for key in old]) > 0.7
    assert not np.array_equal(after.tree.centroids[-1], before.tree.centroids[-1])


def test_small_sources_are_sampled_up_to_a_floor_and_the_others_in_proportion() -> None:
    rates = sample_rates(Counter(web=100_000, law=200, note=5), 1_000)
    assert rates["web"] == pytest.approx(1_000 / 100_205)
    assert rates["law"] * 200 == pytest.approx(1_000 / FLOOR / 3)
    assert rates["note"] == 1


@pytest.mark.parametrize("kind", ["tfidf-random", "fasttext"])
def test_every_embedder_that_learns_from_the_corpus_fits_assigns_and_repeats(selection: Selection, kind: Kind) -> None:
    catalog = selection.catalog
    fit = FitCells(context=CONTEXT, cells=4, embedder=kind, dimension=64, buckets=1 << 12, sample_windows=600)
    one = apply(catalog, fit, selection.tokens, into="one", workers=1)
    again = apply(catalog, AssignCells(), selection.tokens, one, into="again")
    assert [s.tables["cells"].sha256 for s in again.contents.shards] == [
        s.tables["cells"].sha256 for s in one.contents.shards
    ]
    if kind == "fasttext":
        topic = selection.topics(one)
        by_cell: dict[int, Counter[str]] = {}
        for row in cells_of(selection, "one"):
            by_cell.setdefault(row["cell"], Counter())[topic[row["id"]]] += 1
        pure = sum(counted.most_common(1)[0][1] for counted in by_cell.values())
        assert pure >= 0.9 * sum(counted.total() for counted in by_cell.values())


def test_cards_count_all_windows_and_name_the_words_of_the_topic(selection: Selection) -> None:
    cards = read_table(selection.catalog.store, selection.pool.artifact("cards")).to_pylist()
    rows = cells_of(selection, "pool-cells")
    topic = selection.topics(selection.pool)
    for card in cards:
        own = [row for row in rows if row["cell"] == card["cell"]]
        assert card["windows"] == len(own)
        assert card["tokens"] == sum(row["n_tokens"] for row in own)
        assert card["documents"] == len({row["id"] for row in own})
        assert card["sources"] == ["pool"] * bool(own)
        best = sorted({row["id"]: row["similarity"] for row in sorted(own, key=lambda r: r["similarity"])}.items(),
                      key=lambda pair: (-pair[1], pair[0]))  # fmt: skip
        assert card["nearest"] == [name for name, _ in best[:3]]
        home = Counter(topic[row["id"]] for row in own).most_common(1)[0][0]
        assert card["words"]
        assert all(word in TOPICS[home] for word in card["words"])


def test_cards_are_answered_in_sql(selection: Selection) -> None:
    found = sql(selection.catalog, "SELECT cell, windows, words[1] AS word FROM cards WHERE snapshot = 'pool-cells@1'")
    assert found.num_rows == selection.pool.contents.summary["cells"]
    assert None not in found["word"].to_pylist()


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


def test_a_sample_smaller_than_the_dimension_is_one_clear_error(selection: Selection) -> None:
    with pytest.raises(UsageError, match="expected at least 65 texts; add text, a smaller dimension"):
        apply(selection.catalog, FitCells(context=CONTEXT, sample_windows=40), selection.tokens, into="cells")


def test_nothing_to_cluster_is_one_clear_error(selection: Selection) -> None:
    none = QualityFilter(rules=(Rule(name="endless", statistic="n_words", low=1e9),))
    empty = apply(selection.catalog, none, selection.tokens, into="empty")
    with pytest.raises(UsageError, match="has no live documents"):
        apply(selection.catalog, FitCells(), empty, into="cells")


def test_windows_without_tokens_name_the_missing_table(selection: Selection) -> None:
    with pytest.raises(UsageError, match="has no table 'tokens'"):
        apply(selection.catalog, FitCells(), selection.catalog.snapshot("pool"), into="cells")


@pytest.mark.parametrize("setting", [{"context": 0}, {"cells": 0}, {"dimension": 0}, {"sample_windows": 0}])
def test_settings_that_mean_nothing_are_refused(setting: dict) -> None:
    with pytest.raises(UsageError, match=r"^\w+ 0: expected at least 1$"):
        FitCells(**setting)


def test_the_key_of_a_window_depends_on_document_and_number() -> None:
    h64 = np.array([1, 1, 2, 2], np.uint64)
    assert len(set(window_keys(h64, np.array([0, 1, 0, 1], np.int32)).tolist())) == 4

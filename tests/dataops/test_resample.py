"""Resampling: the draws are near the budget, nest, and are all on record."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from catalog.errors import UsageError
from catalog.snapshot import Snapshot
from catalog.tables import read_table
from dataops.cells import AssignCells, FitCells
from dataops.importance import Weigh
from dataops.resample import Resample
from dataops.selectors import WeighNgrams
from dataops.split import Split
from dataops.tokenize import Tokenize
from tests.dataops.conftest import TOPICS, Selection, apply, decisions, ingest_rows, live, rows_of, select, topic_rows

Window = tuple[str, int]


def mixture(selection: Selection) -> Snapshot:
    return apply(selection.catalog, Weigh(tokens=10_000), selection.pool, selection.target, into="mixture")


def resampled(selection: Selection, tokens: int, **settings: int) -> Snapshot:
    step = Resample(tokens=tokens, **settings)
    return apply(selection.catalog, step, selection.pool, mixture(selection), into="resampled")


def drawn(selection: Selection, snapshot: Snapshot) -> set[Window]:
    return {(row["id"], row["window"]) for row in rows_of(selection.catalog, snapshot, "draws")}


def test_a_larger_budget_contains_every_smaller_one_window_by_window(selection: Selection) -> None:
    budgets = [drawn(selection, resampled(selection, tokens)) for tokens in (2_000, 5_000, 10_000, 40_000)]
    for small, large in pairwise(budgets):
        assert small < large


def test_the_tokens_drawn_are_near_the_budget_of_each_cell_and_in_sum(selection: Selection) -> None:
    snapshot = resampled(selection, 10_000)
    summary = snapshot.contents.summary
    weights = read_table(selection.catalog.store, snapshot.artifact("weights")).to_pylist()
    windows = {(r["id"], r["window"]): r for r in live(
        selection.catalog, selection.pool, "id", "window", "cell", "n_tokens", table="cells")}  # fmt: skip
    taken = dict.fromkeys(range(len(weights)), 0)
    for window in drawn(selection, snapshot):
        taken[windows[window]["cell"]] += windows[window]["n_tokens"]
    wanted = {row["cell"]: min(10_000 * row["weight"], row["pool_tokens"]) for row in weights}
    assert summary["tokens"] == sum(taken.values())
    assert summary["tokens"] == pytest.approx(sum(wanted.values()), rel=0.1)
    for cell, tokens in wanted.items():
        if tokens > 1_500:
            assert taken[cell] == pytest.approx(tokens, rel=0.25)


def test_a_cell_that_is_asked_for_more_than_once_over_is_taken_whole(selection: Selection) -> None:
    snapshot = resampled(selection, 10_000_000)
    everything = {
        (r["id"], r["window"]) for r in live(selection.catalog, selection.pool, "id", "window", table="cells")
    }
    assert drawn(selection, snapshot) == everything
    assert snapshot.contents.rows == selection.pool.contents.rows


def test_draws_name_windows_that_exist_with_their_cell_and_each_once(selection: Selection) -> None:
    snapshot = resampled(selection, 10_000)
    cell = {(r["id"], r["window"]): r["cell"] for r in rows_of(selection.catalog, selection.pool, "cells")}
    rows = rows_of(selection.catalog, snapshot, "draws")
    assert len(rows) == len(drawn(selection, snapshot)) == snapshot.contents.summary["windows"] > 0
    assert all(cell[row["id"], row["window"]] == row["cell"] for row in rows)


def test_a_document_stays_while_one_of_its_windows_is_drawn_and_else_leaves_by_the_rule_resample(
    selection: Selection,
) -> None:
    snapshot = resampled(selection, 3_000)
    with_a_draw = {name for name, _ in drawn(selection, snapshot)}
    rows = decisions(selection.catalog, snapshot)
    assert {row["id"] for row in rows if row["kept"]} == with_a_draw
    gone = [row for row in rows if not row["kept"]]
    assert gone
    assert {(row["rule"], row["reason"]) for row in gone} == {("resample", "no window drawn for 3000 tokens")}


def test_another_seed_draws_other_windows(selection: Selection) -> None:
    one, two = (drawn(selection, resampled(selection, 5_000, seed=seed)) for seed in (1, 2))
    assert len(one & two) < 0.8 * len(one)


def test_shards_and_workers_do_not_change_a_draw(selection: Selection, tmp_path: Path) -> None:
    other = select(tmp_path, workers=1, shard_bytes=1_000_000)
    assert drawn(other, resampled(other, 5_000)) == drawn(selection, resampled(selection, 5_000))


def test_a_mixture_over_other_cells_is_refused(selection: Selection) -> None:
    catalog, tokens = selection.catalog, selection.catalog.snapshot("target-tokens")
    fitted = apply(catalog, FitCells(context=32, cells=4, dimension=8, buckets=1 << 10), tokens, into="other")
    both = apply(catalog, AssignCells(), tokens, fitted, into="both")
    other = apply(catalog, Weigh(tokens=1_000), fitted, both, into="other-mixture")
    with pytest.raises(UsageError, match="speak of different cells"):
        apply(catalog, Resample(tokens=1_000), selection.pool, other, into="resampled")


def test_a_mixture_of_a_much_larger_pool_is_refused(selection: Selection) -> None:
    catalog = selection.catalog
    mixture = apply(catalog, Weigh(tokens=5_000), selection.pool, selection.target, into="of-the-whole")
    part = apply(catalog, Split(start=0.0, stop=0.3), selection.pool, into="a-part")
    with pytest.raises(UsageError, match=r"a-part@1 has .* tokens, of-the-whole@1 was weighed for a pool of .*: weigh"):
        apply(catalog, Resample(tokens=5_000), part, mixture, into="wrong")


def test_factors_of_other_documents_are_refused(selection: Selection, tmp_path: Path) -> None:
    catalog = selection.catalog
    mixture = apply(catalog, WeighNgrams(tokens=5_000, buckets=4096), selection.pool, selection.target, into="scored")
    rows = topic_rows(dict.fromkeys(TOPICS, 40), seed=len("pool"))  # the texts of the pool under other ids
    raw = ingest_rows(catalog, tmp_path, rows, "others", id_column="id", shard_bytes=20_000)
    tokens = apply(catalog, Tokenize(), raw, catalog.snapshot("tokenizer"), into="others-tokens")
    others = apply(catalog, AssignCells(), tokens, selection.pool, into="others-cells")
    assert [row["window"] for row in rows_of(catalog, others, "cells")] == [
        row["window"] for row in rows_of(catalog, selection.pool, "cells")
    ]
    with pytest.raises(UsageError, match="the mixture was weighed on other windows"):
        apply(catalog, Resample(tokens=5_000), others, mixture, into="wrong")


def test_a_budget_that_draws_no_window_is_refused(selection: Selection) -> None:
    mixture = apply(selection.catalog, Weigh(tokens=1), selection.pool, selection.target, into="least")
    with pytest.raises(UsageError, match="a budget of 1 tokens draws no window of pool-cells@1: ask for more"):
        apply(selection.catalog, Resample(tokens=1, seed=3), selection.pool, mixture, into="nothing")


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="a budget of 0 tokens: expected at least 1"):
        Resample(tokens=0)

"""Importance weights: the planted target is preferred, within its limits, and the figures say so."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from catalog.errors import UsageError
from catalog.snapshot import Snapshot
from catalog.tables import read_table
from dataops.cells import AssignCells, FitCells
from dataops.importance import Weigh
from dataops.quality import QualityFilter, Rule
from dataops.tokenize import Tokenize, TrainTokenizer
from tests.dataops.conftest import WORDS, Selection, apply, ingest_rows, live, prose


def weights(selection: Selection, step: Weigh, target: Snapshot | None = None) -> tuple[list[dict], dict]:
    mixture = apply(selection.catalog, step, selection.pool, target or selection.target, into="mixture")
    return read_table(selection.catalog.store, mixture.artifact("weights")).to_pylist(), mixture.contents.summary


def homes(selection: Selection) -> dict[int, str]:
    """The topic that most windows of each cell are of."""
    topic = selection.topics(selection.pool)
    counted: dict[int, Counter[str]] = {}
    for row in live(selection.catalog, selection.pool, "id", "cell", table="cells"):
        counted.setdefault(row["cell"], Counter())[topic[row["id"]]] += 1
    return {cell: each.most_common(1)[0][0] for cell, each in counted.items()}


def test_weights_are_a_distribution_over_the_pools_cells_and_token_counts_are_those_of_the_windows(
    selection: Selection,
) -> None:
    rows, summary = weights(selection, Weigh(tokens=10_000))
    assert sum(row["weight"] for row in rows) == pytest.approx(1)
    assert [row["cell"] for row in rows] == list(range(summary["cells"]))
    for side in ("pool", "target"):
        counted: Counter[int] = Counter()
        for row in live(selection.catalog, getattr(selection, side), "cell", "n_tokens", table="cells"):
            counted[row["cell"]] += row["n_tokens"]
        assert {row["cell"]: row[f"{side}_tokens"] for row in rows if row[f"{side}_tokens"]} == counted
        assert summary[f"{side}_tokens"] == counted.total()


def test_cells_like_the_target_are_drawn_more_than_the_pool_would_and_the_others_less(selection: Selection) -> None:
    rows, _ = weights(selection, Weigh(tokens=10_000))
    topic = homes(selection)
    for row in rows:
        if topic[row["cell"]] == "topic-0":
            assert row["ratio"] > 2
        if topic[row["cell"]] in ("topic-2", "topic-3"):
            assert row["ratio"] < 0.2
        assert row["ratio"] == pytest.approx(row["target_share"] / row["pool_share"])


def test_no_cell_is_seen_more_often_than_the_cap_and_the_rest_is_poured_into_the_others(selection: Selection) -> None:
    pool = weights(selection, Weigh(tokens=10_000))[1]["pool_tokens"]
    free, _ = weights(selection, Weigh(tokens=pool, max_epochs=100.0))
    rows, summary = weights(selection, Weigh(tokens=pool, max_epochs=1.5))
    assert max(row["epochs"] for row in free) > 2
    assert max(row["epochs"] for row in rows) == pytest.approx(1.5)
    assert sum(row["weight"] for row in rows) == pytest.approx(1)
    capped = [row["cell"] for row in rows if row["capped"]]
    assert summary["capped_cells"] == len(capped) > 0
    for row in rows:
        assert row["epochs"] == pytest.approx(pool * row["weight"] / row["pool_tokens"])
        assert (row["epochs"] == pytest.approx(1.5)) == row["capped"]
        assert row["capped"] or row["weight"] > free[row["cell"]]["weight"]
        assert row["capped"] or free[row["cell"]]["epochs"] < 1.5


def test_a_pool_that_is_too_small_for_the_cap_is_said_to_be(selection: Selection) -> None:
    rows, summary = weights(selection, Weigh(tokens=10_000_000, max_epochs=2.0))
    assert summary["pool_too_small"]
    assert len({round(row["epochs"], 6) for row in rows}) == 1
    assert not weights(selection, Weigh(tokens=1_000))[1]["pool_too_small"]


def test_full_defence_is_the_pool_and_none_is_the_target(selection: Selection) -> None:
    rows, _ = weights(selection, Weigh(tokens=1_000, defence=1.0))
    assert [row["weight"] for row in rows] == pytest.approx([row["pool_share"] for row in rows])
    rows, _ = weights(selection, Weigh(tokens=1_000, defence=0.0))
    assert [row["weight"] for row in rows] == pytest.approx([row["target_share"] for row in rows])


def test_the_interval_of_a_cell_holds_its_weight_and_shrinks_as_the_target_grows(selection: Selection) -> None:
    rows, _ = weights(selection, Weigh(tokens=1_000, defence=0.0))
    inside = [row["ratio_low"] <= row["ratio"] <= row["ratio_high"] for row in rows if row["target_tokens"]]
    assert len(inside) >= 2
    assert all(inside)
    few = apply(
        selection.catalog,
        QualityFilter(rules=(Rule(name="long", statistic="n_words", low=120),)),
        selection.target,
        into="few",
    )
    assert few.contents.rows < 0.7 * selection.target.contents.rows
    fewer, _ = weights(selection, Weigh(tokens=1_000, defence=0.0), few)

    def width(found: list[dict]) -> float:
        return float(np.sum([row["ratio_high"] - row["ratio_low"] for row in found]))

    assert width(fewer) > width(rows)


def test_coverage_is_high_for_the_pools_own_text_and_low_for_text_it_never_saw(selection: Selection) -> None:
    _, own = weights(selection, Weigh(tokens=1_000), selection.pool)
    assert own["coverage"] == pytest.approx(0.99, abs=0.005)  # by its definition
    strange = [word[::-1] + "quv" for word in WORDS]
    rows = [{"text": prose(i, vocabulary=strange)} for i in range(20)]
    catalog = selection.catalog
    raw = ingest_rows(catalog, catalog.store.here.parent / "input", rows, "strange")
    tokens = apply(catalog, Tokenize(), raw, catalog.snapshot("tokenizer"), into="strange-tokens")
    placed = apply(catalog, AssignCells(), tokens, selection.pool, into="strange-cells")
    _, alien = weights(selection, Weigh(tokens=1_000), placed)
    _, near = weights(selection, Weigh(tokens=1_000))
    assert near["coverage"] > 0.9
    assert alien["coverage"] < 0.5


def test_the_effective_sample_size_is_the_number_of_cells_for_equal_weights_and_less_for_uneven_ones(
    selection: Selection,
) -> None:
    rows, summary = weights(selection, Weigh(tokens=1_000))
    assert summary["effective_sample_size"] == pytest.approx(1 / sum(row["weight"] ** 2 for row in rows))
    assert (
        1
        <= summary["effective_sample_size"]
        < weights(selection, Weigh(tokens=1_000, defence=1.0))[1]["effective_sample_size"]
    )


def test_a_target_of_one_document_has_no_intervals(selection: Selection) -> None:
    catalog = selection.catalog
    raw = ingest_rows(catalog, catalog.store.here.parent / "input", [{"text": prose(1, 400)}], "lonely")
    tokens = apply(catalog, Tokenize(), raw, catalog.snapshot("tokenizer"), into="lonely-tokens")
    target = apply(catalog, AssignCells(), tokens, selection.pool, into="lonely-cells")
    rows, _ = weights(selection, Weigh(tokens=1_000, smoothing="none", cells=8), target)
    assert {(row["ratio_low"], row["ratio_high"]) for row in rows} == {(None, None)}
    rows, _ = weights(selection, Weigh(tokens=1_000))
    assert all(row["ratio_low"] <= row["ratio_high"] for row in rows)


def test_tokens_of_two_tokenizers_are_not_compared(selection: Selection) -> None:
    catalog, raw = selection.catalog, selection.catalog.snapshot("target")
    other = apply(catalog, TrainTokenizer(vocab_size=300), raw, into="other-tokenizer")
    tokens = apply(catalog, Tokenize(), raw, other, into="other-tokens")
    target = apply(catalog, AssignCells(), tokens, selection.pool, into="other-target")
    with pytest.raises(UsageError, match="tokens of different tokenizers: tokenize both by the same one"):
        apply(catalog, Weigh(tokens=1_000), selection.pool, target, into="wrong")


def test_cells_of_two_fits_are_not_compared(selection: Selection) -> None:
    fit = FitCells(context=32, cells=4, dimension=8, buckets=1 << 10)
    other = apply(selection.catalog, fit, selection.catalog.snapshot("target-tokens"), into="other")
    with pytest.raises(UsageError, match="different cells: assign both by the same fit"):
        apply(selection.catalog, Weigh(tokens=1_000), selection.pool, other, into="mixture")


def test_fewer_cells_than_the_coarsest_level_has_are_refused(selection: Selection) -> None:
    with pytest.raises(UsageError, match="at most 1 cells asked for: the tree has"):
        apply(selection.catalog, Weigh(tokens=1000, cells=1), selection.pool, selection.target, into="mixture")


def test_a_target_without_windows_is_one_clear_error(selection: Selection) -> None:
    none = QualityFilter(rules=(Rule(name="endless", statistic="n_words", low=1e9),))
    empty = apply(selection.catalog, none, selection.target, into="empty")
    with pytest.raises(UsageError, match="the target 0: both need some"):
        apply(selection.catalog, Weigh(tokens=1_000), selection.pool, empty, into="mixture")


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"max_epochs": 0.0}, {"defence": 1.1}, {"defence": -0.1}])
def test_settings_without_a_meaning_are_refused(setting: dict) -> None:
    with pytest.raises(UsageError, match="expected positive numbers"):
        Weigh(tokens=1, **setting)
    with pytest.raises(UsageError, match="a training stream of 0 tokens"):
        Weigh(tokens=0)

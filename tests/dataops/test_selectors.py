"""Selectors that score windows: the planted target is drawn, noise repeats, and what is measured is what is true."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.query import sql
from catalog.snapshot import Snapshot
from catalog.tables import read_live, read_table
from dataops.cells import AssignCells, FitCells
from dataops.combine import Combine, Remix
from dataops.importance import Weigh
from dataops.pack import Pack
from dataops.resample import Resample
from dataops.selectors import (
    WeighClassifier,
    WeighCrossEntropy,
    WeighNgrams,
    WeighStacked,
    WeighTwoStage,
)
from dataops.split import Split
from dataops.tokenize import Tokenize
from dataops.window_weights import Selecting, _halves, sample_numbers, window_shares
from tests.dataops.conftest import TOPICS, Selection, apply, ingest_rows, live, prose, rows_of, select

SELECTORS = [
    WeighNgrams(tokens=4_000, buckets=4096),
    WeighCrossEntropy(tokens=4_000),
    WeighClassifier(tokens=4_000),
    WeighTwoStage(tokens=4_000, buckets=4096),
    WeighStacked(tokens=4_000, buckets=4096),
]


@pytest.fixture(scope="module")
def mixtures(selection: Selection) -> dict[str, Snapshot]:
    return {
        step.verb: apply(selection.catalog, step, selection.pool, selection.target, into=f"mixture-{step.verb}")
        for step in SELECTORS
    }


def drawn_tokens(selection: Selection, mixture: Snapshot, tokens: int, into: str = "drawn") -> Counter[str]:
    """Tokens of each topic in what is drawn, copies counted."""
    drawn = apply(selection.catalog, Resample(tokens=tokens), selection.pool, mixture, into=into)
    topic = selection.topics(selection.pool)
    size = {(r["id"], r["window"]): r["n_tokens"] for r in rows_of(selection.catalog, selection.pool, "cells")}
    counted: Counter[str] = Counter()
    for row in rows_of(selection.catalog, drawn, "draws"):
        counted[topic[row["id"]]] += row["copies"] * size[row["id"], row["window"]]
    return counted


@pytest.mark.parametrize("verb", [step.verb for step in SELECTORS])
def test_every_selector_draws_the_planted_target_near_its_budget(
    selection: Selection, mixtures: dict[str, Snapshot], verb: str
) -> None:
    counted = drawn_tokens(selection, mixtures[verb], 4_000)
    assert counted.total() == pytest.approx(4_000, rel=0.15)
    # the target is 90% topic-0 and 10% topic-1; a tenth of the stream is the pool, a quarter of which is topic-0
    assert counted["topic-0"] > 0.55 * counted.total()
    assert counted["topic-2"] + counted["topic-3"] < 0.2 * counted.total()


@pytest.mark.parametrize("step", [WeighNgrams, WeighCrossEntropy, WeighStacked])
def test_a_window_that_the_scorer_learned_from_is_drawn_like_one_that_it_did_not(
    selection: Selection, step: type[WeighNgrams] | type[WeighCrossEntropy] | type[WeighStacked]
) -> None:
    catalog, topic = selection.catalog, selection.topics(selection.pool)
    mixture = apply(catalog, step(tokens=4_000, sample_windows=130), selection.pool, selection.target, into="sampled")
    rows = [row for row in rows_of(catalog, mixture, "factors") if topic[row["id"]] == "topic-0"]
    h64 = np.array([int(row["id"][:16], 16) for row in rows], np.uint64)
    taught = sample_numbers(1, h64, np.array([row["window"] for row in rows])) < 130 / mixture.contents.rows
    assert 20 < taught.sum() < 60
    score = np.array([row["score"] for row in rows])
    spread = score.std() * np.sqrt(1 / taught.sum() + 1 / (~taught).sum())
    assert abs(score[taught].mean() - score[~taught].mean()) < 2.5 * spread


@pytest.mark.parametrize("step", SELECTORS, ids=lambda step: step.verb)
def test_a_shard_without_live_windows_is_weighed_like_any_other(selection: Selection, step: Selecting) -> None:
    catalog = selection.catalog
    cut = apply(catalog, Split(start=0.0, stop=0.02), selection.pool, into="nearly-empty")
    assert any(
        not read_live(catalog.store, shard, cut.contents.layers, ["row"]).num_rows for shard in cut.contents.shards
    )
    mixture = apply(catalog, step, cut, selection.target, into="of-nearly-empty")
    assert sum(row["weight"] for row in read_table(catalog.store, mixture.artifact("weights")).to_pylist()) == (
        pytest.approx(1)
    )


@pytest.mark.parametrize("verb", [step.verb for step in SELECTORS])
def test_weights_sum_to_one_factors_average_to_one_in_each_cell_and_no_window_passes_the_cap(
    selection: Selection, mixtures: dict[str, Snapshot], verb: str
) -> None:
    mixture = mixtures[verb]
    weights = read_table(selection.catalog.store, mixture.artifact("weights")).to_pylist()
    assert sum(row["weight"] for row in weights) == pytest.approx(1)
    size = {(r["id"], r["window"]): r["n_tokens"] for r in rows_of(selection.catalog, selection.pool, "cells")}
    tokens, weighted = defaultdict(float), defaultdict(float)
    for row in rows_of(selection.catalog, mixture, "factors"):
        tokens[row["cell"]] += size[row["id"], row["window"]]
        weighted[row["cell"]] += size[row["id"], row["window"]] * row["factor"]
        assert weights[row["cell"]]["epochs"] * row["factor"] <= 4.0 * 1.0001
    for cell, total in tokens.items():
        assert weighted[cell] / total == pytest.approx(1, rel=1e-4)


def test_held_out_auc_is_high_for_another_topic_and_a_half_inside_cells_of_one(
    mixtures: dict[str, Snapshot],
) -> None:
    for verb, mixture in mixtures.items():
        assert mixture.contents.summary["auc"] > 0.7, verb  # the pool holds a quarter of the target's topic itself
    inside = [each.contents.summary["auc_inside_cells"] for each in mixtures.values()]
    told = [each for each in inside if each is not None]
    assert told
    assert all(0.35 < each < 0.65 for each in told)


def test_a_larger_budget_contains_the_smaller_draw_copies_included(
    selection: Selection, mixtures: dict[str, Snapshot]
) -> None:
    small, large = (
        {
            (row["id"], row["window"]): row["copies"]
            for row in rows_of(
                selection.catalog,
                apply(
                    selection.catalog, Resample(tokens=tokens), selection.pool, mixtures["weigh-ngrams"], into="nested"
                ),
                "draws",
            )
        }
        for tokens in (2_000, 4_000)
    )
    assert len(small) < len(large)
    assert all(large[window] >= copies for window, copies in small.items())


@pytest.mark.parametrize("verb", ["weigh-ngrams", "weigh-stacked"])
def test_every_window_is_drawn_as_often_as_it_weighs(
    selection: Selection, mixtures: dict[str, Snapshot], verb: str
) -> None:
    tokens = 16_000  # most of the target's cells are wanted more than once over
    mixture = mixtures[verb]
    drawn = apply(selection.catalog, Resample(tokens=tokens), selection.pool, mixture, into="often")
    cells = read_table(selection.catalog.store, mixture.artifact("weights")).to_pylist()
    rates = [tokens * cell["weight"] / max(cell["pool_tokens"], 1) for cell in cells]
    assert max(rates) > 2
    copies = {(row["id"], row["window"]): row["copies"] for row in rows_of(selection.catalog, drawn, "draws")}
    for row in rows_of(selection.catalog, mixture, "factors"):
        wanted = rates[row["cell"]] * row["factor"]
        assert abs(copies.get((row["id"], row["window"]), 0) - wanted) < 1 + 1e-3


def test_no_window_passes_the_cap_at_the_tokens_that_it_was_weighed_for(selection: Selection) -> None:
    step = WeighNgrams(tokens=12_000, buckets=4096, max_epochs=2.0)
    mixture = apply(selection.catalog, step, selection.pool, selection.target, into="capped")
    drawn = apply(selection.catalog, Resample(tokens=12_000), selection.pool, mixture, into="capped-drawn")
    assert max(row["copies"] for row in rows_of(selection.catalog, drawn, "draws")) == 2


def test_scores_do_not_favour_length_as_a_sum_of_log_ratios_would(
    selection: Selection, mixtures: dict[str, Snapshot]
) -> None:
    topic = selection.topics(selection.pool)
    size = {(r["id"], r["window"]): r["n_tokens"] for r in rows_of(selection.catalog, selection.pool, "cells")}
    own = [r for r in rows_of(selection.catalog, mixtures["weigh-ngrams"], "factors") if topic[r["id"]] == "topic-0"]
    lengths = np.array([size[row["id"], row["window"]] for row in own])
    scores = np.array([row["score"] for row in own])
    assert abs(np.corrcoef(lengths, scores)[0, 1]) < 0.5
    assert np.corrcoef(lengths, lengths * scores)[0, 1] > 0.9


def test_two_stage_keeps_the_weights_of_cells(selection: Selection, mixtures: dict[str, Snapshot]) -> None:
    alone = apply(selection.catalog, Weigh(tokens=4_000), selection.pool, selection.target, into="alone")
    one, two = (
        read_table(selection.catalog.store, each.artifact("weights")).to_pandas()["weight"].to_numpy()
        for each in (alone, mixtures["weigh-two-stage"])
    )
    assert one == pytest.approx(two, abs=0.01)


def test_two_stage_finds_what_one_cell_hides(selection: Selection) -> None:
    catalog, topic = selection.catalog, selection.topics(selection.pool)
    one_cell = apply(
        catalog, FitCells(context=64, cells=1, dimension=8, buckets=1 << 10), selection.tokens, into="one-cell"
    )
    target = apply(catalog, AssignCells(), catalog.snapshot("target-tokens"), one_cell, into="target-one-cell")
    blind = apply(catalog, Weigh(tokens=3_000), one_cell, target, into="blind")
    sharp = apply(catalog, WeighTwoStage(tokens=3_000, buckets=4096), one_cell, target, into="sharp")
    assert sharp.contents.summary["auc_inside_cells"] > 0.7
    shares = []
    for mixture in (blind, sharp):
        drawn = apply(catalog, Resample(tokens=3_000), one_cell, mixture, into="drawn")
        counted = Counter(topic[row["id"]] for row in rows_of(catalog, drawn, "draws"))
        shares.append(counted["topic-0"] / counted.total())
    assert shares[0] < 0.4
    assert shares[1] > 0.7


def test_copies_reach_the_packs(selection: Selection) -> None:
    catalog = selection.catalog
    one_cell = apply(
        catalog, FitCells(context=64, cells=1, dimension=8, buckets=1 << 10), selection.tokens, into="one-cell"
    )
    target = apply(catalog, AssignCells(), catalog.snapshot("target-tokens"), one_cell, into="target-one-cell")
    mixture = apply(catalog, WeighTwoStage(tokens=12_000, buckets=4096), one_cell, target, into="sharp")
    drawn = apply(catalog, Resample(tokens=12_000), one_cell, mixture, into="copied")
    packs = apply(catalog, Pack(context=64), drawn, into="copied-packs")
    size = {(r["id"], r["window"]): r["n_tokens"] for r in rows_of(catalog, one_cell, "cells")}
    draws = rows_of(catalog, drawn, "draws")
    assert max(row["copies"] for row in draws) > 1
    tokens = sum(row["copies"] * size[row["id"], row["window"]] for row in draws)
    assert drawn.contents.summary["tokens"] == tokens == pytest.approx(12_000, rel=0.1)
    once = sum(size[row["id"], row["window"]] for row in draws)
    assert packs.contents.summary["tokens"] >= tokens > 1.2 * once


def test_workers_and_shards_change_no_score(
    selection: Selection, mixtures: dict[str, Snapshot], tmp_path: Path
) -> None:
    other = select(tmp_path, workers=1, shard_bytes=1_000_000)
    for step in SELECTORS[:2]:
        again = apply(other.catalog, step, other.pool, other.target, into="again")
        mine, theirs = (
            sorted((r["id"], r["window"], r["score"], r["factor"]) for r in rows_of(catalog, mixture, "factors"))
            for catalog, mixture in ((selection.catalog, mixtures[step.verb]), (other.catalog, again))
        )
        assert mine == theirs


def test_factors_are_answered_in_sql(selection: Selection, mixtures: dict[str, Snapshot]) -> None:
    ref = mixtures["weigh-ngrams"].ref
    found = sql(selection.catalog, "SELECT count(*) AS n, max(factor) AS f FROM factors WHERE snapshot = ?", [ref])
    assert found["n"].to_pylist() == [len(rows_of(selection.catalog, selection.pool, "cells"))]
    assert found["f"].to_pylist()[0] > 1


def test_two_targets_share_one_mixture_and_the_cap_holds_again(selection: Selection) -> None:
    catalog = selection.catalog
    rows = [{"text": prose(i, vocabulary=TOPICS["topic-2"])} for i in range(30)]
    raw = ingest_rows(catalog, catalog.store.here.parent / "input", rows, "second")
    tokens = apply(catalog, Tokenize(), raw, catalog.snapshot("tokenizer"), into="second-tokens")
    second = apply(catalog, AssignCells(), tokens, selection.pool, into="second-cells")
    mixed = [
        apply(catalog, WeighTwoStage(tokens=4_000, buckets=4096), selection.pool, selection.target, into="m1"),
        apply(catalog, Weigh(tokens=4_000), selection.pool, second, into="m2"),
    ]
    both = apply(catalog, Combine(tokens=4_000, shares=(3.0, 1.0)), *mixed, into="both")
    counted = drawn_tokens(selection, both, 4_000)
    assert 0.5 < counted["topic-0"] / counted.total() < 0.8
    assert 0.15 < counted["topic-2"] / counted.total() < 0.35
    whole = apply(catalog, Combine(tokens=25_000, max_epochs=2.0), *mixed, into="whole")
    table = read_table(catalog.store, whole.artifact("weights"))
    assert max(table["epochs"].to_pylist()) <= 2.0001
    over = apply(catalog, Combine(tokens=200_000, max_epochs=2.0), *mixed, into="over")
    assert over.contents.summary["pool_too_small"]
    assert {row["factor"] for row in rows_of(catalog, over, "factors")} == {1.0}, "the pool as it is, windows too"
    with pytest.raises(UsageError, match="1 shares for 2 mixtures"):
        apply(catalog, Combine(tokens=1, shares=(1.0,)), *mixed, into="wrong")


def test_packs_of_the_pool_are_remixed_without_a_copy_and_drawn_ones_are_not(
    selection: Selection, mixtures: dict[str, Snapshot]
) -> None:
    catalog: Catalog = selection.catalog
    mixture = apply(catalog, Weigh(tokens=4_000), selection.pool, selection.target, into="mixture")
    packs = apply(catalog, Pack(context=64), selection.pool, into="packs")
    remixed = apply(catalog, Remix(), packs, mixture, into="remixed")
    assert remixed.contents.shards == packs.contents.shards
    assert remixed.artifact("weights") == mixture.artifact("weights")
    with pytest.raises(UsageError, match="tells windows of a cell apart"):
        apply(catalog, Remix(), packs, mixtures["weigh-ngrams"], into="wrong")
    drawn = apply(catalog, Resample(tokens=4_000), selection.pool, mixture, into="drawn")
    with pytest.raises(UsageError, match="drawn for one mixture"):
        apply(catalog, Remix(), apply(catalog, Pack(context=64), drawn, into="few"), mixture, into="wrong")


def test_a_scored_mixture_goes_with_the_pool_it_was_weighed_on(
    selection: Selection, mixtures: dict[str, Snapshot]
) -> None:
    with pytest.raises(UsageError, match="resample the pool that was weighed"):
        apply(selection.catalog, Resample(tokens=100), selection.target, mixtures["weigh-ngrams"], into="wrong")


def test_documents_of_a_small_target_are_halved_even_where_chance_puts_all_in_one() -> None:
    h64 = np.arange(1, 400, dtype=np.uint64)
    alike = h64[_halves(h64) == 1][:3]
    halved = _halves(np.repeat(alike, 2), few=True)
    assert sorted(halved.tolist()) in ([0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1])
    assert (halved[::2] == halved[1::2]).all(), "windows of a document stay together"
    assert (_halves(h64, few=True) == _halves(h64)).all()
    assert _halves(h64[:1], few=True).tolist() == [0]


def test_a_target_of_one_document_says_that_nothing_was_held_out(
    selection: Selection, mixtures: dict[str, Snapshot]
) -> None:
    catalog = selection.catalog
    parts = (apply(catalog, Split(start=0.0, stop=n / 200), selection.target, into="part") for n in range(1, 200))
    one = next(part for part in parts if len(live(catalog, part, "id")) == 1)
    mixture = apply(catalog, WeighNgrams(tokens=4_000, buckets=4096), selection.pool, one, into="of-one")
    assert mixture.contents.summary["held_out"] is False
    assert "held_out" not in mixtures["weigh-ngrams"].contents.summary


def test_window_shares_are_tokens_times_the_ratio_and_keep_cells_where_told() -> None:
    scores, cells, tokens = np.array([0.0, 1.0, 2.0, 0.0]), np.array([0, 0, 1, 1]), np.array([10, 20, 30, 40])
    free = window_shares(scores, cells, tokens, temperature=2.0, shares=None)
    expected = tokens * np.exp(2.0 * scores)
    assert free == pytest.approx(expected / expected.sum())
    kept = window_shares(scores, cells, tokens, temperature=2.0, shares=np.array([0.25, 0.75]))
    assert kept[:2].sum() == pytest.approx(0.25**2 / (0.25**2 + 0.75**2))
    assert kept[1] / kept[0] == pytest.approx(2 * np.exp(2.0))
    many = window_shares(np.zeros(20), np.arange(20), np.ones(20), temperature=400.0, shares=np.full(20, 0.05))
    assert many == pytest.approx(np.full(20, 0.05)), "no underflow"


def test_live_documents_of_a_resampled_snapshot_are_those_with_draws(
    selection: Selection, mixtures: dict[str, Snapshot]
) -> None:
    drawn = apply(
        selection.catalog, Resample(tokens=2_000), selection.pool, mixtures["weigh-classifier"], into="few-drawn"
    )
    names = {row["id"] for row in rows_of(selection.catalog, drawn, "draws")}
    assert {row["id"] for row in live(selection.catalog, drawn, "id")} == names

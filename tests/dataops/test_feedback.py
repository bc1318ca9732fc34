"""Feedback: what is read, what is refused, and how it moves the target's histogram."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from catalog.errors import BadInput, UsageError
from catalog.snapshot import Snapshot
from catalog.tables import read_table
from dataops.cells import AssignCells
from dataops.feedback import IngestFeedback
from dataops.importance import Weigh
from dataops.selectors import WeighNgrams, WeighTwoStage
from dataops.tokenize import Tokenize
from tests.dataops.conftest import Selection, apply, live, rows_of, topic_rows

PLAIN = {"tokens": 10_000, "smoothing": "none", "defence": 0.0, "max_epochs": 1e9, "cells": 8}


def written(path: Path, lines: list[object]) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines))
    return path


@pytest.fixture(scope="module")
def feedback(selection: Selection, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Six accepted texts of topic-2 and sixty rejected ones of topic-0, the target's main topic, in cells."""
    rows = [{"text": row["text"], "accepted": True} for row in topic_rows({"topic-2": 6}, seed=31)]
    rows += [{"text": row["text"], "accepted": False} for row in topic_rows({"topic-0": 60}, seed=32)]
    bad = [{"text": "no verdict"}, {"text": "a word", "accepted": "yes"}, {"accepted": True}, '{"text": "cut']
    path = written(tmp_path_factory.mktemp("feedback") / "votes.jsonl", [*rows, *bad])
    catalog = selection.catalog
    read = apply(catalog, IngestFeedback(paths=(str(path),)), into="votes")
    tokens = apply(catalog, Tokenize(), read, catalog.snapshot("tokenizer"), into="votes-tokens")
    return apply(catalog, AssignCells(), tokens, selection.pool, into="votes-cells")


def test_a_verdict_is_the_domain_and_lines_without_one_are_quarantined(
    selection: Selection, feedback: Snapshot
) -> None:
    domains = [row["domain"] for row in live(selection.catalog, feedback, "domain")]
    assert (domains.count("accepted"), domains.count("rejected"), len(domains)) == (6, 60, 66)
    found = [(row["position"], row["reason"]) for row in rows_of(selection.catalog, feedback, "quarantine")]
    reasons = ["not-a-verdict", "not-a-verdict", "missing-text", "malformed-json"]
    assert found == [(f"line {67 + i}", reason) for i, reason in enumerate(reasons)]


def test_feedback_of_a_format_without_true_and_false_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "votes.csv"
    path.write_text("text,accepted\nwords,true\n")
    with pytest.raises(BadInput, match=r"votes.csv: feedback is JSON Lines or Parquet .* accepted \(true or false\)"):
        IngestFeedback(paths=(str(path),)).inputs()


def shares(selection: Selection, *feedback: Snapshot, into: str, **settings: object) -> np.ndarray:
    step = Weigh(**{**PLAIN, **settings})  # type: ignore[arg-type]
    made = apply(selection.catalog, step, selection.pool, selection.target, *feedback, into=into)
    return read_table(selection.catalog.store, made.artifact("weights"))["target_share"].to_numpy()


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_accepted_text_adds_to_the_histogram_and_rejected_takes_down_to_zero(
    selection: Selection, feedback: Snapshot, weight: float
) -> None:
    """By hand, in tokens, and without smoothing: max(0, target + weight (accepted - rejected)), as shares."""
    counts = np.zeros(8)
    pool = {row["cell"] for row in live(selection.catalog, selection.pool, "cell", table="cells")}
    for row in live(selection.catalog, selection.target, "cell", "n_tokens", table="cells"):
        counts[row["cell"]] += row["n_tokens"]
    verdict = {row["id"]: row["domain"] for row in live(selection.catalog, feedback, "id", "domain")}
    for row in live(selection.catalog, feedback, "id", "cell", "n_tokens", table="cells"):
        counts[row["cell"]] += weight * row["n_tokens"] * (1 if verdict[row["id"]] == "accepted" else -1)
    assert counts.min() < 0 or weight < 1, "some cell is rejected altogether"
    counts = np.array([max(0.0, each) if cell in pool else 0.0 for cell, each in enumerate(counts)])
    found = shares(selection, feedback, into="voted", feedback_weight=weight)
    assert found == pytest.approx(counts / counts.sum(), abs=1e-6)


def test_feedback_without_weight_changes_nothing(selection: Selection, feedback: Snapshot) -> None:
    alone = shares(selection, into="alone", smoothing="tree")
    assert (shares(selection, feedback, into="ignored", smoothing="tree", feedback_weight=0.0) == alone).all()
    moved = shares(selection, feedback, into="heard", smoothing="tree")
    assert np.abs(moved - alone).sum() > 0.2


def epochs(selection: Selection, mixture: Snapshot) -> dict[tuple[str, int], tuple[int, float]]:
    """By window its cell and how often it is drawn."""
    of_cell = read_table(selection.catalog.store, mixture.artifact("weights"))["epochs"].to_pylist()
    rows = rows_of(selection.catalog, mixture, "factors")
    return {(row["id"], row["window"]): (row["cell"], of_cell[row["cell"]] * row["factor"]) for row in rows}


@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_verdicts_move_windows_that_scores_chose_by_as_much_as_they_move_their_cell(
    selection: Selection, feedback: Snapshot, weight: float
) -> None:
    settings = {"tokens": 10_000, "defence": 0.0, "max_epochs": 1e9}
    told = {"smoothing": "tree", "cells": "chosen"}
    before, after = (
        shares(selection, into="share-plain", **told),
        shares(selection, feedback, into="share-heard", **told),
    )
    step = WeighNgrams(buckets=1 << 12, feedback_weight=weight, **settings)  # type: ignore[arg-type]
    plain, heard = (
        epochs(selection, apply(selection.catalog, step, selection.pool, selection.target, *votes, into=into))
        for votes, into in (((), "scored"), ((feedback,), "scored-heard"))
    )
    windows = [window for window in plain if plain[window][1] > 1e-6]
    cells = np.array([plain[window][0] for window in windows])
    moved = np.array([heard[window][1] / plain[window][1] for window in windows])
    expected = (after[cells] / before[cells]) ** weight
    assert moved / moved[0] == pytest.approx(expected / expected[0], rel=1e-3)
    assert (moved.max() / moved.min() > 2) == (weight > 0)


def test_a_selector_that_keeps_cells_takes_their_shares_with_the_verdicts(
    selection: Selection, feedback: Snapshot
) -> None:
    told = {"smoothing": "tree", "cells": "chosen", "defence": 0.1}
    expected = shares(selection, feedback, into="cells-heard", **told)
    step = WeighTwoStage(tokens=10_000, max_epochs=1e9, buckets=1 << 12)
    made = apply(selection.catalog, step, selection.pool, selection.target, feedback, into="two-heard")
    found = read_table(selection.catalog.store, made.artifact("weights"))["target_share"].to_numpy()
    assert found == pytest.approx(expected, abs=1e-6)
    assert made.contents.summary["feedback"] == {"accepted": 6, "rejected": 60}


def test_documents_without_verdicts_are_no_feedback(selection: Selection) -> None:
    with pytest.raises(UsageError, match="no verdict in the feedback: expected lines of"):
        shares(selection, selection.target, into="x")

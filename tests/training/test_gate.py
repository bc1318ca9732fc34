"""Who passes the gate: better on new text, and not worse on old text by more than the margin."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.query import sql
from catalog.run import run
from catalog.snapshot import Contents, Snapshot
from catalog.tables import write_table
from dataops.executors import LocalExecutor
from tests.catalog.planted import a_run
from training.gate import Gate


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog.open(tmp_path / "store", create=True)


def evaluation(
    catalog: Catalog,
    name: str,
    low: float,
    high: float,
    models: tuple[str, ...] = ("m", "n"),
    documents: int = 8,
) -> Snapshot:
    """As `evaluate` leaves it: n is better than m by the middle of the interval. Each model has its version 1."""
    kept = [model if model in catalog.snapshots else scored_model(catalog, model).name for model in ("text", *models)]
    difference = (low + high) / 2
    results = [
        {"model": model, "documents": documents, "bits_per_byte": 2 + difference * place}
        for place, model in enumerate(models)
    ]
    pair = {"model": models[-1], "baseline": models[0], "difference": difference, "low": low, "high": high}
    summary = {"results": results, "comparisons": [pair]}
    inputs = [catalog.snapshot(each) for each in kept]
    run = a_run(f"{name} {low} {high} {[each.ref for each in inputs]}")
    return catalog.commit(name, Contents(kind="evaluation", summary=summary), run, inputs=inputs)


def scored_model(catalog: Catalog, name: str, weights: str = "w") -> Snapshot:
    """Another version of a model; equal weights are equal contents."""
    files = {"weights": write_table(catalog.store, pa.table({"w": [weights]}))}
    return catalog.commit(name, Contents(kind="model", artifacts=files), a_run(f"{name} {weights}"))


@pytest.mark.parametrize(
    ("old", "new", "promoted"),
    [
        ((-0.01, 0.01), (-0.2, -0.1), True),
        ((-0.01, 0.03), (-0.2, -0.1), False),  # perhaps worse on old text by more than 0.02
        ((-0.01, 0.01), (-0.2, 0.01), False),  # perhaps no better on new text
        ((0.1, 0.2), (0.1, 0.2), False),
        ((-0.2, -0.1), (0.01, 0.02), False),
    ],
)
def test_a_challenger_passes_only_when_both_intervals_lie_below_what_is_asked(
    catalog: Catalog, old: tuple[float, float], new: tuple[float, float], promoted: bool
) -> None:
    given = [evaluation(catalog, "old", *old), evaluation(catalog, "new", *new)]
    made = run(Gate(), *given, into="gate", catalog=catalog, executor=LocalExecutor(workers=1))
    assert made.contents.summary["winner"] == ("n@1" if promoted else "m@1")
    rows = sql(
        catalog, "SELECT text, champion, challenger, winner, at_most, holds FROM gates ORDER BY text DESC"
    ).to_pylist()
    assert [(row["text"], row["at_most"]) for row in rows] == [("old", 0.02), ("new", 0.0)]
    assert all(row["holds"] for row in rows) == promoted
    assert {(row["champion"], row["challenger"]) for row in rows} == {("m@1", "n@1")}


def test_a_wider_margin_lets_more_pass(catalog: Catalog) -> None:
    given = [evaluation(catalog, "old", -0.01, 0.03), evaluation(catalog, "new", -0.2, -0.1)]
    made = run(Gate(margin=0.05), *given, into="gate", catalog=catalog, executor=LocalExecutor(workers=1))
    assert made.contents.summary["winner"] == "n@1"


@pytest.mark.parametrize(("documents", "winner"), [(7, "m@1"), (8, "n@1")])
def test_a_set_of_few_documents_promotes_nobody(catalog: Catalog, documents: int, winner: str) -> None:
    given = [evaluation(catalog, "old", -0.01, 0.01), evaluation(catalog, "new", -0.1, -0.1, documents=documents)]
    made = run(Gate(), *given, into="gate", catalog=catalog, executor=LocalExecutor(workers=1))
    assert made.contents.summary["winner"] == winner


def test_the_verdict_names_the_version_that_was_scored_and_another_one_is_another_model(catalog: Catalog) -> None:
    old, new = evaluation(catalog, "old", -0.01, 0.01), evaluation(catalog, "new", -0.2, -0.1)
    settings = {"into": "gate", "catalog": catalog, "executor": LocalExecutor(workers=1)}
    assert run(Gate(), old, new, **settings).contents.summary["winner"] == "n@1"
    scored_model(catalog, "n", "other weights")
    with pytest.raises(UsageError, match="old@1 scored m@1, n@1, new@2 m@1, n@2: expected the same two"):
        run(Gate(), old, evaluation(catalog, "new", -0.2, -0.1), **settings)
    again = evaluation(catalog, "old", -0.01, 0.01)
    assert run(Gate(), again, evaluation(catalog, "new", -0.2, -0.1), **settings).contents.summary["winner"] == "n@2"


def test_evaluations_of_other_models_are_refused(catalog: Catalog) -> None:
    messages = "old@1 scored m@1, n@1, new@. n@1, m@1", "new@. scored m@1: expected a"
    for models, message in zip((("n", "m"), ("m",)), messages, strict=True):
        given = [evaluation(catalog, "old", 0, 1), evaluation(catalog, "new", 0, 1, models)]
        given[0] = catalog.snapshot("old@1")
        with pytest.raises(UsageError, match=message):
            run(Gate(), *given, into="gate", catalog=catalog, executor=LocalExecutor(workers=1))

"""Counted figures and table macros, against the rows they stand for."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from catalog import schema
from catalog.catalog import Catalog
from catalog.counterfactual import alone
from catalog.errors import QueryError
from catalog.projection import FILENAME, publish
from catalog.query import sql
from catalog.snapshot import Contents
from catalog.tables import write_table
from catalog.takedown import RULE
from tests.conftest import Curated

ROWS = {
    "document_totals": """SELECT snapshot, source, domain, count(*) AS documents, sum(n_chars)::BIGINT AS n_chars,
        sum(n_bytes)::BIGINT AS n_bytes, sum(n_tokens)::BIGINT AS n_tokens FROM documents GROUP BY ALL ORDER BY ALL""",
    "cell_totals": """SELECT snapshot, cell, count(*) AS windows, sum(n_tokens)::BIGINT AS n_tokens
        FROM cells GROUP BY ALL ORDER BY ALL""",
    "decision_totals": """SELECT snapshot, step, kept, rule, source, count(*) AS documents,
        sum(n_tokens)::BIGINT AS n_tokens FROM decisions GROUP BY ALL ORDER BY ALL""",
}
COUNTED = {
    "document_totals": "FROM document_totals ORDER BY ALL",
    "cell_totals": "FROM cell_totals ORDER BY ALL",
    "decision_totals": """SELECT snapshot, step, kept, rule, source, sum(documents)::BIGINT AS documents,
        sum(n_tokens)::BIGINT AS n_tokens FROM decision_totals GROUP BY ALL ORDER BY ALL""",
}


@pytest.fixture
def copied(curated: Curated, tmp_path: Path) -> Catalog:
    shutil.copytree(curated.store, tmp_path / "store")
    return Catalog.open(tmp_path / "store")


@pytest.mark.parametrize("view", ROWS)
def test_counted_figures_are_those_of_the_rows(curated: Curated, view: str) -> None:
    counted = sql(curated.catalog, COUNTED[view]).to_pylist()
    assert counted
    assert counted == sql(curated.catalog, ROWS[view]).to_pylist()


@pytest.mark.parametrize("view", ROWS)
def test_figures_that_were_not_stored_are_counted_when_the_catalog_is_published(copied: Catalog, view: str) -> None:
    """A log of before, or a commit without a run."""
    expected = sql(copied, COUNTED[view])
    for each in copied.history:
        object.__setattr__(each.contents, "counts", {})
    copied.store.here.joinpath(FILENAME).unlink()
    publish(copied)
    assert sql(copied, COUNTED[view]) == expected


def test_at_is_a_snapshot_by_name_or_by_name_and_version(curated: Curated) -> None:
    expected = sql(curated.catalog, "SELECT * FROM documents WHERE snapshot = 'clean@1' ORDER BY id")
    for reference in ("clean", "clean@1"):
        assert sql(curated.catalog, f"SELECT * FROM at('{reference}') ORDER BY id") == expected
    assert sql(curated.catalog, "FROM at('nothing')").num_rows == 0


def test_diff_lists_what_left_and_what_came(curated: Curated) -> None:
    ids = curated.ids
    found = sql(curated.catalog, "SELECT change, id FROM diff('pool', 'pool-dedup@1')").to_pylist()
    gone = {row["id"] for row in found if row["change"] == "removed"}
    assert gone == {max(ids["repeat"], ids["good-0"]), ids["near"]}
    assert {row["change"] for row in found} == {"removed"}
    (back,) = sql(curated.catalog, "SELECT change, id FROM diff('pool-dedup', 'pool-unique')").to_pylist()
    assert back == {"change": "added", "id": ids["near"]}


def test_a_plain_client_has_the_macros(curated: Curated) -> None:
    with duckdb.connect(str(publish(curated.catalog)), read_only=True) as plain:
        (losses,) = plain.execute("SELECT list(rule) FROM waterfall('clean')").fetchall()
        assert losses == (["exact", "near-duplicate", "quality:too-short", "contaminated"],)


def test_alone_says_what_is_known_and_what_is_not(curated: Curated) -> None:
    found = {each.rule: each for each in alone(curated.catalog, curated.catalog.snapshot("clean"))}
    told = {rule: (each.dropped, each.taken_anyway, each.left, each.unknown) for rule, each in found.items()}
    assert told == {
        "exact": (
            1,
            0,
            0,
            1,
        ),  # near-duplicate removal would see the same text twice, unless it is shorter than a shingle
        "near-duplicate": (1, 0, 0, 1),
        "quality:too-short": (1, 0, 0, 1),  # no other rule takes it; decontamination never saw it
        "contaminated": (1, 0, 1, 0),
    }


def test_alone_does_not_know_rules_whose_snapshot_expired(copied: Catalog) -> None:
    copied.expire(["pool-quality@1"], reason="too many")
    found = {each.rule: each for each in alone(copied, copied.snapshot("clean"))}
    quality = found["quality:too-short"]
    assert (quality.snapshot, quality.dropped, quality.left, quality.unknown) == ("clean@1", 1, 0, 1)


def test_alone_reads_the_rules_of_a_snapshot_that_a_takedown_rewrote(copied: Catalog) -> None:
    quality = copied.snapshot("pool-quality")
    rewrite = replace(copied.runs[quality.run], fingerprint="rewrite", step=RULE, parameters={})
    copied.commit(quality.name, quality.contents, rewrite, inputs=[quality])
    copied.expire([quality.ref], reason="rewritten")
    found = {each.rule: each for each in alone(copied, copied.snapshot("pool-quality"))}["quality:too-short"]
    assert (found.snapshot, found.taken_anyway, found.left, found.unknown) == ("pool-quality@2", 0, 1, 0)


def test_the_last_rules_are_settled_by_stored_statistics(curated: Curated) -> None:
    (quality,) = [
        each
        for each in alone(curated.catalog, curated.catalog.snapshot("pool-quality"))
        if each.rule == "quality:too-short"
    ]
    assert (quality.dropped, quality.taken_anyway, quality.left, quality.unknown) == (1, 0, 1, 0)


def given(catalog: Catalog, ids: list[str], samples: list[int]) -> dict:
    size = len(ids)
    columns = {"id": ids, "shard": [0] * size, "row": list(range(size)), "start": [0] * size, "n_tokens": [10] * size}
    return {"given": write_table(catalog.store, pa.table({**columns, "samples": samples}).cast(schema.GIVEN))}


def test_who_saw_a_document_and_what_a_model_was_given(copied: Catalog) -> None:
    run, packs = copied.runs[copied.snapshot("clean").run], copied.snapshot("generic-packs")
    one, two, three = (f"{n:032x}" for n in (1, 2, 3))

    def model(name: str, ids: list[str], samples: list[int], *inputs):  # type: ignore[no-untyped-def]
        contents = Contents(kind="model", counts=given(copied, ids, samples))
        return copied.commit(name, contents, replace(run, fingerprint=name), inputs=[packs, *inputs])

    base = model("base", [one, one, two], [2, 1, 1])
    tuned = model("tuned", [three], [4], base)
    assert sql(copied, "FROM trained_on('base') ORDER BY id").to_pylist() == [
        {"model": "base@1", "id": one, "windows": 2, "samples": 3, "n_tokens": 30},
        {"model": "base@1", "id": two, "windows": 1, "samples": 1, "n_tokens": 10},
    ]
    assert sql(copied, "SELECT model, id FROM trained_on('tuned@1') ORDER BY id")["model"].to_pylist() == [
        base.ref, base.ref, tuned.ref
    ]  # fmt: skip
    saw = "SELECT model, trained, samples FROM saw(?) ORDER BY ALL"
    assert sql(copied, saw, [one]).to_pylist() == [
        {"model": "base@1", "trained": "base@1", "samples": 3},
        {"model": "tuned@1", "trained": "base@1", "samples": 3},
    ]
    assert [row["model"] for row in sql(copied, saw, [three]).to_pylist()] == ["tuned@1"]
    copied.commit("old", Contents(kind="model"), replace(run, fingerprint="old"), inputs=[packs])
    with pytest.raises(QueryError, match="no record of what old@1 was given"):
        sql(copied, "FROM trained_on('old')")
    assert {"model": "old@1", "trained": "old@1", "samples": None} in sql(copied, saw, [two]).to_pylist()

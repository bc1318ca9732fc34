"""The SQL that users rely on: views and columns that stay, and what their rows say."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog.catalog import Catalog
from catalog.query import sql
from catalog.run import run
from catalog.store import Store
from dataops.exact import ExactDedup
from dataops.executors import LocalExecutor
from dataops.split import Split
from tests.catalog.planted import commit_documents
from tests.conftest import Curated

FIXED = {
    "documents": "snapshot id h64 content source source_id url host domain n_chars n_bytes n_tokens shard row",
    "texts": "id text",
    "decisions": "snapshot id kept rule reason kept_id similarity step",
    "cells": "snapshot cell",
    "draws": "snapshot id window cell",
    "weights": "snapshot cell weight",
    "mixtures": "snapshot",
    "packs": "snapshot",
    "snapshots": "snapshot",
    "runs": "run step",
    "lineage": "snapshot",
    "models": "snapshot",
    "evaluations": "snapshot",
    "quarantine": "snapshot path position reason",
}


@pytest.mark.parametrize("view", FIXED)
def test_a_view_has_the_columns_that_users_rely_on(curated: Curated, view: str) -> None:
    found = sql(curated.catalog, f"SELECT * FROM {view} LIMIT 0").column_names
    assert not set(FIXED[view].split()) - set(found)


def test_fixed_columns_of_documents_and_decisions_have_their_types(curated: Curated) -> None:
    documents = sql(curated.catalog, "SELECT * FROM documents LIMIT 0").schema
    assert str(documents.field("h64").type) == "uint64"
    assert str(sql(curated.catalog, "SELECT kept FROM decisions LIMIT 0").schema.field("kept").type) == "bool"


def test_documents_are_the_live_ones_of_each_snapshot(curated: Curated) -> None:
    counted = sql(curated.catalog, "SELECT snapshot, count(*) AS n FROM documents GROUP BY 1").to_pylist()
    assert {row["snapshot"]: row["n"] for row in counted} == {
        each.ref: each.contents.rows for each in curated.catalog.all_snapshots() if each.contents.kind == "documents"
    }


def test_a_decision_is_listed_once_and_the_fixed_rules_occur(curated: Curated) -> None:
    rows = sql(
        curated.catalog,
        "SELECT snapshot, step, rule, count(*) AS n, count(DISTINCT id) AS ids FROM decisions GROUP BY ALL",
    ).to_pylist()
    assert all(row["n"] == row["ids"] for row in rows)
    dropped = {(row["snapshot"], row["step"]): row["rule"] for row in rows if row["rule"]}
    assert dropped["pool-unique@1", "exact-dedup"] == "exact"
    assert dropped["pool-dedup@1", "fuzzy-dedup"] == "near-duplicate"
    assert dropped["pool-quality@1", "quality-filter"] == "quality:too-short"
    assert dropped["clean@1", "decontaminate"] == "contaminated"
    assert dropped["resampled@1", "resample"] == "resample"


def test_a_step_that_drops_nothing_has_decided_on_every_document(tmp_path: Path) -> None:
    catalog = Catalog(Store(tmp_path))
    settings = {"catalog": catalog, "executor": LocalExecutor(workers=1)}
    unique = run(ExactDedup(), commit_documents(catalog, "raw", rows=3), into="unique", **settings)
    part = run(Split(start=0.0, stop=1.0), unique, into="part", **settings)
    assert [unique.contents.rows, part.contents.rows] == [3, 3]
    found = sql(catalog, "SELECT snapshot, count(*) AS n FROM decisions WHERE kept GROUP BY ALL ORDER BY ALL DESC")
    assert found.to_pylist() == [{"snapshot": "unique@1", "n": 3}, {"snapshot": "part@1", "n": 3}]


def test_equal_decisions_stand_under_every_snapshot_whose_step_took_them(tmp_path: Path) -> None:
    catalog = Catalog(Store(tmp_path))
    settings = {"catalog": catalog, "executor": LocalExecutor(workers=1)}
    unique = run(ExactDedup(), commit_documents(catalog, "raw", rows=9), into="unique", **settings)  # two are repeats
    for seed in (1, 2):  # settings that differ, decisions that don't
        part = run(Split(start=0.0, stop=1.0, seed=seed), unique, into="part", **settings)
    run(Split(start=0.0, stop=1.0), part, into="again", **settings)
    decided = {"unique@1": 9, "part@1": 7, "part@2": 7, "again@1": 7}
    assert _decided(catalog) == decided
    assert sql(catalog, "SELECT snapshot, rule FROM waterfall('part@2')").to_pylist() == [
        {"snapshot": "unique@1", "rule": "exact"}
    ]
    catalog.expire(["unique@1", "part@2"], reason="too many")
    assert _decided(catalog) == {"part@1": 7 + 9, "again@1": 7 + 7 + 9}, "nearest to what expired"


def _decided(catalog: Catalog) -> dict[str, int]:
    """How many decisions are listed under each snapshot; counted figures and rows say the same."""
    counted, listed = (
        {
            row["snapshot"]: row["n"]
            for row in sql(catalog, f"SELECT snapshot, {n} AS n FROM {view} GROUP BY 1").to_pylist()
        }
        for view, n in (("decision_totals", "sum(documents)::BIGINT"), ("decisions", "count(*)"))
    )
    assert counted == listed
    return listed


def test_a_text_is_found_by_its_id(curated: Curated) -> None:
    (row,) = sql(curated.catalog, "SELECT text FROM texts WHERE id = ?", [curated.ids["short"]]).to_pylist()
    assert row["text"] == "too few words"


def test_tokens_by_cell_add_up_to_the_tokens_of_the_documents(curated: Curated) -> None:
    (row,) = sql(
        curated.catalog,
        """SELECT (SELECT sum(n_tokens) FROM cells WHERE snapshot = 'clean-cells@1') AS by_cell,
        (SELECT sum(n_tokens) FROM documents WHERE snapshot = 'clean-cells@1') AS by_document,
        (SELECT sum(pool_tokens) FROM weights WHERE snapshot = 'mixture@1') AS by_weight""",
    ).to_pylist()
    assert row["by_cell"] == row["by_document"] == row["by_weight"] > 0


def test_draws_are_windows_of_their_documents(curated: Curated) -> None:
    (row,) = sql(
        curated.catalog,
        """SELECT count(*) AS n, count(c.id) AS known FROM draws d LEFT JOIN cells c
        ON c.snapshot = 'clean-cells@1' AND (c.id, c."window", c.cell) = (d.id, d."window", d.cell)
        WHERE d.snapshot = 'resampled@1'""",
    ).to_pylist()
    assert row["n"] == row["known"] == curated.catalog.snapshot("resampled").contents.summary["windows"]

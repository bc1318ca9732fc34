"""What `tamis dedup` and `tamis audit` do and print."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from tests.clusters.conftest import Tamis
from tests.dataops.conftest import prose


@pytest.fixture
def store(tmp_path: Path, tamis: Tamis) -> Path:
    """`docs`: 40 texts, ten of them twice with a longer end; `more`: five of them with another end, and five others."""
    texts = [prose(seed, 120) for seed in range(40)]
    parts = {
        "docs": [*texts, *(text + " and an end" for text in texts[:10])],
        "more": [*(text + " and a still longer end" for text in texts[20:25]), *(prose(s, 120) for s in range(90, 95))],
    }
    for name, rows in parts.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
        settings = ("--into", name, "--store", tmp_path / "store", "--set", f"paths=[{path}]")
        assert tamis("step", "ingest", *settings).status == 0
    return tmp_path / "store"


def live(store: Path, name: str) -> int:
    return Catalog.open(store).snapshot(name).contents.rows


def test_dedup_drops_decides_again_and_joins(store: Path, tamis: Tamis) -> None:
    at = ("--store", store)
    answer = tamis("dedup", "docs", "--into", "clean", *at)
    assert answer.status == 0, answer.err
    assert re.search(r"fuzzy-dedup +sign +[\d.]+ +50 documents +[\d.]+$", answer.out, re.M)
    assert live(store, "clean") == 40
    answer = tamis("dedup", "clean", "--threshold", 0.99, "--into", "strict", *at)
    assert (live(store, "strict"), "sign" in answer.out, "resolve" in answer.out) == (50, False, True)
    tamis("dedup", "more", "--against", "clean", "--into", "first", *at)
    tamis("dedup", "more", "--against", "clean", "--replace", "--into", "better", *at)
    before = {*_ids(store, "clean")}
    assert (live(store, "first"), live(store, "better")) == (45, 45)
    assert before < {*_ids(store, "first")}
    assert len(before - {*_ids(store, "better")}) == 5


def _ids(store: Path, name: str) -> list[str]:
    from catalog.query import sql

    catalog = Catalog.open(store)
    ref = catalog.snapshot(name).ref
    return list(sql(catalog, "SELECT id FROM documents WHERE snapshot = ?", [ref])["id"].to_pylist())


def test_audit_prints_recall_by_level_and_the_view_has_it(store: Path, tamis: Tamis) -> None:
    tamis("dedup", "docs", "--into", "clean", "--store", store)
    answer = tamis("audit", "clean", "--store", store)
    assert answer.status == 0, answer.err
    assert "of 10 removals looked at 10 were right: precision 1.0000" in answer.out
    rows = tamis("sql", 'select "from", planted from audits', "--format", "csv", "--store", store).out.splitlines()
    assert len(rows) == 9


def test_replace_without_against_is_refused(store: Path, tamis: Tamis) -> None:
    answer = tamis("dedup", "docs", "--into", "x", "--replace", "--store", store)
    assert (answer.status, answer.err.count("\n")) == (2, 1)

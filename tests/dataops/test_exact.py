"""Exact deduplication."""

from __future__ import annotations

import pytest

from catalog.catalog import Catalog
from dataops import exchange
from dataops.exact import ExactDedup
from tests.dataops.conftest import Make, apply, decisions, live, prose


def repeated_rows() -> list[dict]:
    return [{"text": prose(seed % 40)} for seed in range(100)]


def test_one_document_of_each_content_stays_and_it_has_the_smallest_id(catalog: Catalog, ingest: Make) -> None:
    pool = ingest(repeated_rows())
    before = live(catalog, pool, "id", "content")
    unique = apply(catalog, ExactDedup(), pool, into="unique")
    smallest: dict[str, str] = {}
    for row in before:
        smallest[row["content"]] = min(smallest.get(row["content"], row["id"]), row["id"])
    assert {row["id"] for row in live(catalog, unique, "id")} == set(smallest.values())


def test_a_dropped_document_names_the_kept_one_of_equal_content(catalog: Catalog, ingest: Make) -> None:
    unique = apply(catalog, ExactDedup(), ingest(repeated_rows()), into="unique")
    content = {row["id"]: row["content"] for row in live(catalog, catalog.snapshot("pool"), "id", "content")}
    rows = decisions(catalog, unique)
    kept = {row["id"] for row in rows if row["kept"]}
    dropped = [row for row in rows if not row["kept"]]
    assert len(kept) == 40
    assert len(dropped) == 60
    for row in dropped:
        assert row["kept_id"] in kept
        assert content[row["kept_id"]] == content[row["id"]]
        assert (row["rule"], row["similarity"]) == ("exact", 1.0)


def test_partitions_of_the_exchange_do_not_change_the_answer(
    catalog: Catalog, ingest: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ingest(repeated_rows())
    one = apply(catalog, ExactDedup(), pool, into="one")
    monkeypatch.setattr(exchange, "ROWS_PER_PARTITION", 7)
    monkeypatch.setattr(ExactDedup, "revision", 99)
    many = apply(catalog, ExactDedup(), pool, into="many")
    assert many.id == one.id
    assert many.run != one.run


def test_documents_that_differ_in_case_are_not_exact_repeats(catalog: Catalog, ingest: Make) -> None:
    pool = ingest([{"text": "The same words here"}, {"text": "the same words here"}])
    assert apply(catalog, ExactDedup(), pool, into="unique").contents.rows == 2

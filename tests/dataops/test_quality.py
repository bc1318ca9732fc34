"""Quality rules: each drops its own documents, under its own name, and nothing is lost."""

from __future__ import annotations

import random

import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.snapshot import Snapshot
from dataops.quality import RULES, QualityFilter, Rule
from tests.dataops.conftest import Make, apply, decisions, prose, rows_of

LONG = 200_001
FAULTS = {
    "too-short": "five words are too few",
    "too-long": "word " * LONG,
    "word-length": " ".join("x" * 13 + letter for letter in "abcdefghijklmnopqrstuvwxyz"),
    "few-letters": " ".join(str(number) for number in range(1000, 1060)) + " and some words",
    "symbols": " ".join(f"# {word}" for word in prose(1, 40).split()),
    "repeated-lines": "\n".join(["the same line stands here again"] * 9 + [prose(2, 20)]),
    "repeated-2-grams": "over there " * 30 + prose(3, 20),
    "repeated-10-grams": " ".join([prose(4, 60)] * 4),
}


@pytest.fixture
def pool(ingest: Make) -> Snapshot:
    """One document for each fault and forty good ones, in shards of a few documents."""
    rows = [{"text": text, "id": name} for name, text in FAULTS.items()]
    rows += [{"text": prose(seed + 10), "id": "good"} for seed in range(40)]
    random.Random(3).shuffle(rows)
    return ingest(rows, id_column="id")


def verdicts(catalog: Catalog, pool: Snapshot, filtered: Snapshot) -> dict[str, str | None]:
    planted = {row["id"]: row["source_id"] for row in rows_of(catalog, pool, "documents")}
    return {f"{planted[row['id']]} {row['id']}": row["rule"] for row in decisions(catalog, filtered)}


def test_each_planted_fault_is_dropped_by_its_own_rule_and_good_text_stays(catalog: Catalog, pool: Snapshot) -> None:
    filtered = apply(catalog, QualityFilter(), pool, into="clean")
    for planted, rule in verdicts(catalog, pool, filtered).items():
        name = planted.split()[0]
        assert rule == (None if name == "good" else f"quality:{name}")
    assert filtered.contents.summary["dropped_by_rule"] == dict.fromkeys(FAULTS, 1)


def test_kept_and_dropped_add_up_to_the_documents_that_came_in(catalog: Catalog, pool: Snapshot) -> None:
    filtered = apply(catalog, QualityFilter(), pool, into="clean")
    summary = filtered.contents.summary
    assert (summary["documents"], summary["kept"], summary["dropped"]) == (48, 40, 8)
    assert filtered.contents.rows == sum(row["kept"] for row in decisions(catalog, filtered)) == 40


def test_a_document_that_fails_two_rules_counts_for_the_first_one_listed(catalog: Catalog, ingest: Make) -> None:
    pool = ingest([{"text": "# # # # #"}])
    one, other = Rule(name="short", statistic="n_words", low=20), Rule(name="signs", statistic="symbol_share", high=0.2)
    for rules in ((one, other), (other, one)):
        dropped = apply(catalog, QualityFilter(rules=rules), pool, into="clean")
        assert [row["rule"] for row in decisions(catalog, dropped)] == [f"quality:{rules[0].name}"]
        assert dropped.contents.summary["dropped_by_rule"] == {rules[0].name: 1, rules[1].name: 0}


def test_the_reason_says_what_was_measured_and_which_bound_it_missed(catalog: Catalog, ingest: Make) -> None:
    rules = (Rule(name="window", statistic="n_words", low=3, high=5),)
    filtered = apply(catalog, QualityFilter(rules=rules), ingest([{"text": "two words"}, {"text": "a " * 9}]), into="c")
    assert [row["reason"] for row in decisions(catalog, filtered)] == ["n_words 2 < 3", "n_words 9 > 5"]


def test_bounds_are_inclusive(catalog: Catalog, ingest: Make) -> None:
    rules = (Rule(name="window", statistic="n_words", low=3, high=5),)
    pool = ingest([{"text": "w " * n} for n in range(1, 8)])
    kept = [row["kept"] for row in decisions(catalog, apply(catalog, QualityFilter(rules=rules), pool, into="c"))]
    assert kept == [False, False, True, True, True, False, False]


def test_statistics_of_kept_and_dropped_documents_are_stored(catalog: Catalog, pool: Snapshot) -> None:
    filtered = apply(catalog, QualityFilter(), pool, into="clean")
    texts = {row["id"]: row["text"] for row in rows_of(catalog, pool, "documents")}
    statistics = {row["id"]: row for row in rows_of(catalog, filtered, "statistics")}
    assert statistics.keys() == texts.keys()
    for name, text in texts.items():
        assert statistics[name]["n_words"] == len(text.split())
        assert statistics[name]["n_chars"] == len(text)


def test_another_threshold_can_be_told_from_the_stored_statistics(catalog: Catalog, pool: Snapshot) -> None:
    stored = rows_of(catalog, apply(catalog, QualityFilter(), pool, into="clean"), "statistics")
    stricter = QualityFilter(rules=(Rule(name="diverse", statistic="unique_word_share", low=0.6),))
    foretold = {row["id"] for row in stored if row["unique_word_share"] >= 0.6}
    assert 0 < len(foretold) < len(stored)
    kept = {row["id"] for row in decisions(catalog, apply(catalog, stricter, pool, into="strict")) if row["kept"]}
    assert kept == foretold


def test_how_documents_lie_in_shards_does_not_change_a_verdict(catalog: Catalog, ingest: Make) -> None:
    rows = [{"text": text} for name, text in FAULTS.items() if name != "too-long"] * 3
    rows += [{"text": prose(seed)} for seed in range(20)]
    found = []
    for shard_bytes in (1_000, 1_000_000):
        pool = ingest(rows, shard_bytes=shard_bytes)
        filtered = apply(catalog, QualityFilter(rules=RULES), pool, into="clean")
        found.append([(row["id"], row["rule"], row["reason"]) for row in decisions(catalog, filtered)])
    assert found[0] == found[1]


def test_a_statistic_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(UsageError, match="rule x: no statistic 'nwords'; there are n_chars, n_bytes, n_words"):
        Rule(name="x", statistic="nwords", low=50)

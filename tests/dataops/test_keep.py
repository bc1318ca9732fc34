"""Policy, ceiling and re-decision: who stays, from edges that were verified before."""

from __future__ import annotations

import pytest

from catalog.catalog import Catalog
from catalog.errors import TamisError, UsageError
from catalog.query import sql
from catalog.snapshot import Snapshot
from dataops.exact import ExactDedup
from dataops.fuzzy import FuzzyDedup
from dataops.keep import Redecide
from tests.dataops.conftest import Make, apply, decisions, live, prose


def edited(text: str, edits: int) -> str:
    """`text` with every n-th word replaced, `edits` times."""
    words = text.split()
    for i in range(edits):
        words[(i + 1) * len(words) // (edits + 1)] = f"edit{i}"
    return " ".join(words)


@pytest.fixture
def families(catalog: Catalog, ingest: Make) -> Snapshot:
    """30 texts of 300 words, each with a copy at Jaccard about .97 and one at about .9, in three domains."""
    rows = []
    for seed in range(30):
        text = prose(seed, 300)
        rows += [
            {"text": text, "kind": "original"},
            {"text": edited(text, 1) + " and a longer end of it", "kind": "longer"},
            {"text": edited(text, 3), "kind": "edited"},
        ]
    return ingest(rows, domain_column="kind")


def kept_kinds(catalog: Catalog, snapshot: Snapshot) -> list[str]:
    return sorted({row["domain"] for row in live(catalog, snapshot, "domain")})


def test_the_longest_is_kept_unless_the_policy_says_otherwise(catalog: Catalog, families: Snapshot) -> None:
    by_length = apply(catalog, FuzzyDedup(), families, into="by-length")
    assert kept_kinds(catalog, by_length) == ["longer"]
    step = FuzzyDedup(prefer="domain = 'edited' DESC, n_chars")
    assert kept_kinds(catalog, apply(catalog, step, families, into="edited")) == ["edited"]


@pytest.mark.parametrize("prefer", ["no_such_column", "n_chars DESC;", "n_chars, (", "1) FROM edges --"])
def test_a_policy_that_is_no_order_is_refused_with_the_columns_before_any_text_is_read(
    catalog: Catalog, families: Snapshot, prefer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataops.fuzzy._sign", None)
    with pytest.raises(UsageError, match=r"is not the terms of an ORDER BY .*; columns: document, id, h64, content"):
        apply(catalog, FuzzyDedup(prefer=prefer), families, into="dedup")


@pytest.mark.parametrize(
    "settings", [{"threshold": 0.9}, {"prefer": "n_chars ASC"}, {"threshold": 0.95, "prefer": "id"}]
)
def test_deciding_again_equals_deciding_at_once_and_reads_no_text(
    catalog: Catalog, families: Snapshot, settings: dict
) -> None:
    first = apply(catalog, FuzzyDedup(), families, into="first")
    again = apply(catalog, Redecide(**settings), first, into="again")
    at_once = apply(catalog, FuzzyDedup(**settings), families, into="at-once")
    assert decisions(catalog, again) == decisions(catalog, at_once)
    assert again.contents.layers == first.contents.layers
    assert sum(stage["bytes"] for stage in catalog.runs[again.run].stages) == 0


def test_deciding_again_lists_its_decisions_also_where_they_are_those_of_before(
    catalog: Catalog, families: Snapshot
) -> None:
    first = apply(catalog, FuzzyDedup(), families, into="first")
    apply(catalog, Redecide(threshold=0.801), first, into="again")
    listed = sql(catalog, "SELECT snapshot, count(*) AS n FROM decisions GROUP BY ALL ORDER BY snapshot").to_pylist()
    assert listed == [{"snapshot": name, "n": families.contents.rows} for name in ("again@1", "first@1")]


def test_deciding_again_needs_stored_edges_under_the_newest_decision(catalog: Catalog, families: Snapshot) -> None:
    with pytest.raises(UsageError, match="has no table 'edges'"):
        apply(catalog, Redecide(), families, into="again")
    first = apply(catalog, FuzzyDedup(), families, into="first")
    with pytest.raises(UsageError, match=r"threshold 0.6: first@1 stored pairs from 0.7 on"):
        apply(catalog, Redecide(threshold=0.6), first, into="again")
    later = apply(catalog, ExactDedup(), first, into="later")
    with pytest.raises(UsageError, match="the newest decision of later@1 is exact, not near-duplicate"):
        apply(catalog, Redecide(), later, into="again")


def mirrored(mirror: int, others: int) -> list[dict]:
    """A source whose documents all repeat those of another one, and one that does not."""
    texts = [prose(seed, 100) for seed in range(mirror + others)]
    rows = [{"text": text + " with a tail", "site": "original"} for text in texts]
    return rows + [{"text": text, "site": "mirror"} for text in texts[:mirror]]


def test_near_duplicates_are_removed_after_two_steps_of_one_kind(catalog: Catalog, families: Snapshot) -> None:
    once = apply(catalog, ExactDedup(), families, into="once")
    twice = apply(catalog, ExactDedup(first_come=True), once, into="twice")
    dedup = apply(catalog, FuzzyDedup(), twice, into="dedup")
    assert dedup.contents.layers == ("exact", "exact#2", "near-duplicate")
    assert kept_kinds(catalog, dedup) == ["longer"]


def test_a_source_that_would_vanish_stops_the_run_unless_allowed(catalog: Catalog, ingest: Make) -> None:
    pool = ingest(mirrored(120, 20), source_column="site")
    with pytest.raises(TamisError) as stopped:
        apply(catalog, FuzzyDedup(), pool, into="dedup")
    lines = str(stopped.value).splitlines()
    assert lines[0].startswith("1 source would lose more than 50% of the documents to near-duplicates; nothing was")
    assert lines[2].split() == ["mirror", "120", "120", "100.0%"]
    assert lines[4].split()[1:] == ["1", "original"]
    assert [each.ref for each in catalog.all_snapshots()] == ["pool@1"]
    allowed = apply(catalog, FuzzyDedup(allow=("mirror",)), pool, into="dedup")
    assert allowed.contents.rows == 140
    assert apply(catalog, FuzzyDedup(max_drop_per_source=1.0), pool, into="dedup").id == allowed.id


def test_a_small_source_is_below_the_ceiling(catalog: Catalog, ingest: Make) -> None:
    pool = ingest(mirrored(99, 0), source_column="site")
    assert apply(catalog, FuzzyDedup(), pool, into="dedup").contents.rows == 99


def test_a_snapshot_without_documents_has_nothing_to_decide(catalog: Catalog, ingest: Make) -> None:
    empty = ingest([{"text": " "}])
    assert apply(catalog, FuzzyDedup(), empty, into="dedup").contents.rows == 0

"""Deduplication in two parts: only new text is read, and the answer is that of one part, or first come, first kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.snapshot import Snapshot
from dataops.append import Append
from dataops.exact import ExactDedup
from dataops.fuzzy import FuzzyDedup
from dataops.ingest import Ingest
from dataops.quality import QualityFilter
from tests.dataops.conftest import apply, decisions, live, prose
from tests.dataops.test_keep import edited


@pytest.fixture
def parts(tmp_path: Path) -> list[str]:
    """Two files: texts and, in the second, exact repeats, shorter and longer near-duplicates, and texts of its own."""
    texts = [prose(seed, 200) for seed in range(60)]
    old = [*texts, *(edited(text, 1) for text in texts[:10]), texts[0]]
    new = [
        *texts[5:15],
        *(edited(text, 1)[:-10] for text in texts[20:30]),
        *(text + " and a longer end of it" for text in texts[30:50]),
        *(prose(seed, 200) for seed in range(100, 130)),
    ]
    paths = []
    for name, rows in (("old", old), ("new", new)):
        paths.append(str(tmp_path / f"{name}.jsonl"))
        Path(paths[-1]).write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    return paths


def dedup(catalog: Catalog, documents: Snapshot, name: str, **settings: bool) -> Snapshot:
    unique = apply(catalog, ExactDedup(**settings), documents, into=f"{name}-unique")
    return apply(catalog, FuzzyDedup(**settings), unique, into=name)


def ingested(catalog: Catalog, paths: list[str], name: str) -> Snapshot:
    return apply(catalog, Ingest(paths=tuple(paths), shard_bytes=20_000), into=name)


def verdicts(catalog: Catalog, *names: str) -> dict[str, tuple]:
    """Last decision on each document: (kept, rule, kept_id, similarity)."""
    return {
        row["id"]: (row["kept"], row["rule"], row["kept_id"], row["similarity"])
        for name in names
        for row in decisions(catalog, catalog.snapshot(name))
    }


def test_in_two_parts_the_decisions_are_those_of_one_and_old_text_is_not_read(
    catalog: Catalog, parts: list[str]
) -> None:
    dedup(catalog, ingested(catalog, parts, "all"), "at-once")
    old = dedup(catalog, ingested(catalog, parts[:1], "old"), "old-dedup")
    both = apply(catalog, Append(), old, ingested(catalog, parts[1:], "new"), into="both")
    assert both.contents.rows == 71 + 70  # dropped ones are back, to be judged again
    again = dedup(catalog, both, "in-two")
    assert verdicts(catalog, "in-two-unique") == verdicts(catalog, "at-once-unique")
    assert verdicts(catalog, "in-two") == verdicts(catalog, "at-once")
    assert again.contents.summary["documents_hashed"] <= 70  # 70 new documents, 10 of them exact repeats
    stages = {stage["stage"]: stage for stage in catalog.runs[again.run].stages}
    new_bytes = sum(len(row["text"].encode()) for row in live(catalog, catalog.snapshot("new"), "text"))
    assert 0 < stages["sign"]["bytes"] <= 1.1 * new_bytes


def test_first_come_keeps_every_old_document_and_replacing_prefers_the_better_one(
    catalog: Catalog, parts: list[str]
) -> None:
    old = dedup(catalog, ingested(catalog, parts[:1], "old"), "old-dedup")
    both = apply(catalog, Append(), old, ingested(catalog, parts[1:], "new"), into="both")
    before = {row["id"] for row in live(catalog, old, "id")}
    first_come = {row["id"] for row in live(catalog, dedup(catalog, both, "first", first_come=True), "id")}
    replaced = {row["id"] for row in live(catalog, dedup(catalog, both, "replaced"), "id")}
    assert before < first_come
    assert len(first_come - before) == 30
    assert len(before - replaced) >= 20  # those whose longer copy came later
    assert {row["id"] for row in live(catalog, old, "id")} == before


def test_a_third_part_joins_the_first_two(catalog: Catalog, parts: list[str], tmp_path: Path) -> None:
    third = tmp_path / "third.jsonl"
    third.write_text("".join(json.dumps({"text": edited(prose(seed, 200), 1)}) + "\n" for seed in (3, 101, 500)))
    dedup(catalog, ingested(catalog, [*parts, str(third)], "all"), "at-once")
    made = dedup(catalog, ingested(catalog, parts[:1], "old"), "one")
    for number, path in enumerate([parts[1], str(third)]):
        both = apply(catalog, Append(), made, ingested(catalog, [path], f"new-{number}"), into=f"both-{number}")
        made = dedup(catalog, both, f"upto-{number}")
    assert verdicts(catalog, made.name) == verdicts(catalog, "at-once")


def test_parts_that_went_through_different_steps_do_not_join(catalog: Catalog, parts: list[str]) -> None:
    old = dedup(catalog, ingested(catalog, parts[:1], "old"), "old-dedup")
    new = ingested(catalog, parts[1:], "new")
    filtered = apply(catalog, QualityFilter(), new, into="filtered")
    with pytest.raises(UsageError, match=r"old-dedup@1 was decided by nothing .*, filtered@1 decided by quality"):
        apply(catalog, Append(), old, filtered, into="both")
    with pytest.raises(UsageError, match="old@1 has no table 'signatures'"):
        apply(catalog, Append(), catalog.snapshot("old"), new, into="both")

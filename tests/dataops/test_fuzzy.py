"""Near-duplicate removal: every removal is verified, nothing is removed through a chain."""

from __future__ import annotations

import random
import re
import unicodedata

import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from dataops.fuzzy import FuzzyDedup
from tests.dataops.conftest import Make, apply, decisions, live, prose


def shingle_set(text: str, n: int = 5) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def jaccard(a: str, b: str) -> float:
    left, right = shingle_set(a), shingle_set(b)
    return len(left & right) / max(len(left | right), 1)


def edited(text: str, seed: int, edits: int) -> str:
    draw = random.Random(seed)
    words = text.split()
    for _ in range(edits):
        words[draw.randrange(len(words))] = f"edit{draw.randrange(1000)}"
    return " ".join(words)


@pytest.fixture
def planted() -> list[dict]:
    """60 originals of 300 words, each with copies of 1 to 12 edits, and a template filled 40 times."""
    rows = []
    for seed in range(60):
        original = prose(seed, 300)
        rows.append({"text": original})
        rows += [{"text": edited(original, seed * 10 + k, edits)} for k, edits in enumerate((1, 4, 12))]
    template = prose(999, 60)
    rows += [{"text": f"{template} {prose(5000 + i, 40)}"} for i in range(40)]
    random.Random(7).shuffle(rows)
    return rows


def test_every_dropped_document_has_a_kept_one_whose_exact_jaccard_reaches_the_threshold(
    catalog: Catalog, ingest: Make, planted: list[dict]
) -> None:
    pool = ingest(planted)
    text = {row["id"]: row["text"] for row in live(catalog, pool, "id", "text")}
    rows = decisions(catalog, apply(catalog, FuzzyDedup(), pool, into="dedup"))
    kept = {row["id"] for row in rows if row["kept"]}
    dropped = [row for row in rows if not row["kept"]]
    assert dropped
    for row in dropped:
        assert row["kept_id"] in kept
        assert jaccard(text[row["id"]], text[row["kept_id"]]) == pytest.approx(row["similarity"])
        assert row["similarity"] >= 0.8


def test_planted_copies_above_the_threshold_are_found(catalog: Catalog, ingest: Make, planted: list[dict]) -> None:
    kept = live(catalog, apply(catalog, FuzzyDedup(), ingest(planted), into="dedup"), "text")
    texts = [row["text"] for row in kept]
    sets = [shingle_set(text) for text in texts]
    missed = sum(
        len(a & b) / len(a | b) >= 0.85 for i, a in enumerate(sets) for b in sets[:i] if len(a & b) > 0.5 * len(a)
    )
    pairs_planted = 60 * 3
    assert missed <= 0.02 * pairs_planted


def test_a_filled_template_below_the_threshold_is_never_dropped(
    catalog: Catalog, ingest: Make, planted: list[dict]
) -> None:
    template = [row["text"] for row in planted if row["text"].startswith(prose(999, 60))]
    kept = {row["text"] for row in live(catalog, apply(catalog, FuzzyDedup(), ingest(planted), into="d"), "text")}
    assert set(template) <= kept


def test_the_end_of_a_chain_stays_when_it_is_not_similar_to_a_kept_document(catalog: Catalog, ingest: Make) -> None:
    words = prose(1, 400).split()
    a, b, c = (" ".join(words[start : start + 340]) for start in (0, 28, 56))
    assert jaccard(a, b) >= 0.8
    assert jaccard(b, c) >= 0.8
    assert jaccard(a, c) < 0.8
    pool = ingest([{"text": a + " tail"}, {"text": b}, {"text": c + " and tail"}])
    dedup = apply(catalog, FuzzyDedup(permutations=256), pool, into="dedup")
    rows = decisions(catalog, dedup)
    text = {row["id"]: row["text"] for row in live(catalog, pool, "id", "text")}
    for row in rows:
        if not row["kept"]:
            assert jaccard(text[row["id"]], text[row["kept_id"]]) >= 0.8
    assert sum(row["kept"] for row in rows) == 2


def test_the_longest_document_is_preferred(catalog: Catalog, ingest: Make) -> None:
    text = prose(3, 200)
    pool = ingest([{"text": text}, {"text": text + " one more sentence at the end"}])
    kept = live(catalog, apply(catalog, FuzzyDedup(), pool, into="dedup"), "text")
    assert [row["text"] for row in kept] == [text + " one more sentence at the end"]


def test_documents_shorter_than_a_shingle_are_never_near_duplicates(catalog: Catalog, ingest: Make) -> None:
    pool = ingest([{"text": "one two three"}, {"text": "one two three four"}, {"text": "One, two, three"}])
    assert apply(catalog, FuzzyDedup(), pool, into="dedup").contents.rows == 3


def test_workers_do_not_change_a_byte(catalog: Catalog, ingest: Make, planted: list[dict], tmp_path) -> None:  # type: ignore[no-untyped-def]
    pool = ingest(planted)
    ids = set()
    for workers in (1, 2, 7):
        other = Catalog.open(tmp_path / f"store-{workers}", create=True)
        other.commit("pool", pool.contents, catalog.runs[pool.run])
        for shard in pool.contents.shards:
            for ref in shard.tables.values():
                copied = other.store.scratch() / "copy"
                copied.write_bytes(catalog.store.local(ref).read_bytes())
                other.store.put(copied, suffix="parquet")
        ids.add(apply(other, FuzzyDedup(), other.snapshot("pool"), into="dedup", workers=workers).id)
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.2}, "threshold 1.2: expected a Jaccard similarity"),
        ({"threshold": 0.6}, "verify_from 0.7, threshold 0.6: expected 0 < verify_from <= threshold"),
        ({"max_drop_per_source": 0}, "max_drop_per_source 0: expected a share"),
        ({"shingle": 0}, "shingle 0, permutations 128"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FuzzyDedup(**settings)

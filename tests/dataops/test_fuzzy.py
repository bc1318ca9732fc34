"""Near-duplicate removal: every removal is verified, nothing is removed through a chain."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from dataops.fuzzy import FuzzyDedup
from dataops.ingest import Ingest
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
        for ref in pool.contents.files():
            copied = other.store.scratch() / "copy"
            copied.write_bytes(catalog.store.local(ref).read_bytes())
            other.store.put(copied, suffix="parquet")
        ids.add(apply(other, FuzzyDedup(), other.snapshot("pool"), into="dedup", workers=workers).id)
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.2}, "threshold 1.2: expected a Jaccard similarity"),
        ({"verify_from": 0}, "verify_from 0: expected a Jaccard similarity"),
        ({"max_drop_per_source": 0}, "max_drop_per_source 0: expected a share"),
        ({"shingle": 0}, "shingle 0, permutations 128"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FuzzyDedup(**settings)


SCRIPTS = {
    "chinese": "今天天气很好我们一起去公园散步看见许多人在湖边钓鱼孩子们在草地上奔跑",
    "japanese": "昨日は友達と一緒に新しい映画を見に行きましたとても面白かったのでもう一度見たい",
    "thai": "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะกับเพื่อนและพบผู้คนมากมายที่กำลังวิ่ง",
    "arabic": "ذهبنا اليوم الى الحديقة مع الاصدقاء وكان الطقس جميلا جدا ورأينا الكثير من الناس يمشون",
    "hebrew": "היום הלכנו לפארק עם חברים ומזג האוויר היה יפה מאוד וראינו הרבה אנשים הולכים סביב האגם",
    "emoji": " ".join(f"word{i} 🙂🎉 more{i}" for i in range(30)),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_without_spaces_right_to_left_text_and_emoji_have_near_duplicates_too(
    catalog: Catalog, ingest: Make, script: str
) -> None:
    text = SCRIPTS[script]
    other = "".join(reversed(text))
    pool = ingest([{"text": text}, {"text": text + " 终"}, {"text": other}])
    kept = [row["text"] for row in live(catalog, apply(catalog, FuzzyDedup(), pool, into="dedup"), "text")]
    assert len(kept) == 2
    assert text + " 终" in kept


def test_short_documents_and_odd_bytes_are_never_merged(catalog: Catalog, ingest: Make) -> None:
    short = ["a", "b", "a b c d", "a b c e", "!!!", "???", "🙂", "今天", "今天天气", "\u200b\u200b x", "x\x00y z"]
    pool = ingest([{"text": text} for text in short])
    dedup = apply(catalog, FuzzyDedup(), pool, into="dedup")
    assert dedup.contents.rows == pool.contents.rows


def test_documents_of_five_megabytes_are_compared_whole(catalog: Catalog, ingest: Make) -> None:
    long, end = prose(1, 1_200_000), prose(2, 400_000)
    assert len(long) > 5_000_000
    rows = [{"text": long}, {"text": long + " " + prose(3, 50)}, {"text": long + " " + end}]
    pool = ingest(rows, shard_bytes=8 << 20)
    rows = decisions(catalog, apply(catalog, FuzzyDedup(), pool, into="dedup"))
    assert sorted(row["kept"] for row in rows) == [False, True, True]  # the third is only 3/4 like the first


def test_the_order_of_the_files_and_the_size_of_shards_do_not_change_a_decision(
    catalog: Catalog, tmp_path: Path, planted: list[dict]
) -> None:
    paths = [tmp_path / f"part-{number}.jsonl" for number in range(7)]
    for number, path in enumerate(paths):
        path.write_text("".join(json.dumps(row) + "\n" for row in planted[number::7]))

    def verdicts(files: list[Path], shard_bytes: int) -> list[tuple]:
        pool = apply(catalog, Ingest(paths=tuple(map(str, files)), shard_bytes=shard_bytes), into="pool")
        rows = decisions(catalog, apply(catalog, FuzzyDedup(), pool, into="dedup"))
        return sorted((row["id"], row["kept"], row["kept_id"], row["similarity"]) for row in rows)

    assert verdicts(paths, 20_000) == verdicts(paths[::-1], 90_000)

"""Explaining a document: every decision on it, the one kept instead with the difference, and where it went."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from catalog.errors import UnknownReference, UsageError
from catalog.explain import explain
from catalog.query import sql
from catalog.snapshot import Contents
from tests.conftest import Curated, planted_rows


def told(curated: Curated, name: str) -> str:
    return explain(curated.catalog, curated.ids[name])


def shingle_set(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def test_a_near_duplicate_names_rule_exact_jaccard_kept_document_and_difference(curated: Curated) -> None:
    text = {row["id"]: row["text"] for row in planted_rows()[0]}
    near, kept = shingle_set(text["near"]), shingle_set(text["kept"])
    answer = told(curated, "near")
    assert f"document {curated.ids['near']}" in answer
    assert re.search(r"pool-unique@1 +kept", answer)
    jaccard = len(near & kept) / len(near | kept)
    reason = f"dropped by near-duplicate: word 5-gram Jaccard >= 0.8; exact Jaccard {jaccard:.4f}"
    assert re.search(rf"pool-dedup@1 +{re.escape(reason)}\n", answer)
    assert f"kept instead: {curated.ids['kept']}" in answer
    word = text["kept"].split()[50]
    assert f"[-replaced-] {{+{word}+}}" in answer
    assert "{+longest+}" in answer
    assert "equal words …" in answer


def test_an_exact_repeat_is_word_for_word_the_kept_one(curated: Curated) -> None:
    gone, stays = sorted((curated.ids["repeat"], curated.ids["good-0"]), reverse=True)
    answer = explain(curated.catalog, gone)
    assert re.search(r"pool-unique@1 +dropped by exact: equal normal form\n", answer)
    assert f"kept instead: {stays}\n  word for word the same" in answer
    assert f"dropped in favour of this document\n  {gone}  exact  Jaccard 1.0000  pool-unique@1" in explain(
        curated.catalog, stays
    )


def test_a_dropped_document_is_told_the_rule_and_what_was_measured(curated: Curated) -> None:
    assert re.search(r"pool-quality@1 +dropped by quality:too-short: n_words 3 < 20", told(curated, "short"))
    assert re.search(r"clean@1 +dropped by contaminated: \d+ of \d+ word 13-grams", told(curated, "quotes"))


def test_decisions_come_in_the_order_they_were_taken_and_each_once(curated: Curated) -> None:
    answer = told(curated, "quotes")
    found = re.findall(r"^  ([a-z-]+)@1 +(?:kept|dropped)", answer, re.M)
    assert found == ["pool-unique", "pool-dedup", "pool-quality", "clean"]


def test_a_kept_document_says_where_its_windows_and_segments_are(curated: Curated) -> None:
    answer = told(curated, "kept")
    rows = sql(
        curated.catalog,
        f"""SELECT "window", cell, n_tokens FROM cells
        WHERE snapshot = 'clean-cells@1' AND id = '{curated.ids["kept"]}' ORDER BY 1""",
    ).to_pylist()
    assert len(rows) > 2
    for row in rows[:10]:
        line = rf"clean-cells@1 +{row['window']} +{row['n_tokens']} tokens in cell {row['cell']}, cosine"
        assert len(re.findall(line, answer)) == 1
    (segments,) = re.findall(r"generic-packs@1: (\d+) segments", answer)
    assert int(segments) >= len(rows)


def test_source_address_and_size_stand_at_the_top(curated: Curated) -> None:
    text = next(row["text"] for row in planted_rows()[0] if row["id"] == "good-7")
    answer = told(curated, "good-7")
    assert "source pool, https://example.org/7" in answer
    assert f"{len(text):,} characters, {len(text.encode()):,} bytes, domain unknown" in answer


def test_the_first_digits_of_an_id_are_enough_where_only_one_begins_so(curated: Curated) -> None:
    assert explain(curated.catalog, curated.ids["near"][:16]) == told(curated, "near")


def test_digits_that_no_id_begins_with_are_unknown(curated: Curated) -> None:
    unused = next(f"{n:04x}" for n in range(1 << 16) if not any(i.startswith(f"{n:04x}") for i in curated.ids.values()))
    with pytest.raises(UnknownReference, match=f"no document whose id begins with {unused}"):
        explain(curated.catalog, unused)


@pytest.mark.parametrize("given", ["", "abc", "xyz1", "ABCD", "0" * 33, "0000' OR '1'='1"])
def test_what_is_no_id_is_refused(curated: Curated, given: str) -> None:
    with pytest.raises(UsageError, match="is not a document id: expected 4 to 32 hexadecimal digits"):
        explain(curated.catalog, given)


def test_models_trained_from_a_pack_are_those_that_were_given_it_by_name(curated: Curated, tmp_path: Path) -> None:
    shutil.copytree(curated.store, tmp_path / "store")
    catalog = Catalog.open(tmp_path / "store")
    packs = catalog.snapshot("generic-packs")
    twin = catalog.commit("twin-packs", packs.contents, catalog.runs[packs.run])
    catalog.commit("model", Contents(kind="model"), replace(catalog.runs[packs.run], inputs=(twin.id,)), inputs=[twin])
    answer = explain(catalog, curated.ids["good-1"])
    assert re.search(r"twin-packs@1: \d+ segments; trained from it: model@1$", answer, re.M)
    assert re.search(r"generic-packs@1: \d+ segments$", answer, re.M)

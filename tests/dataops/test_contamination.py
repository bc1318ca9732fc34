"""Decontamination: copied evaluation text is found, boilerplate convicts nobody."""

from __future__ import annotations

import re

import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.explain import explain
from catalog.projection import publish
from catalog.query import sql
from catalog.snapshot import Snapshot
from dataops.contamination import Decontaminate
from tests.dataops.conftest import Make, apply, decisions, live, prose

LICENCE = prose(77, 60)


def runs(text: str, n: int = 13) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def spliced(seed: int, passage: str, at: int = 100, words: int = 300) -> str:
    own = prose(seed, words).split()
    return " ".join([*own[:at], passage, *own[at:]])


@pytest.fixture
def pool_rows() -> list[dict]:
    """40 clean documents, 5 with a passage of an evaluation document, 30 that share its licence."""
    rows = [{"id": f"clean-{i}", "text": prose(1000 + i, 200)} for i in range(40)]
    rows += [{"id": f"copy-{i}", "text": spliced(2000 + i, passage(i))} for i in range(5)]
    rows += [{"id": f"licensed-{i}", "text": f"{prose(3000 + i, 60)} {LICENCE}"} for i in range(30)]
    return rows


def passage(i: int) -> str:
    return " ".join(prose(i, 150).split()[40:90])


@pytest.fixture
def evaluation(ingest: Make) -> Snapshot:
    return ingest([{"text": f"{prose(i, 150)} {LICENCE}"} for i in range(8)], "evaluation")


def names(catalog: Catalog, snapshot: Snapshot) -> dict[str, str]:
    return {row["id"]: row["source_id"] for row in live(catalog, snapshot, "id", "source_id")}


def test_a_copied_passage_is_found_and_the_reason_counts_its_ngrams_and_says_where(
    catalog: Catalog, ingest: Make, evaluation: Snapshot, pool_rows: list[dict]
) -> None:
    pool = ingest(pool_rows, id_column="id")
    clean = apply(catalog, Decontaminate(), pool, evaluation, into="clean")
    name = names(catalog, pool)
    dropped = [row for row in decisions(catalog, clean) if not row["kept"]]
    assert sorted(name[row["id"]] for row in dropped) == [f"copy-{i}" for i in range(5)]
    text = {row["id"]: row["text"] for row in live(catalog, pool, "id", "text")}
    known = {run for row in live(catalog, evaluation, "text") for run in runs(row["text"])}
    for row in dropped:
        hits = [run in known for run in runs(text[row["id"]])]
        assert row["rule"] == "contaminated"
        assert row["reason"] == (
            f"{sum(hits)} of {len(hits)} word 13-grams are evaluation text, from word {hits.index(True)}"
        )
        assert row["similarity"] == sum(hits) / len(hits)
        assert hits.index(True) == 100


def test_what_many_pool_documents_share_convicts_nobody_until_it_is_rare(
    catalog: Catalog, ingest: Make, evaluation: Snapshot, pool_rows: list[dict]
) -> None:
    pool = ingest(pool_rows, id_column="id")
    name = names(catalog, pool)
    convicted = {}
    for common_from in (30, 31):  # 30 documents of the pool hold the licence
        clean = apply(catalog, Decontaminate(common_from=common_from), pool, evaluation, into="clean")
        convicted[common_from] = {name[row["id"]] for row in decisions(catalog, clean) if not row["kept"]}
        assert clean.contents.summary["common_ngrams"] == (len(runs(LICENCE)) if common_from == 30 else 0)
    assert not any(each.startswith("licensed") for each in convicted[30])
    assert {f"licensed-{i}" for i in range(30)} <= convicted[31]


def test_a_short_quotation_in_a_long_document_stays(catalog: Catalog, ingest: Make, evaluation: Snapshot) -> None:
    quoted = passage(0).split()
    quotations = [" ".join(quoted[:31]), " ".join(quoted[:32])]  # 19 and 20 whole 13-grams
    pool = ingest([{"text": spliced(4000, quotation, words=900)} for quotation in quotations])
    clean = apply(catalog, Decontaminate(), pool, evaluation, into="clean")
    assert [row["kept"] for row in decisions(catalog, clean)] == [True, False]


def test_a_small_document_that_is_mostly_quotation_goes(catalog: Catalog, ingest: Make, evaluation: Snapshot) -> None:
    quotation = " ".join(passage(0).split()[:18])
    pool = ingest([{"text": quotation}])
    assert apply(catalog, Decontaminate(), pool, evaluation, into="clean").contents.rows == 0


def test_several_evaluation_sets_count_together(catalog: Catalog, ingest: Make) -> None:
    one, two = ingest([{"text": prose(1, 100)}], "one"), ingest([{"text": prose(2, 100)}], "two")
    pool = ingest([{"text": prose(1, 100)}, {"text": prose(2, 100)}, {"text": prose(3, 100)}])
    clean = apply(catalog, Decontaminate(), pool, one, two, into="clean")
    assert [row["kept"] for row in decisions(catalog, clean)] == [False, False, True]
    assert clean.contents.summary["evaluation_documents"] == 2


def test_evaluation_documents_shorter_than_an_ngram_say_nothing(catalog: Catalog, ingest: Make) -> None:
    short = ingest([{"text": "twelve words are one too few for any telling run of words here"[:40]}], "short")
    pool = ingest([{"text": prose(1)}, {"text": "twelve words are one too few for any tel"}])
    assert apply(catalog, Decontaminate(), pool, short, into="clean").contents.rows == 2


def test_common_text_is_counted_over_all_shards(
    catalog: Catalog, ingest: Make, evaluation: Snapshot, pool_rows: list[dict]
) -> None:
    found = []
    for shard_bytes in (1_000, 1_000_000):
        pool = ingest(pool_rows, shard_bytes=shard_bytes)
        clean = apply(catalog, Decontaminate(), pool, evaluation, into="clean")
        found.append([(row["id"], row["reason"]) for row in decisions(catalog, clean)])
    assert found[0] == found[1]


def test_ngrams_of_no_words_are_refused() -> None:
    with pytest.raises(UsageError, match="n-grams of 0 words"):
        Decontaminate(ngram=0)


def test_each_evaluation_set_is_reported_with_the_passage_that_matched(
    catalog: Catalog, ingest: Make, evaluation: Snapshot, pool_rows: list[dict]
) -> None:
    other = ingest([{"text": prose(i, 150)} for i in (2, 500)], "other")
    pool = ingest(pool_rows, id_column="id")
    clean = apply(catalog, Decontaminate(), pool, evaluation, other, into="clean")
    first, second = clean.contents.summary["evaluation_sets"]
    assert (first["documents"], first["pool_documents_dropped"]) == (8, 5)
    assert (second["documents"], second["pool_documents_dropped"], second["common_ngrams"]) == (2, 1, 0)
    assert first["common_ngrams"] >= 48  # the licence
    publish(catalog)
    name = names(catalog, pool)
    rows = sql(catalog, "SELECT * FROM matches WHERE snapshot = 'clean@1' ORDER BY evaluation, id").to_pylist()
    assert [row["evaluation"] for row in rows] == ["evaluation@1"] * 5 + ["other@1"]
    for row in rows:
        copied = passage(int(name[row["id"]].removeprefix("copy-"))).lower().replace(".", "")
        assert (row["passage"], row["ngrams"]) == (copied, 50 - 12)
        assert row["passage"] in explain(catalog, row["id"])

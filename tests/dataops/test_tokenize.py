"""Token ids of documents: nothing is lost, and dropped documents are counted."""

from __future__ import annotations

import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.query import sql
from catalog.tokenizer import BpeTokenizer
from dataops.exact import ExactDedup
from dataops.tokenize import Tokenize, TrainTokenizer
from tests.dataops.conftest import Make, apply, ingest_rows, live, prose, rows_of

ODD = ["naïve 😀 数字", "<|endoftext|> quoted <|endoftext|>", "tab\tbell\x07 escape\x1b", "x"]


def test_tokens_give_back_every_document_and_their_number(catalog: Catalog, ingest: Make) -> None:
    pool = ingest([{"text": text} for text in [*ODD, *(prose(i) for i in range(30))]], shard_bytes=8_000)
    tokenizer = apply(catalog, TrainTokenizer(vocab_size=400), pool, into="tokenizer")
    tokenized = apply(catalog, Tokenize(), pool, tokenizer, into="tokens")
    bpe = BpeTokenizer(catalog.store.local(tokenizer.artifact("tokenizer")))
    text = {row["id"]: row["text"] for row in live(catalog, pool, "id", "text")}
    rows = live(catalog, tokenized, "id", "n_tokens", "tokens", table="tokens")
    assert {row["id"]: bpe.decode(row["tokens"]) for row in rows} == text
    assert all(row["n_tokens"] == len(row["tokens"]) for row in rows)
    summary = tokenized.contents.summary
    assert summary["tokens"] == sum(row["n_tokens"] for row in rows)
    assert summary["bytes_per_token"] == sum(len(each.encode()) for each in text.values()) / summary["tokens"]


def test_dropped_documents_are_counted_but_their_tokens_are_not_kept(catalog: Catalog, ingest: Make) -> None:
    rows = [{"text": prose(i % 10)} for i in range(30)]
    unique = apply(catalog, ExactDedup(), ingest(rows), into="unique")
    tokenizer = apply(catalog, TrainTokenizer(vocab_size=400), unique, into="tokenizer")
    tokenized = apply(catalog, Tokenize(), unique, tokenizer, into="tokens")
    table = rows_of(catalog, tokenized, "tokens")
    kept = {row["id"] for row in live(catalog, tokenized, "id")}
    assert (len(table), len(kept)) == (30, 10)
    for row in table:
        assert row["n_tokens"] > 0
        assert (row["tokens"] is not None) == (row["id"] in kept)
    counted = sql(catalog, "SELECT count(*) AS n, count(n_tokens) AS counted FROM decisions").to_pylist()
    assert counted == [{"n": 30, "counted": 30}]


def test_what_a_tokenizer_learns_does_not_depend_on_shards(catalog: Catalog, ingest: Make) -> None:
    rows = [{"text": prose(i)} for i in range(100)]
    ids = set()
    for shard_bytes in (3_000, 1_000_000):
        pool = ingest(rows, shard_bytes=shard_bytes)
        tokenizer = apply(catalog, TrainTokenizer(vocab_size=400, sample_bytes=30_000), pool, into="tokenizer")
        ids.add(tokenizer.id)
    assert len(ids) == 1


def test_a_sample_is_about_as_large_as_asked_and_all_where_there_is_less(catalog: Catalog, ingest: Make) -> None:
    pool = ingest([{"text": prose(i, 20)} for i in range(2000)], shard_bytes=100_000)
    total = pool.contents.summary["bytes"]
    small, large = (
        apply(catalog, TrainTokenizer(vocab_size=300, sample_bytes=size), pool, into="t").contents.summary
        for size in (total // 5, 2 * total)
    )
    assert small["sample_bytes"] == pytest.approx(total / 5, rel=0.15)
    assert (large["sample_bytes"], large["documents"]) == (total, 2000)


def test_a_sample_of_nothing_is_refused(catalog: Catalog, ingest: Make) -> None:
    pool = ingest([{"text": prose(i)} for i in range(5)])
    with pytest.raises(UsageError, match="a sample of 1 bytes has none of the documents: raise sample_bytes"):
        apply(catalog, TrainTokenizer(vocab_size=400, sample_bytes=1), pool, into="tokenizer")


def test_inputs_of_a_tokenizer_count_together(catalog: Catalog, tmp_path) -> None:  # type: ignore[no-untyped-def]
    one = ingest_rows(catalog, tmp_path / "i", [{"text": "aaab " * 50}], "one")
    two = ingest_rows(catalog, tmp_path / "i", [{"text": "zyx " * 50}], "two")
    tokenizer = apply(catalog, TrainTokenizer(vocab_size=300), one, two, into="tokenizer")
    bpe = BpeTokenizer(catalog.store.local(tokenizer.artifact("tokenizer")))
    assert [len(tokens) for tokens in bpe.encode([" aaab", " zyx"])] == [1, 1]
    assert tokenizer.contents.summary["documents"] == 2


@pytest.mark.parametrize("vocab_size", [256, 65_537])
def test_a_vocabulary_out_of_range_is_refused_before_anything_runs(vocab_size: int) -> None:
    with pytest.raises(UsageError, match=f"a vocabulary of {vocab_size}: expected 257 to 65536"):
        TrainTokenizer(vocab_size=vocab_size)

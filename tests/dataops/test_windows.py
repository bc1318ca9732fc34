"""Windows: pieces of documents that put together again are the documents."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from catalog.catalog import Catalog
from catalog.errors import CorruptStore, UsageError
from catalog.snapshot import Snapshot
from catalog.tables import read_live
from catalog.tokenizer import BpeTokenizer
from dataops.exact import ExactDedup
from dataops.tokenize import Tokenize, TrainTokenizer
from dataops.windows import Windows, pieces, windows_of
from tests.dataops.conftest import Make, apply, live, prose

TEXTS = ["x", "数字 " * 30, "naïve 😀 " * 40, *(prose(i, 3 * i + 1) for i in range(12)), prose(3, 10)]


def tokenized(catalog: Catalog, ingest: Make) -> tuple[Snapshot, np.ndarray]:
    """TEXTS in shards, of which one document is dropped before, and the bytes of each token."""
    unique = apply(catalog, ExactDedup(), ingest([{"text": text} for text in TEXTS], shard_bytes=500), into="unique")
    tokenizer = apply(catalog, TrainTokenizer(vocab_size=300), unique, into="tokenizer")
    snapshot = apply(catalog, Tokenize(), unique, tokenizer, into="tokens")
    return snapshot, BpeTokenizer(catalog.store.local(tokenizer.artifact("tokenizer"))).byte_lengths


def cut(catalog: Catalog, ingest: Make, context: int) -> tuple[list[Windows], dict[str, str], dict[str, list[int]]]:
    """The windows of each shard; text and tokens of each document."""
    snapshot, lengths = tokenized(catalog, ingest)
    windows = [
        windows_of(catalog.store, shard, snapshot.contents.layers, context=context, byte_lengths=lengths)
        for shard in snapshot.contents.shards
    ]
    text = {row["id"]: row["text"] for row in live(catalog, snapshot, "id", "text")}
    tokens = {row["id"]: row["tokens"] for row in live(catalog, snapshot, "id", "tokens", table="tokens")}
    return windows, text, tokens


@pytest.mark.parametrize("context", [1, 7, 1000])
def test_windows_cover_each_live_document_once_in_order(catalog: Catalog, ingest: Make, context: int) -> None:
    shards, text, tokens = cut(catalog, ingest, context)
    assert len(shards) > 2
    reached: dict[str, int] = {}
    for windows in shards:
        rows = zip(
            windows.id.to_pylist(), windows.window.tolist(), windows.start.tolist(), windows.n_tokens.tolist(),
            strict=True,
        )  # fmt: skip
        for name, window, start, size in rows:
            assert (start, window) == (reached.get(name, 0), start // context)
            assert 1 <= size <= context
            reached[name] = start + size
    assert reached == {name: len(each) for name, each in tokens.items()}
    assert len(text) == len(TEXTS) - 1


def test_the_texts_of_the_windows_are_the_text_of_the_document(catalog: Catalog, ingest: Make) -> None:
    shards, text, _ = cut(catalog, ingest, 8)
    joined: dict[str, str] = {}
    for windows in shards:
        for name, piece in zip(windows.id.to_pylist(), windows.text.to_pylist(), strict=True):
            joined[name] = joined.get(name, "") + piece
    whole = [name for name in text if "\ufffd" not in joined[name]]
    assert len(whole) >= 12
    assert {name: joined[name] for name in whole} == {name: text[name] for name in whole}
    for name in text.keys() - set(whole):  # a cut character is replaced, everything around it stays
        assert [c for c in joined[name] if c.isascii()] == [c for c in text[name] if c.isascii()]


def test_a_character_cut_by_a_boundary_is_replaced_on_both_sides() -> None:
    texts = pa.chunked_array([pa.array(["a😀b", "", "né"], pa.large_string())])
    cut = pieces(texts, np.array([3, 2, 1, 2, 1])).to_pylist()
    assert [piece.strip("\ufffd") for piece in cut] == ["a", "", "b", "n", ""]
    assert ["\ufffd" in piece for piece in cut] == [True, True, False, True, True]
    assert pieces(texts, np.array([0, 1, 4, 4, 0])).to_pylist() == ["", "a", "😀", "bné", ""]
    parts = pa.chunked_array([pa.array(["xx", "a😀"]), pa.array([None, "né", "yy"])]).slice(1, 3)
    assert pieces(parts, np.array([5, 3])).to_pylist() == ["a😀", "né"]


@pytest.mark.parametrize("texts", [[], [""]])
def test_texts_without_bytes_have_no_pieces(texts: list[str]) -> None:
    assert pieces(pa.array(texts, pa.string()), np.array([], np.int64)).to_pylist() == []


def test_tokens_of_another_text_are_refused(catalog: Catalog, ingest: Make) -> None:
    snapshot, lengths = tokenized(catalog, ingest)
    shard, layers = snapshot.contents.shards[0], snapshot.contents.layers
    with pytest.raises(CorruptStore, match="are not those of its text"):
        windows_of(catalog.store, shard, layers, context=8, byte_lengths=lengths + 1)


def test_documents_brought_back_after_tokenize_are_refused(catalog: Catalog, ingest: Make) -> None:
    snapshot, lengths = tokenized(catalog, ingest)
    shard = next(
        each
        for each in snapshot.contents.shards
        if read_live(catalog.store, each, (), ["row"]).num_rows
        > read_live(catalog.store, each, snapshot.contents.layers, ["row"]).num_rows
    )
    with pytest.raises(UsageError, match="1 documents were brought back after `tokenize`"):
        windows_of(catalog.store, shard, (), context=8, byte_lengths=lengths)

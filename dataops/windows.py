"""Windows: non-overlapping pieces of at most `context` tokens of one document.

The window is the unit that is embedded, put into a cell, weighed, drawn and packed (2402.01093, section 3.1). Tokens of
a byte-level BPE stand for whole bytes, so a window's text is a byte range of its document and nothing is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import CorruptStore, UsageError
from catalog.snapshot import Shard
from catalog.store import Store
from catalog.tables import read_live
from dataops.kernels.ragged import Texts, sums, text_bytes


def window_numbers(table: pa.Table) -> np.ndarray:
    """One int64 for each row of a table with `row` and `window`: equal where both are, and in their order."""
    return (table["row"].to_numpy().astype(np.int64) << 32) | table["window"].to_numpy()


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The windows of a shard's live documents, in document order. All arrays have one entry per window."""

    row: np.ndarray  # int32, position of the document in its shard
    id: pa.StringArray
    h64: np.ndarray  # uint64, of the document
    window: np.ndarray  # int32, number within the document
    start: np.ndarray  # int32, first token within the document
    n_tokens: np.ndarray  # int32
    tokens: np.ndarray  # uint16, of all windows one after another
    text: pa.LargeStringArray

    def __len__(self) -> int:
        return len(self.row)


def windows_of(
    store: Store, shard: Shard, layers: tuple[str, ...], *, context: int, byte_lengths: np.ndarray
) -> Windows:
    """Cut the live documents of a shard. `byte_lengths` is the tokenizer's bytes per token, int32[vocab]."""
    documents = read_live(store, shard, layers, ["row", "id", "h64", "text"])
    tokens = read_live(store, shard, layers, ["tokens"], table="tokens")["tokens"].combine_chunks()
    lengths = np.diff(tokens.offsets.to_numpy())
    values = tokens.flatten().to_numpy()
    _check(documents, tokens, sums(byte_lengths, values, lengths))
    per_document = -(-lengths // context)
    document = np.repeat(np.arange(len(lengths)), per_document)
    first = np.cumsum(per_document) - per_document
    window = np.arange(len(document)) - first[document]
    start = window * context
    size = np.minimum(context, lengths[document] - start)
    return Windows(
        row=documents["row"].to_numpy()[document],
        id=documents["id"].combine_chunks().take(pa.array(document)),
        h64=documents["h64"].to_numpy()[document],
        window=window.astype(np.int32),
        start=start.astype(np.int32),
        n_tokens=size.astype(np.int32),
        tokens=values,
        text=pieces(documents["text"], sums(byte_lengths, values, size)),
    )


def _check(documents: pa.Table, tokens: pa.LargeListArray, num_bytes: np.ndarray) -> None:
    """Raise unless the tokens of each document, which stand for `num_bytes` int64[documents], are as long as its text.

    UsageError for documents without tokens, CorruptStore for those with others.
    """
    if tokens.null_count:
        first = documents["id"].filter(tokens.is_null())[0]
        raise UsageError(
            f"{tokens.null_count} documents were brought back after `tokenize` and have no tokens, the first is "
            f"{first}: tokenize after the last step that decides"
        )
    wrong = np.flatnonzero(num_bytes != np.diff(text_bytes(documents["text"]).offsets))
    if len(wrong):
        raise CorruptStore(f"the tokens of document {documents['id'][int(wrong[0])]} are not those of its text")


def pieces(texts: Texts, sizes: np.ndarray) -> pa.LargeStringArray:
    """All the texts, one after another, cut into pieces of `sizes` bytes, int64[n]: not copied where that can be.

    A character that is cut is replaced on both sides. The sizes add up to the bytes of the texts.
    """
    data = text_bytes(texts).values
    bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    assert bounds[-1] == len(data)
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(data)]
    found = pa.Array.from_buffers(pa.large_binary(), len(sizes), buffers)
    cut = np.zeros(len(bounds), np.bool_)
    inner = bounds < len(data)
    cut[inner] = data[bounds[inner]] & 0xC0 == 0x80  # inside a character
    broken = cut[:-1] | cut[1:]
    if broken.any():
        mended = [piece.decode(errors="replace").encode() for piece in found.filter(pa.array(broken)).to_pylist()]
        found = pc.replace_with_mask(found, pa.array(broken), pa.array(mended, pa.large_binary()))
    return found.cast(pa.large_string())

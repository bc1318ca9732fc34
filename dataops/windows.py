"""Windows: non-overlapping pieces of at most `context` tokens of one document.

The window is the unit that is embedded, put into a cell, weighed, drawn and packed (2402.01093, section 3.1). Tokens of
a byte-level BPE stand for whole bytes, so a window's text is a byte range of its document and nothing is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from catalog.snapshot import Shard
from catalog.store import Store
from catalog.tables import read_live


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
    per_document = -(-lengths // context)
    document = np.repeat(np.arange(len(lengths)), per_document)
    first = np.cumsum(per_document) - per_document
    window = np.arange(len(document)) - first[document]
    start = window * context
    size = np.minimum(context, lengths[document] - start)
    values = tokens.values.to_numpy()
    position = np.concatenate([[0], np.cumsum(byte_lengths[values], dtype=np.int64)])
    base = tokens.offsets.to_numpy()[:-1]
    begin = position[base[document] + start] - position[base[document]]
    end = position[base[document] + start + size] - position[base[document]]
    return Windows(
        row=documents["row"].to_numpy()[document],
        id=documents["id"].combine_chunks().take(pa.array(document)),
        h64=documents["h64"].to_numpy()[document],
        window=window.astype(np.int32),
        start=start.astype(np.int32),
        n_tokens=size.astype(np.int32),
        tokens=values,
        text=_byte_ranges(documents["text"], document, begin, end),
    )


def _byte_ranges(
    texts: pa.ChunkedArray, document: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> pa.LargeStringArray:
    """texts[document][begin:end] in bytes. A character cut by a boundary is replaced on both sides."""
    raw = [text.encode() for text in texts.to_pylist()]
    pieces = [
        raw[d][b:e].decode(errors="replace")
        for d, b, e in zip(document.tolist(), begin.tolist(), end.tolist(), strict=True)
    ]
    return pa.array(pieces, pa.large_string())

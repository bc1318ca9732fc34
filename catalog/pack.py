"""Packs: rows of token ids that a trainer reads straight from the page cache.

A pack file is an Arrow IPC file with one record batch, memory-mapped and never copied: of the formats measured (one
thread) Arrow IPC read 685 million tokens/s, raw binary 451, Parquet 104 in order and 0.1 at random. One row is one
training example of exactly `context` tokens. Rows are sorted by cell. A row holds one or more *segments*, each a
piece of one document; nothing is predicted across a segment boundary and attention does not cross it.

    tokens      fixed_size_list<uint16 or uint32>[context]
    cell        int32, the k-means cell all segments of the row belong to
    starts      list<int32>, where each segment begins in the row; starts[0] == 0
    documents   list<fixed_size_binary[16]>, the document of each segment

A segment whose document is sixteen zero bytes holds nothing but the end-of-text token and carries no loss: the unused
tail of the last row of a cell, and what was taken down (`mask`; rows, lengths and offsets stay). Schema metadata (JSON
under b"tamis"): context, vocab_size, end_of_text, tokenizer (sha256 of its file).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import CorruptStore
from catalog.snapshot import Snapshot
from catalog.store import Store
from catalog.tables import read_table

PADDING = bytes(16)


def cell_weights(store: Store, packs: Snapshot, rows_per_cell: np.ndarray) -> tuple[float, ...] | None:
    """The weight of each cell that has rows in the packs' mixture or blend, None for packs without one.

    A cell whose budget was too small for a single window has no rows; its weight goes to the others in proportion.
    """
    names = [name for name in ("shares", "weights") if name in packs.contents.artifacts]
    if not names:
        return None
    weights = read_table(store, packs.artifact(names[0]), ["weight"])["weight"].to_numpy()
    rows = np.zeros(len(weights), np.int64)
    rows[: len(rows_per_cell)] = rows_per_cell
    alive = np.where(rows > 0, weights, 0.0)[: len(rows_per_cell)]
    return tuple((alive / alive.sum()).tolist())


@dataclass(frozen=True, kw_only=True)
class PackFormat:
    """What a reader must know to use the tokens of a pack."""

    context: int
    vocab_size: int
    end_of_text: int
    tokenizer: str

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """uint16 where every token id fits, else uint32."""
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32


def write_pack(
    path: Path,
    pack_format: PackFormat,
    *,
    tokens: np.ndarray,
    cells: np.ndarray,
    starts: Sequence[Sequence[int]],
    documents: Sequence[Sequence[bytes]],
) -> None:
    """Write rows as one pack file. `tokens` is [rows, context]; the other three have one entry per row."""
    rows, context = tokens.shape
    if context != pack_format.context:
        raise ValueError(f"rows of {context} tokens for a pack of context {pack_format.context}")
    if rows and not 0 <= tokens.min() <= tokens.max() < pack_format.vocab_size:
        raise ValueError(
            f"token ids from {tokens.min()} to {tokens.max()} for a vocabulary of {pack_format.vocab_size}"
        )
    flat = pa.array(np.ascontiguousarray(tokens, pack_format.dtype).reshape(-1))
    columns = {
        "tokens": pa.FixedSizeListArray.from_arrays(flat, context),
        "cell": pa.array(np.asarray(cells, np.int32)),
        "starts": pa.array(starts, pa.list_(pa.int32())),
        "documents": pa.array(documents, pa.list_(pa.binary(16))),
    }
    batch = pa.record_batch(columns).replace_schema_metadata({b"tamis": json.dumps(asdict(pack_format)).encode()})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def held_segments(path: Path, ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which segments of a pack file are of these documents: their numbers in the file and their rows, int64 each."""
    documents = _open(path).column("documents")
    wanted = pa.array([bytes.fromhex(each) for each in ids], pa.binary(16))
    found = np.flatnonzero(pc.is_in(documents.flatten(), value_set=wanted).to_numpy(zero_copy_only=False))
    return found, np.searchsorted(documents.offsets.to_numpy(), found, side="right") - 1


def mask(source: Path, target: Path, ids: Iterable[str]) -> None:
    """Write `source` to `target` with the segments of these documents made padding; nothing moves."""
    batch = _open(source)
    context, end_of_text = _format(batch, source).context, _format(batch, source).end_of_text
    segments, rows = held_segments(source, ids)
    offsets, starts = batch.column("starts").offsets.to_numpy(), batch.column("starts").flatten().to_numpy()
    is_last = segments + 1 == offsets[rows + 1]
    following = np.where(is_last, context, starts[np.minimum(segments + 1, len(starts) - 1)])
    tokens = batch.column("tokens").flatten().to_numpy().copy()
    for begin, end in zip(rows * context + starts[segments], rows * context + following, strict=True):
        tokens[begin:end] = end_of_text
    names = _names(batch).copy()
    names[segments] = 0
    flat = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(names), [None, pa.py_buffer(names.tobytes())])
    columns = {
        "tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens), context),
        "cell": batch.column("cell"),
        "starts": batch.column("starts"),
        "documents": pa.ListArray.from_arrays(batch.column("documents").offsets, flat),
    }
    masked = pa.record_batch(columns).replace_schema_metadata(batch.schema.metadata)
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, masked.schema) as writer:
        writer.write_batch(masked)


def _names(batch: pa.RecordBatch) -> np.ndarray:
    """The document of every segment, uint8[segments, 16], not copied."""
    flat = batch.column("documents").flatten()
    start = flat.offset * 16
    return np.frombuffer(flat.buffers()[1], np.uint8)[start : start + len(flat) * 16].reshape(-1, 16)


class Packs:
    """The rows of several pack files, addressed as (cell, index within the cell) in file order.

    `rows_per_cell` is int64[num_cells] where num_cells = largest cell id + 1.
    """

    def __init__(self, paths: Iterable[Path | str]):
        self.paths = [Path(path) for path in paths]
        if not self.paths:
            raise ValueError("a pack reader needs at least one file, got none")
        self._batches = [_open(path) for path in self.paths]
        self.format = _format(self._batches[0], self.paths[0])
        for batch, path in zip(self._batches, self.paths, strict=True):
            if _format(batch, path) != self.format:
                raise CorruptStore(f"{path} was packed as {_format(batch, path)}, {self.paths[0]} as {self.format}")
        rows = [batch.num_rows for batch in self._batches]
        self._offsets = np.concatenate([[0], np.cumsum(rows)])
        self._tokens = [
            batch.column("tokens").flatten().to_numpy(zero_copy_only=True).reshape(-1, self.format.context)
            for batch in self._batches
        ]
        self._names = [_names(batch) for batch in self._batches]
        self._first_segment = [batch.column("documents").offsets.to_numpy() for batch in self._batches]
        cells = np.concatenate([batch.column("cell").to_numpy() for batch in self._batches])
        self._by_cell = np.argsort(cells, kind="stable")
        self.rows_per_cell = np.bincount(cells).astype(np.int64) if len(cells) else np.zeros(0, np.int64)
        self._cell_offsets = np.concatenate([[0], np.cumsum(self.rows_per_cell)])

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def files(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Each file's rows, with the global number of the first."""
        yield from zip(self._offsets[:-1].tolist(), self._batches, strict=True)

    def rows(self, cells: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Global row numbers, int64[n], of row `indices[i]` of cell `cells[i]`."""
        return self._by_cell[self._cell_offsets[cells] + indices]

    def tokens(self, rows: np.ndarray) -> np.ndarray:
        """Token ids, int64[n, context]."""
        out = np.empty((len(rows), self.format.context), np.int64)
        for i, (batch, row) in enumerate(self._locate(rows)):
            out[i] = self._tokens[batch][row]
        return out

    def segments(self, rows: np.ndarray) -> np.ndarray:
        """Segment number of each token within its row, int64[n, context]; padding is -1."""
        out = np.zeros((len(rows), self.format.context), np.int64)
        for i, (batch, row) in enumerate(self._locate(rows)):
            starts = self._batches[batch].column("starts")[row].values.to_numpy()
            out[i, starts[1:]] = 1
            np.cumsum(out[i], out=out[i])
            first = self._first_segment[batch][row]
            for blank in np.flatnonzero(~self._names[batch][first : first + len(starts)].any(axis=1)):
                out[i, out[i] == blank] = -1
        return out

    def documents(self, row: int) -> list[str]:
        """The document ids (hex) of the segments of one row, padding left out."""
        ((batch, local),) = self._locate(np.asarray([row]))
        ids = self._batches[batch].column("documents")[local].as_py()
        return [each.hex() for each in ids if each != PADDING]

    def place(self, row: int) -> tuple[int, int, list[int], list[bytes]]:
        """File and row in it of a global row number, where its segments start, and the document of each."""
        ((batch, local),) = self._locate(np.asarray([row]))
        starts = self._batches[batch].column("starts")[local].as_py()
        return batch, local, starts, self._batches[batch].column("documents")[local].as_py()

    def _locate(self, rows: np.ndarray) -> list[tuple[int, int]]:
        batches = np.searchsorted(self._offsets, rows, side="right") - 1
        return list(zip(batches.tolist(), (rows - self._offsets[batches]).tolist(), strict=True))


def _open(path: Path) -> pa.RecordBatch:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.num_record_batches == 1:
            return reader.get_batch(0)
        return reader.read_all().combine_chunks().to_batches()[0]
    except (OSError, pa.ArrowInvalid, IndexError) as error:
        raise CorruptStore(f"{path} is not a readable pack: {error}") from error


def _format(batch: pa.RecordBatch, path: Path) -> PackFormat:
    metadata = (batch.schema.metadata or {}).get(b"tamis")
    if metadata is None:
        raise CorruptStore(f"{path} is an Arrow file but not a pack: its schema carries no tamis metadata")
    return PackFormat(**json.loads(metadata))

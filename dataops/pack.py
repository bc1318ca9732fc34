"""Packing: windows become rows of exactly `context` tokens, sorted by cell, each knowing its documents.

Windows of one cell are put in an order keyed by (seed, document id, window), joined and cut into rows; a window that
crosses the edge goes on in the next row, so no token is lost. A document begins and ends with the end-of-text token.
The last row of a cell is padded. One exchange by cell; a partition of cells is one pack file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from catalog.errors import UsageError
from catalog.pack import PADDING, PackFormat, write_pack
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import Store
from catalog.tables import read_live
from catalog.tokenizer import BpeTokenizer
from dataops.cells import load_cells, window_keys
from dataops.exchange import gather, scatter
from dataops.kernels.hashing import mix64
from dataops.step import shard_tasks
from dataops.windows import window_numbers

TOKENS_PER_FILE = 32_000_000


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Rows of `context` tokens from a snapshot with cells; only the drawn windows of a resampled one."""

    verb: ClassVar[str] = "pack"
    revision: ClassVar[int] = 2

    context: int = 256
    seed: int = 1

    def __post_init__(self) -> None:
        if self.context < 2:
            raise UsageError(f"a context of {self.context} tokens: expected at least 2, one to predict the other from")

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A packs snapshot: one shard a file, with the artifact `tokenizer`."""
        (snapshot,) = inputs
        snapshot.require("documents", "tokens", "cells")
        tokenizer = snapshot.artifact("tokenizer")
        cells = load_cells(work.store, snapshot.artifact("cell-model")).num_cells
        settings = {"step": self, "folder": str(work.folder), "tokenizer": tokenizer, "cells": cells}
        resampled = any(layer.startswith("resample") for layer in snapshot.contents.layers)
        measured = work.stage(
            "measure", _measure, shard_tasks(snapshot, resampled=resampled, **settings), unit="windows"
        )
        tokens = np.sum([receipt["tokens"] for receipt in measured], axis=0)
        partition = partition_of_cells(tokens).tolist()
        files = max(partition) + 1
        tasks = shard_tasks(snapshot, resampled=resampled, partition=partition, files=files, **settings)
        gathered = [receipt["path"] for receipt in work.stage("exchange", _exchange, tasks, unit="windows")]
        vocab_size = BpeTokenizer(work.store.local(tokenizer)).vocab_size
        tasks = [{**settings, "paths": gathered, "file": file, "vocab_size": vocab_size} for file in range(files)]
        receipts = work.stage("pack", _pack, tasks, unit="rows")
        shards = tuple(Shard(rows=r["rows"], tables={"pack": file_ref(r["pack"])}) for r in receipts)
        summary = {
            "context": self.context,
            "vocab_size": vocab_size,
            "rows": sum(shard.rows for shard in shards),
            "tokens": int(tokens.sum()),
            "rows_per_cell": np.sum([r["rows_per_cell"] for r in receipts], axis=0).tolist(),
        }
        artifacts = {"tokenizer": tokenizer, "cell-model": snapshot.artifact("cell-model")}
        if "weights" in snapshot.contents.artifacts:
            artifacts["weights"] = snapshot.contents.artifacts["weights"]
        return Contents(kind="packs", shards=shards, artifacts=artifacts, summary=summary)


def partition_of_cells(tokens: np.ndarray) -> np.ndarray:
    """File of each cell: cells in order, about TOKENS_PER_FILE to a file, a larger cell alone. int64[cells], from 0."""
    return np.unique((np.cumsum(tokens) - tokens) // TOKENS_PER_FILE, return_inverse=True)[1].astype(np.int64)


def _windows(store: Store, task: Task) -> pa.Table:
    """row, window, start, n_tokens, cell and copy of the windows to pack, in document order; a window once a copy."""
    columns = ["row", "window", "start", "n_tokens", "cell"]
    windows = read_live(store, task["shard"], task["layers"], columns, table="cells")
    if not task["resampled"]:
        return windows.append_column("copy", pa.array(np.zeros(windows.num_rows, np.int64)))
    drawn = read_live(store, task["shard"], task["layers"], ["row", "window", "copies"], table="draws")
    copies = drawn["copies"].to_numpy()
    windows = windows.filter(pa.array(np.isin(window_numbers(windows), window_numbers(drawn))))
    copy = np.arange(copies.sum()) - np.repeat(np.cumsum(copies) - copies, copies)
    return windows.take(pa.array(np.repeat(np.arange(len(copies)), copies))).append_column("copy", pa.array(copy))


def _measure(store: Store, task: Task) -> Receipt:
    windows = _windows(store, task)
    cells = windows["cell"].to_numpy()
    tokens = np.bincount(cells, windows["n_tokens"].to_numpy(), minlength=task["cells"]).astype(np.int64)
    return {"tokens": tokens.tolist(), "windows": windows.num_rows}


def _exchange(store: Store, task: Task) -> Receipt:
    """The shard's pieces (a window with its end-of-text tokens) by file."""
    step: Pack = task["step"]
    end_of_text = BpeTokenizer(store.local(task["tokenizer"])).end_of_text
    live = read_live(store, task["shard"], task["layers"], ["row", "id", "h64"])
    tokens = read_live(store, task["shard"], task["layers"], ["tokens"], table="tokens")["tokens"].combine_chunks()
    offsets, values = tokens.offsets.to_numpy(), tokens.values.to_numpy()
    windows = _windows(store, task)
    document = np.searchsorted(live["row"].to_numpy(), windows["row"].to_numpy())
    begin = offsets[document] + windows["start"].to_numpy()
    end = begin + windows["n_tokens"].to_numpy()
    is_first, is_last = begin == offsets[document], end == offsets[document + 1]
    mark = np.array([end_of_text], np.uint16)
    pieces = [
        np.concatenate([mark[:first], values[b:e], mark[:last]])
        for b, e, first, last in zip(
            begin.tolist(), end.tolist(), is_first.astype(int), is_last.astype(int), strict=True
        )
    ]
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    flat = np.concatenate(pieces) if pieces else np.empty(0, np.uint16)
    table = pa.table(
        {
            "cell": windows["cell"],
            "order": mix64(
                mix64(windows["copy"].to_numpy().astype(np.uint64)) * (windows["copy"].to_numpy() > 0)
                + window_keys(live["h64"].to_numpy()[document], windows["window"].to_numpy())
                + np.uint64(step.seed)
            ),
            "document": live["id"].take(pa.array(document)),
            "tokens": pa.LargeListArray.from_arrays(
                np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), pa.array(flat)
            ),
        }
    )
    partition = np.asarray(task["partition"])[windows["cell"].to_numpy()]
    path = Path(task["folder"]) / f"exchange-{task['number']}.arrow"
    return {"path": scatter(path, table, partition, task["files"]), "windows": windows.num_rows}


def _pack(store: Store, task: Task) -> Receipt:
    step: Pack = task["step"]
    tokenizer = BpeTokenizer(store.local(task["tokenizer"]))
    pieces = gather(task["paths"], task["file"])
    pieces = pieces.sort_by([("cell", "ascending"), ("order", "ascending"), ("document", "ascending")]).combine_chunks()
    rows, cells = [np.empty((0, step.context), np.uint16)], [np.empty(0, np.int32)]
    starts: list[list[int]] = []
    documents: list[list[bytes]] = []
    for cell, part in _by_cell(pieces):
        packed, cut, names = pack_cell(part, context=step.context, end_of_text=tokenizer.end_of_text)
        rows.append(packed)
        cells.append(np.full(len(packed), cell, np.int32))
        starts += cut
        documents += names
    pack_format = PackFormat(
        context=step.context,
        vocab_size=task["vocab_size"],
        end_of_text=tokenizer.end_of_text,
        tokenizer=task["tokenizer"].sha256,
    )
    cell_of_row = np.concatenate(cells)
    with store.writing(suffix="arrow") as (path, refs):
        write_pack(
            path, pack_format, tokens=np.concatenate(rows), cells=cell_of_row, starts=starts, documents=documents
        )
    return {
        "pack": as_json(refs[0]),
        "rows": len(cell_of_row),
        "rows_per_cell": np.bincount(cell_of_row, minlength=task["cells"]).tolist(),
    }


def _by_cell(pieces: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    cells = pieces["cell"].to_numpy()
    bounds = np.flatnonzero(np.diff(cells, prepend=-1, append=-1))
    for start, stop in pairwise(bounds.tolist()):
        yield int(cells[start]), pieces.slice(start, stop - start)


def pack_cell(
    pieces: pa.Table, *, context: int, end_of_text: int
) -> tuple[np.ndarray, list[list[int]], list[list[bytes]]]:
    """Rows, segment starts and segment documents of one cell's pieces (columns tokens, document), joined in order."""
    tokens = pieces["tokens"].combine_chunks()
    stream = tokens.flatten().to_numpy()
    names = [bytes.fromhex(name) for name in pieces["document"].to_pylist()]
    begins = np.concatenate([[0], np.cumsum(tokens.value_lengths().to_numpy())])
    num_rows = -(-len(stream) // context)
    rows = np.full(num_rows * context, end_of_text, np.uint16)
    rows[: len(stream)] = stream
    edges = np.unique(np.concatenate([begins[:-1], np.arange(num_rows) * context, begins[-1:]]))
    edges = edges[edges < num_rows * context]
    owner = np.searchsorted(begins, edges, side="right") - 1
    starts: list[list[int]] = [[] for _ in range(num_rows)]
    documents: list[list[bytes]] = [[] for _ in range(num_rows)]
    for edge, piece in zip(edges.tolist(), owner.tolist(), strict=True):
        starts[edge // context].append(edge % context)
        documents[edge // context].append(names[piece] if piece < len(names) else PADDING)
    return rows.reshape(num_rows, context), starts, documents

"""One packs snapshot of several, each with its share of the stream: replay, and several targets at once.

    blend target-packs generic-packs  shares=[0.9, 0.1]      continued pretraining that does not forget
    blend law-packs medicine-packs    shares=[0.5, 0.5]      one model for two targets

The cells of a source follow those of the source before it, and a cell's weight is its source's share times its weight
there (that of its mixture, else in proportion to rows). So the trainer sees packs with a mixture and nothing new.
Files are written again, because a row says its cell: one pass over the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from catalog.errors import UsageError
from catalog.pack import cell_weights
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import Store
from catalog.tables import write_table


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Packs in which each source has the share that `shares` gives it, in the order of the inputs."""

    verb: ClassVar[str] = "blend"
    revision: ClassVar[int] = 1

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if any(not share > 0 for share in self.shares) or not self.shares:
            raise UsageError(f"shares {list(self.shares)}: expected a positive number for each of the packs")

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A packs snapshot with weights."""
        self._check(inputs)
        cells = [len(packs.contents.summary["rows_per_cell"]) for packs in inputs]
        offsets = np.cumsum([0, *cells])[:-1].tolist()
        tasks = [
            {"pack": shard.tables["pack"], "offset": offset, "rows": shard.rows}
            for packs, offset in zip(inputs, offsets, strict=True)
            for shard in packs.contents.shards
        ]
        receipts = work.stage("blend", _shift, tasks, unit="rows")
        total = sum(self.shares)
        weights = [
            share / total * weights_of(work.store, packs) for share, packs in zip(self.shares, inputs, strict=True)
        ]
        table = pa.table({"cell": np.arange(sum(cells), dtype=np.int32), "weight": np.concatenate(weights)})
        summaries = [packs.contents.summary for packs in inputs]
        summary = {
            "context": summaries[0]["context"],
            "vocab_size": summaries[0]["vocab_size"],
            "rows": sum(each["rows"] for each in summaries),
            "tokens": sum(each["tokens"] for each in summaries),
            "rows_per_cell": [rows for each in summaries for rows in each["rows_per_cell"]],
            "first_cells": dict(zip((packs.ref for packs in inputs), offsets, strict=True)),
        }
        return Contents(
            kind="packs",
            shards=tuple(Shard(rows=r["rows"], tables={"pack": file_ref(r["pack"])}) for r in receipts),
            artifacts={"tokenizer": inputs[0].artifact("tokenizer"), "shares": write_table(work.store, table)},
            summary=summary,
        )

    def _check(self, inputs: Sequence[Snapshot]) -> None:
        if len(self.shares) != len(inputs):
            raise UsageError(f"{len(self.shares)} shares for {len(inputs)} packs: give one for each")
        first = inputs[0].require("packs")
        for other in inputs[1:]:
            for name in ("context", "vocab_size"):
                one, two = first.contents.summary[name], other.require("packs").contents.summary[name]
                if one != two:
                    raise UsageError(f"{first.ref} has {name} {one}, {other.ref} has {two}: pack both alike")
            if first.artifact("tokenizer").sha256 != other.artifact("tokenizer").sha256:
                raise UsageError(f"{first.ref} and {other.ref} have different tokenizers where one was expected")


def weights_of(store: Store, packs: Snapshot) -> np.ndarray:
    """Weight of each cell of packs that has rows, float64[cells], summing to 1."""
    rows = np.asarray(packs.contents.summary["rows_per_cell"], np.float64)
    weights = cell_weights(store, packs, rows)
    return rows / rows.sum() if weights is None else np.array(weights)


def _shift(store: Store, task: Task) -> Receipt:
    """The same rows in cells that begin at an offset."""
    with pa.memory_map(str(store.local(task["pack"]))) as source:
        table = pa.ipc.open_file(source).read_all()
        cells = pa.array(table["cell"].to_numpy() + np.int32(task["offset"]), pa.int32())
        moved = table.set_column(table.schema.get_field_index("cell"), table.schema.field("cell"), cells)
        with store.writing(suffix="arrow") as (path, refs):
            _write(path, moved)
    return {"pack": as_json(refs[0]), "rows": task["rows"]}


def _write(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(table.combine_chunks().to_batches()[0])

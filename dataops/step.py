"""What every step over document shards shares: tasks from a snapshot, contents from receipts, decision tables.

A step is a frozen dataclass (catalog.run.Step). Its task functions are module-level, take (store, task) and return a
receipt of plain JSON; `tables` in a receipt are added to the shard, `rows` is its number of live documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from catalog import schema
from catalog.run import Receipt, Task, as_json, file_ref
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import FileRef, Store
from catalog.tables import write_table


def shard_tasks(snapshot: Snapshot, **settings: Any) -> list[Task]:
    """One task a shard: the shard, its number, the decision layers that say what is live, and `settings`."""
    layers = snapshot.contents.layers
    return [
        {"shard": shard, "number": number, "layers": layers, **settings}
        for number, shard in enumerate(snapshot.contents.shards)
    ]


def extend(
    snapshot: Snapshot,
    receipts: Sequence[Receipt],
    *,
    layer: str | None = None,
    artifacts: Mapping[str, FileRef] | None = None,
    summary: Mapping[str, Any] | None = None,
) -> Contents:
    """The contents of `snapshot` with the tables of `receipts` added shard by shard, its artifacts and the new ones.

    `layer` names the table that becomes the newest decision.
    """
    contents = snapshot.contents
    shards = tuple(
        Shard(
            rows=receipt.get("rows", shard.rows),
            tables={**shard.tables, **{name: file_ref(ref) for name, ref in receipt["tables"].items()}},
        )
        for shard, receipt in zip(contents.shards, receipts, strict=True)
    )
    return Contents(
        kind="documents",
        shards=shards,
        layers=contents.layers + ((layer,) if layer else ()),
        artifacts={**contents.artifacts, **(artifacts or {})},
        summary=summary or {},
    )


def layer_name(snapshot: Snapshot, name: str) -> str:
    """`name`, numbered when the snapshot already went through such a step."""
    taken = sum(1 for layer in snapshot.contents.layers if layer.split("#")[0] == name)
    return f"{name}#{taken + 1}" if taken else name


def drops(
    rows: np.ndarray,
    rule: str | Sequence[str],
    reason: str | Sequence[str],
    *,
    kept_id: pa.ChunkedArray | None = None,
    similarity: np.ndarray | None = None,
) -> pa.Table:
    """The documents of a shard that go, for `decide`: rule and reason of each, or one for all."""

    def texts(value: str | Sequence[str]) -> pa.Array:
        return pa.array([value] * len(rows) if isinstance(value, str) else value, pa.string())

    columns = {
        "row": rows,
        "rule": texts(rule),
        "reason": texts(reason),
        "kept_id": pa.nulls(len(rows), pa.string()) if kept_id is None else kept_id,
        "similarity": pa.nulls(len(rows), pa.float64()) if similarity is None else similarity,
    }
    return pa.table(columns)


def decide(store: Store, live: pa.Table, dropped: pa.Table, *, layer: str) -> Receipt:
    """Write the decisions of one shard and return its receipt.

    live: (row, id) of the documents that reached this step. dropped: (row, rule, reason, kept_id, similarity) of those
    that go, at most one line each; every other document stays.
    """
    position = np.searchsorted(live["row"].to_numpy(), dropped["row"].to_numpy())
    kept = np.ones(live.num_rows, bool)
    kept[position] = False
    index = np.full(live.num_rows, -1, np.int64)
    index[position] = np.arange(dropped.num_rows)
    take = pa.array(index, mask=index < 0)
    columns = {name: dropped[name].combine_chunks().take(take) for name in ("rule", "reason", "kept_id", "similarity")}
    table = pa.table({"row": live["row"], "id": live["id"], "kept": pa.array(kept), **columns}).cast(schema.DECISIONS)
    return {
        "tables": {layer: as_json(write_table(store, table))},
        "rows": int(kept.sum()),
        "documents": live.num_rows,
        "dropped": dropped.num_rows,
    }


def counts(receipts: Sequence[Receipt]) -> dict[str, int]:
    """Documents in, kept and dropped over all shards."""
    documents = sum(receipt["documents"] for receipt in receipts)
    kept = sum(receipt["rows"] for receipt in receipts)
    return {"documents": documents, "kept": kept, "dropped": documents - kept}

"""Exact deduplication: of documents with equal normal form, the one with the smallest id stays.

Equality is equality of the 128-bit content hash. One exchange by hash; memory is bounded by the partition size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.run import Receipt, Task, Work
from catalog.snapshot import Contents, Snapshot
from catalog.store import Store
from catalog.tables import read_live
from dataops.append import num_earlier
from dataops.exchange import by_key, gather, num_partitions, scatter
from dataops.step import counts, decide, drops, extend, layer_name, shard_tasks


@dataclass(frozen=True, kw_only=True)
class ExactDedup:
    """Keep one document of each content.

    With `first_come`, shards that were deduplicated before (dataops.append) keep theirs against later ones.
    """

    verb: ClassVar[str] = "exact-dedup"
    revision: ClassVar[int] = 1

    first_come: bool = False

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A decision layer `exact` on the one snapshot given."""
        (snapshot,) = inputs
        snapshot.require("documents")
        shards, partitions = len(snapshot.contents.shards), num_partitions(snapshot.contents.rows)
        layer = layer_name(snapshot, "exact")
        folder, earlier = str(work.folder), num_earlier(snapshot) if self.first_come else 0
        tasks = shard_tasks(snapshot, folder=folder, partitions=partitions, earlier=earlier)
        hashed = work.stage("hash", _hash, tasks)
        files = [receipt["path"] for receipt in hashed]
        matches = [{"files": files, "partition": p, "shards": shards, "folder": folder} for p in range(partitions)]
        matched = [receipt["path"] for receipt in work.stage("match", _match, matches)]
        receipts = work.stage("decide", _decide, shard_tasks(snapshot, files=matched, layer=layer))
        return extend(snapshot, receipts, layer=layer, summary=counts(receipts))


def _hash(store: Store, task: Task) -> Receipt:
    live = read_live(store, task["shard"], task["layers"], ["row", "id", "content"])
    table = live.append_column("shard", pa.array(np.full(live.num_rows, task["number"], np.int32)))
    table = table.append_column("later", pa.array(np.full(live.num_rows, task["number"] >= task["earlier"])))
    keys = np.array([int(content[:16], 16) for content in live["content"].to_pylist()], np.uint64)
    path = Path(task["folder"]) / f"hash-{task['number']}.arrow"
    partitions = task["partitions"]
    return {"path": scatter(path, table, by_key(keys, partitions), partitions), "documents": live.num_rows}


def _match(_: Store, task: Task) -> Receipt:
    rows = gather(task["files"], task["partition"])
    rows = rows.sort_by([("content", "ascending"), ("later", "ascending"), ("id", "ascending")])
    content = rows["content"].combine_chunks()
    first = np.ones(rows.num_rows, bool)
    if rows.num_rows > 1:
        first[1:] = pc.not_equal(content[1:], content[:-1]).to_numpy(zero_copy_only=False)
    keeper = np.maximum.accumulate(np.where(first, np.arange(rows.num_rows), 0))
    table = pa.table({"shard": rows["shard"], "row": rows["row"], "kept_id": rows["id"].take(pa.array(keeper))})
    repeats = table.filter(pa.array(~first)).sort_by([("shard", "ascending"), ("row", "ascending")])
    path = Path(task["folder"]) / f"match-{task['partition']}.arrow"
    shard = repeats["shard"].to_numpy().astype(np.int64)
    return {"path": scatter(path, repeats, shard, task["shards"]), "documents": rows.num_rows}


def _decide(store: Store, task: Task) -> Receipt:
    live = read_live(store, task["shard"], task["layers"], ["row", "id"])
    repeats = gather(task["files"], task["number"]).sort_by("row")
    dropped = drops(
        repeats["row"].to_numpy(),
        "exact",
        "equal normal form",
        kept_id=repeats["kept_id"],
        similarity=np.ones(repeats.num_rows),
    )
    return decide(store, live, dropped, layer=task["layer"])

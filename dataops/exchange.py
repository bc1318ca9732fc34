"""Moving rows between shards and partitions through files, so that a killed exchange resumes like anything else.

Each task writes one Arrow IPC file whose record batch p holds its rows for partition p; the task of partition p maps
that one batch of every file. A Ray Data groupby of the same rows took 15-22 s a million rows on two cores, this about
one, and Ray's shuffle can't resume. Files lie in the run's work folder, under names that depend on the task alone.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

ROWS_PER_PARTITION = 2_000_000


def num_partitions(rows: int) -> int:
    """How many partitions hold `rows` rows; a function of the data alone, so every machine agrees."""
    return max(1, -(-rows // ROWS_PER_PARTITION))


def by_key(keys: np.ndarray, partitions: int) -> np.ndarray:
    """Partition of each uint64 key: equal ranges of the key space."""
    return ((keys >> np.uint64(32)) * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)


def scatter(path: Path, table: pa.Table, partition: np.ndarray, partitions: int) -> str:
    """Write `table` to `path` with the rows of each partition (int64 per row) together, and return the path."""
    order = np.argsort(partition, kind="stable")
    sorted_table = table.take(pa.array(order)).combine_chunks()
    bounds = np.searchsorted(partition[order], np.arange(partitions + 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        for start, stop in pairwise(bounds):
            writer.write_batch(_batch(sorted_table.slice(start, stop - start)))
    os.replace(partial, path)
    return str(path)


def gather(paths: Iterable[str], partition: int) -> pa.Table:
    """The rows of one partition from every file, in file order."""
    batches = [pa.ipc.open_file(pa.memory_map(path)).get_batch(partition) for path in paths]
    return pa.Table.from_batches(batches).combine_chunks()


def _batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)

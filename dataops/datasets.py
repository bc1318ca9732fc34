"""The documents of a snapshot as a Ray Dataset: a row of references becomes a block of documents, shard by shard."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from catalog.documents import Documents, read_documents

if TYPE_CHECKING:
    import ray.data


def to_ray(documents: Documents) -> ray.data.Dataset:
    """A lazy Ray Dataset of the documents: each task reads one shard. Ray's order of blocks is its own."""
    import ray.data

    tasks = [
        {"task": pickle.dumps((documents.store, shard, documents.layers, documents.columns))}
        for shard in documents.shards
    ]
    return ray.data.from_items(tasks, override_num_blocks=max(1, len(tasks))).map_batches(
        _read, batch_size=1, batch_format="numpy"
    )


def _read(batch: dict[str, Any]) -> pa.Table:
    store, shard, layers, columns = pickle.loads(batch["task"][0])
    return read_documents(store, shard, layers, columns)

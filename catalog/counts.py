"""Figures about the documents of a snapshot, counted once when it is made, so that SQL need not read its documents.

Two tables. `documents`: by source, domain and fate (the decision layer that drops a document with its rule, or none)
the number of documents, characters, bytes and tokens. Since the layers follow each other this answers for the snapshot
and for all before it on the same shards. `windows`: by cell the number of windows and their tokens. Both are counted
from the stored tables, shard by shard; tokens are null while they are not known, never a part of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.manifest import Shard
from catalog.snapshot import Contents
from catalog.store import FileRef, Store
from catalog.tables import read_table, write_table

DOCUMENTS = pa.schema(
    [
        ("layer", pa.int32()),  # position of the layer that drops them; the number of layers for those that are left
        ("rule", pa.string()),
        ("source", pa.string()),
        ("domain", pa.string()),
        ("documents", pa.int64()),
        ("chars", pa.int64()),
        ("bytes", pa.int64()),
        ("tokens", pa.int64()),
    ]
)
WINDOWS = pa.schema([("cell", pa.int32()), ("windows", pa.int64()), ("tokens", pa.int64())])
ATTRIBUTES = ("tokens", "domain")  # found once, they serve every snapshot of the same documents
KEYS = {"documents": ["layer", "rule", "source", "domain"], "windows": ["cell"]}
SCHEMAS = {"documents": DOCUMENTS, "windows": WINDOWS}


def count_documents(store: Store, tables: Mapping[str, FileRef], layers: Sequence[str]) -> pa.Table:
    """The figures of one shard, columns DOCUMENTS."""
    rows = read_table(store, tables["documents"], ["source", "domain", "n_chars", "n_bytes"])
    layer, rule = _fate(store, tables, layers, rows.num_rows)
    columns = {
        "layer": layer,
        "rule": rule,
        "source": rows["source"],
        "domain": _attribute(store, tables, "domain", "domain", rows["domain"]),
        "documents": pa.array(np.ones(rows.num_rows, np.int64)),
        "chars": rows["n_chars"],
        "bytes": rows["n_bytes"],
        "tokens": _attribute(store, tables, "tokens", "n_tokens", pa.nulls(rows.num_rows, pa.int32())),
    }
    return add_up([pa.table(columns).cast(DOCUMENTS)], "documents")


def count_windows(store: Store, ref: FileRef) -> pa.Table:
    """The figures of one shard's cells, columns WINDOWS."""
    rows = read_table(store, ref, ["cell", "n_tokens"])
    ones = pa.array(np.ones(rows.num_rows, np.int64))
    return add_up(
        [pa.table({"cell": rows["cell"], "windows": ones, "tokens": rows["n_tokens"]}).cast(WINDOWS)], "windows"
    )


def add_up(tables: Iterable[pa.Table], name: str) -> pa.Table:
    """One row for each key of all tables, in the order of the keys. A sum with something unknown is null."""
    schema, keys = SCHEMAS[name], KEYS[name]
    together = pa.concat_tables([schema.empty_table(), *tables])
    sums = [each for each in schema.names if each not in keys]
    skip = pc.ScalarAggregateOptions(skip_nulls=False)
    grouped = together.group_by(keys).aggregate([(each, "sum", skip) for each in sums])
    grouped = grouped.rename_columns([each.removesuffix("_sum") for each in grouped.column_names])
    return grouped.select(schema.names).sort_by([(key, "ascending") for key in keys]).cast(schema)


def with_attributes(contents: Contents, known: Iterable[Contents]) -> list[Shard]:
    """Its shards, and with them the token counts and domains that any of `known` has of these very documents.

    `known` come oldest first, and the newest of each attribute counts. Both have their shards listed in the same form.
    """
    newest: dict[str, Contents] = {}
    for each in known:
        if each.texts == contents.texts:
            newest |= {name: each for name in ATTRIBUTES if each.has(name)}
    more: list[dict[str, FileRef]] = [{} for _ in contents.shards]
    for name, each in newest.items():
        for tables, shard in zip(more, each.shards, strict=True):
            tables[name] = shard.tables[name]
    return [
        Shard(rows=shard.rows, tables={**tables, **shard.tables})
        for shard, tables in zip(contents.shards, more, strict=True)
    ]


def store_counts(store: Store, counted: Mapping[str, pa.Table]) -> dict[str, FileRef]:
    """The figures of a snapshot as files of the store."""
    return {name: write_table(store, table) for name, table in counted.items()}


def count_task(store: Store, task: Mapping[str, Any]) -> dict[str, Any]:
    """`count_shards` of the task's one shard, as a receipt."""
    counted = count_shards(store, [task["shard"]], task["layers"])
    receipt: dict[str, Any] = {name: table.to_pydict() for name, table in counted.items()}
    return {"counts": receipt, "documents": sum(receipt["documents"]["documents"])}


def add_up_receipts(receipts: Sequence[Mapping[str, Any]]) -> dict[str, pa.Table]:
    """The figures of a snapshot from those of its shards."""
    parts: dict[str, list[pa.Table]] = {}
    for receipt in receipts:
        for name, figures in receipt["counts"].items():
            parts.setdefault(name, []).append(pa.table(figures, schema=SCHEMAS[name]))
    return {name: add_up(tables, name) for name, tables in parts.items()}


def count_shards(store: Store, shards: Iterable[Shard], layers: Sequence[str]) -> dict[str, pa.Table]:
    """The figures of shards, one after the other, by name of the table; `windows` only where there are cells."""
    parts: dict[str, list[pa.Table]] = {}
    for shard in shards:
        parts.setdefault("documents", []).append(count_documents(store, shard.tables, layers))
        if "cells" in shard.tables:
            parts.setdefault("windows", []).append(count_windows(store, shard.tables["cells"]))
    return {name: add_up(tables, name) for name, tables in parts.items()}


def _fate(store: Store, tables: Mapping[str, FileRef], layers: Sequence[str], size: int) -> tuple[pa.Array, pa.Array]:
    """The layer that drops each document, and its rule; len(layers) and null for those that are left."""
    fate = np.full(size, len(layers), np.int32)
    names: list[Any] = [None]
    rule = np.zeros(size, np.int32)
    for number, layer in enumerate(layers):
        decisions = read_table(store, tables[layer], ["row", "kept", "rule"])
        dropped = decisions.filter(pc.invert(decisions["kept"]))
        rows = dropped["row"].to_numpy()
        encoded = dropped["rule"].combine_chunks().dictionary_encode()
        fate[rows] = number
        rule[rows] = encoded.indices.to_numpy() + len(names)
        names += encoded.dictionary.to_pylist()
    return pa.array(fate), pa.array(names, pa.string()).take(pa.array(rule))


def _attribute(
    store: Store, tables: Mapping[str, FileRef], table: str, column: str, otherwise: pa.Array | pa.ChunkedArray
) -> pa.Array | pa.ChunkedArray:
    """A column of an attribute table for each document; `otherwise` where it has no row."""
    if table not in tables:
        return otherwise
    rows = read_table(store, tables[table], ["row", column])
    index = np.full(len(otherwise), -1, np.int64)
    index[rows["row"].to_numpy()] = np.arange(rows.num_rows)
    found = rows[column].combine_chunks().take(pa.array(index, mask=index < 0))
    return pc.coalesce(found, otherwise.cast(found.type))

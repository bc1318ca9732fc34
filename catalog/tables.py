"""Reading and writing the tables of a shard.

Written bytes are a pure function of the rows: fixed compression, fixed row-group size, no timestamps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog.errors import CorruptStore
from catalog.manifest import Shard
from catalog.store import FileRef, Store

ROW_GROUP = 8192


def write_table(store: Store, table: pa.Table, *, compression: str = "zstd") -> FileRef:
    """Put `table` into the store as Parquet."""
    with store.writing(suffix="parquet") as (path, refs):
        pq.write_table(table, path, compression=compression, row_group_size=ROW_GROUP, write_statistics=True)
    return refs[0]


def read_table(store: Store, ref: FileRef, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one table file. Raises CorruptStore when the bytes can't be read."""
    path = store.local(ref)
    try:
        return pq.read_table(path, columns=None if columns is None else list(columns), partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise CorruptStore(f"{ref.path} can't be read: {error}; `tamis verify` lists damaged files") from error


def read_row(store: Store, ref: FileRef, position: int, columns: Sequence[str]) -> dict[str, Any]:
    """The row at a position of a table file: one row group of it is read. Raises CorruptStore."""
    path = store.local(ref)
    try:
        group, offset = divmod(position, ROW_GROUP)
        rows = pq.ParquetFile(path).read_row_group(group, columns=list(columns)).slice(offset, 1)
        return dict(rows.to_pylist()[0])
    except (OSError, IndexError, pa.ArrowException) as error:
        raise CorruptStore(f"{ref.path} can't be read: {error}; `tamis verify` lists damaged files") from error


def read_rows_of(store: Store, ref: FileRef, row: int, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a table file about one document, found by the statistics of its row groups. Raises CorruptStore."""
    path = store.local(ref)
    try:
        wanted = list(dict.fromkeys(["row", *columns]))
        rows = pq.read_table(path, columns=wanted, filters=[("row", "=", row)], partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise CorruptStore(f"{ref.path} can't be read: {error}; `tamis verify` lists damaged files") from error
    return list(rows.select(list(columns)).to_pylist())


def live_rows(store: Store, shard: Shard, layers: Sequence[str]) -> pa.Array | None:
    """Positions of the live documents of a shard, int32 ascending; None when no decision was taken yet."""
    if not layers:
        return None
    table = read_table(store, shard.tables[layers[-1]], ["row", "kept"])
    return table.filter(table["kept"])["row"].combine_chunks()


def read_live(
    store: Store, shard: Shard, layers: Sequence[str], columns: Sequence[str], *, table: str = "documents"
) -> pa.Table:
    """`columns` of `table` for the live documents, in row order. Rows per document may be zero or many."""
    wanted = list(dict.fromkeys(["row", *columns]))
    rows = read_table(store, shard.tables[table], wanted)
    live = live_rows(store, shard, layers)
    if live is not None:
        rows = rows.filter(pc.is_in(rows["row"], value_set=live))
    return rows.select(list(columns)).combine_chunks()

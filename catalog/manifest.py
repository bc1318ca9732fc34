"""Shard lists of large snapshots: content-named Parquet files that a commit names by digest.

One file for each table of the snapshot, a row a shard in order: (sha256 BLOB, bytes, suffix), null where a shard lacks
the table; and one with the number of live rows a shard. A step that adds a table writes one more such file, and the
others keep their names. DuckDB reads them as they are, and nobody parses a million shards to open a catalog.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.errors import CorruptStore
from catalog.store import FileRef, Store

INLINE = 64  # up to here a commit lists its shards itself: one file and two fsyncs fewer than with manifests
FILES = pa.schema([("sha256", pa.binary(32)), ("bytes", pa.int64()), ("suffix", pa.string())])
LIVE = "live"  # the manifest with the number of live rows of each shard


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One partition of a snapshot. `rows` counts its live documents (or windows, for packs)."""

    rows: int
    tables: Mapping[str, FileRef]


class Filed(Sequence[Shard]):
    """Shards that manifest files list: read when first looked at. `rows` is the number of live rows of all."""

    def __init__(self, store: Store, files: Mapping[str, FileRef], *, count: int, rows: int):
        self._store = store
        self.files = dict(files)
        self.rows = rows
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filed) and self.files == other.files

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.files)))

    @overload
    def __getitem__(self, index: int) -> Shard: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Shard, ...]: ...

    def __getitem__(self, index: int | slice) -> Shard | tuple[Shard, ...]:
        return self._shards[index]

    def table(self, name: str) -> pa.Table:
        """The manifest of one table: sha256, bytes and suffix of each shard's file."""
        return _read(self._store, self.files[name])

    def tables(self) -> list[dict[str, FileRef]]:
        """The files of each shard, by table."""
        tables: list[dict[str, FileRef]] = [{} for _ in range(self._count)]
        for name in (each for each in self.files if each != LIVE):
            columns = (self.table(name)[column].to_pylist() for column in FILES.names)
            for shard, (sha256, size, suffix) in zip(tables, zip(*columns, strict=True), strict=True):
                if sha256 is not None:
                    shard[name] = file_ref(sha256.hex(), size, suffix)
        return tables

    @cached_property
    def _shards(self) -> tuple[Shard, ...]:
        rows = _read(self._store, self.files[LIVE])["rows"].to_pylist()
        return tuple(Shard(rows=count, tables=each) for count, each in zip(rows, self.tables(), strict=True))


def filed(store: Store, shards: Sequence[Shard]) -> Sequence[Shard]:
    """`shards`, listed in manifest files of the store when there are more than a commit should hold."""
    if isinstance(shards, Filed) or len(shards) <= INLINE:
        return shards
    names = sorted({name for shard in shards for name in shard.tables})
    files = {name: write_manifest(store, files_table([shard.tables.get(name) for shard in shards])) for name in names}
    files[LIVE] = write_manifest(store, live_table([shard.rows for shard in shards]))
    return Filed(store, files, count=len(shards), rows=sum(shard.rows for shard in shards))


def files_table(refs: Sequence[FileRef | None]) -> pa.Table:
    """The rows of a manifest."""
    columns: dict[str, list[Any]] = {
        "sha256": [ref and bytes.fromhex(ref.sha256) for ref in refs],
        "bytes": [ref and ref.bytes for ref in refs],
        "suffix": [ref and ref.path.rpartition(".")[2] for ref in refs],
    }
    return pa.table(columns, schema=FILES)


def live_table(rows: Sequence[int]) -> pa.Table:
    """The manifest of live rows: their number for each shard."""
    return pa.table({"rows": pa.array(rows, pa.int64())})


def columns(shards: Sequence[Shard]) -> dict[str, pa.Table]:
    """The files of each table over all shards, as the rows of a manifest."""
    if isinstance(shards, Filed):
        return {name: shards.table(name) for name in shards.files if name != LIVE}
    names = dict.fromkeys(name for shard in shards for name in shard.tables)
    return {name: files_table([shard.tables.get(name) for shard in shards]) for name in names}


def digest(files: pa.Table) -> str:
    """sha256 (hex) over the digests of a table's files in shard order: equal for equal bytes, in either form."""
    return hashlib.sha256(b"".join(each or bytes(32) for each in files["sha256"].to_pylist())).hexdigest()


def file_ref(sha256: str, size: int, suffix: str) -> FileRef:
    """The reference of a content-named file."""
    return FileRef(path=f"data/{sha256[:2]}/{sha256}.{suffix}", sha256=sha256, bytes=size)


def write_manifest(store: Store, table: pa.Table) -> FileRef:
    """Put a manifest into the store: equal rows, equal bytes."""
    with store.writing(suffix="parquet") as (path, refs):
        pq.write_table(
            table, path, compression="zstd", use_dictionary=[name for name in table.column_names if name == "suffix"]
        )
    return refs[0]


def _read(store: Store, ref: FileRef) -> pa.Table:
    try:
        return pq.read_table(store.local(ref), partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise CorruptStore(f"{ref.path} can't be read: {error}; `tamis verify` lists damaged files") from error

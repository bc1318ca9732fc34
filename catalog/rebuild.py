"""What can be written again from the other parts of a store, without running a step.

The manifest of a table: from the published file, which lists the same files. The manifest of live rows: from the last
decisions. Counted figures: from the tables of the shards. The digest in a file's name says whether it came out right.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.catalog import Catalog
from catalog.counts import count_shards, store_counts, with_attributes
from catalog.manifest import FILES, LIVE, Filed, Shard, live_table, write_manifest
from catalog.projection import attach, published_path
from catalog.snapshot import Snapshot
from catalog.store import FileRef, Store
from catalog.tables import live_rows

LISTED = """
SELECT shard, sha256, bytes, suffix FROM lists l JOIN list_rows r USING (list)
JOIN file_rows f ON f.kind = l.kind AND f.file = r.file WHERE l.manifest = ?"""


def rebuild_manifest(catalog: Catalog, snapshot: Snapshot, table: str) -> None:
    """Write a manifest of a snapshot anew where what it takes is left. Raises CorruptStore when that is damaged too."""
    if table == LIVE and snapshot.contents.kind == "documents":
        assert isinstance(snapshot.contents.shards, Filed)
        shards = snapshot.contents.shards.tables()
        counts = [_live_documents(catalog.store, tables, snapshot) for tables in shards]
        write_manifest(catalog.store, live_table(counts))
    elif table != LIVE:
        rows = _published_rows(catalog, snapshot, snapshot.contents.manifests[table])
        if rows is not None:
            write_manifest(catalog.store, rows)


def rebuild_counts(catalog: Catalog, snapshot: Snapshot) -> None:
    """Count the documents of a snapshot as when it was made: with what was known of them then."""
    made = catalog.history.index(snapshot)
    known = [
        each.contents
        for number, each in enumerate(catalog.history)
        if catalog.is_live(each) and (number < made or each.run == snapshot.run)
    ]
    shards = with_attributes(snapshot.contents, known)
    store_counts(catalog.store, count_shards(catalog.store, shards, snapshot.contents.layers))


@contextmanager
def freed(store: Store, refs: Iterable[FileRef]) -> Iterator[None]:
    """The names of damaged files are free, which a writer would take for the files themselves.

    Damaged bytes are better than none: they come back where nothing was written. An object store overwrites.
    """
    aside = {}
    for path in (Path(store.at(ref.path)) for ref in refs if store.is_local):
        with suppress(FileNotFoundError):
            aside[path] = path.rename(path.with_name(f"{path.name}.{os.urandom(6).hex()}"))
    try:
        yield
    finally:
        for path, damaged in aside.items():
            if path.exists():
                damaged.unlink()
            else:
                damaged.rename(path)


def _published_rows(catalog: Catalog, snapshot: Snapshot, manifest: FileRef) -> pa.Table | None:
    """The rows of a manifest (FILES) by the published file; None when it can't be read or never had them."""
    path = published_path(catalog)
    try:
        with duckdb.connect() as connection:
            attach(connection, path)
            found = connection.execute(LISTED, [manifest.sha256]).fetchall()
    except duckdb.Error:
        return None
    if not found:
        return None
    rows: list[tuple[object, ...]] = [(None,) * len(FILES.names)] * len(snapshot.contents.shards)
    for shard, *values in found:
        rows[shard] = tuple(values)
    columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(FILES)]
    return pa.table(columns, schema=FILES)


def _live_documents(store: Store, tables: dict[str, FileRef], snapshot: Snapshot) -> int:
    live = live_rows(store, Shard(rows=0, tables=tables), snapshot.contents.layers)
    return pq.read_metadata(store.local(tables["documents"])).num_rows if live is None else len(live)

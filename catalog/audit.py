"""Verification: every byte the log refers to is what the log says it is."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow.parquet as pq

from catalog.catalog import Catalog
from catalog.log_check import flaws
from catalog.snapshot import Snapshot
from catalog.store import FileRef, Store


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` looked at and what is wrong; sound when `problems` is empty."""

    commits: int
    snapshots: int
    files: int
    bytes: int
    problems: tuple[str, ...]


def verify(catalog: Catalog, *, workers: int = 2) -> Verification:
    """Re-hash all files, check each file of the log, the chain they make, and each snapshot's own consistency."""
    broken = [str(flaw) for flaw in flaws(catalog.store)]
    catalog = Catalog(catalog.store)
    snapshots = catalog.all_snapshots()
    refs = {ref.path: ref for snapshot in snapshots for ref in _refs(catalog, snapshot)}
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(lambda ref: _check_file(catalog.store, ref), refs.values()))
    problems = broken + [problem for problem in found if problem]
    if not problems:
        problems = [problem for snapshot in snapshots for problem in _check_snapshot(catalog, snapshot)]
    return Verification(
        commits=catalog.sequence,
        snapshots=len(snapshots),
        files=len(refs),
        bytes=sum(ref.bytes for ref in refs.values()),
        problems=tuple(problems),
    )


def _refs(catalog: Catalog, snapshot: Snapshot) -> list[FileRef]:
    refs = [ref for shard in snapshot.contents.shards for ref in shard.tables.values()]
    return [*refs, *snapshot.contents.artifacts.values(), *catalog.runs[snapshot.run].attachments.values()]


def _check_file(store: Store, ref: FileRef) -> str | None:
    try:
        size = store.fs.size(store.at(ref.path))
        if size != ref.bytes:
            return f"{ref.path}: {size} bytes, the log says {ref.bytes}"
        with store.fs.open(store.at(ref.path), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{ref.path}: missing"
    if digest != ref.sha256:
        return f"{ref.path}: its bytes do not have the sha256 in its name"
    return None


def _check_snapshot(catalog: Catalog, snapshot: Snapshot) -> list[str]:
    """Row counts of co-partitioned tables: decisions never exceed documents, live rows are what the log counted."""
    problems = []
    for number, shard in enumerate(snapshot.contents.shards):
        if "documents" not in shard.tables:
            continue
        rows = pq.read_metadata(catalog.store.local(shard.tables["documents"])).num_rows
        for layer in snapshot.contents.layers:
            table = pq.read_table(catalog.store.local(shard.tables[layer]), columns=["row", "kept"])
            if table.num_rows > rows:
                problems.append(
                    f"{snapshot.ref} shard {number}: {table.num_rows} {layer} decisions on {rows} documents"
                )
            rows = sum(table["kept"].to_pylist())
        if rows != shard.rows:
            problems.append(f"{snapshot.ref} shard {number}: {rows} live documents, the log counted {shard.rows}")
    return problems

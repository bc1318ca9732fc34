"""One writer of ours, as benchmarks/catalog_commits_peers.py has them: a commit of a snapshot with one file entry.

    python benchmarks/catalog_commits_ours.py ours|ours-with-file FOLDER WRITER SECONDS

`ours-with-file` also writes the file, a Parquet table of one row. Both wait until everything is on the disk.
"""

from __future__ import annotations

import os
import sys

import pyarrow as pa
from catalog_commits_peers import Append, Count, main

from catalog.catalog import Catalog
from catalog.snapshot import Contents, Run, Shard
from catalog.store import FileRef, Store
from catalog.tables import write_table


def ours(root: str, *, with_file: bool) -> tuple[Append, Count]:
    """Append a version of one name, which all writers share; count the snapshots."""
    catalog = Catalog.open(root, create=True)

    def append(number: int) -> None:
        ref = _written(catalog.store, number) if with_file else _named(number)
        contents = Contents(kind="documents", shards=(Shard(rows=1, tables={"entries": ref}),))
        catalog.commit("entries", contents, a_run(f"{os.getpid()}-{number}"))

    return append, lambda: len(catalog.all_snapshots())


def a_run(fingerprint: str) -> Run:
    """The record of a run that did nothing."""
    return Run(fingerprint=fingerprint, step="append", parameters={}, inputs=(), code="0", started=0.0, seconds=0.0)


def _written(store: Store, number: int) -> FileRef:
    return write_table(store, pa.table({"writer": [os.getpid()], "number": [number]}))


def _named(number: int) -> FileRef:
    sha256 = f"{os.getpid():032x}{number:032x}"
    return FileRef(path=f"data/{sha256[-2:]}/{sha256}.parquet", sha256=sha256, bytes=1000)


if __name__ == "__main__":
    name, where, writer, seconds = sys.argv[1:]
    main(int(writer), float(seconds), lambda **_: ours(where, with_file=name == "ours-with-file"))

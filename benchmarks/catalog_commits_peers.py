"""One writer that appends one row a commit, to another catalog. Imports nothing of this project.

    python benchmarks/catalog_commits_peers.py NAME FOLDER WRITER SECONDS

Opens, commits once to have everything loaded, prints "ready", waits for a line, then commits for so many seconds.
Prints {"warm": first commits, "done": commits, "failed": attempts that raised, "error": the last one, "seconds": ...}.
WRITER -1 prepares the folder, WRITER -2 prints the number of rows that a reader finds. Each tool retries as it does by
default.
    ducklake-duckdb, ducklake-sqlite  INSERT through DuckDB; small rows stay in its catalog, as is its default
    pyiceberg                         SqlCatalog on SQLite, table.append; after a conflict the table is loaded again
    delta-rs                          write_deltalake(mode="append")
"""

from __future__ import annotations

import glob
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

Append = Callable[[int], Any]
Count = Callable[[], int]


def ducklake(folder: str, attach: str, *, create: bool) -> tuple[Append, Count]:
    import duckdb
    import duckdb_extension_ducklake
    import duckdb_extension_sqlite_scanner

    connection = duckdb.connect()
    for module in (duckdb_extension_ducklake, duckdb_extension_sqlite_scanner):
        (path,) = glob.glob(f"{os.path.dirname(str(module.__file__))}/extensions/*/*.duckdb_extension")
        connection.execute(f"LOAD '{path}'")
    connection.execute(f"ATTACH 'ducklake:{attach}{folder}/catalog' AS lake (DATA_PATH '{folder}/data')")
    if create:
        connection.execute("CREATE TABLE lake.entries (writer INTEGER, number INTEGER)")

    def append(number: int) -> None:
        connection.execute("INSERT INTO lake.entries VALUES (?, ?)", [os.getpid(), number])

    return append, lambda: int(connection.execute("SELECT count(*) FROM lake.entries").fetchall()[0][0])


def pyiceberg(folder: str, _: str, *, create: bool) -> tuple[Append, Count]:
    import pyarrow as pa
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.exceptions import CommitFailedException

    catalog = SqlCatalog("local", uri=f"sqlite:///{folder}/catalog.sqlite", warehouse=f"file://{folder}/data")
    schema = pa.schema([("writer", pa.int32()), ("number", pa.int32())])
    if create:
        catalog.create_namespace("store")
        catalog.create_table("store.entries", schema=schema)
    table = catalog.load_table("store.entries")

    def append(number: int) -> None:
        nonlocal table
        try:
            table.append(pa.table({"writer": [os.getpid()], "number": [number]}, schema=schema))
        except CommitFailedException:
            table = catalog.load_table("store.entries")
            raise

    return append, lambda: len(catalog.load_table("store.entries").scan().to_arrow())


def delta(folder: str, _: str, *, create: bool) -> tuple[Append, Count]:
    import pyarrow as pa
    from deltalake import DeltaTable, write_deltalake

    schema = pa.schema([("writer", pa.int32()), ("number", pa.int32())])
    address = f"{folder}/entries"
    if create:
        write_deltalake(address, schema.empty_table())

    def append(number: int) -> None:
        row = pa.table({"writer": [os.getpid()], "number": [number]}, schema=schema)
        write_deltalake(address, row, mode="append")

    return append, lambda: int(DeltaTable(address).count())


PEERS: dict[str, tuple[Callable[..., tuple[Append, Count]], str]] = {
    "ducklake-duckdb": (ducklake, ""),
    "ducklake-sqlite": (ducklake, "sqlite:"),
    "pyiceberg": (pyiceberg, ""),
    "delta-rs": (delta, ""),
}


def race(append: Append, seconds: float) -> dict[str, Any]:
    """Commit until the time is over; an attempt that raises is counted and not repeated."""
    done, failed, error = 0, 0, ""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        try:
            append(done + failed)
            done += 1
        except Exception as raised:
            failed += 1
            error = f"{type(raised).__name__}: {str(raised).splitlines()[0][:150]}"
    return {"done": done, "failed": failed, "error": error, "seconds": time.monotonic() - started}


def main(writer: int, seconds: float, opened: Callable[..., tuple[Append, Count]]) -> None:
    """One writer's part; `opened(create=...)` gives the functions that append one row and count rows."""
    if writer == -1:
        opened(create=True)
    elif writer == -2:
        print(opened(create=False)[1]())
    else:
        print(json.dumps(_write(seconds, opened)), flush=True)


def _write(seconds: float, opened: Callable[..., tuple[Append, Count]]) -> dict[str, Any]:
    answer = {"warm": 0, "done": 0, "failed": 1, "error": "", "seconds": seconds}
    append: Append | None = None
    try:
        append, _ = opened(create=False)
        append(-1)
        answer["warm"] = 1
    except Exception as raised:  # a tool of one writer can't be opened; one that lost its first race can go on
        answer["error"] = f"at first: {str(raised).splitlines()[0][:150]}"
    print("ready", flush=True)
    sys.stdin.readline()
    return answer | race(append, seconds) if append else answer


if __name__ == "__main__":
    tool, where, writer, seconds = sys.argv[1:]
    open_peer, prefix = PEERS[tool]
    main(int(writer), float(seconds), lambda create: open_peer(where, prefix, create=create))

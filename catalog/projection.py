"""catalog.duckdb: a read-only projection of the log that any DuckDB client can open.

It is built beside its place and renamed over it, so a reader sees the old file or the new one and never waits. A
publisher copies the published file and adds what was committed since; when that file is missing, torn, or was made from
another log or by other definitions, everything is built from the log. Losing the file loses nothing.

It holds what the log and its manifests hold as tables, the counted figures, and views over the Parquet files for
everything about documents; document rows stay in Parquet. Paths are absolute, so that a plain client finds the data
from any working directory.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from catalog.catalog import Catalog
from catalog.errors import NO_ROOM, CorruptStore
from catalog.fingerprint import fingerprint
from catalog.log import GENESIS
from catalog.projected import TABLES, Projected
from catalog.scans import SCANS, write_scans
from catalog.views import MACROS, SCANNED, VIEWS

FILENAME = "catalog.duckdb"
LOCK = ".catalog.lock"
STORAGE_VERSION = "v1.4.0"  # DuckDB 1.4 and later can open it; 2.0's own format can't be read by 1.x
REVISION = 4  # raise it when equal logs give other rows; tests/catalog/test_projection.py notices
DEFINITIONS = fingerprint(
    [REVISION, SCANNED, VIEWS, MACROS, {name: str(columns) for name, columns in {**SCANS, **TABLES}.items()}]
)


def publish(catalog: Catalog) -> Path:
    """The path of the projection, brought up to the head of the log first if it is not there yet.

    Publishers take turns and read the log when theirs comes, so the file never goes back. Raises CorruptStore, and
    StorageError when the disk is full: the file that was published stays.
    """
    target = published_path(catalog)
    with catalog.store.room(), catalog.store.exclusive(target.with_name(LOCK)):
        published, wanted = _published(target), _state(catalog.refresh())
        if published != wanted:
            extends = published is not None and _is_earlier(catalog, published, wanted)
            if not (extends and _extended(catalog, target, wanted)):
                _replace(catalog, target, wanted, extends=False)
    return target


def publish_anew(catalog: Catalog) -> Path:
    """Like `publish`, from the log alone: for a published file in which a block turned out to be torn."""
    target = published_path(catalog)
    with catalog.store.room(), catalog.store.exclusive(target.with_name(LOCK)):
        _replace(catalog, target, _state(catalog.refresh()), extends=False)
    return target


def is_whole(path: Path) -> bool:
    """Whether a published file can be read in full; one that is not there is no problem."""
    return not path.exists() or _published(path) is not None


def is_current(connection: duckdb.DuckDBPyConnection, catalog: Catalog) -> bool:
    """Whether an attached file shows the head of the log. Raises duckdb.Error when it can't be read."""
    return _attached_state(connection, published_path(catalog)) == _state(catalog.refresh())


def published_path(catalog: Catalog) -> Path:
    """Where the projection is published."""
    return catalog.store.derived / FILENAME


def is_torn(error: duckdb.Error) -> bool:
    """Whether an error says that the file which was asked is damaged: DuckDB checks each block that it reads."""
    damaged = (duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException)
    return isinstance(error, damaged) or "Corrupt database file" in str(error)


def attach(connection: duckdb.DuckDBPyConnection, path: Path, *, options: str = "READ_ONLY") -> None:
    """Make the DuckDB file at `path` the default database of an in-memory connection.

    `duckdb.connect(path)` would share one instance, its settings and the file it opened first, with every other
    connection of this process to that path, also after the file has been replaced.
    """
    quoted = str(path).replace("'", "''")
    connection.execute(f"ATTACH '{quoted}' AS catalog ({options})")
    connection.execute("USE catalog")


def _state(catalog: Catalog) -> dict[str, Any]:
    """What a published file was made from: which log, up to where, and by which definitions."""
    head = catalog.log.refresh()[-1].sha256 if catalog.sequence else GENESIS
    return {
        "root": catalog.store.root,
        "sequence": catalog.sequence,
        "head": head,
        "definitions": DEFINITIONS,
    }


def _published(path: Path) -> dict[str, Any] | None:
    """The state of the published file; None when there is none that can be read in full."""
    if not path.exists():
        return None
    try:
        with duckdb.connect() as connection:
            attach(connection, path)
            return _attached_state(connection, path)
    except duckdb.Error:
        return None


def _attached_state(connection: duckdb.DuckDBPyConnection, path: Path) -> dict[str, Any] | None:
    """The state of an attached file; None when its end is missing. Raises duckdb.Error when it can't be read."""
    (blocks,) = connection.execute(
        "SELECT block_size * total_blocks FROM pragma_database_size() WHERE database_name = 'catalog'"
    ).fetchall()[0]
    state = connection.execute("SELECT * FROM published_state")
    names, rows = [column[0] for column in state.description], state.fetchall()
    return dict(zip(names, rows[0], strict=True)) if rows and path.stat().st_size >= blocks else None


def _is_earlier(catalog: Catalog, published: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the published file shows an earlier state of this log, and all that came since only adds to it."""
    if any(published[name] != wanted[name] for name in ("root", "definitions")) or not published["sequence"]:
        return False
    commits, sequence = catalog.log.refresh(), published["sequence"]
    if sequence > len(commits) or commits[sequence - 1].sha256 != published["head"]:
        return False
    return all(action.keys() <= {"run", "snapshot"} for commit in commits[sequence:] for action in commit.actions)


def _extended(catalog: Catalog, target: Path, state: Mapping[str, Any]) -> bool:
    """Whether the published file could be extended: not when a block of it that matters is torn."""
    try:
        _replace(catalog, target, state, extends=True)
    except duckdb.Error as error:
        if is_torn(error):
            return False
        raise
    return True


def _replace(catalog: Catalog, target: Path, state: Mapping[str, Any], *, extends: bool) -> None:
    for left in target.parent.glob(f".{target.name}.*"):  # by a publisher that was killed
        left.unlink()
    partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        if extends:
            shutil.copyfile(target, partial)
        with duckdb.connect() as connection:
            connection.execute("SET checkpoint_threshold = '1TB'")  # one checkpoint, at the end: see _keep_tail
            attach(connection, partial, options="READ_WRITE" if extends else f"STORAGE_VERSION '{STORAGE_VERSION}'")
            connection.execute("BEGIN")
            if not extends:
                _create(connection, catalog)
            _write(connection, catalog, state)
            connection.execute("COMMIT")
            connection.execute("USE memory")
            connection.execute("DETACH catalog")
        if extends:
            _keep_tail(target, partial)
        os.replace(partial, target)
    except duckdb.Error as error:
        if any(os.strerror(each) in str(error) for each in NO_ROOM):
            raise catalog.store.full() from error
        if not isinstance(error, duckdb.IOException):
            raise
        reason = str(error).partition("\n")[0]
        raise CorruptStore(
            f"the catalog of {catalog.store.root} can't be published: {reason}; `tamis verify` lists damaged files"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
        partial.with_name(partial.name + ".wal").unlink(missing_ok=True)


def _keep_tail(old: Path, new: Path) -> None:
    """Make `new`, which extends `old` by one checkpoint, hold all that the header of `old` refers to.

    DuckDB opens a file once for its header and once more for its blocks, and between the two it may be replaced. One
    checkpoint writes free blocks only, so the old header suits the new blocks but for those that it cut off at the end.
    """
    size = new.stat().st_size
    with open(old, "rb") as source, open(new, "r+b") as target:
        source.seek(size)
        target.seek(size)
        shutil.copyfileobj(source, target)


def _create(connection: duckdb.DuckDBPyConnection, catalog: Catalog) -> None:
    """Empty tables, the scans of no file yet, and the views."""
    for name, columns in TABLES.items():
        connection.register("rows", columns.empty_table())
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM rows")
        connection.unregister("rows")
    write_scans(connection, SCANS)
    root = catalog.store.url("data/").replace("'", "''")
    for statement in (*SCANNED, *VIEWS, *MACROS):
        connection.execute(statement.replace("{root}", root))


def _write(connection: duckdb.DuckDBPyConnection, catalog: Catalog, state: Mapping[str, Any]) -> None:
    """Add what the log has and the file lacks."""
    kinds = Projected(connection, catalog).extend()
    write_scans(connection, kinds)
    connection.execute("DELETE FROM published_state")
    connection.register("rows", pa.Table.from_pylist([dict(state)], schema=TABLES["published_state"]))
    connection.execute("INSERT INTO published_state SELECT * FROM rows")
    connection.unregister("rows")

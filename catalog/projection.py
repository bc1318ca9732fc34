"""catalog.duckdb: a read-only projection of the log that any DuckDB client can open.

It is built beside its place and renamed over it, so a reader sees the old file or the new one and never waits. It holds
what the log holds (snapshots, runs, files) as tables, and views over the Parquet files for everything about documents;
document rows stay in Parquet. Losing the file loses nothing: it is rebuilt from the log.

`file` columns are absolute paths, so that a plain client finds the data from any working directory.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from catalog import schema
from catalog.catalog import Catalog
from catalog.errors import CorruptStore
from catalog.fingerprint import fingerprint
from catalog.log import GENESIS
from catalog.snapshot import Snapshot
from catalog.store import FileRef
from catalog.takedown import NAMED
from catalog.views import VIEWS

FILENAME = "catalog.duckdb"
LOCK = ".catalog.lock"
STORAGE_VERSION = "v1.4.0"  # DuckDB 1.4 and later can open it; 2.0's own format can't be read by 1.x

# What the views read from Parquet: the attribute tables of shards, then the artifacts of other snapshots.
ATTRIBUTES = {
    "documents": schema.DOCUMENTS,
    "decisions": schema.DECISIONS,
    "tokens": schema.TOKENS,
    "domain": schema.DOMAIN,
    "cells": schema.CELLS,
    "draws": schema.DRAWS,
    "statistics": schema.STATISTICS,
    "edges": schema.EDGES,
    "matches": schema.MATCHES,
    "quarantine": schema.QUARANTINE,
    "weights": schema.WEIGHTS,
    "scores": schema.EVALUATIONS,
    "taken_down": NAMED,
    "parts": schema.EVALUATION_PARTS,
}


def publish(catalog: Catalog) -> Path:
    """The path of the projection, brought up to the head of the log first if it is not there yet.

    Publishers take turns and read the log when theirs comes, so the file never goes back. Raises CorruptStore.
    """
    target = catalog.store.here / FILENAME
    if _published(target) == _state(catalog.refresh()):
        return target
    with catalog.store.exclusive(LOCK):
        if _published(target) != _state(catalog.refresh()):
            _write(catalog, target)
    return target


def is_whole(path: Path) -> bool:
    """Whether a published file can be read in full; one that is not there is no problem."""
    return not path.exists() or _published(path) is not None


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
            (blocks,) = connection.execute(
                "SELECT block_size * total_blocks FROM pragma_database_size() WHERE database_name = 'catalog'"
            ).fetchall()[0]
            if path.stat().st_size < blocks:
                return None
            state = connection.execute("SELECT * FROM published_state")
            names = [column[0] for column in state.description]
            return dict(zip(names, state.fetchall()[0], strict=True))
    except (duckdb.Error, IndexError):
        return None


def _write(catalog: Catalog, target: Path) -> None:
    for left in target.parent.glob(f".{target.name}.*"):  # by a publisher that was killed
        left.unlink()
    partial = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        with duckdb.connect() as connection:
            if not catalog.store.is_local:
                connection.register_filesystem(catalog.store.fs)
            attach(connection, partial, options=f"STORAGE_VERSION '{STORAGE_VERSION}'")
            connection.execute("BEGIN")
            files = list(_file_rows(catalog))
            _write_tables(connection, catalog, files)
            _write_views(connection, catalog, files)
            connection.execute("COMMIT")
            connection.execute("USE memory")
            connection.execute("DETACH catalog")
        os.replace(partial, target)
    except duckdb.IOException as error:
        reason = str(error).partition("\n")[0]
        raise CorruptStore(
            f"the catalog of {catalog.store.root} can't be published: {reason}; `tamis verify` lists damaged files"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
        partial.with_name(partial.name + ".wal").unlink(missing_ok=True)


def _write_tables(connection: duckdb.DuckDBPyConnection, catalog: Catalog, files: list[dict[str, Any]]) -> None:
    known = _attributes_of_documents(catalog)
    tables = {
        "published_state": [_state(catalog)],
        "snapshot_rows": [_snapshot_row(catalog, each) for each in catalog.all_snapshots()],
        "run_rows": [_run_row(run) for run in catalog.runs.values()],
        "stage_rows": [{"run": run.fingerprint, **stage} for run in catalog.runs.values() for stage in run.stages],
        "lineage_rows": _lineage_rows(catalog),
        "shard_rows": list(_shard_rows(catalog, known)),
        "file_rows": files,
        "layer_rows": list(_layer_rows(catalog, known)),
        "takedown_rows": _takedown_rows(catalog),
        "exposure_rows": _exposure_rows(catalog),
    }
    for name, rows in tables.items():
        connection.register("rows", pa.Table.from_pylist(rows, schema=TABLES[name]))
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM rows")
        connection.unregister("rows")


def _write_views(connection: duckdb.DuckDBPyConnection, catalog: Catalog, files: list[dict[str, Any]]) -> None:
    layers = {layer for each in catalog.live() for layer in each.contents.layers}
    scanned: dict[str, set[str]] = {name: set() for name in ATTRIBUTES}
    for row in files:
        table = "decisions" if row["tbl"] in layers else row["tbl"]
        scanned.setdefault(table, set()).add(row["file"])
    scanned["taken_down"] = {catalog.store.url(each.named.path) for each in catalog.takedowns}
    for name, columns in ATTRIBUTES.items():
        connection.execute(f"CREATE VIEW {name}_parquet AS {_scan(sorted(scanned[name]), columns)}")
    for statement in VIEWS:
        connection.execute(statement)


def _scan(files: Sequence[str], columns: pa.Schema) -> str:
    """A SELECT over Parquet files with a `file` column; without files, the same columns and no row."""
    names = ", ".join(f'"{name}"' for name in columns.names)
    if files:
        quoted = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        return f"SELECT filename AS file, {names} FROM read_parquet([{quoted}], filename=true)"
    types = ", ".join(f'NULL::{_sql_type(field.type)} AS "{field.name}"' for field in columns)
    return f"SELECT ''::VARCHAR AS file, {types} WHERE false"


def _sql_type(arrow: pa.DataType) -> str:
    if pa.types.is_large_list(arrow):
        return f"{_sql_type(arrow.value_type)}[]"
    return {
        "int32": "INTEGER",
        "int64": "BIGINT",
        "uint16": "USMALLINT",
        "uint64": "UBIGINT",
        "float": "FLOAT",
        "double": "DOUBLE",
        "bool": "BOOLEAN",
        "string": "VARCHAR",
        "large_string": "VARCHAR",
    }[str(arrow)]


TABLES = {
    "published_state": pa.schema(
        [
            ("root", pa.string()),
            ("sequence", pa.int64()),
            ("head", pa.string()),
            ("definitions", pa.string()),
        ]
    ),
    "snapshot_rows": pa.schema(
        [
            ("snapshot", pa.string()),
            ("name", pa.string()),
            ("version", pa.int32()),
            ("kind", pa.string()),
            ("id", pa.string()),
            ("run", pa.string()),
            ("step", pa.string()),
            ("shards", pa.int32()),
            ("rows", pa.int64()),
            ("bytes", pa.int64()),
            ("layers", pa.list_(pa.string())),
            ("summary", pa.string()),
            ("live", pa.bool_()),
        ]
    ),
    "run_rows": pa.schema(
        [
            ("run", pa.string()),
            ("step", pa.string()),
            ("parameters", pa.string()),
            ("code", pa.string()),
            ("started", pa.timestamp("ms", tz="UTC")),
            ("seconds", pa.float64()),
        ]
    ),
    "stage_rows": pa.schema(
        [
            ("run", pa.string()),
            ("stage", pa.string()),
            ("tasks", pa.int32()),
            ("rows", pa.int64()),
            ("unit", pa.string()),
            ("bytes", pa.int64()),
            ("seconds", pa.float64()),
        ]
    ),
    "lineage_rows": pa.schema(
        [("snapshot", pa.string()), ("input", pa.string()), ("position", pa.int32()), ("step", pa.string())]
    ),
    "shard_rows": pa.schema(
        [
            ("snapshot", pa.string()),
            ("shard", pa.int32()),
            ("rows", pa.int64()),
            ("documents", pa.string()),
            ("tokens", pa.string()),
            ("domain", pa.string()),
            ("live", pa.string()),
        ]
    ),
    "file_rows": pa.schema(
        [
            ("snapshot", pa.string()),
            ("shard", pa.int32()),
            ("tbl", pa.string()),
            ("file", pa.string()),
            ("sha256", pa.string()),
            ("bytes", pa.int64()),
        ]
    ),
    "layer_rows": pa.schema(
        [
            ("snapshot", pa.string()),
            ("step", pa.string()),
            ("layer", pa.string()),
            ("file", pa.string()),
            ("documents", pa.string()),
            ("tokens", pa.string()),
        ]
    ),
}

TABLES |= {
    "takedown_rows": pa.schema(
        [
            ("takedown", pa.int32()),
            ("time", pa.timestamp("ms", tz="UTC")),
            ("reason", pa.string()),
            ("documents", pa.int64()),
            ("file", pa.string()),
            ("finished", pa.timestamp("ms", tz="UTC")),
            ("replaced", pa.list_(pa.string())),
            ("expired", pa.list_(pa.string())),
        ]
    ),
    "exposure_rows": pa.schema(
        [
            ("takedown", pa.int32()),
            ("model", pa.string()),
            ("packs", pa.string()),
            ("rows", pa.int64()),
            ("samples", pa.int64()),
            ("first", pa.int64()),
        ]
    ),
}

DEFINITIONS = fingerprint([VIEWS, {name: str(columns) for name, columns in {**ATTRIBUTES, **TABLES}.items()}])


def _snapshot_row(catalog: Catalog, snapshot: Snapshot) -> dict[str, Any]:
    contents = snapshot.contents
    refs = {ref.path: ref.bytes for shard in contents.shards for ref in shard.tables.values()}
    refs |= {ref.path: ref.bytes for ref in contents.artifacts.values()}
    return {
        "snapshot": snapshot.ref,
        "name": snapshot.name,
        "version": snapshot.version,
        "kind": contents.kind,
        "id": snapshot.id,
        "run": snapshot.run,
        "step": catalog.runs[snapshot.run].step,
        "shards": len(contents.shards),
        "rows": contents.rows,
        "bytes": sum(refs.values()),
        "layers": list(contents.layers),
        "summary": json.dumps(contents.summary, sort_keys=True),
        "live": catalog.is_live(snapshot),
    }


def _run_row(run: Any) -> dict[str, Any]:
    return {
        "run": run.fingerprint,
        "step": run.step,
        "parameters": json.dumps(run.parameters, sort_keys=True),
        "code": run.code,
        "started": int(run.started * 1000),
        "seconds": run.seconds,
    }


def _takedown_rows(catalog: Catalog) -> list[dict[str, Any]]:
    rewrites = {number: rewrite for rewrite in catalog.rewrites for number in rewrite.takedowns}
    rows = []
    for each in catalog.takedowns:
        done = rewrites.get(each.number)
        rows.append(
            {
                "takedown": each.number,
                "time": int(each.time * 1000),
                "reason": each.reason,
                "documents": each.documents,
                "file": catalog.store.url(each.named.path),
                "finished": int(done.time * 1000) if done else None,
                "replaced": list(done.replaced.values()) if done else [],
                "expired": list(done.expired) if done else [],
            }
        )
    return rows


def _exposure_rows(catalog: Catalog) -> list[dict[str, Any]]:
    return [
        {"takedown": number, **asdict(each)}
        for rewrite in catalog.rewrites
        for number in rewrite.takedowns
        for each in rewrite.exposures
    ]


def _lineage_rows(catalog: Catalog) -> list[dict[str, Any]]:
    return [
        {"snapshot": each.ref, "input": needed.ref, "position": position, "step": catalog.runs[each.run].step}
        for each in catalog.all_snapshots()
        for position, needed in enumerate(catalog.inputs(each))
    ]


def _attributes_of_documents(catalog: Catalog) -> dict[tuple[str, str], str]:
    """(documents file, table) -> the newest file of that table: attributes found later serve older snapshots too."""
    known = {}
    for commit in catalog.log.refresh():
        for action in commit.actions:
            for shard in action.get("snapshot", {}).get("contents", {}).get("shards", ()):
                documents = shard["tables"].get("documents")
                for name in ("tokens", "domain"):
                    if documents and name in shard["tables"]:
                        known[documents["path"], name] = catalog.store.url(shard["tables"][name]["path"])
    return known


def _shard_rows(catalog: Catalog, known: Mapping[tuple[str, str], str]) -> Iterable[dict[str, Any]]:
    for snapshot in catalog.live():
        for number, shard in enumerate(snapshot.contents.shards):
            documents = shard.tables.get("documents")
            if documents is None:
                continue
            live = shard.tables[snapshot.contents.layers[-1]] if snapshot.contents.layers else None
            yield {
                "snapshot": snapshot.ref,
                "shard": number,
                "rows": shard.rows,
                "documents": catalog.store.url(documents.path),
                "tokens": known.get((documents.path, "tokens")),
                "domain": known.get((documents.path, "domain")),
                "live": catalog.store.url(live.path) if live else None,
            }


def _file_rows(catalog: Catalog) -> Iterable[dict[str, Any]]:
    for snapshot in catalog.live():
        parts: list[tuple[int | None, Mapping[str, FileRef]]] = [(None, snapshot.contents.artifacts)]
        parts += [(number, shard.tables) for number, shard in enumerate(snapshot.contents.shards)]
        for number, name, ref in ((number, name, ref) for number, refs in parts for name, ref in refs.items()):
            yield {
                "snapshot": snapshot.ref,
                "shard": number,
                "tbl": name,
                "file": catalog.store.url(ref.path),
                "sha256": ref.sha256,
                "bytes": ref.bytes,
            }


def _layer_rows(catalog: Catalog, known: Mapping[tuple[str, str], str]) -> Iterable[dict[str, Any]]:
    """Each layer of decisions once, under the snapshot that brought it.

    Its name and all its files tell a layer: on a shard where two steps in turn drop nothing, both wrote the same file.
    """
    seen = set()
    in_order = [
        action["snapshot"] for commit in catalog.log.refresh() for action in commit.actions if "snapshot" in action
    ]
    for body in in_order:
        snapshot = catalog.snapshot(f"{body['name']}@{body['version']}")
        for layer in snapshot.contents.layers if catalog.is_live(snapshot) else ():
            files = tuple(shard.tables[layer].path for shard in snapshot.contents.shards)
            if (layer, files) in seen:
                continue
            seen.add((layer, files))
            for shard, file in zip(snapshot.contents.shards, files, strict=True):
                documents = shard.tables["documents"].path
                yield {
                    "snapshot": snapshot.ref,
                    "step": catalog.runs[snapshot.run].step,
                    "layer": layer,
                    "file": catalog.store.url(file),
                    "documents": catalog.store.url(documents),
                    "tokens": known.get((documents, "tokens")),
                }

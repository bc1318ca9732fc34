"""Scans of the Parquet files behind the views: one table macro a kind, `NAME_scan(root)`, with all files of the kind.

A file's position in the list is its number (`file_rows.file`), so rows are joined by integers. The list is one string
of digests that DuckDB splits when it plans a query: 65 bytes a file, in a macro so that a publisher can exchange the
list without binding a view, which would look at every file. Up to LISTED files of a kind any client needs nothing else.
Beyond, a list in the catalog would make every open and every publish slow (1M files: 0.2 s and 0.5 s), and the scan
reads the list from a session variable that the statements of the view `prologue` set; `tamis sql` runs them itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import duckdb
import pyarrow as pa

from catalog import schema
from catalog.takedown import NAMED

LISTED = 20_000
PROLOGUE = "are too many to be listed here: run the statements of the view prologue first"

# What the views read from Parquet: the attribute tables of shards, then the artifacts of other snapshots.
SCANS = {
    "documents": schema.DOCUMENTS,
    "decisions": schema.DECISIONS,
    "tokens": schema.TOKENS,
    "domain": schema.DOMAIN,
    "cells": schema.CELLS,
    "cards": schema.CARDS,
    "factors": schema.FACTORS,
    "draws": schema.DRAWS,
    "statistics": schema.STATISTICS,
    "edges": schema.EDGES,
    "matches": schema.MATCHES,
    "quarantine": schema.QUARANTINE,
    "weights": schema.WEIGHTS,
    "scores": schema.EVALUATIONS,
    "given": schema.GIVEN,
    "taken_down": NAMED,
    "parts": schema.EVALUATION_PARTS,
    "forecasts": schema.FORECASTS,
    "shifts": schema.SHIFTS,
}


def write_scans(connection: duckdb.DuckDBPyConnection, kinds: Iterable[str]) -> None:
    """Write the scans of some kinds anew, from the files that `file_rows` lists."""
    for kind in kinds:
        if kind in SCANS:
            connection.execute(f"CREATE OR REPLACE MACRO {kind}_scan(root) AS TABLE {_scan(connection, kind)}")


def _scan(connection: duckdb.DuckDBPyConnection, kind: str) -> str:
    columns = SCANS[kind]
    ((count,),) = connection.execute("SELECT count(*) FROM file_rows WHERE kind = ?", [kind]).fetchall()
    if not count:
        types = ", ".join(f'NULL::{_sql_type(field.type)} AS "{field.name}"' for field in columns)
        return f"SELECT NULL::BIGINT AS file, {types} WHERE root IS NULL"
    if count <= LISTED:
        rows = connection.execute(
            "SELECT string_agg(lower(hex(sha256)), ',' ORDER BY file) FROM file_rows WHERE kind = ?", [kind]
        )
        listed = f"string_split('{rows.fetchall()[0][0]}', ',')"
        files = f"[root || sha[1:2] || '/' || sha || '.parquet' for sha in {listed}]"
    else:
        files = f"coalesce(getvariable('{kind}_files'), error('{count} files of {kind} {PROLOGUE}' || root[:0]))"
    names = ", ".join(f'"{name}"' for name in columns.names)
    return f"SELECT file_index::BIGINT AS file, {names} FROM read_parquet({files})"


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

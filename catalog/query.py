"""Read-only SQL on the published catalog.

The connection can read the projection and the files of its store, and nothing else: no writing, no attaching, no
other path, no extension, and no way to change those settings back.
"""

from __future__ import annotations

import io
import json
import sys
from typing import BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from catalog.catalog import Catalog
from catalog.errors import QueryError, UsageError
from catalog.projection import FILENAME, publish, published_sequence

FORMATS = ("table", "json", "csv", "parquet")
MEMORY_LIMIT = "2GB"


def connect(catalog: Catalog) -> duckdb.DuckDBPyConnection:
    """A locked-down read-only connection to the projection, which is published first when commits came since."""
    if published_sequence(catalog) != catalog.refresh().sequence:
        publish(catalog)
    connection = duckdb.connect(catalog.store.at(FILENAME), read_only=True)
    root = catalog.store.at("").replace("'", "''")
    for setting in (
        f"allowed_directories = ['{root}']",
        "enable_external_access = false",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        f"memory_limit = '{MEMORY_LIMIT}'",
        "TimeZone = 'UTC'",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")
    return connection


def sql(catalog: Catalog, query: str) -> pa.Table:
    """The rows of one SELECT. Raises QueryError with DuckDB's message."""
    with connect(catalog) as connection:
        try:
            result = connection.execute(query)
            if result.description is None:
                raise QueryError("the statement returns no rows; `tamis sql` reads only")
            return result.to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(f"the query failed: {str(error).strip()}") from error


def write_result(table: pa.Table, output_format: str, stream: BinaryIO) -> None:
    """Write rows to a binary stream as an aligned text table, JSON lines, CSV or Parquet. Raises UsageError."""
    if output_format == "table":
        stream.write(render(table).encode())
    elif output_format == "json":
        for row in table.to_pylist():
            stream.write(json.dumps(row, ensure_ascii=False, default=str).encode() + b"\n")
    elif output_format == "csv":
        pyarrow.csv.write_csv(table, stream)
    elif output_format == "parquet":
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        stream.write(buffer.getvalue())
    else:
        raise UsageError(f"no output format {output_format!r}; the formats are {', '.join(FORMATS)}")
    stream.flush()


def render(table: pa.Table, *, width: int = 100) -> str:
    """An aligned text table; numbers to the right, long cells cut at `width` characters."""
    columns = [[_cell(value, width) for value in column.to_pylist()] for column in table.columns]
    widths = [
        max([len(name), *(len(cell) for cell in column)])
        for name, column in zip(table.column_names, columns, strict=True)
    ]
    right = [
        pa.types.is_integer(f.type) or pa.types.is_floating(f.type) or pa.types.is_decimal(f.type)
        for f in table.schema
    ]

    def line(cells: list[str]) -> str:
        parts = [
            cell.rjust(size) if flush else cell.ljust(size)
            for cell, size, flush in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(parts).rstrip()

    lines = [line(table.column_names), "  ".join("-" * size for size in widths)]
    lines += [line([column[i] for column in columns]) for i in range(table.num_rows)]
    return "\n".join(lines) + "\n"


def _cell(value: object, width: int) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1e15 else str(value)
    text = str(value).replace("\n", "⏎")
    return text if len(text) <= width else text[: width - 1] + "…"


def print_result(table: pa.Table, output_format: str) -> None:
    """`write_result` to standard output."""
    write_result(table, output_format, sys.stdout.buffer)

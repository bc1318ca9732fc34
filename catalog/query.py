"""Read-only SQL on the published catalog.

The connection can read the projection and the files of its store, and nothing else: no writing, no attaching, no
other path, no extension, and no way to change those settings back.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from catalog.catalog import Catalog
from catalog.errors import QueryError, UsageError
from catalog.projection import attach, is_current, is_torn, publish, publish_anew, published_path
from catalog.scans import PROLOGUE

FORMATS = ("table", "json", "csv", "parquet")
Ask = Callable[..., pa.Table]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one query may take: memory as DuckDB writes it, and seconds of its own, opening the catalog not counted."""

    memory: str = "2GB"
    seconds: float = 300.0

    def __post_init__(self) -> None:
        if not MEMORY.fullmatch(self.memory):
            raise UsageError(f"{self.memory!r} is no amount of memory: expected a number and a unit, like 500MB or 4GB")
        if self.seconds <= 0:
            raise UsageError(f"a query can't end in {self.seconds:g} seconds: expected more than 0")


MEMORY = re.compile(r"[0-9]+(\.[0-9]+)? ?([KMGT]i?B)", re.IGNORECASE)
USUAL = Limits()


def sql(catalog: Catalog, query: str, parameters: Sequence[object] = (), *, limits: Limits = USUAL) -> pa.Table:
    """The rows of one SELECT; `?` in it stands for the parameters in turn. Raises QueryError with DuckDB's message."""
    with session(catalog, limits=limits) as ask:
        return ask(query, parameters)


@contextmanager
def session(catalog: Catalog, *, limits: Limits = USUAL) -> Iterator[Ask]:
    """A function like `sql` for several queries to one state of the catalog.

    A published file with a torn block is written again from the log, and asked once more.
    """
    connection = _current(catalog, limits)

    def ask(query: str, parameters: Sequence[object] = ()) -> pa.Table:
        nonlocal connection
        try:
            _check_reads(connection, query)
            try:
                return _within(connection, limits, lambda: _answer(connection, query, parameters))
            except duckdb.Error as error:
                if not is_torn(error):
                    raise
            connection.close()
            connection = _connect(publish_anew(catalog), catalog, limits)
            return _within(connection, limits, lambda: _answer(connection, query, parameters))
        except duckdb.IOException as error:
            reason = str(error).strip().partition("\n")[0]
            raise QueryError(f"the query failed: {reason}; `tamis verify` lists damaged files") from error
        except duckdb.Error as error:
            raise QueryError(f"the query failed: {str(error).strip()}") from error

    try:
        yield ask
    finally:
        connection.close()


def _check_reads(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    kinds = [statement.type for statement in connection.extract_statements(query)]
    if kinds != [duckdb.StatementType.SELECT]:
        found = ", ".join(kind.name for kind in kinds) or "nothing"
        raise QueryError(f"`tamis sql` only reads: expected one SELECT, got {found}")


def _answer(connection: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[object]) -> pa.Table:
    try:
        return connection.sql(query, params=list(parameters)).to_arrow_table()
    except duckdb.Error as error:
        if PROLOGUE not in str(error):
            raise
        for (statement,) in connection.execute("SELECT statement FROM prologue").fetchall():
            connection.execute(statement)
        return connection.sql(query, params=list(parameters)).to_arrow_table()


def _within(connection: duckdb.DuckDBPyConnection, limits: Limits, answer: Callable[[], pa.Table]) -> pa.Table:
    """What `answer` returns; it is interrupted when its time is over."""
    timer = threading.Timer(limits.seconds, connection.interrupt)
    timer.start()
    try:
        return answer()
    except duckdb.InterruptException as error:
        raise QueryError(
            f"the query did not end in {limits.seconds:g} s: narrow it, or allow more with --max-seconds"
        ) from error
    except duckdb.OutOfMemoryException as error:
        raise QueryError(
            f"the query needs more than {limits.memory} of memory: narrow it, or allow more with --max-memory"
        ) from error
    finally:
        timer.cancel()


def _current(catalog: Catalog, limits: Limits) -> duckdb.DuckDBPyConnection:
    """A connection to a published file that shows the head of the log: the one that is there, or a new one."""
    with suppress(duckdb.Error):  # missing or damaged
        connection = _connect(published_path(catalog), catalog, limits)
        if is_current(connection, catalog):
            return connection
        connection.close()
    return _connect(publish(catalog), catalog, limits)


def _connect(path: Path, catalog: Catalog, limits: Limits) -> duckdb.DuckDBPyConnection:
    """A read-only connection to a published file, locked down.

    It must run nothing but SELECT: within the store's folder DuckDB would let COPY write.
    """
    connection = duckdb.connect(config={"temp_directory": ""})
    if not catalog.store.is_local:
        connection.register_filesystem(catalog.store.fs)
    attach(connection, path)
    root = catalog.store.url("").replace("'", "''")
    for setting in (
        f"allowed_directories = ['{root}']",
        "enable_external_access = false",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        f"memory_limit = '{limits.memory}'",
        "TimeZone = 'UTC'",
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")
    return connection


def write_result(table: pa.Table, output_format: str, stream: BinaryIO) -> None:
    """Write rows to a binary stream as an aligned text table, JSON lines, CSV or Parquet.

    Raises UsageError for another format, and QueryError for an answer that the format can't hold.
    """
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice and output_format in ("json", "parquet"):
        raise QueryError(f"two columns are called {twice[0]!r}, of which {output_format} keeps one: name them with AS")
    try:
        _write(table, output_format, stream)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise QueryError(f"{output_format} can't hold this answer ({reason}): cast the column to text") from error
    stream.flush()


def _write(table: pa.Table, output_format: str, stream: BinaryIO) -> None:
    if output_format == "table":
        stream.write(render(table).encode())
    elif output_format == "json":
        for row in table.to_pylist():
            stream.write(_json(row).encode() + b"\n")
    elif output_format == "csv":
        pyarrow.csv.write_csv(_flat(table), stream)
    elif output_format == "parquet":
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        stream.write(buffer.getvalue())
    else:
        raise UsageError(f"no output format {output_format!r}; the formats are {', '.join(FORMATS)}")


def render(table: pa.Table, *, width: int = 100) -> str:
    """An aligned text table; numbers to the right, long cells cut at `width` characters."""
    columns = [[_cell(value, width) for value in column.to_pylist()] for column in table.columns]
    widths = [
        max([len(name), *(len(cell) for cell in column)])
        for name, column in zip(table.column_names, columns, strict=True)
    ]
    right = [
        pa.types.is_integer(f.type) or pa.types.is_floating(f.type) or pa.types.is_decimal(f.type) for f in table.schema
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


def _flat(table: pa.Table) -> pa.Table:
    """`table` with lists, structs and maps as JSON text, which CSV has no form for."""
    for i, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            values = [None if value is None else _json(value) for value in table.column(i).to_pylist()]
            table = table.set_column(i, field.name, pa.array(values, pa.string()))
    return table


def _json(value: object) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    """`value` in JSON's types: DuckDB's sums of integers come as decimals, and JSON has no NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.hex() if isinstance(value, bytes) else value


def _cell(value: object, width: int) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        if 0 < abs(value) < 1e-4:
            return f"{value:.2e}"
        return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1e15 else str(value)
    text = str(value).replace("\n", "⏎")
    return text if len(text) <= width else text[: width - 1] + "…"


def print_result(table: pa.Table, output_format: str) -> None:
    """`write_result` to standard output."""
    write_result(table, output_format, sys.stdout.buffer)

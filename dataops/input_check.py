"""Refuse, before anything is committed, inputs that can't be read as asked: one line naming file, fault and
remedy.

Single bad records are no matter here; they go into quarantine while reading. For JSON Lines and CSV the first
megabyte of each file is looked at, for Parquet the footer, for text files the permission.
"""

from __future__ import annotations

import csv
import difflib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.errors import BadInput
from dataops.inputs import Input, open_input
from dataops.records import ReadOptions
from dataops.streams import MAX_RECORD_BYTES, Damaged, blocks, lines

LOOKED_AT_BYTES = 1 << 20
_IN_DRIFT = "in drift and refresh, which read new text like the old: --set ENTRY.{}=NAME"


def check(inputs: Sequence[Input], options: ReadOptions) -> None:
    """Raise BadInput for the first file that can't be read at all, or lacks a column that was asked for."""
    if not inputs:
        raise BadInput("no input: name files, folders or globs")
    for file in inputs:
        try:
            _CHECKS[file.format](file, options)
        except OSError as error:
            raise BadInput(f"{file.path}: can't be read: {error.strerror or error}") from error


def _check_parquet(file: Input, options: ReadOptions) -> None:
    with open_input(file.path) as opened:
        try:
            schema = pq.read_schema(opened)
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{file.path}: not a readable Parquet file: {_first_line(error)}") from error
    _check_columns(file, options, schema.names)
    kind = schema.field(options.text_column).type
    if not _holds_text(kind):
        texts = [field.name for field in schema if _holds_text(field.type)]
        raise BadInput(_wrong_type(file, options.text_column, str(kind), texts))


def _check_jsonl(file: Input, options: ReadOptions) -> None:
    names: dict[str, None] = {}
    texts: dict[str, None] = {}
    kinds: dict[str, None] = {}
    objects = seen = 0
    for line in _first_lines(file):
        seen += 1
        try:
            value = json.loads(line.decode())
        except (ValueError, RecursionError):
            continue
        if not isinstance(value, dict):
            continue
        objects += 1
        names.update(dict.fromkeys(value))
        texts.update(dict.fromkeys(name for name, each in value.items() if isinstance(each, str)))
        if options.text_column in value:
            kinds[type(value[options.text_column]).__name__] = None
    if not seen:
        return  # an empty file is counted, not refused
    if not objects:
        raise BadInput(
            f"{file.path}: not JSON Lines: no line at its beginning is a JSON object; "
            "write one object per line (jq -c '.[]' turns an array into that)"
        )
    _check_columns(file, options, list(names))
    if "str" not in kinds and kinds.keys() - {"NoneType"}:
        raise BadInput(_wrong_type(file, options.text_column, " or ".join(kinds), list(texts)))


def _check_csv(file: Input, options: ReadOptions) -> None:
    csv.field_size_limit(MAX_RECORD_BYTES)
    decoded = (line.decode("utf-8", "surrogateescape") + "\n" for line in _first_lines(file))
    try:
        header = next((row for row in csv.reader(decoded, strict=True) if row), None)
    except csv.Error as error:
        raise BadInput(f"{file.path}: not CSV: its header can't be read: {error}") from error
    if header is not None:
        _check_columns(file, options, header)


def _check_text(file: Input, options: ReadOptions) -> None:  # noqa: ARG001, text files have no columns
    if "://" not in file.path and not os.access(file.path, os.R_OK):
        with open_input(file.path):  # says why
            pass


def _first_lines(file: Input) -> Iterator[bytes]:
    """The lines that begin in the first megabyte, at least one; damage later in the file is the reader's
    matter.
    """
    read = 0
    try:
        for offset, line, _ in lines(blocks(file.path, compression=file.compression)):
            if offset > LOOKED_AT_BYTES:
                return
            read += 1
            line = line.removeprefix(b"\xef\xbb\xbf") if offset == 0 else line
            if line.strip():
                yield line
    except Damaged as damage:
        if not read:
            raise BadInput(f"{file.path}: can't be decompressed: {damage.detail}") from damage


def _check_columns(file: Input, options: ReadOptions, names: Sequence[str]) -> None:
    missing = {flag: column for flag, column in options.columns.items() if column not in names}
    if not missing:
        return
    lacks = f"{file.path}: no column {' and no '.join(repr(column) for column in missing.values())}"
    flag, column = next(iter(missing.items()))
    near = difflib.get_close_matches(column.lower(), [name.lower() for name in names], n=1, cutoff=0.5)
    nearest = next((name for name in names if near and name.lower() == near[0]), None)
    remedy = f"did you mean {flag} {nearest}?" if nearest else f"name one with {flag}"
    if flag == "--text-column":  # one that the text can't do without
        remedy += f" ({_IN_DRIFT.format('text_column')})"
    optional = [each for each in missing if each.startswith("--") and each != "--text-column"]
    settings = [f"{each[2:].replace('-', '_')}=null" for each in optional]
    if settings:
        remedy += f"; where there is none: {' and '.join(settings)} in a recipe or by --set"
    raise BadInput(f"{lacks}; it has {_listed(names)}; {remedy}")


def _wrong_type(file: Input, column: str, kind: str, texts: Iterable[str]) -> str:
    remedy = f"name one of {_listed(list(texts))} with --text-column ({_IN_DRIFT.format('text_column')})"
    return f"{file.path}: column '{column}' holds {kind}, not text; {remedy}"


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_null,
    )
    return any(test(kind) for test in tests)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(islice(names, 12)) or "none"
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


_CHECKS = {"parquet": _check_parquet, "jsonl": _check_jsonl, "csv": _check_csv, "text": _check_text}

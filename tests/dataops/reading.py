"""Small input files, and what the readers make of them: for tests of reading."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dataops.inputs import discover, slices
from dataops.readers import read
from dataops.records import REASONS, Quarantined, ReadOptions, Record

PLAIN = ReadOptions()
MIB = 1 << 20


def read_all(path: Path, options: ReadOptions = PLAIN, target_bytes: int = 64 * MIB) -> list[Record | Quarantined]:
    pieces = slices(discover([str(path)], source=None), target_bytes=target_bytes)
    return [item for piece in pieces for item in read(piece, options)]


def texts(items: list[Record | Quarantined]) -> list[str]:
    return [item.text for item in items if isinstance(item, Record)]


def faults(items: list[Record | Quarantined]) -> list[tuple[str, str]]:
    found = [item for item in items if isinstance(item, Quarantined)]
    for item in found:
        assert item.reason in REASONS
        assert len(item.excerpt) <= 200
        assert item.excerpt.isprintable()
    return [(item.position, item.reason) for item in found]


def jsonl(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def parquet(path: Path, rows: int = 3000, **columns: pa.Array) -> Path:
    table = pa.table(columns or {"id": range(rows), "text": [f"row {i} " * 9 for i in range(rows)]})
    pq.write_table(table, path, row_group_size=500, compression="snappy", data_page_size=1000, use_dictionary=False)
    return path

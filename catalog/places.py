"""Where an id is: which file and row, by binary search, without reading the files.

An index is a set of segments under `index/KIND/` of what this machine keeps of the store: memory-mapped Arrow files of
(h64, file, row) sorted by h64, the first 64 bits of an id. A look-up first indexes the files that no segment covers, so
the first one after an ingestion reads one column of the new files once; a segment holds no text and may be deleted at
any time. 20 bytes a document.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from catalog.catalog import Catalog
from catalog.fingerprint import fingerprint
from catalog.store import FileRef, Store
from catalog.tables import read_table

FILES = b"files"  # key of a segment's metadata: the digests of the files it covers


@dataclass(frozen=True, kw_only=True)
class Place:
    """A row of a file that may hold the id: the first 64 bits agree."""

    file: FileRef
    row: int


def places(catalog: Catalog, kind: str, prefix: str) -> list[Place]:
    """Rows of the files of `kind` whose id begins with `prefix`, 1 to 32 hexadecimal digits.

    Kinds: `documents` by their id, `decisions` by the id kept instead, `pack` by the documents of a row.
    """
    wanted = {ref.sha256: ref for ref in _files(catalog, kind)}
    folder = catalog.store.derived / "index" / kind
    folder.mkdir(parents=True, exist_ok=True)
    segments = [_open(path) for path in sorted(folder.glob("*.arrow"))]
    covered = {sha256 for files, _ in segments for sha256 in files}
    missing = {sha256: ref for sha256, ref in wanted.items() if sha256 not in covered}
    if missing:
        segments.append(_open(_write(catalog.store, folder, kind, missing)))
    low, high = int(prefix[:16].ljust(16, "0"), 16), int(prefix[:16].ljust(16, "f"), 16)
    found: dict[tuple[str, int], Place] = {}
    for files, table in segments:
        h64 = table["h64"].chunk(0).to_numpy()
        first, last = np.searchsorted(h64, np.uint64(low)), np.searchsorted(h64, np.uint64(high), side="right")
        hits = table.slice(first, last - first)
        for file, row in zip(hits["file"].to_pylist(), hits["row"].to_pylist(), strict=True):
            if files[file] in wanted:
                found[files[file], row] = Place(file=wanted[files[file]], row=row)
    return list(found.values())


def _files(catalog: Catalog, kind: str) -> list[FileRef]:
    seen: dict[str, FileRef] = {}
    for snapshot in (each for each in catalog.history if catalog.is_live(each)):
        contents = snapshot.contents
        names = contents.layers if kind == "decisions" else (kind,)
        for shard in contents.shards:
            for name in names:
                ref = shard.tables.get(name)
                if ref is not None:
                    seen[ref.sha256] = ref
    return list(seen.values())


def _open(path: Path) -> tuple[list[str], pa.Table]:
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    return json.loads(table.schema.metadata[FILES]), table


def _write(store: Store, folder: Path, kind: str, files: Mapping[str, FileRef]) -> Path:
    """A segment over `files`, written aside and renamed: two writers of one segment write the same."""
    keys, rows = zip(*(_KEYS[kind](store, ref) for ref in files.values()), strict=True)
    numbers = np.repeat(np.arange(len(files), dtype=np.int32), [len(each) for each in keys])
    h64, row = np.concatenate(keys), np.concatenate(rows)
    order = np.argsort(h64, kind="stable")
    table = pa.table({"h64": h64[order], "file": numbers[order], "row": row[order]})
    table = table.replace_schema_metadata({FILES: json.dumps(list(files))})
    path = folder / f"{fingerprint(list(files))}.arrow"
    partial = path.with_suffix(f".{secrets.token_hex(6)}")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_batch(table.combine_chunks().to_batches()[0] if table.num_rows else _empty(table.schema))
    partial.replace(path)
    return path


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch([pa.array([], field.type) for field in schema], schema=schema)


def _of_documents(store: Store, ref: FileRef) -> tuple[np.ndarray, np.ndarray]:
    h64 = read_table(store, ref, ["h64"])["h64"].to_numpy()
    return h64, np.arange(len(h64), dtype=np.int32)


def _of_decisions(store: Store, ref: FileRef) -> tuple[np.ndarray, np.ndarray]:
    """Positions in the file, not rows of documents."""
    kept_id = read_table(store, ref, ["kept_id"])["kept_id"].combine_chunks()
    there = np.flatnonzero(kept_id.is_valid().to_numpy(zero_copy_only=False)).astype(np.int32)
    return np.array([int(each[:16], 16) for each in kept_id.drop_null().to_pylist()], np.uint64), there


def _of_packs(store: Store, ref: FileRef) -> tuple[np.ndarray, np.ndarray]:
    """Positions among the segments of the file."""
    with pa.memory_map(str(store.local(ref))) as source:
        documents = pa.ipc.open_file(source).read_all()["documents"].combine_chunks()
        ids = documents.flatten()
        raw = np.frombuffer(ids.buffers()[1], ">u8").reshape(-1, 2)[ids.offset : ids.offset + len(ids), 0]
        return raw.astype(np.uint64), np.arange(len(ids), dtype=np.int32)


_KEYS: dict[str, Callable[[Store, FileRef], tuple[np.ndarray, np.ndarray]]] = {
    "documents": _of_documents,
    "decisions": _of_decisions,
    "pack": _of_packs,
}

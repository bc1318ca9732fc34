"""The task functions of a takedown: what happens to one documents file with its tables, and to one pack file.

A row is emptied and keeps its number; the rows about it in other tables go, but for its count of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog.pack import held_segments, mask
from catalog.run import Receipt, Task, as_json
from catalog.store import FileRef, Store
from catalog.tables import read_table, write_table
from catalog.takedown import FOUND, RULE, blanked, decided, suppressed_by
from dataops.kernels.hashing import distinct
from dataops.kernels.ngrams import contained_ngrams, shingles

WORDS = 5  # a run of that many words is a quotation
QUOTING = {"quarantine": "excerpt", "matches": "passage"}  # tables with text of other documents, and its column
COUNTED = "tokens"  # the table that keeps its rows, for the counts, and loses the tokens alone


@dataclass(kw_only=True)
class Family:
    """A documents file and the tables about it, by name and path; `layers` are the names of decisions."""

    documents: FileRef
    tables: dict[str, tuple[str, FileRef]]
    layers: frozenset[str]


def look(store: Store, task: Task) -> Receipt:
    """The documents of one file that still have a text that was taken down: rows, takedown, id and content of each."""
    table = read_table(store, task["documents"], ["content", "n_chars"])
    number = suppressed_by(store, table, task["suppressed"])
    rows = np.flatnonzero(number)
    named = read_table(store, task["documents"], ["id", "content"]).take(rows) if len(rows) else FOUND.empty_table()
    return {
        "rows": rows.tolist(),
        "takedown": number[rows].tolist(),
        "id": named["id"].to_pylist(),
        "content": named["content"].to_pylist(),
        "documents": table.num_rows,
    }


def quotations(store: Store, task: Task) -> Receipt:
    """Hashes of the runs of words in the texts of one family."""
    rows = pa.array(sorted(task["gone"]), pa.int32())
    texts = read_table(store, task["family"].documents, ["text"])["text"].combine_chunks().take(rows)
    np.save(task["path"], distinct(shingles(texts, WORDS).values))
    return {"path": task["path"], "documents": len(rows)}


def rewrite_family(store: Store, task: Task) -> Receipt:
    """The files of one family that change: `files` maps old path -> new reference, `kept` counts what they keep."""
    family: Family = task["family"]
    gone: dict[int, int] = task["gone"]
    files: dict[str, FileRef] = {}
    kept: dict[str, int] = {}
    rows = np.array(sorted(gone), np.int32)
    if gone:
        documents = read_table(store, family.documents)
        files[family.documents.path] = write_table(store, blanked(documents, rows))
    for path, (name, ref) in family.tables.items():
        table = None if name == RULE else _without(store, name, ref, rows, task)
        if table is None:
            continue
        files[path] = write_table(store, table, compression=_compression(store, ref))
        if name in family.layers:
            kept[path] = int(pc.sum(table["kept"]).as_py() or 0)
    layer, live = _layer(store, family, gone) if task["layered"] else (None, 0)
    return {
        "files": {path: as_json(ref) for path, ref in files.items()},
        "kept": kept,
        "layer": as_json(layer) if layer else None,
        "live": live,
        "documents": len(gone),
    }


def _compression(store: Store, ref: FileRef) -> str:
    kinds = {"UNCOMPRESSED": "none", "ZSTD": "zstd"}
    return kinds[pq.read_metadata(store.local(ref)).row_group(0).column(0).compression]


def _without(store: Store, name: str, ref: FileRef, rows: np.ndarray, task: Task) -> pa.Table | None:
    """A table without the documents at `rows` and without what quotes them; None where nothing changes."""
    names = pq.read_schema(store.local(ref)).names
    if name == "edges":
        table = read_table(store, ref)
        ids = read_table(store, task["found"], ["id"])["id"].combine_chunks()
        either = pc.or_(pc.is_in(table["left_id"], value_set=ids), pc.is_in(table["right_id"], value_set=ids))
        return table.filter(pc.invert(either)) if pc.any(either).as_py() else None
    if name in QUOTING:
        table = read_table(store, ref)
        shorter = _without_rows(table, rows) if "row" in names else table
        quoting = _quoting(shorter[QUOTING[name]], np.load(task["telling"]))
        if shorter.num_rows == table.num_rows and not quoting.any():
            return None
        column = pc.if_else(pa.array(quoting), "", shorter[QUOTING[name]])
        return shorter.set_column(names.index(QUOTING[name]), table.schema.field(QUOTING[name]), column)
    if not len(rows) or "row" not in names:
        return None
    table = read_table(store, ref)
    if name == COUNTED:
        blank = pc.if_else(_at(table, rows), pa.scalar(None, table.schema.field("tokens").type), table["tokens"])
        return table.set_column(names.index("tokens"), table.schema.field("tokens"), blank)
    shorter = _without_rows(table, rows)
    return shorter if shorter.num_rows < table.num_rows else None


def _at(table: pa.Table, rows: np.ndarray) -> pa.Array:
    return pc.is_in(table["row"], value_set=pa.array(rows, table.schema.field("row").type))


def _without_rows(table: pa.Table, rows: np.ndarray) -> pa.Table:
    return table.filter(pc.invert(_at(table, rows)))


def _quoting(texts: pa.ChunkedArray, telling: np.ndarray) -> np.ndarray:
    """Which of these short texts hold a run of words that `telling` (hashes, ascending) holds."""
    if not len(telling) or not len(texts):
        return np.zeros(len(texts), bool)
    hits, _, _ = contained_ngrams(pc.fill_null(texts, "").combine_chunks(), WORDS, telling)
    return np.asarray(hits > 0)


def _layer(store: Store, family: Family, gone: Mapping[int, int]) -> tuple[FileRef, int]:
    """The decisions `takedown` on a family, those of earlier takedowns included, and how many documents they keep."""
    documents = read_table(store, family.documents, ["row", "id"])
    number = np.zeros(documents.num_rows, np.int32)
    for name, ref in family.tables.values():
        if name == RULE:
            before = read_table(store, ref, ["row", "kept", "reason"])
            before = before.filter(pc.invert(before["kept"]))
            number[before["row"].to_numpy()] = [int(reason.split()[-1]) for reason in before["reason"].to_pylist()]
    number[list(gone)] = list(gone.values())
    return write_table(store, decided(documents, number)), int((number == 0).sum())


def mask_pack(store: Store, task: Task) -> Receipt:
    """The masked form of one pack file, if it holds a document, and the rows that held one."""
    ref: FileRef = task["pack"]
    path = store.local(ref)
    ids = read_table(store, task["found"], ["id"])["id"].unique().to_pylist()
    _, rows = held_segments(path, ids)
    if not len(rows):
        return {"pack": None, "held": [], "rows": 0}
    with store.writing(suffix="arrow") as (target, refs):
        mask(path, target, ids)
    return {"pack": as_json(refs[0]), "held": np.unique(rows).tolist(), "rows": len(np.unique(rows))}

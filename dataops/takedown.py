"""Rewriting what holds documents that were taken down: shards without their text, packs with their windows masked.

Each shard family (a documents file and every table about it, in whichever snapshots) is one task, each pack file one
more; a file that holds nothing of the documents stays as it is. Rows keep their numbers: a document's row is emptied, a
decision layer `takedown` before all others drops it, and its rows in other tables go. Excerpts and passages of other
documents that share WORDS words in a row with a text are emptied too. Packs keep length and offsets.

Cost: one look for the hashes in all documents, then the files that change are read and written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog.catalog import HOLD_TEXT, Catalog
from catalog.fingerprint import fingerprint
from catalog.pack import held_segments, mask
from catalog.run import Executor, Listener, Receipt, Task, Work, as_json, file_ref, ignore
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import FileRef, Store
from catalog.tables import read_table, write_table
from catalog.takedown import FOUND, RULE, blanked, decided, suppressed_by
from dataops.kernels.ngrams import contained_ngrams, shingles

WORDS = 5  # a run of that many words is a quotation
QUOTING = {"quarantine": "excerpt", "matches": "passage"}  # tables with text of other documents, and its column
COUNTED = "tokens"  # the table that keeps its rows, for the counts, and loses the tokens alone


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """What a rewrite has made and not committed yet.

    contents: reference of each newest version that changes -> what replaces it. expired: all versions that change.
    rows: reference of a packs snapshot -> its rows that hold a document, int64, numbered through its files.
    """

    considered: frozenset[str]
    found: FileRef
    contents: Mapping[str, Contents]
    expired: tuple[str, ...]
    rows: Mapping[str, np.ndarray]
    work: Work


def begin_rewrite(catalog: Catalog, *, executor: Executor, listener: Listener = ignore) -> Work:
    """The work of rewriting what is live now, by its identity."""
    live = sorted(each.id for each in catalog.live() if each.contents.kind in HOLD_TEXT)
    identity = fingerprint({"step": RULE, "takedowns": len(catalog.takedowns), "inputs": live})
    return Work(name=RULE, step=RULE, fingerprint=identity, catalog=catalog, executor=executor, listener=listener)


def rewrite(work: Work) -> Rewritten:
    """Rewrite every live snapshot that holds a document that was taken down. Nothing is committed."""
    catalog, store = work.catalog, work.store
    live = [each for each in catalog.live() if each.contents.kind in HOLD_TEXT]
    families = _families(each for each in live if each.contents.kind == "documents")
    tasks = [{"documents": families[path].documents, "suppressed": catalog.suppressed} for path in sorted(families)]
    looked = dict(zip(sorted(families), work.stage("look", _look, tasks), strict=True))
    touched = {path: dict(zip(each["rows"], each["takedown"], strict=True)) for path, each in looked.items()}
    found = _found(store, looked.values())
    affected = {path for path, rows in touched.items() if rows}
    changed = [each for each in live if any(_documents(shard) in affected for shard in each.contents.shards)]
    layered = {_documents(shard) for each in changed for shard in each.contents.shards}

    tasks = [{"family": families[path], "gone": touched[path], "folder": str(work.folder)} for path in sorted(affected)]
    quoted = work.stage("quotations", _quotations, [{**task, "index": index} for index, task in enumerate(tasks)])
    hashes = [np.load(receipt["path"]) for receipt in quoted]
    np.save(work.folder / "telling.npy", np.unique(np.concatenate([np.empty(0, np.uint64), *hashes])))
    settings = {"found": found, "telling": str(work.folder / "telling.npy")}
    tasks = [
        {"family": families[path], "gone": touched[path], "layered": path in layered, **settings}
        for path in sorted(families)
    ]
    shards = dict(zip(sorted(families), work.stage("shards", _shard, tasks), strict=True))
    packs = {
        s.tables["pack"].path: s.tables["pack"] for each in live for s in each.contents.shards if "pack" in s.tables
    }
    tasks = [{"pack": packs[path], "found": found} for path in sorted(packs)]
    masked = dict(zip(sorted(packs), work.stage("packs", _pack, tasks, unit="rows"), strict=True))

    made = {each.ref: _rebuilt(each, shards, masked, layered=each in changed) for each in live}
    different = [each for each in live if made[each.ref].id != each.id]
    return Rewritten(
        considered=frozenset(each.ref for each in live),
        found=found,
        contents={each.ref: made[each.ref] for each in different if catalog.snapshot(each.name) == each},
        expired=tuple(sorted(each.ref for each in different)),
        rows={each.ref: _held_rows(each, masked) for each in different if each.contents.kind == "packs"},
        work=work,
    )


def _look(store: Store, task: Task) -> Receipt:
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


def _found(store: Store, looked: Iterable[Receipt]) -> FileRef:
    """FOUND of all files: a document that lies in several once."""
    tables = [pa.table([each[name] for name in FOUND.names], FOUND.names).cast(FOUND) for each in looked]
    rows = pa.concat_tables([FOUND.empty_table(), *tables]).group_by(FOUND.names, use_threads=False).aggregate([])
    return write_table(store, rows.sort_by("id").cast(FOUND))


def _documents(shard: Shard) -> str:
    return shard.tables["documents"].path if "documents" in shard.tables else ""


@dataclass(kw_only=True)
class Family:
    """A documents file and the tables about it, by name and path; `layers` are the names of decisions."""

    documents: FileRef
    tables: dict[str, tuple[str, FileRef]]
    layers: frozenset[str]


def _families(snapshots: Iterable[Snapshot]) -> dict[str, Family]:
    out: dict[str, Family] = {}
    for snapshot in snapshots:
        for shard in snapshot.contents.shards:
            documents = shard.tables["documents"]
            family = out.setdefault(documents.path, Family(documents=documents, tables={}, layers=frozenset()))
            family.tables |= {ref.path: (name, ref) for name, ref in shard.tables.items() if name != "documents"}
            family.layers |= frozenset(snapshot.contents.layers)
    return out


def _quotations(store: Store, task: Task) -> Receipt:
    """Hashes of the runs of words in the texts of one family."""
    rows = pa.array(sorted(task["gone"]), pa.int32())
    texts = read_table(store, task["family"].documents, ["text"])["text"].combine_chunks().take(rows)
    path = Path(task["folder"]) / f"quotations-{task['index']}.npy"
    np.save(path, np.unique(shingles(texts, WORDS).values))
    return {"path": str(path), "documents": len(rows)}


def _shard(store: Store, task: Task) -> Receipt:
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


def _pack(store: Store, task: Task) -> Receipt:
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


def _rebuilt(
    snapshot: Snapshot, families: Mapping[str, Receipt], packs: Mapping[str, Receipt], *, layered: bool
) -> Contents:
    """The contents of a snapshot with the files that changed."""
    contents = snapshot.contents
    if contents.kind == "packs":
        shards = [_masked(shard, packs[shard.tables["pack"].path]) for shard in contents.shards]
    else:
        receipts = [families[_documents(shard)] for shard in contents.shards]
        pairs = zip(contents.shards, receipts, strict=True)
        shards = [_emptied(shard, receipt, contents.layers, layered=layered) for shard, receipt in pairs]
    layers = (RULE, *contents.layers) if layered and RULE not in contents.layers else contents.layers
    summary = {**contents.summary, "taken_down": contents.summary.get("taken_down", 0) + contents.rows}
    rebuilt = replace(contents, shards=tuple(shards), layers=layers)
    return replace(rebuilt, summary={**summary, "taken_down": summary["taken_down"] - rebuilt.rows})


def _masked(shard: Shard, receipt: Receipt) -> Shard:
    return replace(shard, tables={**shard.tables, "pack": file_ref(receipt["pack"])}) if receipt["pack"] else shard


def _emptied(shard: Shard, receipt: Receipt, layers: Sequence[str], *, layered: bool) -> Shard:
    tables = {
        name: file_ref(receipt["files"][ref.path]) if ref.path in receipt["files"] else ref
        for name, ref in shard.tables.items()
    }
    if layered:
        tables[RULE] = file_ref(receipt["layer"])
    last = shard.tables[layers[-1]].path if layers else ""
    live = receipt["live"] if layered and layers in ((), (RULE,)) else receipt["kept"].get(last, shard.rows)
    return Shard(rows=live, tables=tables)


def _held_rows(packs: Snapshot, receipts: Mapping[str, Receipt]) -> np.ndarray:
    first, rows = 0, [np.empty(0, np.int64)]
    for shard in packs.contents.shards:
        rows.append(np.asarray(receipts[shard.tables["pack"].path]["held"], np.int64) + first)
        first += shard.rows
    return np.concatenate(rows)

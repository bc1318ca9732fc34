"""Rewriting what holds documents that were taken down: shards without their text, packs with their windows masked.

Each shard family (a documents file and every table about it, in whichever snapshots) is one task, each pack file one
more; a file that holds nothing of the documents stays as it is. Rows keep their numbers: a document's row is emptied, a
decision layer `takedown` before all others drops it, and its rows in other tables go. Excerpts and passages of other
documents that share five words in a row with a text are emptied too. Packs keep length and offsets.

Cost: one look for the hashes in all documents, then the files that change are read and written once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from catalog.catalog import HOLD_TEXT, Catalog
from catalog.fingerprint import fingerprint
from catalog.run import Executor, Listener, Receipt, Work, counted, file_ref, ignore
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import FileRef
from catalog.tables import read_table, write_table
from catalog.takedown import FOUND, RULE
from dataops.kernels.hashing import distinct
from dataops.takedown_files import Family, look, mask_pack, quotations, rewrite_family


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


def begin_rewrite(catalog: Catalog, *, executor: Executor, listener: Listener = ignore) -> Work:
    """The work of rewriting what is live now, by its identity."""
    live = sorted(each.id for each in catalog.live() if each.contents.kind in HOLD_TEXT)
    identity = fingerprint({"step": RULE, "takedowns": len(catalog.takedowns), "inputs": live})
    return Work(
        name=RULE,
        step=RULE,
        fingerprint=identity,
        evidence=None,
        catalog=catalog,
        executor=executor,
        listener=listener,
    )


def rewrite(work: Work) -> Rewritten:
    """Rewrite every live snapshot that holds a document that was taken down. Nothing is committed."""
    catalog = work.catalog
    live = [each for each in catalog.live() if each.contents.kind in HOLD_TEXT]
    families = _families(each for each in live if each.contents.kind == "documents")
    gone, found = _gone(work, families)
    emptied = {each.ref for each in live if any(gone.get(_documents(shard)) for shard in each.contents.shards)}
    layered = {_documents(shard) for each in live if each.ref in emptied for shard in each.contents.shards}
    shards = _shards(work, families, gone, layered, found)
    packs = _packs(work, live, found)

    made = {each.ref: _rebuilt(each, shards, packs, layered=each.ref in emptied) for each in live}
    different = [each for each in live if made[each.ref].id != each.id]
    newest = [each.ref for each in different if catalog.snapshot(each.name) == each]
    return Rewritten(
        considered=frozenset(each.ref for each in live),
        found=found,
        contents=_counted(work, {ref: made[ref] for ref in newest}),
        expired=tuple(sorted(each.ref for each in different)),
        rows={each.ref: _held_rows(each, packs) for each in different if each.contents.kind == "packs"},
    )


def _counted(work: Work, made: Mapping[str, Contents]) -> dict[str, Contents]:
    """What replaces snapshots, by reference, with the figures of the documents that are left."""
    live = [each for each in work.catalog.history if work.catalog.is_live(each)]
    refs = [each.ref for each in live if each.ref in made]
    others = [each.contents for each in live if each.ref not in made]
    return dict(zip(refs, counted(work, [made[ref] for ref in refs], others), strict=True))


def _gone(work: Work, families: Mapping[str, Family]) -> tuple[dict[str, dict[int, int]], FileRef]:
    """By documents file, row -> takedown of what has to go; and a table of FOUND with these and what was named."""
    paths, suppressed = sorted(families), work.catalog.suppressed
    tasks = [{"documents": families[path].documents, "suppressed": suppressed} for path in paths]
    looked = work.stage("look", look, tasks)
    gone = {
        path: dict(zip(each["rows"], each["takedown"], strict=True)) for path, each in zip(paths, looked, strict=True)
    }
    tables = [pa.table([each[name] for name in FOUND.names], FOUND.names).cast(FOUND) for each in looked]
    for each in work.catalog.pending:
        named = read_table(work.store, each.named)
        tables.append(named.add_column(0, FOUND.field(0), pa.array([each.number] * named.num_rows, pa.int32())))
    rows = pa.concat_tables(tables).group_by(["id", "content"], use_threads=False).aggregate([("takedown", "min")])
    rows = rows.rename_columns(["id", "content", "takedown"]).select(FOUND.names).sort_by("id")
    return gone, write_table(work.store, rows.cast(FOUND))


def _shards(
    work: Work, families: Mapping[str, Family], gone: Mapping[str, dict[int, int]], layered: Set[str], found: FileRef
) -> dict[str, Receipt]:
    """By documents file, what `_shard` made of its family; those in `layered` get a decision layer."""
    paths, telling = sorted(families), work.folder / "telling.npy"
    tasks = [{"family": families[path], "gone": gone[path]} for path in paths if gone[path]]
    tasks = [{**task, "path": str(work.folder / f"quotations-{n}.npy")} for n, task in enumerate(tasks)]
    quoted = [np.load(receipt["path"]) for receipt in work.stage("quotations", quotations, tasks)]
    np.save(telling, distinct(np.empty(0, np.uint64), *quoted))
    tasks = [
        {
            "family": families[path],
            "gone": gone[path],
            "layered": path in layered,
            "found": found,
            "telling": str(telling),
        }
        for path in paths
    ]
    return dict(zip(paths, work.stage("shards", rewrite_family, tasks), strict=True))


def _packs(work: Work, live: Sequence[Snapshot], found: FileRef) -> dict[str, Receipt]:
    """By pack file, its masked form and the rows that held a document."""
    shards = [shard for each in live if each.contents.kind == "packs" for shard in each.contents.shards]
    packs = {shard.tables["pack"].path: shard.tables["pack"] for shard in shards}
    tasks = [{"pack": packs[path], "found": found} for path in sorted(packs)]
    return dict(zip(sorted(packs), work.stage("packs", mask_pack, tasks, unit="rows"), strict=True))


def _documents(shard: Shard) -> str:
    return shard.tables["documents"].path if "documents" in shard.tables else ""


def _families(snapshots: Iterable[Snapshot]) -> dict[str, Family]:
    out: dict[str, Family] = {}
    for snapshot in snapshots:
        for shard in snapshot.contents.shards:
            documents = shard.tables["documents"]
            family = out.setdefault(documents.path, Family(documents=documents, tables={}, layers=frozenset()))
            family.tables |= {ref.path: (name, ref) for name, ref in shard.tables.items() if name != "documents"}
            family.layers |= frozenset(snapshot.contents.layers)
    return out


def _rebuilt(
    snapshot: Snapshot, families: Mapping[str, Receipt], packs: Mapping[str, Receipt], *, layered: bool
) -> Contents:
    """The contents of a snapshot with the files that changed."""
    contents = snapshot.contents
    if contents.kind == "packs":  # rows stay, masked: the record of the takedown says which
        masked = [_masked(shard, packs[shard.tables["pack"].path]) for shard in contents.shards]
        return replace(contents, shards=tuple(masked), counts={})
    receipts = [families[_documents(shard)] for shard in contents.shards]
    pairs = zip(contents.shards, receipts, strict=True)
    shards = [_emptied(shard, receipt, contents.layers, layered=layered) for shard, receipt in pairs]
    layers = (RULE, *contents.layers) if layered and RULE not in contents.layers else contents.layers
    summary = {**contents.summary, "taken_down": contents.summary.get("taken_down", 0) + contents.rows}
    rebuilt = replace(contents, shards=tuple(shards), layers=layers, counts={})
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

"""Verification: every byte the log refers to is what the log says it is, and the parts agree with each other.

Files are hashed in parallel; the chain of the log is checked by reading it anew. Where all files of a snapshot are
sound: each step decided on every document that reached it, the rows that stay are those that the log counted, what was
taken down is gone, and packs hold what the tokenizer makes of their documents (on a sample of segments).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from catalog.catalog import Catalog
from catalog.gc import listing
from catalog.log_check import flaws
from catalog.pack_audit import check_packs
from catalog.projection import FILENAME, is_whole, published_path
from catalog.snapshot import Shard, Snapshot
from catalog.store import FileRef, Store
from catalog.tables import read_table
from catalog.takedown import suppressed_by


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What `verify` looked at and what is wrong; sound when `problems` is empty.

    `damaged` are the files among the problems. Orphans, files that no commit names, are no problem: a running command
    has some, and `gc` deletes old ones.
    """

    commits: int
    snapshots: int
    files: int
    bytes: int
    segments: int
    orphans: int
    orphan_bytes: int
    problems: tuple[str, ...]
    damaged: tuple[FileRef, ...]


def verify(catalog: Catalog, *, workers: int = 2) -> Verification:
    """Look at every file of the log and at everything that is live."""
    broken = [str(flaw) for flaw in flaws(catalog.store)]
    catalog = Catalog(catalog.store)
    live = catalog.live()
    with ThreadPoolExecutor(workers) as pool:
        files = _Files(catalog, pool)
        files.look(ref for each in live for ref in each.contents.manifests.values())
        listed = [each for each in live if files.are_sound(each.contents.manifests.values())]
        files.look(ref for each in live for ref in (catalog.files_of if each in listed else catalog.named_by)(each))
        files.look(catalog.records())
        sound = [each for each in listed if files.are_sound(catalog.files_of(each))]
        problems = broken + [problem for problem in files.wrong.values() if problem]
        damaged = tuple(files.refs[path] for path, problem in files.wrong.items() if problem)
        found = pool.map(lambda check: (check[0], check[1]()), _checks(catalog, sound))
        problems += [f"{where}: {what}" for where, what in found if what]
    if not damaged:
        problems += _check_takedowns(catalog)
    packs = check_packs(catalog, sound)
    problems += packs.problems
    if not is_whole(published_path(catalog)):
        problems.append(f"{FILENAME}: can't be read in full; the next command rebuilds it from the log")
    named = {ref.path for each in catalog.all_snapshots() for ref in catalog.known_files_of(each)} | set(files.refs)
    orphans = {path: size for path, (size, _) in listing(catalog.store).items() if path not in named}
    if len(listed) < len(live):
        orphans = {}  # what a damaged manifest lists looks like one
    return Verification(
        commits=catalog.sequence,
        snapshots=len(live),
        files=len(files.refs),
        bytes=sum(ref.bytes for ref in files.refs.values()),
        segments=packs.segments,
        orphans=len(orphans),
        orphan_bytes=sum(orphans.values()),
        problems=tuple(problems),
        damaged=damaged,
    )


class _Files:
    """Files that were looked at, and what is wrong with each, by path."""

    def __init__(self, catalog: Catalog, pool: ThreadPoolExecutor):
        self._store, self._pool = catalog.store, pool
        self.refs: dict[str, FileRef] = {}
        self.wrong: dict[str, str | None] = {}

    def look(self, wanted: Iterable[FileRef]) -> None:
        """Hash those that were not looked at yet."""
        fresh = {ref.path: ref for ref in wanted if ref.path not in self.refs}
        found = self._pool.map(lambda ref: check_file(self._store, ref), fresh.values())
        self.refs |= fresh
        self.wrong |= dict(zip(fresh, found, strict=True))

    def are_sound(self, files: Iterable[FileRef]) -> bool:
        return not any(self.wrong[ref.path] for ref in files)


def _checks(catalog: Catalog, snapshots: Sequence[Snapshot]) -> list[tuple[str, Callable[[], str | None]]]:
    """Checks of the counts of shards, each with its place; equal shards are checked once."""
    checks: dict[tuple[object, ...], tuple[str, Callable[[], str | None]]] = {}
    for snapshot in snapshots:
        for number, shard in enumerate(snapshot.contents.shards):
            layers = snapshot.contents.layers if "documents" in shard.tables else ()
            key = (shard.rows, shard.tables.get("documents"), *(shard.tables[layer] for layer in layers))
            checks.setdefault(key, (f"{snapshot.ref} shard {number}", _counts(catalog.store, shard, layers)))
    return list(checks.values())


def check_file(store: Store, ref: FileRef) -> str | None:
    """What is wrong with a stored file; None when its bytes are those that the log named."""
    try:
        size = store.fs.size(store.at(ref.path))
        if size != ref.bytes:
            return f"{ref.path}: {size} bytes, the log says {ref.bytes}"
        with store.fs.open(store.at(ref.path), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return f"{ref.path}: missing"
    if digest != ref.sha256:
        return f"{ref.path}: its bytes do not have the sha256 in its name"
    return None


def _counts(store: Store, shard: Shard, layers: Iterable[str]) -> Callable[[], str | None]:
    """A check that kept + dropped = rows in, layer by layer, and that the last keeps what the log counted."""

    def check() -> str | None:
        if "documents" not in shard.tables:
            return None
        rows = pq.read_metadata(store.local(shard.tables["documents"])).num_rows
        for layer in layers:
            table = read_table(store, shard.tables[layer], ["kept"])
            if table.num_rows != rows:
                return f"{table.num_rows} {layer} decisions on {rows} documents"
            rows = sum(table["kept"].to_pylist())
        return None if rows == shard.rows else f"{rows} live documents, the log counted {shard.rows}"

    return check


def _check_takedowns(catalog: Catalog) -> list[str]:
    """Live shards that hold a text that was taken down, and takedowns that are not finished."""
    problems = [f"takedown {each.number} is not finished: run `tamis takedown --finish`" for each in catalog.pending]
    if not catalog.takedowns or problems:
        return problems
    seen = set()
    for snapshot in catalog.live():
        for number, shard in enumerate(snapshot.contents.shards):
            ref = shard.tables.get("documents")
            if ref is None or ref.path in seen:
                continue
            seen.add(ref.path)
            table = read_table(catalog.store, ref, ["content", "n_chars"])
            count = np.count_nonzero(suppressed_by(catalog.store, table, catalog.suppressed))
            if count:
                problems.append(f"{snapshot.ref} shard {number}: holds {count} texts that were taken down")
    return problems

"""Deleting what nothing refers to: files of expired snapshots, leftovers of writers, work that was never resumed.

A file goes only if it is older than the grace period and no live snapshot, no takedown's record and no work folder that
stays refers to it. What the log knows is looked up by name; a listing only adds files with a content name that the log
does not know. Why that is safe beside writers: a writer that meets its file already there renews the time of it
(catalog.store), a run says in its work folder which snapshots it reads before it looks whether they are live, and
receipts there name the files that it wrote; gc commits what expires, then reads these folders, then the log again.
So the grace period has to cover one task of a run, from its first file to its receipt, or, where several machines share
a store, a whole run: only work folders of this machine are seen.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.run import CLAIM
from catalog.snapshot import Snapshot
from catalog.store import Store

CONTENT_NAME = re.compile(r"data/([0-9a-f]{2})/\1[0-9a-f]{62}\.[a-z]+")
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
UNFINISHED = re.compile(r".+\.[0-9a-f]{12}(\.tmp)?")  # what a writer that was killed leaves beside a name


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """What goes, each with its bytes: data files that the log knows, those it does not know, and work folders.

    `spared` are data files that nothing refers to either, but that are younger than the grace period.
    """

    known: dict[str, int]
    orphans: dict[str, int]
    work: dict[str, int]
    spared: dict[str, int] = field(default_factory=dict, compare=False)

    @property
    def bytes(self) -> int:
        return sum(sum(each.values()) for each in (self.known, self.orphans, self.work))


def expirable(catalog: Catalog, *, keep: int) -> list[str]:
    """References of all live versions but the newest `keep` of each name. Raises UsageError below 1."""
    if keep < 1:
        raise UsageError(f"keep {keep} versions of each name: expected at least 1")
    by_name: dict[str, list[Snapshot]] = {}
    for each in catalog.live():
        by_name.setdefault(each.name, []).append(each)
    return [each.ref for versions in by_name.values() for each in versions[:-keep]]


def collect(catalog: Catalog, *, grace_seconds: float, expiring: Iterable[str] = ()) -> Garbage:
    """What can go now, and what could once the snapshots in `expiring` have expired."""
    before = time.time() - grace_seconds
    store = catalog.store
    work = {str(folder.relative_to(store.here)): _size(folder) for folder in _abandoned(store, before)}
    used = _used(catalog, set(expiring), skipped=set(work))
    names = {ref.path for each in catalog.all_snapshots() for ref in catalog.known_files_of(each)}
    listed = listing(store)
    unused = {path: facts for path, facts in listed.items() if path not in used}
    old = {path: size for path, (size, changed) in unused.items() if changed < before}
    return Garbage(
        known={path: size for path, size in old.items() if path in names},
        orphans={path: size for path, size in old.items() if path not in names},
        work=work,
        spared={path: size for path, (size, _) in unused.items() if path not in old},
    )


def delete(catalog: Catalog, garbage: Garbage, *, grace_seconds: float) -> Garbage:
    """Delete it, but for what came into use or was written anew since; returns what went."""
    store, before = catalog.store, time.time() - grace_seconds
    for name in garbage.work:
        _delete_folder(store.here / name)
    for folder in _leftovers(store):
        shutil.rmtree(folder, ignore_errors=True)
    used = _used(catalog, set(), skipped=set())
    gone = {
        path
        for path in (*garbage.known, *garbage.orphans)
        if path not in used and _delete_file(store, path, before=before)
    }
    store.sweep()
    _drop_copies(store, used)
    return Garbage(
        known={path: size for path, size in garbage.known.items() if path in gone},
        orphans={path: size for path, size in garbage.orphans.items() if path in gone},
        work=garbage.work,
        spared=garbage.spared,
    )


def _used(catalog: Catalog, expiring: set[str], *, skipped: set[str]) -> set[str]:
    """Paths that live snapshots, records and unfinished work (but for the folders in `skipped`) refer to.

    Folders are read before the log: a run commits before its folder goes, so its files are seen in one of them.
    """
    claimed: set[str] = set()
    used: set[str] = set()
    for folder in _work_folders(catalog.store):
        if str(folder.relative_to(catalog.store.here)) not in skipped:
            claimed |= set(_text(folder / CLAIM).split())
            for path, _ in _inside(folder):
                if path.name.endswith(".receipts.jsonl"):
                    used |= {match[0] for match in CONTENT_NAME.finditer(_text(path))}
    used |= {ref.path for ref in catalog.refresh().records()}
    for each in catalog.all_snapshots():
        if each.ref in claimed or (catalog.is_live(each) and each.ref not in expiring):
            used |= {ref.path for ref in catalog.files_of(each)}
    return used


def listing(store: Store) -> dict[str, tuple[int, float]]:
    """Size and time of last change of every content-named file, and of what killed writers left beside them."""
    out = {name: facts for name, facts in _listed(store) if CONTENT_NAME.fullmatch(name) or UNFINISHED.fullmatch(name)}
    return dict(sorted(out.items()))


def _listed(store: Store) -> Iterator[tuple[str, tuple[int, float]]]:
    if store.is_local:
        for path, facts in _inside(store.here / "data"):
            yield str(path.relative_to(store.here)), (facts.st_size, facts.st_mtime)
        return
    for path, details in store.fs.find(store.at("data"), detail=True).items():
        changed = store.fs.modified(path).timestamp()
        yield path[path.rindex("/data/") + 1 :], (int(details["size"]), changed)


def _inside(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files under a folder, but for those that vanish meanwhile."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                path = Path(parent) / name
                yield path, path.lstat()


def _delete_file(store: Store, path: str, *, before: float) -> bool:
    """Delete a file last changed before a time; True when it went.

    On a local disk it is put aside first and looked at once more: a writer that renewed it just before gets it back,
    one that comes later finds the name free and writes the file again.
    """
    at = store.at(path)
    try:
        if not store.is_local:
            if store.fs.modified(at).timestamp() >= before:
                return False
            store.fs.rm_file(at)
            return True
        aside = f"{at}.{os.urandom(6).hex()}"
        os.rename(at, aside)
        if os.stat(aside).st_mtime >= before:
            os.rename(aside, at)
            return False
        os.unlink(aside)
    except FileNotFoundError:
        return False
    return True


def _drop_copies(store: Store, used: set[str]) -> None:
    """Delete this machine's copies of files of a remote store that are not in use."""
    if store.is_local:
        return
    for path in (store.here / "data").glob("*/*"):
        if str(path.relative_to(store.here)) not in used:
            path.unlink(missing_ok=True)


def _leftovers(store: Store) -> list[Path]:
    """Work folders that a gc had put aside when it was killed."""
    return [each for each in (store.here / "work").glob("_*") if FINGERPRINT.fullmatch(each.name[1:])]


def _work_folders(store: Store) -> list[Path]:
    return [each for each in sorted((store.here / "work").glob("*")) if FINGERPRINT.fullmatch(each.name)]


def _abandoned(store: Store, before: float) -> Iterator[Path]:
    """Work folders in which nothing changed since a time and whose run holds no lock."""
    for folder in _work_folders(store):
        with suppress(FileNotFoundError):
            newest = max([folder.lstat().st_mtime, *(facts.st_mtime for _, facts in _inside(folder))])
            if newest < before and not _locked(folder / "lock"):
                yield folder


def _locked(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _delete_folder(folder: Path) -> None:
    """Delete a work folder, unless its run began again; a run that begins now finds none and starts anew."""
    if not _locked(folder / "lock"):
        aside = folder.with_name(f"_{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)  # of a gc that was killed here
        with suppress(FileNotFoundError):
            os.rename(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)


def _size(folder: Path) -> int:
    return sum(facts.st_size for _, facts in _inside(folder))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""

"""The whole log, file by file: what is wrong with it, and what its own copies can mend.

Opening a store starts from checkpoints; here every commit file is read, and compared with the checkpoint that has a
copy of it. Cost: one read a commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from catalog.errors import CorruptStore
from catalog.log import CHECKPOINT_EVERY, ENTRY, check_follows, checkpoint_name, commit_name
from catalog.log_format import Commit, parse, split
from catalog.store import Store


@dataclass(frozen=True, kw_only=True)
class Flaw:
    """A file of the log that is not as it was written, and the bytes it had, if another file has them."""

    name: str
    problem: str
    remedy: bytes | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.problem}" + ("" if self.remedy is None else " (the log holds a copy of it)")


def flaws(store: Store) -> Iterator[Flaw]:
    """What is wrong with commit files and checkpoints, oldest first; ends at a commit that is lost."""
    parent: Commit | None = None
    newest = _newest(store)
    for first in range(1, newest + 1, CHECKPOINT_EVERY):
        last = first + CHECKPOINT_EVERY - 1
        checkpoint = _read(store, checkpoint_name(last))
        copies = dict(enumerate(split(checkpoint), first))
        files = []
        for sequence in range(first, min(last, newest) + 1):
            name = commit_name(sequence)
            data = _read(store, name)
            problem = _problem(parent, data, name)
            if problem:
                data = copies.get(sequence, b"")
                lost = bool(_problem(parent, data, name))
                yield Flaw(name=name, problem=problem, remedy=None if lost else data)
                if lost:
                    return
            parent = parse(data, where=name)
            files.append(data)
        if checkpoint and checkpoint != b"".join(files):
            yield Flaw(name=checkpoint_name(last), problem="not what its commits say", remedy=b"".join(files))


def mend(store: Store) -> list[Flaw]:
    """Write anew each flawed file that the log holds a copy of; returns those."""
    mended = [flaw for flaw in flaws(store) if flaw.remedy is not None]
    for flaw in mended:
        assert flaw.remedy is not None
        store.replace(flaw.name, flaw.remedy)
    return mended


def _read(store: Store, name: str) -> bytes:
    try:
        return store.read(name)
    except FileNotFoundError:
        return b""


def _problem(parent: Commit | None, data: bytes, name: str) -> str:
    if not data:
        return "missing or empty"
    try:
        check_follows(parent, parse(data, where=name), where=name)
    except CorruptStore as error:
        return str(error).removeprefix(name).strip()
    return ""


def _newest(store: Store) -> int:
    """The last commit that any file tells of. Listed: a hole must not be taken for the head."""
    names = store.names("_log")
    commits = [int(name[:12]) for name in names if ENTRY.fullmatch(name)]
    checkpoints = [int(name[:12]) for name in names if ENTRY.fullmatch(name.removesuffix("l"))]
    return max([*commits, *checkpoints], default=0)

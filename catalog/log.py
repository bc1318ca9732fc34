"""The commit log: immutable numbered JSON files, each naming its parent's hash. It is the truth of a store.

Commit N is `_log/{N:012d}.json`, created only if absent, so of two writers that saw the same head one wins and the
other reads what won and tries again. Readers go 1..head by name; a listing of what lies beyond only tells a hole from
the head. A commit carries a token: a writer that got no clear answer, or was started again, finds its token in the log
and is done. Each file closes with the sha256 of all its bytes before, the parent's sha256 among them, so no edit goes
unseen. The one loss a log can't show is that of its newest commits.

Every 1,000 commits their files are put together as a checkpoint, `_log/{N:012d}.jsonl`, for readers to start from: one
file instead of a thousand. Who makes commit N writes it, or else the next writer that misses it. Losing one loses
nothing, and a damaged one is passed over.
Cost: one exclusive create and two fsyncs a commit; 20 ms more every 1,000.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

from catalog.errors import ConflictError, CorruptStore, TamisError
from catalog.log_format import GENESIS, Action, Commit, parse, seal, split
from catalog.store import Store

ATTEMPTS = 200
CHECKPOINT_EVERY = 1000
ENTRY = re.compile(r"[0-9]{12}\.json")


class Log:
    """The commits of a store, read once and extended."""

    def __init__(self, store: Store):
        self._store = store
        self._commits: list[Commit] = []
        self._tokens: dict[str, Commit] = {}
        self._tail: list[bytes] = []  # files since the last multiple of CHECKPOINT_EVERY
        self._missing: dict[int, bytes] = {}  # checkpoints that were not there, as they should be

    def refresh(self) -> list[Commit]:
        """All commits up to the present head, oldest first. Raises CorruptStore when the chain is broken."""
        opening = not self._commits
        self._read_on()
        if opening:
            self._check_end()
        return self._commits

    @property
    def head(self) -> Commit | None:
        """The newest commit that was read; None when there is none."""
        return self._commits[-1] if self._commits else None

    def append(self, build: Callable[[list[Commit]], list[Action]]) -> Commit:
        """`append_once` under a token of its own: calling it again commits again."""
        return self.append_once(new_token(), build)

    def append_once(self, token: str, build: Callable[[list[Commit]], list[Action]]) -> Commit:
        """The commit with this token: the one in the log, by whatever process, or else a new one of what `build` makes.

        `build` gets the present commits, and is called again when another writer came first. It checks its
        requirements against them and raises when they don't hold.
        """
        for attempt in range(ATTEMPTS):
            commits = self.refresh()
            if token not in self._tokens:
                self._try(token, build(commits))
            if token in self._tokens:
                self._write_checkpoints()
                return self._tokens[token]
            time.sleep(min(0.1, 0.001 * attempt))
        raise ConflictError(
            f"{ATTEMPTS} attempts to commit to {self._store.root} lost to other writers: try again later"
        )

    def _try(self, token: str, actions: list[Action]) -> None:
        """Try to be the next commit, and take in who was. Raises OSError, TamisError: it could not be written."""
        sequence = len(self._commits) + 1
        body = {
            "sequence": sequence,
            "parent_sha256": self.head.sha256 if self.head else GENESIS,
            "token": token,
            "time": time.time(),
            "actions": actions,
        }
        data = seal(body)
        try:
            won = self._store.put_if_absent(commit_name(sequence), data)
        except (OSError, TamisError):  # perhaps it was written and only the answer was lost
            self.refresh()
            if token not in self._tokens:
                raise
            return
        if won:
            self._add(parse(data, where=self._where(commit_name(sequence))), data)
        else:
            self.refresh()

    def _read_on(self) -> None:
        while True:
            count = len(self._commits)
            if count % CHECKPOINT_EVERY == 0 and self._read_checkpoint(count + CHECKPOINT_EVERY):
                continue
            try:
                data = self._store.read(commit_name(count + 1))
            except FileNotFoundError:
                return
            self._add(parse(data, where=self._where(commit_name(count + 1))), data)

    def _read_checkpoint(self, last: int) -> bool:
        """Take the commits up to `last` from their checkpoint; False when it is not there or not whole."""
        try:
            data = self._store.read(checkpoint_name(last))
        except FileNotFoundError:
            return False
        try:
            commits = read_checkpoint(data, self.head, where=self._where(checkpoint_name(last)))
        except CorruptStore:  # the commits themselves are the truth, and `verify` compares the two
            return False
        self._commits += commits
        self._tokens |= {commit.token: commit for commit in commits}
        return True

    def _add(self, commit: Commit, data: bytes) -> None:
        check_follows(self.head, commit, where=self._where(commit_name(len(self._commits) + 1)))
        self._commits.append(commit)
        self._tokens[commit.token] = commit
        self._tail.append(data)
        if commit.sequence % CHECKPOINT_EVERY == 0:
            self._missing[commit.sequence] = b"".join(self._tail)
            self._tail = []

    def _check_end(self) -> None:
        """Raise CorruptStore when files lie beyond the first number that is not there."""
        listed = self._store.names("_log", after=f"{len(self._commits):012d}.json")
        newest = max((int(name[:12]) for name in listed if ENTRY.fullmatch(name)), default=0)
        self._read_on()  # it came after our reading, unless one before it is gone
        if len(self._commits) < newest:
            gone = commit_name(len(self._commits) + 1)
            raise CorruptStore(
                f"{gone} is missing from {self._store.root}, where {commit_name(newest)} is: restore it from a copy"
            )

    def _write_checkpoints(self) -> None:
        """Write those that were missing or damaged when the log was read."""
        for last, data in self._missing.items():
            with suppress(OSError, TamisError):  # the commit is done; the next writer that misses it tries again
                if not _holds(self._store, checkpoint_name(last), data):
                    self._store.replace(checkpoint_name(last), data)
        self._missing = {}

    def _where(self, name: str) -> str:
        return f"{name} in {self._store.root}"


def new_token() -> str:
    """A token that no other commit has."""
    return secrets.token_hex(16)


def commit_name(sequence: int) -> str:
    """Where commit `sequence` lies in the store."""
    return f"_log/{sequence:012d}.json"


def checkpoint_name(last: int) -> str:
    """Where the checkpoint lies that ends with commit `last`."""
    return f"_log/{last:012d}.jsonl"


def read_checkpoint(data: bytes, parent: Commit | None, *, where: str) -> list[Commit]:
    """The commits of a checkpoint that follow `parent`. Raises CorruptStore unless it is whole."""
    commits: list[Commit] = []
    for each in split(data):
        commits.append(parse(each, where=where))
        check_follows(parent, commits[-1], where=where)
        parent = commits[-1]
    if len(commits) != CHECKPOINT_EVERY:
        raise CorruptStore(f"{where} was cut short after {len(commits)} of {CHECKPOINT_EVERY} commits")
    return commits


def _holds(store: Store, path: str, data: bytes) -> bool:
    try:
        return store.read(path) == data
    except FileNotFoundError:
        return False


def check_follows(parent: Commit | None, commit: Commit, *, where: str) -> None:
    """Raise CorruptStore unless `commit` is the one after `parent`, or the first when there is none."""
    sequence, sha256 = (parent.sequence, parent.sha256) if parent else (0, GENESIS)
    if (commit.sequence, commit.parent_sha256) != (sequence + 1, sha256):
        raise CorruptStore(f"{where} does not follow commit {sequence}: the chain is broken")

"""The commit log: immutable numbered JSON files, each naming its parent's hash. It is the truth of a store.

Commit N is `_log/{N:012d}.json`, created only if absent, so of two writers that saw the same head one wins and the
other reads what won and tries again. Readers go 1..head by name; a listing taken before only tells how far they must
come, so that a hole is not taken for the head. A commit carries a token: when a writer gets no clear answer and finds
its own token under the number it tried, it is done. Each file closes with the sha256 of all its bytes before, the
parent's sha256 among them, so no edit goes unseen. The one loss a log can't show is that of its newest commits.
Cost: one exclusive create and two fsyncs a commit.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from catalog.errors import ConflictError, CorruptStore
from catalog.store import Store

FORMAT = 2  # 2: snapshots may name manifests of their shards, and counts
GENESIS = "0" * 64
ATTEMPTS = 200
SEAL = b',\n "sha256": '
ENTRY = re.compile(r"[0-9]{12}\.json")

Action = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One entry: its number, its parent's sha256, what it adds, and the sha256 of all that."""

    sequence: int
    parent_sha256: str
    token: str
    time: float
    actions: tuple[Action, ...]
    sha256: str


class Log:
    """The commits of a store, read once and extended."""

    def __init__(self, store: Store):
        self._store = store
        self._commits: list[Commit] = []

    def refresh(self) -> list[Commit]:
        """All commits up to the present head, oldest first. Raises CorruptStore when the chain is broken."""
        known = len(self._commits) or _newest_listed(self._store)
        for commit in _read(self._store, self._commits[-1] if self._commits else None):
            self._commits.append(commit)
        if len(self._commits) < known:
            raise CorruptStore(
                f"{_name(len(self._commits) + 1)} is missing from {self._store.root}, where {_name(known)} is: "
                "restore it from a copy"
            )
        return self._commits

    def append(self, build: Callable[[list[Commit]], list[Action]]) -> Commit:
        """Commit what `build` makes of the present commits; called again when another writer came first.

        `build` checks its requirements against the commits it is given and raises when they no longer hold.
        """
        token = secrets.token_hex(16)
        for attempt in range(ATTEMPTS):
            commits = self.refresh()
            parent = commits[-1].sha256 if commits else GENESIS
            sequence = len(commits) + 1
            body = {
                "format": FORMAT,
                "sequence": sequence,
                "parent_sha256": parent,
                "token": token,
                "time": time.time(),
                "actions": build(commits),
            }
            if self._create(sequence, _seal(body), token):
                return self.refresh()[sequence - 1]
            time.sleep(min(0.1, 0.001 * attempt))
        raise ConflictError(
            f"{ATTEMPTS} attempts to commit to {self._store.root} lost to other writers: try again later"
        )

    def _create(self, sequence: int, data: bytes, token: str) -> bool:
        try:
            return self._store.put_if_absent(_name(sequence), data) or self._is_ours(sequence, token)
        except OSError:  # no clear answer: it may have been written
            if self._is_ours(sequence, token):
                return True
            raise

    def _is_ours(self, sequence: int, token: str) -> bool:
        try:
            return bool(json.loads(self._store.read(_name(sequence)))["token"] == token)
        except (OSError, ValueError):
            return False


def _seal(body: Mapping[str, Any]) -> bytes:
    """The bytes of a commit: its JSON, closed by the sha256 of everything before."""
    opened = json.dumps(body, indent=1, sort_keys=True).removesuffix("\n}").encode()
    return b'%s%s"%s"\n}\n' % (opened, SEAL, _sha256(opened))


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _newest_listed(store: Store) -> int:
    numbers = [int(name[:12]) for name in store.names("_log") if ENTRY.fullmatch(name)]
    return max(numbers, default=0)


def _name(sequence: int) -> str:
    return f"_log/{sequence:012d}.json"


def _read(store: Store, last: Commit | None) -> Iterator[Commit]:
    sequence = last.sequence + 1 if last else 1
    parent = last.sha256 if last else GENESIS
    while True:
        try:
            data = store.read(_name(sequence))
        except FileNotFoundError:
            return
        commit = _parse(data, where=f"{_name(sequence)} in {store.root}")
        if commit.sequence != sequence or commit.parent_sha256 != parent:
            raise CorruptStore(
                f"{_name(sequence)} in {store.root} does not follow commit {sequence - 1}: the chain is broken"
            )
        yield commit
        sequence, parent = sequence + 1, commit.sha256


def _parse(data: bytes, *, where: str) -> Commit:
    opened, _, digest = data.rpartition(SEAL)
    try:
        body = json.loads(data)
        if body["format"] > FORMAT:
            raise CorruptStore(f"{where} has log format {body['format']}, this tamis reads {FORMAT}: upgrade tamis")
        commit = Commit(
            sequence=body["sequence"],
            parent_sha256=body["parent_sha256"],
            token=body["token"],
            time=body["time"],
            actions=tuple(body["actions"]),
            sha256=body["sha256"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptStore(f"{where} is not a commit: {error!r}") from error
    if digest != b'"%s"\n}\n' % _sha256(opened):
        raise CorruptStore(f"{where} was changed after it was written: restore it from a copy")
    return commit

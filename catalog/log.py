"""The commit log: immutable numbered JSON files, each naming its parent's hash. It is the truth of a store.

Commit N is `_log/{N:012d}.json`, created only if absent, so of two writers that saw the same head one wins and the
other reads what won and tries again. Readers go 1..head by name and never list the folder of a live store. A commit
carries a token: when a writer gets no clear answer and finds its own token under the number it tried, it is done.
Cost: one exclusive create and two fsyncs a commit.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from catalog.errors import ConflictError, CorruptStore
from catalog.store import Store

FORMAT = 1
GENESIS = "0" * 64
ATTEMPTS = 200

Action = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One entry: its number, its parent's sha256, and what it adds."""

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
        for commit in _read(self._store, self._commits[-1] if self._commits else None):
            self._commits.append(commit)
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
            data = json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False).encode()
            if self._store.put_if_absent(_name(sequence), data) or self._is_ours(sequence, token):
                return self.refresh()[sequence - 1]
            time.sleep(min(0.1, 0.001 * attempt))
        raise ConflictError(
            f"{ATTEMPTS} attempts to commit to {self._store.root} lost to other writers: try again later"
        )

    def _is_ours(self, sequence: int, token: str) -> bool:
        return bool(json.loads(self._store.read(_name(sequence)))["token"] == token)


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
        try:
            body = json.loads(data)
        except ValueError as error:
            raise CorruptStore(f"{_name(sequence)} in {store.root} is not JSON: {error}") from error
        if body["format"] != FORMAT:
            raise CorruptStore(
                f"{_name(sequence)} has log format {body['format']}, this tamis reads {FORMAT}: upgrade tamis"
            )
        if body["sequence"] != sequence or body["parent_sha256"] != parent:
            raise CorruptStore(
                f"{_name(sequence)} in {store.root} does not follow commit {sequence - 1}: the chain is broken"
            )
        commit = Commit(
            sequence=sequence,
            parent_sha256=parent,
            token=body["token"],
            time=body["time"],
            actions=tuple(body["actions"]),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        yield commit
        sequence, parent = sequence + 1, commit.sha256

"""The bytes of the log: a commit is one line of JSON that ends with the sha256 of everything before it.

A checkpoint is commit files one after another, byte for byte. So it needs no seal of its own: each line proves itself
and names its parent, a torn file lacks its last line, and commit files that were lost can be cut out of it.

Versions (`format` of each commit). Commits are never rewritten: an older one is brought up to date in memory, step by
step, and new ones are written in the newest format, which older software then refuses.

    1   JSON over several lines
    2   one line; snapshots name their inputs (in the last days of format 1 they did already)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from catalog.errors import CorruptStore, UnreadableFormat

FORMAT = 2
GENESIS = "0" * 64
SEALS = {1: (b',\n "sha256": "', b'"\n}\n'), 2: (b',"sha256":"', b'"}\n')}

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


def seal(body: Mapping[str, Any]) -> bytes:
    """The bytes of a commit in the newest format."""
    opened = json.dumps({**body, "format": FORMAT}, sort_keys=True, separators=(",", ":")).removesuffix("}").encode()
    before, after = SEALS[FORMAT]
    return opened + before + _sha256(opened) + after


def parse(data: bytes, *, where: str) -> Commit:
    """The commit in `data`. Raises CorruptStore, and UnreadableFormat when other software wrote it."""
    try:
        body = json.loads(data)
        version = int(body["format"])
        if version > FORMAT:
            raise UnreadableFormat(f"{where} has log format {version}, this tamis reads up to {FORMAT}: upgrade tamis")
        commit = Commit(
            sequence=body["sequence"],
            parent_sha256=body["parent_sha256"],
            token=body["token"],
            time=body["time"],
            actions=_up_to_date(tuple(body["actions"]), version, where=where),
            sha256=body["sha256"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptStore(f"{where} is not a commit: {error!r}") from error
    before, after = SEALS.get(version, SEALS[FORMAT])
    opened, _, digest = data.rpartition(before)
    if digest != _sha256(opened) + after:
        raise CorruptStore(f"{where} was changed after it was written: restore it from a copy")
    return commit


def split(data: bytes) -> Iterator[bytes]:
    """The commit files that a checkpoint was put together from; what follows the last whole one is left out."""
    start = 0
    while start < len(data):
        end_mark = b"\n}\n" if data.startswith(b"{\n", start) else b"\n"
        end = data.find(end_mark, start)
        if end < 0:
            return
        yield data[start : end + len(end_mark)]
        start = end + len(end_mark)


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def _up_to_date(actions: tuple[Action, ...], version: int, *, where: str) -> tuple[Action, ...]:
    for older in range(version, FORMAT):
        actions = tuple(MIGRATIONS[older](action, where) for action in actions)
    return actions


def _name_inputs(action: Action, where: str) -> Action:
    """Format 1 -> 2. The first snapshots did not name their inputs, and ids don't tell which names were meant."""
    if "snapshot" in action and "inputs" not in action["snapshot"]:
        raise UnreadableFormat(
            f"{where} was written before snapshots named their inputs, which can't be made up now: "
            "run the recipe again into a new --store"
        )
    return action


MIGRATIONS: dict[int, Callable[[Action, str], Action]] = {1: _name_inputs}

"""Snapshots: named, versioned, immutable sets of shards; and the runs that made them.

A shard is a row of co-partitioned Parquet tables about the same documents: `documents` (with the text) and any number
of attributes and decisions, each with a `row` column that points into `documents`. A step adds tables and leaves the
text where it is: dropping a document means a decision row, so nothing is deleted and every later question can still
be answered. `layers` lists the decision tables in order; a document is live when the last of them keeps it.

A snapshot's `id` is the sha256 of what it contains, so two runs with equal ids produced equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from catalog.errors import UsageError
from catalog.fingerprint import fingerprint
from catalog.store import FileRef

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
REFERENCE = re.compile(rf"({NAME.pattern})(?:@([0-9]+))?")
KINDS = (
    *("documents", "tokenizer", "classifier", "mixture", "packs"),
    *("model", "lessons", "evaluation", "export", "audit"),
)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One partition of a snapshot. `rows` counts its live documents (or windows, for packs)."""

    rows: int
    tables: Mapping[str, FileRef]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a step produced, before it has a name: this alone decides the snapshot's id.

    `summary` holds deterministic figures about the result; timings belong to the run.
    """

    kind: str
    shards: tuple[Shard, ...] = ()
    layers: tuple[str, ...] = ()
    artifacts: Mapping[str, FileRef] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no snapshot kind {self.kind!r}; the kinds are {', '.join(KINDS)}")

    @property
    def id(self) -> str:
        """sha256 (hex) over kind, layers and the digests of all files in order."""
        return fingerprint(
            {
                "kind": self.kind,
                "layers": self.layers,
                "shards": [{name: ref.sha256 for name, ref in shard.tables.items()} for shard in self.shards],
                "artifacts": {name: ref.sha256 for name, ref in self.artifacts.items()},
            }
        )

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Contents with a name, a version, the run that made them, and the references of the snapshots it read.

    The run knows its inputs by id, which several snapshots may share; `inputs` says which ones were meant.
    """

    name: str
    version: int
    run: str
    inputs: tuple[str, ...]
    contents: Contents

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def id(self) -> str:
        return self.contents.id

    def artifact(self, name: str) -> FileRef:
        """One of its files. Raises UsageError naming what there is."""
        try:
            return self.contents.artifacts[name]
        except KeyError:
            have = ", ".join(self.contents.artifacts) or "none"
            raise UsageError(f"{self.ref} ({self.contents.kind}) has no {name!r}; its artifacts: {have}") from None

    def require(self, kind: str, *tables: str) -> Snapshot:
        """Itself, when it is of `kind` and its shards have `tables`; else UsageError saying which step adds them."""
        if self.contents.kind != kind:
            raise UsageError(f"{self.ref} is a {self.contents.kind} snapshot where {kind} was expected")
        for table in tables:
            if any(table not in shard.tables for shard in self.contents.shards):
                have = ", ".join(sorted({name for shard in self.contents.shards for name in shard.tables}))
                raise UsageError(f"{self.ref} has no table {table!r} (it has {have}); run the step that makes it first")
        return self


@dataclass(frozen=True, kw_only=True)
class Run:
    """One execution of a step: `fingerprint` identifies step and inputs; the rest says how it went."""

    fingerprint: str
    step: str
    parameters: Mapping[str, Any]
    inputs: tuple[str, ...]
    code: str
    started: float
    seconds: float
    stages: tuple[Mapping[str, Any], ...] = ()
    attachments: Mapping[str, FileRef] = field(default_factory=dict)


def parse_reference(text: str) -> tuple[str, int | None]:
    """`name` or `name@version` -> (name, version or None for the newest). Raises UsageError."""
    match = REFERENCE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a snapshot reference: expected name or name@version, like clean or clean@3")
    name, version = match.groups()
    return name, int(version) if version else None


def snapshot_action(snapshot: Snapshot) -> dict[str, Any]:
    """The log's form of a snapshot."""
    return {"snapshot": {**asdict(snapshot), "id": snapshot.id}}


def run_action(run: Run) -> dict[str, Any]:
    """The log's form of a run."""
    return {"run": asdict(run)}


def snapshot_from_action(body: Mapping[str, Any]) -> Snapshot:
    """Inverse of `snapshot_action`."""
    contents = body["contents"]
    shards = tuple(Shard(rows=s["rows"], tables=_refs(s["tables"])) for s in contents["shards"])
    return Snapshot(
        name=body["name"],
        version=body["version"],
        run=body["run"],
        inputs=tuple(body["inputs"]),
        contents=Contents(
            kind=contents["kind"],
            shards=shards,
            layers=tuple(contents["layers"]),
            artifacts=_refs(contents["artifacts"]),
            summary=contents["summary"],
        ),
    )


def run_from_action(body: Mapping[str, Any]) -> Run:
    """Inverse of `run_action`."""
    fields = {**body, "inputs": tuple(body["inputs"]), "stages": tuple(body["stages"])}
    return Run(**{**fields, "attachments": _refs(body["attachments"])})


def _refs(tables: Mapping[str, Any]) -> dict[str, FileRef]:
    return {name: FileRef(**ref) for name, ref in tables.items()}

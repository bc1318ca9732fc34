"""Snapshots: named, versioned, immutable sets of shards; and the runs that made them.

A shard is a row of co-partitioned Parquet tables about the same documents: `documents` (with the text) and any number
of attributes and decisions, each with a `row` column that points into `documents`. A step adds tables and leaves the
text where it is: dropping a document means a decision row, so nothing is deleted and every later question can still
be answered. `layers` lists the decision tables in order; a document is live when the last of them keeps it.

A snapshot's `id` is the sha256 of what it contains, so two runs with equal ids produced equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from catalog.documents import OF_TOKENS, USUAL, Documents
from catalog.errors import UsageError
from catalog.fingerprint import fingerprint
from catalog.manifest import Filed, Shard
from catalog.store import FileRef, Store

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
REFERENCE = re.compile(rf"({NAME.pattern})(?:@([0-9]+))?")
KINDS = (
    *("documents", "tokenizer", "classifier", "mixture", "packs"),
    *("model", "lessons", "evaluation", "forecast", "export", "audit", "verdict"),
)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a step produced, before it has a name: this alone decides the snapshot's id.

    `summary` holds deterministic figures about the result; timings belong to the run. `counts` are files with figures
    that were counted from the rest (catalog.counts), so they say nothing about what it is.
    """

    kind: str
    shards: Sequence[Shard] = ()
    layers: tuple[str, ...] = ()
    artifacts: Mapping[str, FileRef] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, FileRef] = field(default_factory=dict)

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
        """Live documents (or windows, for packs) of all shards."""
        return self.shards.rows if isinstance(self.shards, Filed) else sum(shard.rows for shard in self.shards)

    @property
    def texts(self) -> tuple[str, ...]:
        """What its documents are cut from: steps that drop some of them leave this as it is."""
        if isinstance(self.shards, Filed):
            return ("documents", self.shards.files["documents"].sha256) if self.has("documents") else ()
        return tuple(shard.tables["documents"].sha256 for shard in self.shards if "documents" in shard.tables)

    def has(self, table: str) -> bool:
        """Whether it has shards and all of them have `table`."""
        if isinstance(self.shards, Filed):
            return table in self.shards.files and not self.shards.table(table)["sha256"].null_count
        return bool(self.shards) and all(table in shard.tables for shard in self.shards)

    def files(self) -> Iterator[FileRef]:
        """Every file that it needs: those of its shards, the manifests that list them, artifacts and counts."""
        if self.manifests:
            for shard in self.shards:
                yield from shard.tables.values()
        yield from self.named()

    def named(self) -> Iterator[FileRef]:
        """Those of its files that the log itself names: all but what manifests list."""
        yield from self.manifests.values()
        if not self.manifests:
            for shard in self.shards:
                yield from shard.tables.values()
        yield from self.artifacts.values()
        yield from self.counts.values()

    @property
    def manifests(self) -> Mapping[str, FileRef]:
        """The files that list its shards, by table; none where the log does."""
        return self.shards.files if isinstance(self.shards, Filed) else {}


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Contents with a name, a version, the run that made them, and the references of the snapshots it read.

    The run knows its inputs by id, which several snapshots may share; `inputs` says which ones were meant. `id` is that
    of the contents, as the log has it.
    """

    name: str
    version: int
    id: str
    run: str
    inputs: tuple[str, ...]
    contents: Contents = field(repr=False)  # it may list thousands of files
    store: Store = field(compare=False, repr=False)

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.version}"

    def artifact(self, name: str) -> FileRef:
        """One of its files. Raises UsageError naming what there is."""
        try:
            return self.contents.artifacts[name]
        except KeyError:
            have = ", ".join(self.contents.artifacts) or "none"
            raise UsageError(f"{self.ref} ({self.contents.kind}) has no {name!r}; its artifacts: {have}") from None

    def documents(self, columns: Sequence[str] = USUAL) -> Documents:
        """Its live documents. Raises UsageError for other kinds of snapshots and for columns there are not."""
        self.require("documents", *(["tokens"] if set(columns) & set(OF_TOKENS) else []))
        contents = self.contents
        return Documents(store=self.store, shards=contents.shards, layers=contents.layers, columns=tuple(columns))

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
    """One execution of a step: `fingerprint` identifies step and inputs; the rest says how it went.

    `evidence` is what the answer depended on beside them: for `ingest` name, source and sha256 of every file it read.
    """

    fingerprint: str
    step: str
    parameters: Mapping[str, Any]
    inputs: tuple[str, ...]
    code: str
    started: float
    seconds: float
    stages: tuple[Mapping[str, Any], ...] = ()
    attachments: Mapping[str, FileRef] = field(default_factory=dict)
    evidence: Any = ()

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters as a recipe states them: without the marks that make them an identity."""
        return dict(_unmarked(self.parameters))


def _unmarked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _unmarked(each) for name, each in value.items() if name not in ("is", "revision")}
    return [_unmarked(each) for each in value] if isinstance(value, list) else value


def parse_reference(text: str) -> tuple[str, int | None]:
    """`name` or `name@version` -> (name, version or None for the newest). Raises UsageError."""
    match = REFERENCE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a snapshot reference: expected name or name@version, like clean or clean@3")
    name, version = match.groups()
    return name, int(version) if version else None


def snapshot_action(snapshot: Snapshot) -> dict[str, Any]:
    """The log's form of a snapshot. For a large one it names the manifest files that list the shards."""
    contents = snapshot.contents
    form: dict[str, Any] = {name: getattr(contents, name) for name in ("kind", "layers", "summary")}
    form |= {name: _plain(getattr(contents, name)) for name in ("artifacts", "counts")}
    if isinstance(contents.shards, Filed):
        shards = contents.shards
        form["manifests"] = {"files": _plain(shards.files), "shards": len(shards), "rows": shards.rows}
    else:
        form["shards"] = [{"rows": shard.rows, "tables": _plain(shard.tables)} for shard in contents.shards]
    head = {name: getattr(snapshot, name) for name in ("name", "version", "id", "run", "inputs")}
    return {"snapshot": {**head, "contents": form}}


def run_action(run: Run) -> dict[str, Any]:
    """The log's form of a run."""
    return {"run": asdict(run)}


def snapshot_from_action(body: Mapping[str, Any], store: Store) -> Snapshot:
    """Inverse of `snapshot_action`."""
    form = body["contents"]
    shards: Sequence[Shard]
    if "manifests" in form:
        listed = form["manifests"]
        shards = Filed(store, _refs(listed["files"]), count=listed["shards"], rows=listed["rows"])
    else:
        shards = tuple(Shard(rows=each["rows"], tables=_refs(each["tables"])) for each in form["shards"])
    contents = Contents(
        kind=form["kind"],
        shards=shards,
        layers=tuple(form["layers"]),
        artifacts=_refs(form["artifacts"]),
        summary=form["summary"],
        counts=_refs(form.get("counts", {})),  # log format 1 had none
    )
    head = {name: body[name] for name in ("name", "version", "id", "run")}
    return Snapshot(**head, inputs=tuple(body["inputs"]), contents=contents, store=store)


def run_from_action(body: Mapping[str, Any]) -> Run:
    """Inverse of `run_action`."""
    fields = {**body, "inputs": tuple(body["inputs"]), "stages": tuple(body["stages"])}
    return Run(**{**fields, "attachments": _refs(body["attachments"])})


def _plain(refs: Mapping[str, FileRef]) -> dict[str, Any]:
    return {name: asdict(ref) for name, ref in refs.items()}


def _refs(tables: Mapping[str, Any]) -> dict[str, FileRef]:
    return {name: FileRef(**ref) for name, ref in tables.items()}

"""The catalog of a store: what the log says exists, by name, by id and by the run that made it.

State is a fold over the commits and holds no document: 10^9 documents are rows of Parquet files, not of the log.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from catalog.errors import ConflictError, CorruptStore, TamisError, UnknownReference, UsageError
from catalog.log import Action, Commit, Log, new_token
from catalog.manifest import filed
from catalog.snapshot import (
    NAME,
    Contents,
    Run,
    Snapshot,
    parse_reference,
    run_action,
    run_from_action,
    snapshot_action,
    snapshot_from_action,
)
from catalog.store import FileRef, Store
from catalog.takedown import (
    RULE,
    Rewrite,
    Takedown,
    holds_suppressed,
    rewrite_from_action,
    takedown_from_action,
)

HOLD_TEXT = ("documents", "packs")  # snapshots of these kinds hold the text of documents


class Catalog:
    """Snapshots and runs of one store. Several processes may hold one each; `refresh` reads what others committed."""

    def __init__(self, store: Store):
        self.store = store
        self.log = Log(store)
        self._folded = 0
        self.snapshots: dict[str, list[Snapshot]] = {}
        self.history: list[Snapshot] = []  # the same in the order of their commits
        self.runs: dict[str, Run] = {}
        self.takedowns: list[Takedown] = []
        self.rewrites: list[Rewrite] = []
        self._expired: set[str] = set()
        self._replaced: dict[str, str] = {}
        self.refresh()

    @classmethod
    def open(cls, root: str | Path, *, create: bool = False) -> Catalog:
        """The catalog under `root`. Raises UsageError when nothing is there and `create` is false."""
        store = Store(root)
        if not create and not store.exists("_log"):
            raise UsageError(f"no tamis store at {root}: name one with --store DIR or TAMIS_STORE, or run `tamis demo`")
        return cls(store)

    @property
    def sequence(self) -> int:
        """Number of the newest commit that this catalog has read."""
        return self._folded

    def refresh(self) -> Catalog:
        """Fold in the commits that came since."""
        self._fold(self.log.refresh())
        return self

    def all_snapshots(self) -> list[Snapshot]:
        """Every version of every name, expired ones too, in order of name and version."""
        return [snapshot for name in sorted(self.snapshots) for snapshot in self.snapshots[name]]

    def live(self) -> list[Snapshot]:
        """Every version that has not expired: those whose files are kept."""
        return [snapshot for snapshot in self.all_snapshots() if snapshot.ref not in self._expired]

    def is_live(self, snapshot: Snapshot) -> bool:
        """Whether its files are kept; the record of an expired snapshot stays."""
        return snapshot.ref not in self._expired

    @property
    def pending(self) -> list[Takedown]:
        """Takedowns whose documents may still lie in live snapshots."""
        done = {number for rewrite in self.rewrites for number in rewrite.takedowns}
        return [each for each in self.takedowns if each.number not in done]

    @property
    def suppressed(self) -> tuple[FileRef, ...]:
        """The tables (catalog.takedown.NAMED) of all texts that were taken down."""
        return tuple(each.named for each in self.takedowns)

    def successor(self, snapshot: Snapshot) -> Snapshot | None:
        """Itself, or what took its place after a takedown; None when that has expired."""
        while snapshot.ref in self._replaced:
            snapshot = self.snapshot(self._replaced[snapshot.ref])
        return snapshot if self.is_live(snapshot) else None

    def current(self, snapshot: Snapshot) -> Snapshot:
        """`successor`. Raises TamisError when there is none."""
        found = self.successor(snapshot)
        if found:
            return found
        versions = [each.ref for each in self.snapshots[snapshot.name] if self.is_live(each)]
        remedy = f"use {versions[-1]}" if versions else "make it again"
        raise TamisError(f"{snapshot.ref} has expired, its files may be gone: {remedy}")

    def computed_by(self, snapshot: Snapshot) -> Run:
        """The run whose step made it; a takedown that rewrote it later is not that step."""
        run = self.runs[snapshot.run]
        while run.step == RULE:
            snapshot = self.snapshot(snapshot.inputs[0])
            run = self.runs[snapshot.run]
        return run

    def snapshot(self, reference: str) -> Snapshot:
        """`name` (newest live version) or `name@version`. Raises UnknownReference with the closest names."""
        name, version = parse_reference(reference)
        versions = self.snapshots.get(name)
        if not versions:
            close = difflib.get_close_matches(name, self.snapshots, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else "; `tamis ls` lists what there is"
            raise UnknownReference(f"no snapshot named {name!r} in {self.store.root}{hint}")
        if version is None:
            return next((each for each in reversed(versions) if self.is_live(each)), versions[-1])
        if not 1 <= version <= len(versions):
            raise UnknownReference(f"{name!r} has versions 1 to {len(versions)}, not {version}")
        return versions[version - 1]

    def made_by(self, run_fingerprint: str) -> list[Snapshot]:
        """What an equal run has produced before and is live, or took its place, in order of name and version."""
        made = [self.successor(each) for each in self.all_snapshots() if each.run == run_fingerprint]
        return [each for each in made if each is not None]

    def inputs(self, snapshot: Snapshot) -> list[Snapshot]:
        """The snapshots that `snapshot` was made from."""
        return [self.snapshot(each) for each in snapshot.inputs]

    def files_of(self, snapshot: Snapshot) -> list[FileRef]:
        """Every file that a snapshot and the record of its run refer to. Raises CorruptStore without its manifests."""
        return [*snapshot.contents.files(), *self.runs[snapshot.run].attachments.values()]

    def known_files_of(self, snapshot: Snapshot) -> list[FileRef]:
        """`files_of`; where a manifest is missing or damaged, those that the log itself names."""
        try:
            return self.files_of(snapshot)
        except CorruptStore:
            return self.named_by(snapshot)

    def named_by(self, snapshot: Snapshot) -> list[FileRef]:
        """The files that the log itself names for a snapshot: `files_of` but for what manifests list."""
        return [*snapshot.contents.named(), *self.runs[snapshot.run].attachments.values()]

    def records(self) -> list[FileRef]:
        """The files of the records of takedowns, which never expire."""
        return [*self.suppressed, *(each.found for each in self.rewrites)]

    def sql(self, query: str, parameters: Sequence[object] = ()) -> pa.Table:
        """The rows of one SELECT as a `pyarrow.Table`, read-only; `?` in it stands for the parameters in turn."""
        from catalog.query import sql  # the projection is made of a catalog

        return sql(self, query, parameters)

    def commit(
        self,
        name: str,
        contents: Contents,
        run: Run,
        *,
        inputs: Sequence[Snapshot] = (),
        after: int | None = None,
        token: str | None = None,
    ) -> Snapshot:
        """Record `contents`, made from `inputs`, as the next version of `name`.

        All or nothing; ConflictError when an input is gone or has expired, when the contents hold text that was taken
        down, or when `name` is not at version `after` (0: it is new), if that is given. With a `token` it is done once,
        whoever tries: the snapshot that it was done with is returned.
        """
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} can't name a snapshot: use lower-case letters, digits, '.', '_' and '-'")

        identity, contents = contents.id, replace(contents, shards=filed(self.store, contents.shards))

        def build() -> list[Action]:
            self._check_inputs(name, contents, inputs)
            newest = self.next_version(name) - 1
            if after is not None and newest != after:
                raise ConflictError(f"{name} is at version {newest}, not {after}: look at it and run the command again")
            snapshot = Snapshot(
                name=name,
                version=newest + 1,
                id=identity,
                run=run.fingerprint,
                inputs=tuple(each.ref for each in inputs),
                contents=contents,
                store=self.store,
            )
            return [run_action(run), snapshot_action(snapshot)]

        written = self.append(build, token=token or new_token())
        return snapshot_from_action(written.actions[-1]["snapshot"], self.store)

    def next_version(self, name: str) -> int:
        """The version that the next snapshot of that name gets."""
        return len(self.snapshots.get(name, [])) + 1

    def append(self, build: Callable[[], list[Action]], *, token: str) -> Commit:
        """Commit, once for a token, the actions that `build` makes of this catalog as it is then.

        It is called again when another commit came first.
        """

        def fold_and_build(commits: list[Commit]) -> list[Action]:
            self._fold(commits)
            return build()

        written = self.log.append_once(token, fold_and_build)
        self.refresh()
        return written

    def expire(self, references: Sequence[str], *, reason: str) -> None:
        """Commit that the files of these versions need not be kept; their records stay."""
        action: Action = {"expire": {"snapshots": sorted(references), "reason": reason}}
        self.append(lambda: [action], token=new_token())

    def _check_inputs(self, name: str, contents: Contents, inputs: Sequence[Snapshot]) -> None:
        """Raise ConflictError unless `contents` may be committed now."""
        for needed in inputs:
            if needed.ref not in {each.ref for each in self.snapshots.get(needed.name, [])}:
                raise ConflictError(f"{needed.ref}, an input of {name}, left the catalog while the run went on")
            if contents.kind in HOLD_TEXT and not self.is_live(needed):
                raise ConflictError(
                    f"{needed.ref}, an input of {name}, expired while the run went on: run the same command again"
                )
        if not inputs and holds_suppressed(self.store, contents, self.suppressed):
            raise ConflictError(f"text of {name} was taken down while it was read: run the same command again")

    def _fold(self, commits: list[Commit]) -> None:
        for commit in commits[self._folded :]:
            for action in commit.actions:
                self._apply(action, time=commit.time)
        self._folded = len(commits)

    def _apply(self, action: Mapping[str, Any], *, time: float) -> None:
        if "snapshot" in action:
            snapshot = snapshot_from_action(action["snapshot"], self.store)
            self.snapshots.setdefault(snapshot.name, []).append(snapshot)
            self.history.append(snapshot)
        if "run" in action:
            run = run_from_action(action["run"])
            self.runs.setdefault(run.fingerprint, run)
        if "expire" in action:
            self._expired.update(action["expire"]["snapshots"])
        if "takedown" in action:
            self.takedowns.append(takedown_from_action(action["takedown"], time=time))
        if "rewrite" in action:
            rewrite = rewrite_from_action(action["rewrite"], time=time)
            self.rewrites.append(rewrite)
            self._expired.update(rewrite.expired)
            self._replaced.update(rewrite.replaced)

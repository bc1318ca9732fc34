"""The catalog of a store: what the log says exists, by name, by id and by the run that made it.

State is a fold over the commits and holds no document: 10^9 documents are rows of Parquet files, not of the log.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catalog.errors import ConflictError, UnknownReference, UsageError
from catalog.log import Action, Commit, Log, new_token
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
from catalog.store import Store


class Catalog:
    """Snapshots and runs of one store. Several processes may hold one each; `refresh` reads what others committed."""

    def __init__(self, store: Store):
        self.store = store
        self.log = Log(store)
        self._folded = 0
        self.snapshots: dict[str, list[Snapshot]] = {}
        self.runs: dict[str, Run] = {}
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
        """Every version of every name, in order of name and version."""
        return [snapshot for name in sorted(self.snapshots) for snapshot in self.snapshots[name]]

    def snapshot(self, reference: str) -> Snapshot:
        """`name` (newest version) or `name@version`. Raises UnknownReference with the closest names."""
        name, version = parse_reference(reference)
        versions = self.snapshots.get(name)
        if not versions:
            close = difflib.get_close_matches(name, self.snapshots, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else "; `tamis ls` lists what there is"
            raise UnknownReference(f"no snapshot named {name!r} in {self.store.root}{hint}")
        if version is None:
            return versions[-1]
        if not 1 <= version <= len(versions):
            raise UnknownReference(f"{name!r} has versions 1 to {len(versions)}, not {version}")
        return versions[version - 1]

    def made_by(self, run_fingerprint: str) -> list[Snapshot]:
        """What an equal run has produced before, under each of its names, in order of name and version."""
        return [snapshot for snapshot in self.all_snapshots() if snapshot.run == run_fingerprint]

    def inputs(self, snapshot: Snapshot) -> list[Snapshot]:
        """The snapshots that `snapshot` was made from."""
        return [self.snapshot(each) for each in snapshot.inputs]

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

        All or nothing; ConflictError when an input is gone, or `name` is not at version `after` (0: it is new), if that
        is given. With a `token` it is done once, whoever tries: the snapshot that it was done with is returned.
        """
        if not NAME.fullmatch(name):
            raise UsageError(f"{name!r} can't name a snapshot: use lower-case letters, digits, '.', '_' and '-'")

        def build(commits: list[Commit]) -> list[Action]:
            self._fold(commits)
            for needed in inputs:
                if needed.ref not in {each.ref for each in self.snapshots.get(needed.name, [])}:
                    raise ConflictError(f"{needed.ref}, an input of {name}, left the catalog while the run went on")
            newest = len(self.snapshots.get(name, []))
            if after is not None and newest != after:
                raise ConflictError(f"{name} is at version {newest}, not {after}: look at it and run the command again")
            snapshot = Snapshot(
                name=name,
                version=newest + 1,
                run=run.fingerprint,
                inputs=tuple(each.ref for each in inputs),
                contents=contents,
            )
            return [run_action(run), snapshot_action(snapshot)]

        written = self.log.append_once(token or new_token(), build)
        self.refresh()
        return snapshot_from_action(written.actions[-1]["snapshot"])

    def _fold(self, commits: list[Commit]) -> None:
        for commit in commits[self._folded :]:
            for action in commit.actions:
                self._apply(action)
        self._folded = len(commits)

    def _apply(self, action: Mapping[str, Any]) -> None:
        if "snapshot" in action:
            snapshot = snapshot_from_action(action["snapshot"])
            self.snapshots.setdefault(snapshot.name, []).append(snapshot)
        if "run" in action:
            run = run_from_action(action["run"])
            self.runs.setdefault(run.fingerprint, run)

"""Running a step: look it up, else do it shard by shard with receipts, commit once, publish.

    run(step, *inputs, into=name, catalog=..., executor=...) -> Snapshot

Identity is the fingerprint of (step, ids of its inputs, evidence). If the catalog knows it, nothing runs. Else the step
builds its contents in stages; a stage maps a function over tasks (one task = one shard or partition) and every finished
task leaves a receipt in the run's work folder, so that a run killed at any moment continues where it was. Tasks write
content-named files and return JSON; only this process commits. The executor decides where tasks run, never what they
answer.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from catalog.catalog import Catalog
from catalog.counts import add_up_receipts, count_task, store_counts, with_attributes
from catalog.errors import ConflictError, TamisError
from catalog.fingerprint import canonical, fingerprint
from catalog.manifest import filed
from catalog.projection import publish
from catalog.snapshot import Contents, Run, Snapshot
from catalog.store import FileRef, Store
from catalog.takedown import holds_suppressed

CLAIM = "inputs"  # file of a work folder: the snapshots that the run reads, one a line

Task = Mapping[str, Any]
Receipt = dict[str, Any]
TaskFunction = Callable[[Store, Task], Receipt]


class Step(Protocol):
    """A frozen dataclass of settings that turns snapshots into the contents of one snapshot.

    `verb` names it in recipes and on the command line. Raise `revision` when equal settings give another answer.
    """

    verb: ClassVar[str]
    revision: ClassVar[int]

    def build(self, work: Work, *inputs: Snapshot) -> Contents: ...


@runtime_checkable
class HasEvidence(Protocol):
    """A step whose answer depends on more than settings and contents: `evidence`, as digests of files, bears identity.

    It is plain JSON, found from the inputs that `build` gets.
    """

    def evidence(self, *inputs: Snapshot) -> Any: ...


class Executor(Protocol):
    """Maps a function over tasks somewhere. Yields (index of the task, receipt) as they finish, in any order.

    `on_ray` says whether that is a Ray cluster, where training then runs too.
    """

    @property
    def workers(self) -> int: ...

    @property
    def on_ray(self) -> bool: ...

    def map(self, function: TaskFunction, store: Store, tasks: Sequence[Task]) -> Iterator[tuple[int, Receipt]]: ...


@dataclass(frozen=True, kw_only=True)
class StageProgress:
    """Where a stage of a run is. `rows` counts what the stage goes through, in its `unit`."""

    step: str
    stage: str
    done: int
    total: int
    rows: int
    unit: str
    bytes: int
    seconds: float
    note: str = ""


Listener = Callable[[StageProgress], None]


def ignore(_: StageProgress) -> None:
    """A listener that says nothing."""


@dataclass(kw_only=True)
class Work:
    """One run in progress: what it makes, its store, scratch folder, executor, and the stages finished so far."""

    name: str
    step: str
    fingerprint: str
    evidence: Any
    catalog: Catalog
    executor: Executor
    listener: Listener = ignore
    stages: list[dict[str, Any]] = field(default_factory=list)
    attachments: dict[str, FileRef] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        return self.catalog.store

    @property
    def is_known(self) -> bool:
        """Whether the catalog has an equal run."""
        return self.fingerprint in self.catalog.refresh().runs

    @property
    def folder(self) -> Path:
        """Scratch of this run; the same path after a kill, removed after the commit."""
        return self.store.work(self.fingerprint)

    def exclusive(self) -> AbstractContextManager[None]:
        """The lock of this run: of two equal runs at once, one works while the other waits."""
        return self.store.exclusive(f"work/{self.fingerprint}/lock")

    def claim(self, inputs: Sequence[Snapshot]) -> None:
        """Say which snapshots this run reads, so that gc keeps their files. Raises TamisError for one that expired.

        The claim is written before the catalog is read, and gc reads claims after it expired anything: one sees the
        other.
        """
        (self.folder / CLAIM).write_text("".join(f"{each.ref}\n" for each in inputs))
        self.catalog.refresh()
        for each in inputs:
            if not self.catalog.is_live(each):
                self.catalog.current(each)
                raise ConflictError(f"{each.ref} was taken down as this run began: run the same command again")

    def stage(
        self, name: str, function: TaskFunction, tasks: Sequence[Task], *, unit: str = "documents"
    ) -> list[Receipt]:
        """The receipts of `function` over `tasks`, in task order; tasks with a stored receipt are not run again.

        `unit` names what the stage counts and the key of the receipts that holds the count; sizes are under `bytes`.
        """
        assert all(name != each["stage"] for each in self.stages), f"two stages named {name!r} in one run"
        path = self.folder / f"{name}.receipts.jsonl"
        receipts, seconds_before = _read_receipts(path)
        started = time.monotonic() - seconds_before
        remaining = [index for index in range(len(tasks)) if index not in receipts]
        rows = sum(receipt.get(unit, 0) for receipt in receipts.values())
        size = sum(receipt.get("bytes", 0) for receipt in receipts.values())

        def tell() -> None:
            seconds = time.monotonic() - started
            self.listener(
                StageProgress(
                    step=self.step,
                    stage=name,
                    done=len(receipts),
                    total=len(tasks),
                    rows=rows,
                    unit=unit,
                    bytes=size,
                    seconds=seconds,
                )
            )

        tell()
        with open(path, "a") as file:
            for position, receipt in self.executor.map(function, self.store, [tasks[i] for i in remaining]):
                seconds = time.monotonic() - started
                line = {"task": remaining[position], "receipt": receipt, "seconds": seconds}
                file.write(json.dumps(line) + "\n")
                file.flush()
                receipts[remaining[position]] = receipt
                rows += receipt.get(unit, 0)
                size += receipt.get("bytes", 0)
                tell()
        self.record(name, tasks=len(tasks), rows=rows, unit=unit, num_bytes=size, seconds=time.monotonic() - started)
        return [receipts[index] for index in range(len(tasks))]

    def restart(self) -> None:
        """Forget what was done so far."""
        for left in self.folder.glob("*.receipts.jsonl"):
            left.unlink()
        self.stages.clear()

    def tell(self, stage: str, done: int, total: int, *, note: str) -> None:
        """Tell the listener how far a stage is that does not map over tasks."""
        self.listener(
            StageProgress(
                step=self.step, stage=stage, done=done, total=total, rows=0, unit="", bytes=0, seconds=0.0, note=note
            )
        )

    def record(self, name: str, *, tasks: int, rows: int, unit: str, num_bytes: int, seconds: float) -> None:
        """Note a finished stage for the run's record."""
        self.stages.append(
            {"stage": name, "tasks": tasks, "rows": rows, "unit": unit, "bytes": num_bytes, "seconds": seconds}
        )


def run(
    step: Step,
    *inputs: Snapshot,
    into: str,
    catalog: Catalog,
    executor: Executor,
    listener: Listener = ignore,
) -> Snapshot:
    """The snapshot that `step` makes of `inputs`, named `into`: from the catalog if it is there, else made now.

    In place of an input that a takedown replaced stands what took its place. Raises TamisError for one that expired,
    StorageError when the disk is full: what was done is there when the same is run again.
    """
    check_finished(catalog.refresh())
    inputs = tuple(catalog.current(each) for each in inputs)
    work = begin(step, *inputs, into=into, catalog=catalog, executor=executor, listener=listener)
    known = _known(catalog, work.fingerprint, into)
    if known is not None:
        return known
    with catalog.store.room(), work.exclusive():
        work.claim(inputs)
        snapshot = _known(catalog.refresh(), work.fingerprint, into) or _make(step, inputs, into, work)
        shutil.rmtree(work.folder, ignore_errors=True)
        catalog.store.sweep()
        publish(catalog)
    return snapshot


def check_finished(catalog: Catalog) -> None:
    """Raise TamisError while live snapshots may hold documents that were taken down."""
    if catalog.pending:
        number = catalog.pending[0].number
        raise TamisError(
            f"takedown {number} is not finished, snapshots may hold its text: run `tamis takedown --finish`"
        )


def begin(
    step: Step,
    *inputs: Snapshot,
    into: str,
    catalog: Catalog,
    executor: Executor,
    listener: Listener = ignore,
) -> Work:
    """The work that `run` would do, not started: its identity and its folder."""
    evidence = evidence_of(step, inputs)
    return Work(
        name=into,
        step=step.verb,
        fingerprint=identify(step, inputs, evidence),
        evidence=evidence,
        catalog=catalog,
        executor=executor,
        listener=listener,
    )


def known(step: Step, *inputs: Snapshot, into: str, catalog: Catalog) -> Snapshot | None:
    """The snapshot that `run` would return without doing anything, if there is one."""
    inputs = tuple(catalog.current(each) for each in inputs)
    return _known(catalog, identify(step, inputs, evidence_of(step, inputs)), into)


def _known(catalog: Catalog, identity: str, into: str) -> Snapshot | None:
    made = [each for each in catalog.made_by(identity) if each.name == into]
    return made[-1] if made else None


def _make(step: Step, inputs: Sequence[Snapshot], into: str, work: Work) -> Snapshot:
    made = work.catalog.made_by(work.fingerprint)
    if made:  # under another name
        work.claim((*inputs, made[0]))
        return work.catalog.commit(into, made[0].contents, work.catalog.runs[work.fingerprint], inputs=inputs)
    # where no lock holds, between machines, the first of two equal runs is the answer to both
    token = f"{work.fingerprint} {into} {len(work.catalog.snapshots.get(into, []))}"
    started, clock = time.time(), time.monotonic()
    contents = step.build(work, *inputs)
    if not inputs and holds_suppressed(work.store, contents, work.catalog.refresh().suppressed):
        work.restart()  # receipts from before a takedown: what is read now is read without its documents
        contents = step.build(work)
    known = [each.contents for each in work.catalog.history if work.catalog.is_live(each)]
    (contents,) = counted(work, [contents], known)
    # a stage of training may be older than this build: computed ahead of it, or in part before a kill
    seconds = max(time.monotonic() - clock, sum(stage["seconds"] for stage in work.stages))
    record = Run(
        fingerprint=work.fingerprint,
        step=step.verb,
        parameters=canonical(step),
        inputs=tuple(each.id for each in inputs),
        code=code_version(),
        started=started,
        seconds=seconds,
        stages=tuple(work.stages),
        attachments=work.attachments,
        evidence=work.evidence or (),
    )
    return work.catalog.commit(into, contents, record, inputs=inputs, token=token)


def counted(work: Work, contents: Sequence[Contents], known: Sequence[Contents]) -> list[Contents]:
    """`contents` with their shards listed as a commit lists them, and with the figures that SQL answers from.

    `known`: what else the catalog has, oldest first; it may know more about the same documents.
    """
    out = [replace(each, shards=filed(work.store, each.shards)) for each in contents]
    known = [*known, *out]
    tasks: list[Task] = []
    owners: list[int] = []
    for number, each in enumerate(out):
        shards = with_attributes(each, known) if each.kind == "documents" else []
        tasks += [{"shard": shard, "layers": each.layers} for shard in shards]
        owners += [number] * len(shards)
    mine: list[list[Receipt]] = [[] for _ in out]
    for owner, receipt in zip(owners, work.stage("figures", count_task, tasks) if tasks else (), strict=True):
        mine[owner].append(receipt)
    return [
        replace(each, counts=store_counts(work.store, add_up_receipts(receipts))) if receipts else each
        for each, receipts in zip(out, mine, strict=True)
    ]


def evidence_of(step: Step, inputs: Sequence[Snapshot]) -> Any:
    """What the answer of a step depends on beside settings and inputs; None for most steps."""
    return step.evidence(*inputs) if isinstance(step, HasEvidence) else None


def identify(step: Step, inputs: Sequence[Snapshot], evidence: Any) -> str:
    """Fingerprint (hex) of a step on given inputs, and on evidence beside them (null where there is none)."""
    return fingerprint({"step": canonical(step), "evidence": evidence, "inputs": [each.id for each in inputs]})


def code_version() -> str:
    """The installed version of this software; "source" where its folders were shipped without being installed."""
    try:
        return distribution_version("tamis")
    except PackageNotFoundError:
        return "source"


def _read_receipts(path: Path) -> tuple[dict[int, Receipt], float]:
    """Receipts of earlier, interrupted attempts and the seconds they took up to the last one.

    A line cut short by an interruption is not a receipt.
    """
    if not path.exists():
        return {}, 0.0
    receipts, seconds = {}, 0.0
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) != len(lines):
        path.write_text("".join(whole))
    for line in whole:
        entry = json.loads(line)
        receipts[entry["task"]] = entry["receipt"]
        seconds = entry["seconds"]
    return receipts, seconds


def file_ref(receipt: Mapping[str, Any]) -> FileRef:
    """The FileRef that a receipt carries as JSON."""
    return FileRef(**receipt)


def as_json(ref: FileRef) -> dict[str, Any]:
    """A FileRef as a receipt carries it."""
    return asdict(ref)

"""`tamis verify --repair`: rebuild what can be rebuilt, and say of the rest what is lost.

A file of the log is written anew from its copy in the log. The projection is rebuilt from the log, lists of shards and
figures from the other parts (catalog.rebuild). A damaged or missing data file is made again by running the step that
made it on the inputs that it had: the same step on the same inputs gives the same bytes, and the digest in the file's
name says whether it did. Files of earlier steps come first, so that later ones find their inputs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields

from catalog.audit import Verification, check_file
from catalog.catalog import Catalog
from catalog.errors import CorruptStore, TamisError
from catalog.fingerprint import fingerprint
from catalog.log_check import mend
from catalog.manifest import LIVE, filed
from catalog.projection import FILENAME, is_whole, publish, published_path
from catalog.rebuild import freed, rebuild_counts, rebuild_manifest
from catalog.run import Executor, Step, Work, evidence_of, identify
from catalog.snapshot import Snapshot
from catalog.store import FileRef
from catalog.suppression import in_order
from clusters.console import Console
from clusters.recipes import make_step
from clusters.registry import STEPS, step_class
from clusters.takedown import finish

REBUILT, LOST = "rebuilt", "lost"


def repair(
    catalog: Catalog, found: Verification, *, executor: Executor, console: Console, sources: Sequence[str]
) -> list[str]:
    """Repair what `verify` found and say what became of each file. `sources` are the files that were ingested."""
    lines = [f"{REBUILT} {flaw.name}: the log holds a copy" for flaw in mend(catalog.store)]
    if catalog.pending and not found.damaged:
        finish(catalog, executor, console)
    catalog = Catalog(catalog.store)  # what was read of damaged manifests is forgotten
    left = {ref.path: ref for ref in found.damaged}
    lines += _manifests(catalog, left)
    lines += _written_again(catalog, left, executor=executor, console=console, sources=sources)
    lines += _counted_again(catalog, left)
    lines += [f"{LOST} {ref.path}: the record of a takedown" for ref in catalog.records() if ref.path in left]
    if not left:
        publish(catalog)
    elif not is_whole(published_path(catalog)):
        lines.append(f"{LOST} {FILENAME}: it can be rebuilt only over sound files")
    return lines


def _manifests(catalog: Catalog, left: dict[str, FileRef]) -> list[str]:
    """Write manifests anew that take no step to run; those that work out leave `left`. Those of live rows come last."""
    lines = []
    damaged = [
        (table == LIVE, table, each)
        for each in catalog.live()
        for table, ref in each.contents.manifests.items()
        if ref.path in left
    ]
    for _, table, snapshot in sorted(damaged, key=lambda each: each[0]):
        ref = snapshot.contents.manifests[table]
        if ref.path not in left:
            continue
        with suppress(CorruptStore), freed(catalog.store, [ref]):  # the step may still do it
            rebuild_manifest(catalog, snapshot, table)
        if check_file(catalog.store, ref) is None:
            del left[ref.path]
            lines.append(f"{REBUILT} {ref.path}: the list of {table} of {snapshot.ref}")
    return lines


def _written_again(
    catalog: Catalog, left: dict[str, FileRef], *, executor: Executor, console: Console, sources: Sequence[str]
) -> list[str]:
    """Run the steps that wrote what is damaged, the earliest first; files that come out as they were leave `left`."""
    lines = []
    figures = {ref.path for each in catalog.live() for ref in _figures(each)} & set(left)
    owners = [each for each in catalog.all_snapshots() if any(r.path in left for r in catalog.known_files_of(each))]
    for snapshot in in_order(catalog, [each.ref for each in owners]):
        mine = dict.fromkeys(r for r in catalog.known_files_of(snapshot) if r.path in left and r.path not in figures)
        if not mine:
            continue
        step, reason = catalog.runs[snapshot.run].step, ""
        try:
            _run_again(catalog, snapshot, list(mine), executor=executor, console=console, sources=sources)
        except TamisError as error:
            reason = str(error).splitlines()[0]
        for ref in mine:
            if check_file(catalog.store, ref) is None:
                del left[ref.path]
                lines.append(f"{REBUILT} {ref.path}: {step} of {snapshot.ref} ran again")
            elif _made_first(catalog, owners, ref) == snapshot:
                why = reason or f"{step} gave other bytes this time"
                lines.append(f"{LOST} {ref.path}: {why}; it is part of {_parts(catalog, ref)}")
    return lines


def _counted_again(catalog: Catalog, left: dict[str, FileRef]) -> list[str]:
    """Count anew where figures are damaged; those that come out as they were leave `left`."""
    lines = []
    for snapshot in catalog.live():
        mine = [ref for ref in _figures(snapshot) if ref.path in left]
        if not mine:
            continue
        reason = "more is known of the documents than when they were counted"
        try:
            with freed(catalog.store, mine):
                rebuild_counts(catalog, snapshot)
        except CorruptStore as error:
            reason = str(error)
        for ref in mine:
            if check_file(catalog.store, ref) is None:
                del left[ref.path]
                lines.append(f"{REBUILT} {ref.path}: the documents of {snapshot.ref} were counted again")
            else:
                lines.append(f"{LOST} {ref.path}: {reason}; it is part of {_parts(catalog, ref)}")
    return lines


def _figures(snapshot: Snapshot) -> list[FileRef]:
    """The files that were counted from its documents, not written by its step."""
    return list(snapshot.contents.counts.values()) if snapshot.contents.kind == "documents" else []


def _parts(catalog: Catalog, ref: FileRef) -> str:
    return ", ".join(each.ref for each in catalog.live() if ref in catalog.known_files_of(each))


def _made_first(catalog: Catalog, owners: Sequence[Snapshot], ref: FileRef) -> Snapshot:
    """The snapshot whose step wrote the file: the others took it over."""
    holding = [each.ref for each in owners if ref in catalog.known_files_of(each)]
    return in_order(catalog, holding)[0]


def _run_again(
    catalog: Catalog,
    snapshot: Snapshot,
    damaged: Sequence[FileRef],
    *,
    executor: Executor,
    console: Console,
    sources: Sequence[str],
) -> None:
    """Run the step of a snapshot on its inputs for the files it writes. Raises TamisError when that can't be."""
    inputs = catalog.inputs(snapshot)
    steps = _steps(catalog, snapshot, sources)
    step = next((s for s in steps if identify(s, inputs, evidence_of(s, inputs)) == snapshot.run), None)
    if step is None:
        raise TamisError("--from does not name the files that it was read from")
    console.started(snapshot.name)
    work = Work(
        name=snapshot.name,
        step=step.verb,
        fingerprint=fingerprint({"repair": snapshot.run}),
        evidence=None,
        catalog=catalog,
        executor=executor,
        listener=console.stage,
    )
    with work.exclusive():
        try:
            with freed(catalog.store, damaged):
                filed(catalog.store, step.build(work, *inputs).shards)
        finally:
            shutil.rmtree(work.folder, ignore_errors=True)


def _steps(catalog: Catalog, snapshot: Snapshot, sources: Sequence[str]) -> Iterator[Step]:
    """The step that made a snapshot; for one that read files, one for all of `sources` and one for each of them."""
    run = catalog.runs[snapshot.run]
    if run.step not in STEPS:
        raise TamisError(f"what a {run.step} wrote can't be written again")
    cls = step_class(run.step)
    if run.parameters["revision"] != cls.revision:
        raise TamisError(
            f"{run.step} of revision {run.parameters['revision']} made it, this tamis has revision {cls.revision}"
        )
    if "paths" not in {each.name for each in fields(cls)}:
        yield make_step(run.step, run.settings)
        return
    if not sources:
        raise TamisError("name the files that it was read from with --from")
    paths = [os.path.abspath(each) for each in sources]
    for chosen in [paths] if len(paths) == 1 else [paths, *([path] for path in paths)]:
        yield make_step(run.step, {**run.settings, "paths": tuple(chosen)})

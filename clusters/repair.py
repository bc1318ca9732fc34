"""`tamis verify --repair`: rebuild what can be rebuilt, and say of the rest what is lost.

The projection is rebuilt from the log. A damaged or missing data file is made again by running the step that made it on
the inputs that it had: the same step on the same inputs gives the same bytes, and the digest in the file's name says
whether it did. Files of earlier steps come first, so that later ones find their inputs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

from catalog.audit import Verification, check_file
from catalog.catalog import Catalog
from catalog.errors import TamisError
from catalog.fingerprint import fingerprint
from catalog.projection import FILENAME, is_whole, publish
from catalog.run import Executor, Step, Work, evidence_of, identify
from catalog.snapshot import Snapshot
from catalog.store import FileRef, Store
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
    if catalog.pending and not found.damaged:
        finish(catalog, executor, console)
    lines = []
    left = {ref.path: ref for ref in found.damaged}
    owners = [each for each in catalog.all_snapshots() if any(ref.path in left for ref in catalog.files_of(each))]
    for snapshot in in_order(catalog, [each.ref for each in owners]):
        mine = [ref for ref in catalog.files_of(snapshot) if ref.path in left]
        if not mine:
            continue
        try:
            _run_again(catalog, snapshot, mine, executor=executor, console=console, sources=sources)
        except TamisError as error:
            reason = str(error).splitlines()[0]
        else:
            reason = f"{catalog.runs[snapshot.run].step} gave other bytes this time"
        for ref in mine:
            if check_file(catalog.store, ref) is None:
                del left[ref.path]
                lines.append(f"{REBUILT} {ref.path}: {catalog.runs[snapshot.run].step} of {snapshot.ref} ran again")
            elif _made_first(catalog, owners, ref) == snapshot:
                affected = ", ".join(
                    each.ref for each in owners if catalog.is_live(each) and ref in catalog.files_of(each)
                )
                lines.append(f"{LOST} {ref.path}: {reason}; it is part of {affected}")
    lines += [f"{LOST} {ref.path}: the record of a takedown" for ref in catalog.records() if ref.path in left]
    if not left:
        publish(catalog)
    elif not is_whole(catalog.store.here / FILENAME):
        lines.append(f"{LOST} {FILENAME}: it can be rebuilt only over sound files")
    return lines


def _made_first(catalog: Catalog, owners: Sequence[Snapshot], ref: FileRef) -> Snapshot:
    """The snapshot whose step wrote the file: the others took it over."""
    holding = [each.ref for each in owners if ref in catalog.files_of(each)]
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
        aside = {ref.path: _put_aside(catalog.store, ref) for ref in damaged}
        try:
            step.build(work, *inputs)
        finally:
            for ref in damaged:
                _put_back(catalog.store, ref, aside[ref.path])
            shutil.rmtree(work.folder, ignore_errors=True)


def _steps(catalog: Catalog, snapshot: Snapshot, sources: Sequence[str]) -> Iterator[Step]:
    """The step that made a snapshot; for one that read files, one for all of `sources` and one for each of them."""
    run = catalog.runs[snapshot.run]
    if run.step not in STEPS:
        raise TamisError(f"what a {run.step} wrote can't be written again")
    cls = step_class(run.step)
    settings = {name: value for name, value in run.parameters.items() if name not in ("is", "revision")}
    if run.parameters["revision"] != cls.revision:
        raise TamisError(
            f"{run.step} of revision {run.parameters['revision']} made it, this tamis has revision {cls.revision}"
        )
    if "paths" not in {each.name for each in fields(cls)}:
        yield make_step(run.step, settings)
        return
    if not sources:
        raise TamisError("name the files that it was read from with --from")
    paths = [os.path.abspath(each) for each in sources]
    for chosen in [paths] if len(paths) == 1 else [paths, *([path] for path in paths)]:
        yield make_step(run.step, {**settings, "paths": tuple(chosen)})


def _put_aside(store: Store, ref: FileRef) -> Path | None:
    """Free the name of a damaged file, which a writer would take for the file itself."""
    path = Path(store.at(ref.path))
    if not store.is_local or not path.exists():
        return None
    aside = path.with_name(f"{path.name}.{os.urandom(6).hex()}")
    path.rename(aside)
    return aside


def _put_back(store: Store, ref: FileRef, aside: Path | None) -> None:
    """Damaged bytes are better than none; where the file was made again they go."""
    if aside is None:
        return
    if store.exists(ref.path):
        aside.unlink()
    else:
        with suppress(FileNotFoundError):
            aside.rename(store.at(ref.path))

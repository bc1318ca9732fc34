"""Running recipes against a store, with progress.

Entries run in order. Only training looks ahead: on a cluster, neighbouring entries that train independent models are
computed at the same time, one worker each, and then committed in order. They share cores when there are fewer than
models: three unequal runs on two cores end sooner together than two and then one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from catalog.catalog import Catalog
from catalog.run import Executor, Step, Work, begin, known, run
from catalog.snapshot import Snapshot
from clusters.console import Console
from clusters.recipes import Recipe, Stated, validate
from clusters.screens import facts
from clusters.takedown import finish

TRAINING = ("pretrain", "finetune")

Check = Callable[[Mapping[str, Snapshot]], None]


def accept(_: Mapping[str, Snapshot]) -> None:
    """The check that lets every recipe go on."""


def run_recipe(
    recipe: Recipe,
    *,
    store: str,
    executor: str,
    workers: int,
    console: Console | None = None,
    check: Check = accept,
) -> dict[str, Snapshot]:
    """Run the entries in order; what the catalog already has is not run again. Returns the snapshots by name.

    `check` sees what was made after each entry; what it raises stops the recipe there.
    """
    console = console or Console()
    steps = validate(recipe)
    chosen = executor_for(steps, executor, workers=workers)
    names = {entry.name for entry, _ in steps}
    needed = [name for entry, _ in steps for name in entry.inputs if name not in names]
    catalog = Catalog.open(store, create=not needed)
    if any(getattr(step, "device", "cpu") == "cuda" and entry.name not in catalog.snapshots for entry, step in steps):
        _check_gpu(on_ray=chosen.on_ray)
    for name in needed:
        catalog.snapshot(name)  # raises where the store has none
    if catalog.pending:
        finish(catalog, chosen, console)
    made: dict[str, Snapshot] = {}
    for position, (entry, step) in enumerate(steps):
        if chosen.on_ray and entry.step in TRAINING:
            _train_ahead(training_group(steps, position, made), made, catalog, chosen, console)
        console.started(entry.name)
        before = catalog.sequence
        inputs = _inputs(entry, made, catalog)
        made[entry.name] = run(step, *inputs, into=entry.name, catalog=catalog, executor=chosen, listener=console.stage)
        console.done(facts(made[entry.name]), reused=catalog.sequence == before)
        check(made)
    return made


def known_run(recipe: Recipe, catalog: Catalog) -> dict[str, Snapshot] | None:
    """What the recipe made when it ran before, by name; None where something of it would have to be computed."""
    made: dict[str, Snapshot] = {}
    for entry, step in validate(recipe):
        found = known(step, *_inputs(entry, made, catalog), into=entry.name, catalog=catalog)
        if found is None:
            return None
        made[entry.name] = found
    return made


def _check_gpu(*, on_ray: bool) -> None:
    """Raise UsageError before curation begins, where there is no GPU here and no named cluster that may have one."""
    from training.context import check_gpu

    if not (on_ray and os.environ.get("RAY_ADDRESS")):
        check_gpu()


def executor_for(steps: Sequence[tuple[Stated, Step]], kind: str, *, workers: int) -> Executor:
    """The executor of that kind for these steps. Raises UsageError, and BadInput for an input that can't be read."""
    from dataops.executors import executor

    trains = any(entry.step in TRAINING for entry, _ in steps)
    return executor(kind, workers=workers, num_bytes=_input_bytes(steps), trains=trains)


def training_group(
    steps: Sequence[tuple[Stated, Step]], position: int, made: Mapping[str, Snapshot]
) -> list[tuple[Stated, Step]]:
    """The training entries from `position` on, up to the first that needs what is not made yet."""
    to_come = {entry.name for entry, _ in steps} - set(made)
    group = []
    for entry, step in steps[position:]:
        if entry.step not in TRAINING or to_come & set(entry.inputs):
            break
        group.append((entry, step))
    return group


def _train_ahead(
    group: Sequence[tuple[Stated, Step]],
    made: Mapping[str, Snapshot],
    catalog: Catalog,
    executor: Executor,
    console: Console,
) -> None:
    """Compute those of the group that are neither in the catalog nor finished, when there are two or more.

    Their locks are held meanwhile, taken in order of fingerprint so that two processes with equal recipes can't wait
    for each other; what the other one finished before is left out.
    """
    from dataops.executors import start_ray
    from training.jobs import is_trained, train_together

    def waits(work: Work) -> bool:
        return not work.is_known and not is_trained(work)

    waiting: dict[str, tuple[Any, Work, list[Snapshot]]] = {}  # by fingerprint: equal entries of two names are one run
    for entry, step in group:
        inputs = [catalog.current(each) for each in _inputs(entry, made, catalog)]
        work = begin(step, *inputs, into=entry.name, catalog=catalog, executor=executor, listener=console.stage)
        if waits(work):
            waiting.setdefault(work.fingerprint, (step, work, inputs))
    with ExitStack() as locks:
        for fingerprint in sorted(waiting):
            _, work, inputs = waiting[fingerprint]
            locks.enter_context(work.exclusive())
            work.claim(inputs)
        still = [each for each in waiting.values() if waits(each[1])]
        if len(still) > 1:
            start_ray(executor.workers)
            console.started(" + ".join(work.name for _, work, _ in still))
            train_together(still)


def _inputs(entry: Stated, made: Mapping[str, Snapshot], catalog: Catalog) -> list[Snapshot]:
    return [made[name] if name in made else catalog.snapshot(name) for name in entry.inputs]


def _input_bytes(steps: Sequence[tuple[Stated, Step]]) -> int:
    """Size of the files that the recipe ingests. Raises BadInput for one that can't be read."""
    from dataops.feedback import IngestFeedback
    from dataops.ingest import Ingest

    reading = (step for _, step in steps if isinstance(step, Ingest | IngestFeedback))
    return sum(each.num_bytes for step in reading for each in step.inputs())

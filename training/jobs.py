"""Runs as the work of a step: one, or several independent ones that make one model together.

A run resumes from its own checkpoints in the step's work folder. On a Ray executor it trains in a Ray Train worker; the
bytes are the same as here because `threads`, which changes the order of float sums, is one of the settings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.pack import Packs
from catalog.run import Work
from catalog.snapshot import Contents, Snapshot
from catalog.tables import write_table
from training.checkpoint import write_file
from training.context import LocalContext
from training.given import given
from training.inputs import model_contents
from training.run_folder import TrainResult, read_result
from training.telemetry import Progress
from training.worker import Job, fit_with_ray


@dataclass(frozen=True, kw_only=True)
class Jobs:
    """What a step computes: independent runs, and what makes one run folder of theirs when all are done."""

    jobs: tuple[Job, ...]
    finish: Callable[[Sequence[TrainResult]], None]


def one(job: Job) -> Jobs:
    """A single run, whose folder is the step's."""
    return Jobs(jobs=(job,), finish=_nothing)


def _nothing(_: Sequence[TrainResult]) -> None:
    """What is left to do when the one run is the result."""


def write_result(run_dir: Path, results: Sequence[TrainResult], *, loss: float) -> None:
    """The result of several runs together, as `pretrain` writes that of one."""
    values: dict[str, Any] = {
        "steps": sum(result.steps for result in results),
        "tokens": sum(result.tokens for result in results),
        "seconds": sum(result.seconds for result in results),
        "final_loss": loss,
        "precision": results[0].precision,
    }
    write_file(run_dir / "result.json", json.dumps(values, indent=1).encode())


def train_together(steps: Sequence[tuple[Any, Work, Sequence[Snapshot]]]) -> None:
    """Compute several independent steps at the same time on Ray, one worker each, sharing cores when there are few.

    A run of several ranks is left to its own step. Each computes on its own number of threads, so its bytes are those
    of a run alone. Nothing is committed: each step, built afterwards, finds its run finished and returns at once.
    """
    found = [(work, job) for step, work, inputs in steps if step.ranks == 1 for job in step.jobs(work, *inputs).jobs]
    for device in sorted({job.device for _, job in found}):
        group = [(work, job) for work, job in found if job.device == device]
        _fit(group, at_once=len({work.name for work, _ in group}))


def is_trained(work: Work) -> bool:
    """Whether the run's folder holds a finished run."""
    return (run_folder(work) / "result.json").exists()


def run_folder(work: Work) -> Path:
    """Where a run keeps its checkpoints and metrics: the same folder after a kill."""
    return (work.folder / "run").absolute()


def _fit(jobs: Sequence[tuple[Work, Job]], *, at_once: int, ranks: int = 1) -> list[TrainResult]:
    """Run jobs on Ray, `at_once` together, each on so many ranks."""
    works = {job.name: work for work, job in jobs}

    def on_progress(name: str, progress: Progress) -> None:
        tell_progress(works[name], progress, prefix=f"{name}  " if len(jobs) > 1 else "")

    at_once = min(at_once, len(jobs))
    share = min(max(job.threads for _, job in jobs), jobs[0][0].executor.workers / at_once / ranks)
    return fit_with_ray(
        [job for _, job in jobs],
        at_once=at_once,
        cpus_per_worker=share,
        on_progress=on_progress,
        workers_per_job=ranks,
    )


def trained(work: Work, jobs: Jobs, packs: Snapshot, *, ranks: int) -> Contents:
    """Run the jobs here or in Ray Train workers, as many at a time as there are cores, unless all is finished."""
    if not is_trained(work):
        if all((job.run_dir / "result.json").exists() for job in jobs.jobs):  # trained ahead, side by side
            results = [read_result(job.run_dir) for job in jobs.jobs]
        elif work.executor.on_ray or ranks > 1:
            pairs = [(work, job) for job in jobs.jobs]
            room = work.executor.workers // (jobs.jobs[0].threads * ranks)
            results = _fit(pairs, at_once=max(1, room), ranks=ranks)
        else:
            results = [_run_here(work, job, prefix=f"{job.name}  " if len(jobs.jobs) > 1 else "") for job in jobs.jobs]
        jobs.finish(results)
    return _model(work, jobs, read_result(run_folder(work)), packs)


def _run_here(work: Work, job: Job, *, prefix: str) -> TrainResult:
    context = LocalContext(device_name=job.device, num_threads=job.threads)
    return job.run(context, lambda progress: tell_progress(work, progress, prefix=prefix))


def tell_progress(work: Work, progress: Progress, *, prefix: str = "") -> None:
    work.tell("train", progress.step, progress.steps, note=prefix + progress.line)


def _model(work: Work, jobs: Jobs, result: TrainResult, packs: Snapshot) -> Contents:
    """The contents of finished runs; metrics and time belong to the run's record, not to the model's identity."""
    reader = Packs(jobs.jobs[0].packs)
    drawn = [(job.order(reader), read_result(job.run_dir).steps * job.train.batch_rows) for job in jobs.jobs]
    counts = {"given": write_table(work.store, given(reader, drawn))}
    work.record("train", tasks=1, rows=result.tokens, unit="tokens", num_bytes=0, seconds=result.seconds)
    metrics = result.model_dir.parent / "metrics.jsonl"
    if metrics.exists():
        work.attachments["metrics"] = work.store.put_copy(metrics)
    return model_contents(
        work,
        result.model_dir,
        packs.artifact("tokenizer"),
        counts,
        tokens=result.tokens,
        steps=result.steps,
        loss=result.final_loss,
        precision=result.precision,
    )

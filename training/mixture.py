"""A hard mixture: one decoder per expert, each trained alone on the rows of its cells (2402.01093 section 3.1).

The experts are runs of their own: side by side where there are cores, each resumed from its own checkpoints. They get
equal parts of the tokens, and end as one model folder that holds all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from catalog.errors import UsageError
from training.config import ModelConfig, TrainConfig
from training.family import Mixture, expert_weights
from training.folder import end_of_text, write_mixture
from training.jobs import Jobs, write_result
from training.run_folder import TrainResult
from training.telemetry import read_metrics
from training.worker import FinetuneJob, PretrainJob

AnyJob = TypeVar("AnyJob", PretrainJob, FinetuneJob)


def one_per_expert(job: PretrainJob, model: ModelConfig, family: Mixture, rows_per_cell: np.ndarray) -> Jobs:
    """A run for each expert on its own cells; together they are the mixture."""
    weights = job.weights if job.weights is not None else rows_per_cell
    jobs = []
    for number, own in enumerate(expert_weights(weights, experts=family.experts, cells=family.cells)):
        if not own.sum():
            raise UsageError(f"expert {number} of {family.experts} has no rows to learn from: ask for fewer experts")
        train = replace(job.train, tokens=-(-job.train.tokens // family.experts))
        jobs.append(replace(_of_expert(job, number, train), weights=tuple(own.tolist()), model=model.plain))

    def finish(results: Sequence[TrainResult]) -> None:
        folders = [result.model_dir for result in results]
        write_mixture(folders, job.run_dir / "model", config=model, end_of_text=end_of_text(folders[0]))
        write_result(job.run_dir, results, loss=float(np.mean([result.final_loss for result in results])))

    return Jobs(jobs=tuple(jobs), finish=finish)


def one_per_start(job: FinetuneJob, starts: Sequence[Path]) -> Jobs:
    """A run of fine-tuning from each of several models, of which the best on validation is kept."""
    jobs = tuple(replace(_of_expert(job, number, job.train), model_dir=start) for number, start in enumerate(starts))
    return Jobs(jobs=jobs, finish=lambda results: _keep_best(job.run_dir, results))


def _of_expert(job: AnyJob, number: int, train: TrainConfig) -> AnyJob:
    """The run of one expert: its own name, and its own folders below those of the whole."""
    own = f"expert-{number:03d}"
    return replace(job, name=f"{job.name}-{number}", run_dir=job.run_dir / own, train=train.tracked_as(own))


def _keep_best(run_dir: Path, results: Sequence[TrainResult]) -> None:
    """Of equal runs from different experts, the model with the lowest validation bits per byte."""
    best = min(results, key=lambda result: _validation(result.model_dir.parent))
    shutil.copytree(best.model_dir, run_dir / "model", dirs_exist_ok=True)
    shutil.copyfile(best.model_dir.parent / "metrics.jsonl", run_dir / "metrics.jsonl")
    write_result(run_dir, results, loss=best.final_loss)


def _validation(run_dir: Path) -> float:
    lines = read_metrics(run_dir / "metrics.jsonl")
    return min(float(line["validation_bits_per_byte"]) for line in lines if "validation_bits_per_byte" in line)

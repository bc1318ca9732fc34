"""Training as steps of the catalog: packs become models.

A step hands local paths to the functions of this package and puts what they write into the store. A run resumes from
its own checkpoints in the run's work folder. On a Ray executor it trains in a Ray Train worker; the bytes are the same
as here because `threads`, which changes the order of float sums, is one of the settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from catalog.pack import Packs
from catalog.run import Work
from catalog.snapshot import Contents, Snapshot
from training.config import Determinism, EarlyStopping, ModelConfig, OptimizerName, TrainConfig, sized
from training.context import LocalContext
from training.folder import model_config, write_model
from training.inputs import (
    MODEL_FILES,
    check_tokenizers,
    mixture_weights,
    model_folder,
    pack_paths,
    scored_documents,
)
from training.model import Llama
from training.pretrain import TrainResult, read_result
from training.telemetry import Progress
from training.worker import FinetuneJob, Job, PretrainJob, fit_with_ray


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """A model of about `params` parameters trained from scratch on `tokens` tokens of a packs snapshot.

    Packs of a resampled snapshot are read by its mixture's weights, others in proportion to their rows. More than one
    of `ranks` trains on Ray; `determinism` bitwise gives the same bytes whatever their number.
    """

    verb: ClassVar[str] = "pretrain"
    revision: ClassVar[int] = 2

    tokens: int
    params: int = 1_000_000
    learning_rate: float = 4e-3
    batch_rows: int = 16
    seed: int = 0
    threads: int = 1
    micro_batch_rows: int = 8
    ranks: int = 1
    determinism: Determinism = "run"
    optimizer: OptimizerName = "adamw"
    checkpoint_every: int = field(default=250, compare=False)
    price_per_hour: float = field(default=0.0, compare=False)

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A model snapshot."""
        return _trained(work, self.job(work, *inputs), inputs[0], ranks=self.ranks)

    def job(self, work: Work, *inputs: Snapshot) -> PretrainJob:
        """What is to be computed, in the run's own folder."""
        (packs,) = inputs
        paths = pack_paths(work.store, packs)
        return PretrainJob(
            name=work.name,
            packs=paths,
            weights=mixture_weights(work.store, packs, Packs(paths).rows_per_cell),
            model=_shape(packs, self.params),
            train=_settings(self),
            run_dir=run_folder(work),
            threads=self.threads,
        )


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Continue a model on at most `tokens` tokens of the target's packs, keeping the best on its validation documents.

    Inputs: packs, tokenized validation documents, and the model to start from; without one, a fresh model of `params`
    parameters learns from the target alone (SLM-nopt of 2402.01093).
    """

    verb: ClassVar[str] = "finetune"
    revision: ClassVar[int] = 2

    tokens: int
    params: int = 1_000_000
    learning_rate: float = 1.3e-3
    batch_rows: int = 16
    evaluate_every: int = 40
    patience: int = 3
    seed: int = 0
    threads: int = 1
    micro_batch_rows: int = 8
    ranks: int = 1
    determinism: Determinism = "run"
    optimizer: OptimizerName = "adamw"
    checkpoint_every: int = field(default=250, compare=False)
    price_per_hour: float = field(default=0.0, compare=False)

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A model snapshot."""
        return _trained(work, self.job(work, *inputs), inputs[0], ranks=self.ranks)

    def job(self, work: Work, *inputs: Snapshot) -> FinetuneJob:
        """What is to be computed, in the run's own folder."""
        packs, validation, *models = inputs
        check_tokenizers(*inputs)
        paths = pack_paths(work.store, packs)
        if models:
            start = model_folder(work.store, models[0], work.folder / "start")
        else:
            start = _fresh_model(_shape(packs, self.params), self.seed, work.folder / "start", Packs(paths))
        return FinetuneJob(
            name=work.name,
            packs=paths,
            model_dir=start,
            train=_settings(self),
            validation=scored_documents(work.store, validation),
            stopping=EarlyStopping(evaluate_every=self.evaluate_every, patience=self.patience),
            run_dir=run_folder(work),
            threads=self.threads,
        )


def _settings(step: Pretrain | Finetune) -> TrainConfig:
    return TrainConfig(
        tokens=step.tokens,
        batch_rows=step.batch_rows,
        micro_batch_rows=step.micro_batch_rows,
        learning_rate=step.learning_rate,
        seed=step.seed,
        determinism=step.determinism,
        optimizer=step.optimizer,
        checkpoint_every=step.checkpoint_every,
        price_per_hour=step.price_per_hour,
    )


def _shape(packs: Snapshot, params: int) -> ModelConfig:
    summary = packs.contents.summary
    return sized(params, vocab_size=summary["vocab_size"], context=summary["context"])


def _fresh_model(shape: ModelConfig, seed: int, folder: Path, packs: Packs) -> Path:
    network = Llama(shape)
    network.initialise(seed)
    write_model(network, folder, end_of_text=packs.format.end_of_text)
    return folder


def train_together(steps: Sequence[tuple[Pretrain | Finetune, Work, Sequence[Snapshot]]]) -> None:
    """Compute several independent runs at the same time on Ray, one worker each, sharing cores when there are few.

    A run of several ranks is left to its own step. Each computes on its own number of threads, so its bytes are those
    of a run alone. Nothing is committed: each step,
    built afterwards, finds its run finished in its own folder and returns at once.
    """
    alone = [(step, work, inputs) for step, work, inputs in steps if step.ranks == 1]
    if alone:
        works = {work.name: work for _, work, _ in alone}
        _fit([step.job(work, *inputs) for step, work, inputs in alone], works)


def is_trained(work: Work) -> bool:
    """Whether the run's folder holds a finished run."""
    return (run_folder(work) / "result.json").exists()


def run_folder(work: Work) -> Path:
    """Where a run keeps its checkpoints and metrics: the same folder after a kill."""
    return (work.folder / "run").absolute()


def _fit(jobs: Sequence[Job], works: Mapping[str, Work], *, ranks: int = 1) -> list[TrainResult]:
    def on_progress(name: str, progress: Progress) -> None:
        _tell_progress(works[name], progress, prefix=f"{name}  " if len(jobs) > 1 else "")

    cores = next(iter(works.values())).executor.workers
    share = min(max(job.threads for job in jobs), cores / len(jobs) / ranks)
    return fit_with_ray(jobs, cpus_per_worker=share, on_progress=on_progress, workers_per_job=ranks)


def _trained(work: Work, job: Job, packs: Snapshot, *, ranks: int) -> Contents:
    """Run a job here or in a Ray Train worker, unless it is finished."""
    if is_trained(work):
        result = read_result(job.run_dir)
    elif work.executor.on_ray or ranks > 1:
        (result,) = _fit([job], {work.name: work}, ranks=ranks)
    else:
        context = LocalContext(device_name="cpu", num_threads=job.threads)
        result = job.run(context, lambda progress: _tell_progress(work, progress))
    return _model(work, result, packs)


def _tell_progress(work: Work, progress: Progress, *, prefix: str = "") -> None:
    work.tell("train", progress.step, progress.steps, note=prefix + progress.line)


def _model(work: Work, result: TrainResult, packs: Snapshot) -> Contents:
    """The contents of a finished run; metrics and time belong to the run's record, not to the model's identity."""
    work.record("train", tasks=1, rows=result.tokens, unit="tokens", num_bytes=0, seconds=result.seconds)
    metrics = result.model_dir.parent / "metrics.jsonl"
    if metrics.exists():
        work.attachments["metrics"] = work.store.put_copy(metrics)
    shape = model_config(result.model_dir)
    summary = {
        "parameters": shape.num_parameters,
        "tokens": result.tokens,
        "steps": result.steps,
        "loss": result.final_loss,
        "precision": result.precision,
    }
    artifacts = {name: work.store.put_copy(result.model_dir / name) for name in MODEL_FILES}
    artifacts["tokenizer"] = packs.artifact("tokenizer")
    return Contents(kind="model", artifacts=artifacts, summary=summary)

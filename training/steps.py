"""Training as steps of the catalog: packs become models. The settings are here, the work is in `jobs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch

from catalog.errors import UsageError
from catalog.fingerprint import added
from catalog.pack import Packs, cell_weights
from catalog.run import Work
from catalog.snapshot import Contents, Snapshot
from training.blocks import pays_to_compile
from training.config import (
    Compile,
    Determinism,
    Device,
    EarlyStopping,
    ModelConfig,
    OptimizerName,
    Precision,
    Schedule,
    Sharding,
    TrainConfig,
    sized,
)
from training.expert import Choice, Experts, one_expert
from training.family import FAMILIES, Mixture, Projected
from training.folder import end_of_text, model_config, write_model
from training.inputs import (
    check_tokenizers,
    lesson_paths,
    model_folder,
    pack_paths,
    scored_documents,
)
from training.jobs import Jobs, one, run_folder, trained
from training.methods import Full, Lora, Method, Taught
from training.mixture import one_per_expert, one_per_start
from training.model import Llama
from training.trackers import check_trackers
from training.worker import FinetuneJob, PretrainJob

FamilyName = Literal["decoder", "recurrent", "projected", "soup", "mixture"]


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """A model of about `params` parameters trained on `tokens` tokens of a packs snapshot, from scratch or a model.

    `params` counts what is served: one expert of a family that has several. Packs of a resampled snapshot are read by
    its mixture's weights, others in proportion to their rows. `experts` and `banks` are for the families that have
    them; a mixture's experts get equal parts of the tokens. A model to start from brings its own shape, and a decoder
    becomes every expert of the family that is asked for (c-BTM, 2303.14177). More than one of `ranks` trains on Ray;
    `determinism` bitwise gives the same bytes on 1, 2, 4 or more of them. `device` cuda takes a GPU for each rank.
    """

    verb: ClassVar[str] = "pretrain"
    revision: ClassVar[int] = 4

    tokens: int
    params: int = 1_000_000
    family: FamilyName = "decoder"
    experts: int = 32
    banks: int = 8
    qk_norm: bool = False
    mup_width: int = 0
    learning_rate: float = 1e-2
    batch_rows: int = 16
    seed: int = 0
    threads: int = 1
    device: Device = added("cpu")
    micro_batch_rows: int = 8
    ranks: int = 1
    determinism: Determinism = "run"
    optimizer: OptimizerName = "muon"
    schedule: Schedule = added("wsd")
    sharding: Sharding = added("replicated")
    precision: Precision = added("auto")
    compile: Compile = added("auto")
    gradient_checkpointing: bool = field(default=False, compare=False)
    checkpoint_every: int = field(default=250, compare=False)
    price_per_hour: float = field(default=0.0, compare=False)
    trackers: tuple[str, ...] = field(default=(), compare=False)
    tracking_dir: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        _check(self)

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A model snapshot."""
        return trained(work, self.jobs(work, *inputs), inputs[0], ranks=self.ranks)

    def jobs(self, work: Work, *inputs: Snapshot) -> Jobs:
        """What is to be computed, in the run's own folder."""
        packs, *models = inputs
        paths = pack_paths(work.store, packs)
        rows_per_cell = Packs(paths).rows_per_cell
        check_tokenizers(*inputs)
        start = model_folder(work.store, models[0], work.folder / "start") if models else None
        job = PretrainJob(
            name=work.name,
            packs=paths,
            weights=cell_weights(work.store, packs, rows_per_cell),
            model=self._continued(start, packs) if start else self._fresh(packs),
            train=train_settings(self, f"{work.name}-{work.fingerprint[:8]}"),
            run_dir=run_folder(work),
            threads=self.threads,
            device=self.device,
            start=start,
        )
        if isinstance(job.model.family, Mixture):
            return one_per_expert(job, job.model, job.model.family, rows_per_cell)
        return one(job)

    def _fresh(self, packs: Snapshot) -> ModelConfig:
        shape = replace(fresh_shape(packs, self.params), qk_norm=self.qk_norm, mup_width=self.mup_width)
        return self._in_family(shape, packs)

    def _continued(self, start: Path, packs: Snapshot) -> ModelConfig:
        """Of the model in `start`. Raises UsageError where its experts are not those of the packs' cells."""
        shape, there = model_config(start), len(packs.contents.summary["rows_per_cell"])
        kind = shape.family.kind
        if kind == "mixture":
            raise UsageError("a mixture can't be pretrained further: make its packs larger and train it anew")
        if kind == "decoder" and self.family != "recurrent":
            return self._in_family(shape, packs)
        if self.family not in ("decoder", kind):
            raise UsageError(
                f"family {self.family}: the model to start from is a {kind} model, and only a decoder becomes "
                "another family, one with experts"
            )
        cells = getattr(shape.family, "cells", there)
        if cells != there:
            raise UsageError(f"the model to start from has experts of {cells} cells, the packs have {there}")
        return shape

    def _in_family(self, shape: ModelConfig, packs: Snapshot) -> ModelConfig:
        """The decoder's shape in the family that was asked for."""
        cells = len(packs.contents.summary["rows_per_cell"])
        settings = {"experts": self.experts, "banks": self.banks, "cells": cells}
        wanted = FAMILIES[self.family].__dataclass_fields__
        try:
            family = FAMILIES[self.family](**{name: value for name, value in settings.items() if name in wanted})
            return replace(shape, family=family)
        except ValueError as error:
            raise UsageError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Continue a model on at most `tokens` tokens of the target's packs, keeping the best on its validation documents.

    Inputs: packs, tokenized validation documents, and the model to start from; without one, a fresh model of `params`
    parameters learns from the target alone (SLM-nopt of 2402.01093). Of a model with experts one is chosen by the rule
    `expert`, or all are tuned and the best is kept. `lora_rank` above 0 trains low-rank products and merges them. With
    `label_share` below 1 the last input is a teacher, a model or its lessons about these packs, and the rest of the
    loss is its next-token distribution.
    """

    verb: ClassVar[str] = "finetune"
    revision: ClassVar[int] = 3

    tokens: int
    params: int = 1_000_000
    expert: Choice | Literal["all"] = "lowest-loss"
    lora_rank: int = 0
    label_share: float = 1.0
    learning_rate: float = 1.3e-3
    batch_rows: int = 16
    evaluate_every: int = 40
    patience: int = 3
    seed: int = 0
    threads: int = 1
    device: Device = added("cpu")
    micro_batch_rows: int = 8
    ranks: int = 1
    determinism: Determinism = "run"
    optimizer: OptimizerName = "adamw"
    precision: Precision = added("auto")
    compile: Compile = added("auto")
    gradient_checkpointing: bool = field(default=False, compare=False)
    checkpoint_every: int = field(default=250, compare=False)
    price_per_hour: float = field(default=0.0, compare=False)
    trackers: tuple[str, ...] = field(default=(), compare=False)
    tracking_dir: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        _check(self)
        for name in ("evaluate_every", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: expected at least 1")
        if not 0 <= self.label_share <= 1 or self.lora_rank < 0:
            raise UsageError(
                f"label_share {self.label_share} and lora_rank {self.lora_rank}: expected 0 to 1, and 0 or more"
            )
        if self.lora_rank and self.label_share < 1:
            raise UsageError(f"lora_rank {self.lora_rank} learns from labels alone: expected label_share 1")

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A model snapshot."""
        return trained(work, self.jobs(work, *inputs), inputs[0], ranks=self.ranks)

    def jobs(self, work: Work, *inputs: Snapshot) -> Jobs:
        """One run, or one per expert when all are tuned."""
        packs, validation, *others = inputs
        check_tokenizers(*inputs)
        method = self._method(work, packs, others)
        model = others[:-1] if self.label_share < 1 else others
        reader = Packs(pack_paths(work.store, packs))
        starts = self._starts(work, packs, model, reader)
        job = FinetuneJob(
            name=work.name,
            packs=tuple(reader.paths),
            model_dir=starts[0],
            train=train_settings(self, f"{work.name}-{work.fingerprint[:8]}"),
            validation=scored_documents(work.store, validation),
            stopping=EarlyStopping(evaluate_every=self.evaluate_every, patience=self.patience),
            run_dir=run_folder(work),
            threads=self.threads,
            device=self.device,
            method=method,
            weights=cell_weights(work.store, packs, reader.rows_per_cell),
        )
        return one(job) if len(starts) == 1 else one_per_start(job, starts)

    def _method(self, work: Work, packs: Snapshot, others: Sequence[Snapshot]) -> Method:
        if self.label_share == 1:
            return Lora(rank=self.lora_rank) if self.lora_rank else Full()
        if not others:
            raise UsageError(
                f"label_share {self.label_share} learns from a teacher: add a model or lessons as last input"
            )
        teacher = others[-1]
        if teacher.contents.kind == "lessons":
            paths = lesson_paths(work, teacher, packs)
            return Taught(teacher_dir=None, lessons=paths, label_share=self.label_share)
        folder = model_folder(work.store, teacher, work.folder / "teacher")
        return Taught(teacher_dir=folder, lessons=(), label_share=self.label_share)

    def _starts(self, work: Work, packs: Snapshot, models: Sequence[Snapshot], reader: Packs) -> list[Path]:
        """The plain models to tune: the model itself, those of its experts that the rule takes, or a fresh one."""
        folder = work.folder / "start"
        if not models:
            return [_fresh_model(fresh_shape(packs, self.params), self.seed, folder, reader)]
        model_dir = model_folder(work.store, models[0], folder)
        if not isinstance(model_config(model_dir).family, Projected | Mixture):
            return [model_dir]
        experts = Experts(model_dir)
        if self.expert == "all":
            chosen = [one_expert(number, len(experts)) for number in range(len(experts))]
        else:
            chosen = [experts.chosen(reader, self.expert)]
        starts = [work.folder / f"expert-{number:03d}" for number in range(len(chosen))]
        for start, histogram in zip(starts, chosen, strict=True):
            write_model(experts.plain(histogram), start, end_of_text=end_of_text(model_dir))
        return starts


def fresh_shape(packs: Snapshot, params: int) -> ModelConfig:
    """A decoder of about that size for these packs. Raises UsageError where their vocabulary alone is larger."""
    summary = packs.contents.summary
    try:
        return sized(params, vocab_size=summary["vocab_size"], context=summary["context"])
    except ValueError as error:
        raise UsageError(str(error)) from error


def _fresh_model(shape: ModelConfig, seed: int, folder: Path, packs: Packs) -> Path:
    network = Llama(shape)
    network.initialise(seed)
    write_model(network, folder, end_of_text=packs.format.end_of_text)
    return folder


def _check(step: Pretrain | Finetune) -> None:
    """Raise UsageError for settings that no run can have."""
    for name in ("threads", "ranks"):
        if getattr(step, name) < 1:
            raise UsageError(f"{name} {getattr(step, name)}: expected at least 1")
    if step.device == "cuda" and step.determinism == "bitwise":
        raise UsageError("determinism bitwise is for CPUs: PyTorch's attention on a GPU adds in no fixed order")
    try:
        train = train_settings(step)
    except ValueError as error:
        raise UsageError(str(error)) from error
    check_trackers(train.trackers)
    pays_to_compile(train, flops=0.0, device=torch.device(step.device))  # raises where it can't be


def train_settings(step: Pretrain | Finetune, name: str = "") -> TrainConfig:
    """The settings of the step that are also those of a training run; trackers have a folder for each run's `name`."""
    shared = {each.name: getattr(step, each.name) for each in fields(TrainConfig) if hasattr(step, each.name)}
    if step.tracking_dir:
        shared["tracking_dir"] = str(Path(step.tracking_dir).absolute())
    return TrainConfig(**shared).tracked_as(name)

"""Which learning rate and batch size: short trainings of many settings, the worse ones stopped early.

ASHA (arXiv 1810.05934) on Ray Tune: every trial reports its validation bits per byte at least every ninth of the
budget, and goes on while it is among the best third of those that came to a ninth and to a third of it. A trial is one
process on its own thread with the same budget of *tokens*, so batch sizes compare fairly; one that diverges has
infinite bits. Which settings are tried is a function of the seed; settings that are known to be good come first (warm
starts) and set the mark for the others. Who is stopped depends on who reports first, so a search is advice, not a
snapshot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from catalog.errors import UsageError
from catalog.pack import Packs
from training.config import ModelConfig, TrainConfig
from training.context import LocalContext, dtype_of, resolved
from training.evaluate import score, summarise
from training.loop import Diverged
from training.loop import train as run_loop
from training.model import Llama
from training.pretrain import check_fit, ordered
from training.telemetry import silent

REDUCTION = 3  # of the trials at a rung the best third goes on
Report = Callable[[int, float], None]  # tokens so far, bits per byte


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is searched for."""

    learning_rate: float
    batch_rows: int


@dataclass(frozen=True, kw_only=True)
class Space:
    """Learning rates between two, evenly in their logarithm, and batch sizes to choose from."""

    learning_rates: tuple[float, float] = (1e-3, 5e-2)
    batch_rows: tuple[int, ...] = (2, 4, 8, 16)

    def __post_init__(self) -> None:
        low, high = self.learning_rates
        if not 0 < low <= high or not self.batch_rows or min(self.batch_rows) < 1:
            raise UsageError(
                f"learning rates {low} to {high} and batches of {self.batch_rows} rows: expected a rate above 0, one "
                "not below it, and at least one size above 0"
            )


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, and judged on tokenized documents (the columns of `evaluate`)."""

    packs: tuple[Path, ...]
    weights: tuple[float, ...] | None
    model: ModelConfig
    train: TrainConfig
    validation: pa.Table = field(repr=False)
    rungs: int = 3


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How far a setting came: `tokens` of its budget, and its validation bits per byte there."""

    learning_rate: float
    batch_rows: int
    tokens: int
    bits_per_byte: float
    seconds: float
    finished: bool


def settings_to_try(space: Space, number: int, *, known: Sequence[Setting], seed: int) -> list[Setting]:
    """`number` settings: the known ones first, then rates from a van der Corput sequence turned by the seed.

    So any number of them covers the range evenly, and more trials contain fewer.
    """
    low, high = map(math.log, space.learning_rates)
    turn = float(np.random.Generator(np.random.Philox(seed)).random())
    drawn = [
        Setting(
            learning_rate=float(f"{math.exp(low + (high - low) * ((_van_der_corput(i + 1) + turn) % 1)):.3g}"),
            batch_rows=space.batch_rows[i % len(space.batch_rows)],
        )
        for i in range(number)
    ]
    return list(dict.fromkeys([*known, *drawn]))[:number]


def run_trial(task: Task, setting: Setting, folder: Path, report: Report) -> None:
    """Train one setting, telling `report` of each rung; its files go to `folder`."""
    torch.set_num_threads(1)
    train = replace(task.train, learning_rate=setting.learning_rate, batch_rows=setting.batch_rows, trackers=())
    packs = Packs(task.packs)
    check_fit(packs, task.model)
    network = Llama(task.model)
    network.initialise(train.seed)
    folder.mkdir(parents=True, exist_ok=True)
    steps = train.steps(packs.format.context)
    dtype = dtype_of(resolved(train.precision, torch.device("cpu")))
    rungs = _Rungs(task, steps=steps, tokens_per_step=setting.batch_rows * packs.format.context, report=report)
    try:
        run_loop(
            network,
            packs=packs,
            order=ordered(packs, task.weights, train=train),
            config=replace(train, checkpoint_every=steps),
            dtype=dtype,
            run_dir=folder,
            context=LocalContext(device_name="cpu", num_threads=1),
            judge=rungs,
            on_progress=silent,
        )
    except Diverged:  # an answer, like any other
        report(task.train.tokens, math.inf)


def table(trials: Sequence[Trial]) -> pa.Table:
    """The trials, the best first: those that came further stand before those that were stopped."""
    ordered_trials = sorted(trials, key=lambda each: (-each.tokens, each.bits_per_byte))
    return pa.Table.from_pylist([asdict(each) for each in ordered_trials])


class _Rungs:
    """A judge that reports the validation loss at each rung and never stops: that is the scheduler's."""

    def __init__(self, task: Task, *, steps: int, tokens_per_step: int, report: Report):
        self._task, self._steps, self._tokens_per_step, self._report = task, steps, tokens_per_step, report
        self._end_of_text = Packs(task.packs).format.end_of_text
        self._calls = 0
        self.every = max(1, steps // REDUCTION ** (task.rungs - 1))

    def judge(self, model: Llama) -> tuple[float, bool]:
        step, self._calls = min(self._calls * self.every, self._steps), self._calls + 1
        scores = score(model, self._task.validation, end_of_text=self._end_of_text, dtype=torch.float32)
        loss = summarise(scores).bits_per_byte
        if step:
            self._report(step * self._tokens_per_step, loss)
        return loss, False

    def state(self) -> dict[str, Any]:
        return {"calls": self._calls}

    def restore(self, state: dict[str, Any]) -> None:
        self._calls = state["calls"]


def _van_der_corput(number: int) -> float:
    """The binary digits of a number, mirrored behind the point."""
    out, scale = 0.0, 0.5
    while number:
        out, number, scale = out + scale * (number & 1), number >> 1, scale / 2
    return out

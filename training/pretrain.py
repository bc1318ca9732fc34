"""Pretraining: packs and settings in, a model folder out; run it again and it continues, or returns at once.

`training/run_folder.py` says what lies in a run's folder.

A mixture may change while a run goes on: call again with the same settings and one more entry in `changes`, for a step
that no checkpoint has passed. The log of stages is part of run.json and of every checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from catalog.errors import UsageError
from catalog.pack import Packs
from training.blocks import gathered
from training.config import ModelConfig, TrainConfig
from training.context import LocalContext, RunContext, dtype_of
from training.expert import grown
from training.family import Projected
from training.folder import read_network, write_model
from training.loop import train as run_loop
from training.model import Llama
from training.order import Change, Order
from training.run_folder import TrainResult, close_run, compared, open_run
from training.telemetry import OnProgress, silent


@dataclass(frozen=True, kw_only=True)
class MixtureChange:
    """From optimiser step `step` (0-based) on the cells are weighted by `weights`."""

    step: int
    weights: tuple[float, ...]


def pretrain(
    packs: Sequence[Path],
    *,
    weights: Sequence[float] | None,
    model: ModelConfig,
    train: TrainConfig,
    run_dir: Path,
    changes: Sequence[MixtureChange] = (),
    context: RunContext = LocalContext(),  # noqa: B008, a frozen value
    on_progress: OnProgress = silent,
    start: Path | None = None,
) -> TrainResult:
    """Train a model on packs, cells weighted by `weights` (None: in proportion to their rows), later by `changes`.

    `start` is a folder with the weights to begin from, of the same shape or of the decoder that every expert is to
    begin as; None draws them from the seed.

    Raises UsageError when the packs do not fit the model, a weighted cell has no rows, or `run_dir` holds a run with
    other settings; Diverged when the loss is no longer a number.
    """
    reader = Packs(packs)
    check_fit(reader, model)
    order = ordered(reader, weights, train=train, changes=changes)
    identity = {
        "kind": "pretrain",
        "packs": [[path.name, path.stat().st_size] for path in reader.paths],
        "weights": order.weights.tolist(),
        "changes": [[change.step, list(change.weights)] for change in changes],
        "model": asdict(model),
        "train": compared(train),
        "start": hashlib.sha256((start / "model.safetensors").read_bytes()).hexdigest() if start else "",
    }
    finished, precision = open_run(run_dir, identity, train=train, context=context)
    if finished:
        return finished
    network = begun(model, start, seed=train.seed).to(context.device)
    outcome = run_loop(
        network,
        packs=reader,
        order=order,
        config=train,
        dtype=dtype_of(precision),
        run_dir=run_dir,
        context=context,
        judge=None,
        on_progress=on_progress,
    )
    network = gathered(network)
    if context.rank == 0:
        write_model(network, run_dir / "model", end_of_text=reader.format.end_of_text)
    return close_run(run_dir, outcome, precision=precision, context=context)


def begun(model: ModelConfig, start: Path | None, *, seed: int) -> Llama:
    """The network before its first step; UsageError where `start` holds another shape."""
    if start is None:
        network = Llama(model)
        network.initialise(seed)
        return network
    network = read_network(start, device=torch.device("cpu"))
    if isinstance(model.family, Projected) and network.config == model.plain:
        return grown(network, model)
    if network.config != model:
        raise UsageError(f"the model to start from has the shape {network.config}, expected was {model}")
    return network


def check_fit(packs: Packs, model: ModelConfig) -> None:
    """Raise UsageError unless the packs were cut for the model's context and vocabulary."""
    given = packs.format
    if (given.context, given.vocab_size) != (model.context, model.vocab_size):
        raise UsageError(
            f"the packs have context {given.context} and vocabulary {given.vocab_size}, the model has context "
            f"{model.context} and vocabulary {model.vocab_size}: pack again or change the model"
        )


def ordered(
    packs: Packs,
    weights: Sequence[float] | None,
    *,
    train: TrainConfig,
    changes: Sequence[MixtureChange] = (),
) -> Order:
    """The order of the packs' rows; a weight or a change that can't be honoured is a UsageError."""
    later = [Change(begin=change.step * train.batch_rows, weights=change.weights) for change in changes]
    try:
        return Order(packs.rows_per_cell, weights, seed=train.seed, changes=later)
    except ValueError as error:
        raise UsageError(str(error)) from error

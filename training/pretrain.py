"""Pretraining: packs and settings in, a model folder out; run it again and it continues, or returns at once.

<run_dir>/run.json        what is trained: the run's identity, with the precision that `auto` became
          checkpoints/    the last two, until the run is done; those that a rule keeps, for good
          metrics.jsonl   events.jsonl
          model/          config.json, model.safetensors
          result.json     written last

A mixture may change while a run goes on: call again with the same settings and one more entry in `changes`, for a step
that no checkpoint has passed. The log of stages is part of run.json and of every checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from catalog.errors import UsageError
from catalog.pack import Packs
from training.blocks import gathered
from training.checkpoint import drop_untagged, latest, remove_leftovers, write_file
from training.config import ModelConfig, TrainConfig
from training.context import LocalContext, RunContext, resolved
from training.expert import grown
from training.family import Projected
from training.folder import read_network, write_model
from training.loop import LoopResult
from training.loop import train as run_loop
from training.model import Llama
from training.order import Change, Order
from training.telemetry import OnProgress, silent


@dataclass(frozen=True, kw_only=True)
class MixtureChange:
    """From optimiser step `step` (0-based) on the cells are weighted by `weights`."""

    step: int
    weights: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run. `final_loss`: nats per token over the last 32 steps; `precision`: what `auto` became."""

    model_dir: Path
    steps: int
    tokens: int
    seconds: float
    final_loss: float
    precision: str


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


def dtype_of(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "bf16" else torch.float32


def compared(config: Any) -> dict[str, Any]:
    """The fields of a config that are its identity."""
    return {field.name: getattr(config, field.name) for field in fields(config) if field.compare}


def open_run(
    run_dir: Path, identity: dict[str, Any], *, train: TrainConfig, context: RunContext
) -> tuple[TrainResult | None, str]:
    """The result of a finished run, if this is one, and the precision it computes in.

    Raises UsageError when `run_dir` holds a run with another identity, naming what differs.
    """
    path, result = run_dir / "run.json", run_dir / "result.json"
    wanted = json.loads(json.dumps(identity))
    precision: str = resolved(train.precision, context.device)
    if path.exists():
        written = json.loads(path.read_text())
        precision = written.pop("precision")
        is_longer = _appends(run_dir, written, wanted)
        _check_same(run_dir, {**written, "changes": wanted.get("changes")} if is_longer else written, wanted)
        if is_longer and context.rank == 0:
            write_file(path, json.dumps({**wanted, "precision": precision}, indent=1).encode())
    elif context.rank == 0:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps({**wanted, "precision": precision}, indent=1).encode())
    return (read_result(run_dir) if result.exists() else None), precision


def read_result(run_dir: Path) -> TrainResult:
    """The result of a finished run."""
    return TrainResult(model_dir=run_dir / "model", **json.loads((run_dir / "result.json").read_text()))


def close_run(run_dir: Path, outcome: LoopResult, *, precision: str, context: RunContext) -> TrainResult:
    """Write the result and drop what only an unfinished run needs."""
    values = {**asdict(outcome), "precision": precision}
    if context.rank == 0:
        write_file(run_dir / "result.json", json.dumps(values, indent=1).encode())
        drop_untagged(run_dir / "checkpoints")
        remove_leftovers(run_dir)
    return TrainResult(model_dir=run_dir / "model", **values)


def _appends(run_dir: Path, written: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether the wanted changes of the mixture are the written ones and more, which a run may get while it goes on.

    Raises UsageError when the run has passed the step of a new one.
    """
    before, now = written.get("changes", []), wanted.get("changes", [])
    if len(now) <= len(before) or now[: len(before)] != before:
        return False
    newest = latest(run_dir / "checkpoints")
    passed = newest.step if newest else 0
    if (run_dir / "result.json").exists() or now[len(before)][0] < passed:
        raise UsageError(
            f"{run_dir} is past step {now[len(before)][0]}, from which another mixture was asked for: expected a step "
            f"from {passed} on of a run that is not finished"
        )
    return True


def _check_same(run_dir: Path, written: dict[str, Any], wanted: dict[str, Any]) -> None:
    before, now = _flattened(written), _flattened(wanted)
    different = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if different:
        key = different[0]
        raise UsageError(
            f"{run_dir} holds a run with other settings: {key} was {_short(before.get(key))}, now "
            f"{_short(now.get(key))}"
            + (f", and {len(different) - 1} more" if len(different) > 1 else "")
            + "; give another folder or delete this one"
        )


def _flattened(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, each in value.items():
        out.update(_flattened(each, f"{prefix}{key}.") if isinstance(each, dict) else {prefix + key: each})
    return out


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."

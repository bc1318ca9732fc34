"""The folder of a training run: what it is, how it ended, and that nothing else is trained into it.

<run_dir>/run.json        what is trained: the run's identity, with the precision that `auto` became
          checkpoints/    the last two, until the run is done; those that a rule keeps, for good
          metrics.jsonl   events.jsonl
          model/          config.json, model.safetensors
          result.json     written last
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from catalog.errors import UsageError
from training.checkpoint import drop_untagged, latest, remove_leftovers, write_file
from training.config import TrainConfig
from training.context import RunContext, resolved
from training.loop import LoopResult


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run. `final_loss`: nats per token over the last 32 steps; `precision`: what `auto` became."""

    model_dir: Path
    steps: int
    tokens: int
    seconds: float
    final_loss: float
    precision: str


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

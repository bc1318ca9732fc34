"""Where a run's numbers go beside its own JSON lines: TensorBoard, Weights & Biases, MLflow.

Each is a thing with `log(step, values)` and `close()`. W&B and MLflow are extras (`pip install tamis[wandb]`,
`tamis[mlflow]`; TensorBoard is `tamis[tensorboard]`) and take their server from their own environment variables;
without one they write below a folder, offline. A run resumes the record it began.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from catalog.errors import UsageError


class Tracker(Protocol):
    """A reader of a run's numbers."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_trackers(names: Sequence[str]) -> None:
    """Raise UsageError for an unknown name and for a tracker whose package is missing."""
    for name in names:
        if name not in _OPENERS:
            raise UsageError(f"no tracker {name!r}; the trackers are {', '.join(_OPENERS)}")
        if find_spec(name) is None:
            raise UsageError(f"the tracker {name} can't start: its package is missing; pip install tamis[{name}]")


def open_trackers(names: Sequence[str], folder: Path, *, begin: int) -> list[Tracker]:
    """The trackers of these names for a run that continues after step `begin`; what has no server writes to `folder`.

    Raises UsageError for an unknown name and for one whose package is missing.
    """
    check_trackers(names)
    found = []
    if names:
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        try:
            found.append(_OPENERS[name](folder, begin))
        except ImportError as error:
            raise UsageError(f"the tracker {name} can't start: {error}; pip install tamis[{name}]") from error
    return found


class _TensorBoard:
    def __init__(self, run_dir: Path, begin: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run_dir / "tensorboard"), purge_step=begin + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, run_dir: Path, _begin: int):
        import wandb

        mode: Any = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        self._run: Any = wandb.init(
            dir=str(run_dir), project="tamis", id=_identity(run_dir), resume="allow", mode=mode, name=run_dir.name
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, run_dir: Path, _begin: int):
        import mlflow
        from mlflow.tracking import MlflowClient

        given = os.environ.get("MLFLOW_TRACKING_URI")
        if not given:  # plain files: a database would need packages beyond mlflow-skinny
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client: Any = MlflowClient(given or (run_dir.absolute() / "mlflow").as_uri())
        experiment = self._client.get_experiment_by_name("tamis")
        where = experiment.experiment_id if experiment else self._client.create_experiment("tamis")
        identity = _identity(run_dir)
        found = self._client.search_runs([where], f"tags.tamis = '{identity}'")
        run = found[0] if found else self._client.create_run(where, tags={"tamis": identity}, run_name=run_dir.name)
        self._run, self._metric = run.info.run_id, mlflow.entities.Metric

    def log(self, step: int, values: Mapping[str, float]) -> None:
        metrics = [self._metric(name, float(value), 0, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


def _identity(run_dir: Path) -> str:
    return hashlib.sha256(str(run_dir.absolute()).encode()).hexdigest()[:16]


_OPENERS: dict[str, Callable[[Path, int], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
    "mlflow": _Mlflow,
}

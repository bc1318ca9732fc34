"""What a run says about itself: one JSON line per step, TensorBoard event files, and a `Progress` value per step.

`metrics.jsonl` is cut back to the checkpoint on resume, so it reads like one uninterrupted run. Losses in it are
deterministic; the time fields are not.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_TAIL_BYTES = 4096
_WINDOW = 32  # steps that the reported loss and speed are averaged over


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands. `loss` is nats per token over the last 32 steps; `tokens` counts since the very start."""

    step: int
    steps: int
    loss: float
    tokens: int
    tokens_per_second: float
    eta_seconds: float


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The callback that does nothing."""


class Telemetry:
    """The writer of one run's metrics, resumed after step `begin`; `run_dir` None (a follower rank) writes nothing."""

    def __init__(self, run_dir: Path | None, *, begin: int, steps: int, tokens_per_step: int, on_progress: OnProgress):
        self._steps, self._tokens_per_step, self._on_progress = steps, tokens_per_step, on_progress
        kept: list[dict[str, Any]] = []
        self._file: IO[str] | None = None
        self._board: Any = None
        if run_dir is not None:
            path = run_dir / "metrics.jsonl"
            kept = [line for line in read_metrics(path) if line["step"] <= begin and begin]
            path.write_text("".join(json.dumps(line) + "\n" for line in kept))
            self._file = path.open("a", buffering=1)
            self._board = _summary_writer(run_dir / "tensorboard", purge_step=begin + 1)
        self._seconds_before = float(kept[-1]["seconds"]) if kept else 0.0
        self._begun = time.perf_counter()
        self._losses = deque([line["loss"] for line in kept if "loss" in line][-_WINDOW:], maxlen=_WINDOW)
        self._times = deque([self._begun], maxlen=_WINDOW + 1)

    def step(self, step: int, *, loss: float, learning_rate: float, gradient_norm: float) -> None:
        """Record optimiser step `step` (1-based)."""
        self._losses.append(loss)
        self._times.append(time.perf_counter())
        progress = self.progress(step)
        values = {"loss": loss, "mean_loss": progress.loss, "learning_rate": learning_rate}
        speed = {"tokens": progress.tokens, "tokens_per_second": progress.tokens_per_second}
        self._write(step, {"steps": self._steps, **values, "gradient_norm": gradient_norm, **speed})
        if self._file is not None:
            self._on_progress(progress)

    def validation(self, step: int, loss: float) -> None:
        """Record a validation loss, bits per byte."""
        self._write(step, {"validation_bits_per_byte": loss})

    def progress(self, step: int) -> Progress:
        """Where the run stands after `step` steps."""
        seconds = (self._times[-1] - self._times[0]) / max(len(self._times) - 1, 1)
        return Progress(
            step=step,
            steps=self._steps,
            loss=self.loss,
            tokens=step * self._tokens_per_step,
            tokens_per_second=self._tokens_per_step / seconds if seconds else 0.0,
            eta_seconds=seconds * (self._steps - step),
        )

    @property
    def loss(self) -> float:
        """Mean training loss of the last 32 steps, nats per token."""
        return sum(self._losses) / len(self._losses) if self._losses else float("nan")

    @property
    def seconds(self) -> float:
        """Time spent on the steps that count, work lost to crashes left out."""
        return self._seconds_before + time.perf_counter() - self._begun

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def _write(self, step: int, values: dict[str, Any]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values, "seconds": self.seconds}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a torn last line, as a killed run may leave, is dropped."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def follow(run_dir: Path) -> Progress | None:
    """Where a run in another process stands, from the end of its metrics; None before its first step."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        tail = file.read().split(b"\n")[:-1]
    for text in reversed(tail):
        if not text.startswith(b"{"):  # the cut first line
            continue
        line = json.loads(text)
        if "loss" in line:
            speed = line["tokens_per_second"]
            left = line["tokens"] / line["step"] * (line["steps"] - line["step"])
            return Progress(
                step=line["step"],
                steps=line["steps"],
                loss=line["mean_loss"],
                tokens=line["tokens"],
                tokens_per_second=speed,
                eta_seconds=left / speed,
            )
    return None


def _summary_writer(path: Path, *, purge_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # tensorboard is a convenience: the JSON lines hold the same numbers
        return None
    return SummaryWriter(str(path), purge_step=purge_step)

"""What a run says about itself: one JSON line per step, the same to trackers, and a `Progress` value per step.

    metrics.jsonl   a line a step; cut back to the checkpoint on resume, so it reads like one uninterrupted run
    events.jsonl    a line for each thing worth telling, never cut: resumed, damaged checkpoint, loss spike

Losses are deterministic; what speaks of time (seconds, speed, MFU, stall, cost, which checkpoint is sealed) is not.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from training.trackers import Tracker, open_trackers

_log = logging.getLogger(__name__)

_TAIL_BYTES = 4096
_WINDOW = 32  # steps that the reported loss and speed are averaged over
_STALL_WORTH_SAYING = 0.02


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands. `loss` is nats per token over the last 32 steps; `tokens` counts since the very start.

    `mfu` is a share of the measured matrix peak, 0 where that was not measured; `stall` the share of time that steps
    waited for rows; `cost` the price of the time so far; `checkpoint` the newest sealed one and the hash of its
    parameters, like `250 3fa9c01b2d4e`.
    """

    step: int
    steps: int
    loss: float
    tokens: int
    tokens_per_second: float
    eta_seconds: float
    mfu: float = 0.0
    stall: float = 0.0
    cost: float = 0.0
    checkpoint: str = ""

    @property
    def line(self) -> str:
        """The figures as one line for a person."""
        parts = [f"loss {self.loss:.3f}", f"{self.tokens_per_second:,.0f} tokens/s"]
        if self.mfu:
            parts.append(f"MFU {self.mfu:.0%}")
        if self.stall >= _STALL_WORTH_SAYING:
            parts.append(f"waits for data {self.stall:.0%}")
        if self.cost:
            parts.append(f"cost {self.cost:.2f}")
        if self.checkpoint:
            parts.append(f"checkpoint {self.checkpoint}")
        return "  ".join([*parts, f"left {self.eta_seconds:.0f} s"])


OnProgress = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """The callback that does nothing."""


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """What speed is measured against: the steps and tokens of the run, its FLOPs a token, a peak (0: not measured)."""

    steps: int
    tokens_per_step: int
    flops_per_token: int
    peak_flops: float
    price_per_hour: float


class Telemetry:
    """The writer of one run's metrics, resumed after step `begin`; `run_dir` None (a follower rank) writes nothing."""

    def __init__(
        self,
        run_dir: Path | None,
        *,
        begin: int,
        yardstick: Yardstick,
        trackers: Sequence[str],
        on_progress: OnProgress,
        tracking_dir: str = "",
    ):
        self._yardstick, self._on_progress = yardstick, on_progress
        kept: list[dict[str, Any]] = []
        self._file: IO[str] | None = None
        self._trackers: list[Tracker] = []
        self._run_dir = run_dir
        if run_dir is not None:
            self._trackers = open_trackers(trackers, Path(tracking_dir) if tracking_dir else run_dir, begin=begin)
            path = run_dir / "metrics.jsonl"
            kept = [line for line in read_metrics(path) if line["step"] <= begin and begin]
            path.write_text("".join(json.dumps(line) + "\n" for line in kept))
            self._file = path.open("a", buffering=1)
        self._seconds_before = float(kept[-1]["seconds"]) if kept else 0.0
        self._begun = time.perf_counter()
        self._losses = deque([line["loss"] for line in kept if "loss" in line][-_WINDOW:], maxlen=_WINDOW)
        self._times = deque([(self._begun, 0.0)], maxlen=_WINDOW + 1)
        self._checkpoint = ""

    def step(self, step: int, *, loss: float, learning_rate: float, gradient_norm: float, waited: float) -> None:
        """Record optimiser step `step` (1-based); `waited` seconds for rows since this process began."""
        if is_spike(self._losses, loss):
            mean = sum(self._losses) / len(self._losses)
            self.event(
                step,
                "spike",
                f"step {step}: the loss is {loss:.3f}, {loss - mean:.3f} above the steps before; its documents: "
                f"tamis replay MODEL --step {step}",
            )
        self._losses.append(loss)
        self._times.append((time.perf_counter(), waited))
        progress = self.progress(step)
        values = {"loss": loss, "mean_loss": progress.loss, "learning_rate": learning_rate}
        speed = {"tokens": progress.tokens, "tokens_per_second": progress.tokens_per_second}
        shares = {"mfu": progress.mfu, "stall": progress.stall, "cost": progress.cost}
        self._write(
            step,
            {"steps": self._yardstick.steps, **values, "gradient_norm": gradient_norm, **speed, **shares},
            note={"checkpoint": self._checkpoint},
        )
        if self._file is not None:
            self._on_progress(progress)

    def validation(self, step: int, loss: float) -> None:
        """Record a validation loss, bits per byte."""
        self._write(step, {"validation_bits_per_byte": loss}, note={})

    def sealed(self, step: int, parameter_hash: str) -> None:
        """Record that the checkpoint of a step is on disk, whole."""
        self._checkpoint = f"{step} {parameter_hash[:12]}"

    def event(self, step: int, kind: str, text: str) -> None:
        """Tell something that a person should know, in one line, and keep it."""
        if self._run_dir is None:
            return
        _log.warning(text)
        with (self._run_dir / "events.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "kind": kind, "text": text}) + "\n")

    def progress(self, step: int) -> Progress:
        """Where the run stands after `step` steps."""
        measure = self._yardstick
        (begun, waited_before), (now, waited) = self._times[0], self._times[-1]
        seconds = (now - begun) / max(len(self._times) - 1, 1)
        speed = measure.tokens_per_step / seconds if seconds else 0.0
        return Progress(
            step=step,
            steps=measure.steps,
            loss=self.loss,
            tokens=step * measure.tokens_per_step,
            tokens_per_second=speed,
            eta_seconds=seconds * (measure.steps - step),
            mfu=speed * measure.flops_per_token / measure.peak_flops if measure.peak_flops else 0.0,
            stall=(waited - waited_before) / (now - begun) if now > begun else 0.0,
            cost=self.seconds / 3600 * measure.price_per_hour,
            checkpoint=self._checkpoint,
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
        for tracker in self._trackers:
            tracker.close()

    def _write(self, step: int, values: dict[str, float], *, note: dict[str, str]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values, **note, "seconds": self.seconds}) + "\n")
        for tracker in self._trackers:
            tracker.log(step, {**values, "seconds": self.seconds})


def is_spike(before: Collection[float], loss: float) -> bool:
    """Whether a loss stands out of the steps before it: by six deviations and by a tenth of a nat."""
    if len(before) < _WINDOW:
        return False
    return loss > statistics.fmean(before) + max(6 * statistics.pstdev(before), 0.1)


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """What a run told, in order; a torn last line is dropped."""
    return read_metrics(run_dir / "events.jsonl")


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
                **{name: line[name] for name in ("mfu", "stall", "cost", "checkpoint")},
            )
    return None

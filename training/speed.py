"""How fast this machine trains a shape: a few steps of the real loop, thrown away afterwards."""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.config import Device, ModelConfig, TrainConfig
from training.context import LocalContext
from training.pretrain import pretrain

_FLOPS = 1.5e12  # about what the calibration may cost: seconds on one core
_MOST_SECONDS = 60.0
_FEWEST, _MOST = 4, 16  # steps; the first is left out, it also warms up


@dataclass(frozen=True, kw_only=True)
class Speed:
    """FLOPs a second of one training run on `threads` threads or a GPU, the median of `steps` steps."""

    flops_per_second: float
    steps: int
    threads: int
    device: Device = "cpu"


def flops_of_step(shape: ModelConfig, train: TrainConfig) -> float:
    """What an optimiser step of so many rows takes."""
    return train.batch_rows * (float(shape.flops_per_token) * shape.context + shape.flops_per_projection)


def is_quick(shape: ModelConfig, train: TrainConfig, known: Speed) -> bool:
    """Whether measuring the shape takes a minute at most, were it as fast as what is `known`."""
    return _FEWEST * flops_of_step(shape, train) <= _MOST_SECONDS * known.flops_per_second


def measure(packs: Sequence[Path], shape: ModelConfig, *, train: TrainConfig, threads: int, device: Device) -> Speed:
    """The speed of the loop of `train` on these packs, checkpoints and trackers left out."""
    tokens_per_step = train.batch_rows * shape.context
    flops_per_step = flops_of_step(shape, train)
    steps = min(_MOST, max(_FEWEST, round(_FLOPS / flops_per_step)))
    settings = replace(
        train, tokens=steps * tokens_per_step, schedule="wsd", decay_share=0.0, checkpoint_every=steps, trackers=()
    )
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        context = LocalContext(device_name=device, num_threads=threads)
        pretrain(packs, weights=None, model=shape, train=settings, run_dir=run_dir, context=context)
        seconds = [json.loads(line)["seconds"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    times = [after - before for before, after in itertools.pairwise(seconds)]
    rate = flops_per_step / statistics.median(times)
    return Speed(flops_per_second=rate, steps=len(times), threads=threads, device=device)

"""Training throughput on CPU cores: our loop against a nanoGPT-shaped loop and Hugging Face's Trainer.

    python benchmarks/train.py [--threads 2] [--steps 6] [--turns 3] [--sizes 1 6 30] [--parts speed loader order ray]

speed: all train on the same made-up rows of 256 tokens, 16 rows a step, bf16 where the CPU multiplies it, fused AdamW,
clipping, in turns; ours is `pretrain` as a user calls it, data, metrics and optimiser included. Each peer runs eager
and compiled, and its faster setting counts; compilation is shown apart. One document a row, so that transformers may
use its causal path. Medians of steps, by the clock and by processor time, which other work on the machine hurts less.
The Trainer needs accelerate (`pip install tamis[bench]`): without it that is said and the rest runs.

loader: rows read alone against what the model eats. order: sample numbers computed a second.

ray: a step under Ray Train against a step here, and two workers of one thread against one of two.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train_peers import HfTrainer, NanoGpt, Times

from catalog.pack import PackFormat, Packs, write_pack
from training.batches import Batches
from training.config import ModelConfig, TrainConfig, sized
from training.context import LocalContext, RunContext, resolved
from training.order import Order
from training.pretrain import pretrain
from training.telemetry import Progress
from training.worker import PretrainJob, fit_with_ray

CONTEXT, VOCAB, ROWS = 256, 4096, 16


def made_up_rows() -> np.ndarray:
    """256 rows of random tokens, one more than the context each."""
    return np.random.default_rng(1).integers(1, VOCAB, (256, CONTEXT + 1)).astype(np.uint16)


def made_up_pack(path: Path) -> Path:
    """The rows, one document each."""
    rows = made_up_rows()[:, :CONTEXT]
    write_pack(
        path,
        PackFormat(context=CONTEXT, vocab_size=VOCAB, end_of_text=0, tokenizer="made-up"),
        tokens=rows,
        cells=np.zeros(len(rows), np.int32),
        starts=[[0]] * len(rows),
        documents=[[bytes([1] * 16)]] * len(rows),
    )
    return path


def settings(steps: int) -> TrainConfig:
    """Ours, with the optimiser of the peers and their batch in one piece."""
    return TrainConfig(
        tokens=ROWS * CONTEXT * steps,
        batch_rows=ROWS,
        micro_batch_rows=ROWS,
        optimizer="adamw",
        checkpoint_every=10**9,
        decay_share=0.0,
    )


class Ours:
    """`pretrain` from start to end."""

    def __init__(self, pack: Path, model: ModelConfig, *, threads: int):
        self.pack, self.model, self.threads, self.start_seconds = pack, model, threads, 0.0

    def steps(self, number: int) -> Times:
        clocks: list[tuple[float, float]] = []

        def on_progress(_: Progress) -> None:
            clocks.append((time.perf_counter(), time.process_time()))

        with tempfile.TemporaryDirectory() as folder:
            pretrain(
                [self.pack],
                weights=None,
                model=self.model,
                train=settings(number + 3),
                run_dir=Path(folder),
                context=LocalContext(device_name="cpu", num_threads=self.threads),
                on_progress=on_progress,
            )
        # the first step warms up, the last also writes a checkpoint
        return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(clocks[1:-1])]


def peers(model: ModelConfig) -> dict[str, Callable[[], Any]]:
    rows, is_bf16 = made_up_rows(), resolved("auto", torch.device("cpu")) == "bf16"
    made: dict[str, Callable[[], Any]] = {}
    for name, kind in (("nanoGPT", NanoGpt), ("HF Trainer", HfTrainer)):
        for compiled in (False, True):
            made[name + (" compiled" if compiled else "")] = lambda kind=kind, compiled=compiled: kind(
                model, rows, batch_rows=ROWS, is_bf16=is_bf16, compiled=compiled
            )
    return made


def speed(pack: Path, options: argparse.Namespace) -> None:
    """The table of tokens per second."""
    torch.set_num_threads(options.threads)
    print(f"{'parameters':>11}  {'':<20} {'tokens/s':>9} {'ratio':>6} {'cpu s/step':>11} {'ratio':>6} {'start s':>8}")
    for size in options.sizes:
        model = sized(size * 1_000_000, vocab_size=VOCAB, context=CONTEXT)
        contestants: dict[str, Any] = {"tamis": Ours(pack, model, threads=options.threads)}
        for name, make in peers(model).items():
            try:
                contestants[name] = make()
            except (ImportError, RuntimeError) as error:
                print(f"{'':>11}  {name:<20} can't run: {' '.join(str(error).split())[:90]}", flush=True)
        times: dict[str, Times] = {name: [] for name in contestants}
        for _ in range(options.turns):
            for name, each in contestants.items():
                times[name] += each.steps(options.steps)
        middle = {name: [statistics.median(column) for column in zip(*t, strict=True)] for name, t in times.items()}
        for name, (wall, cpu) in middle.items():
            print(
                f"{model.num_parameters:>11,}  {name:<20} {ROWS * CONTEXT / wall:>9,.0f} "
                f"{wall / middle['tamis'][0]:>5.2f}x {cpu:>11.3f} {cpu / middle['tamis'][1]:>5.2f}x "
                f"{contestants[name].start_seconds:>8.1f}",
                flush=True,
            )
        print(f"{'':>11}  load {os.getloadavg()[0]:.1f}", flush=True)


def loader(pack: Path, options: argparse.Namespace) -> None:
    """Rows read alone against what the model eats."""
    packs, begun, count = Packs([pack]), time.process_time(), 400
    order = Order(packs.rows_per_cell, None, seed=0)
    batches = Batches(packs, order, settings(count), LocalContext(), begin=0, steps=count)
    read = sum(batch.tokens_BT.numel() for batch in batches)
    batches.close()
    alone = read / (time.process_time() - begun)
    eats = {}
    for size in options.sizes:
        model = sized(size * 1_000_000, vocab_size=VOCAB, context=CONTEXT)
        steps = Ours(pack, model, threads=1).steps(options.steps)
        eats[size] = ROWS * CONTEXT / statistics.median(cpu for _, cpu in steps)
    for size, tokens in eats.items():
        print(f"loader alone {alone:,.0f} tokens/s of one core; {size}M eats {tokens:,.0f}: {alone / tokens:.0f}x")


def sample_numbers(_: Path, __: argparse.Namespace) -> None:
    """Samples a second when an order is computed again."""
    random = np.random.default_rng(0)
    order = Order(random.integers(1, 500, 1024), random.random(1024), seed=0)
    for _ in range(3):
        begun = time.process_time()
        order.samples(5_000_000, 6_000_000)
        print(f"order: {1e6 / (time.process_time() - begun):,.0f} samples/s over 1,024 cells, one core")


@dataclass(frozen=True)
class Clocked:
    """A job that notes the clock and its processor time after each step, wherever it runs."""

    job: PretrainJob

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def run_dir(self) -> Path:
        return self.job.run_dir

    @property
    def threads(self) -> int:
        return self.job.threads

    def run(self, context: RunContext) -> None:
        clocks: list[tuple[float, float]] = []
        self.job.run(context, lambda _: clocks.append((time.perf_counter(), time.process_time())))
        if context.rank == 0:
            (self.run_dir / "clocks.json").write_text(json.dumps(clocks))

    def times(self) -> Times:
        clocks = json.loads((self.run_dir / "clocks.json").read_text())
        return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(clocks[2:-1])]


def on_ray(pack: Path, options: argparse.Namespace) -> None:
    """Steps under Ray Train and here, in turns; two workers of one thread against one of two."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    model, steps = sized(1_000_000, vocab_size=VOCAB, context=CONTEXT), 30
    train = TrainConfig(
        tokens=ROWS * CONTEXT * steps,
        batch_rows=ROWS,
        micro_batch_rows=ROWS // 2,
        optimizer="adamw",
        checkpoint_every=10**9,
    )
    times: dict[str, Times] = {}
    kinds = (("here, 2 threads", 0, 2), ("Ray Train, 2 threads", 1, 2), ("Ray Train, 2 workers of 1", 2, 1))
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.turns):
            for number, (name, workers, threads) in enumerate(kinds):
                run_dir = Path(folder) / f"{turn}-{number}"
                run_dir.mkdir()
                job = PretrainJob(
                    name=name, packs=(pack,), weights=None, model=model, train=train, run_dir=run_dir, threads=threads
                )
                clocked = Clocked(job)
                if workers:
                    fit_with_ray(
                        [clocked], at_once=1, cpus_per_worker=1, workers_per_job=workers, on_progress=lambda *_: None
                    )
                else:
                    clocked.run(LocalContext(device_name="cpu", num_threads=threads))
                times.setdefault(name, []).extend(
                    (wall, cpu * max(workers, 1)) for wall, cpu in clocked.times()
                )  # both workers of a pair do the same
    base = [statistics.median(column) for column in zip(*times[kinds[0][0]], strict=True)]
    for name, each in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*each, strict=True))
        print(
            f"{name:<26} {wall * 1e3:7.1f} ms a step {wall / base[0]:6.3f}x   {cpu * 1e3:7.1f} ms of processor "
            f"{cpu / base[1]:6.3f}x   load {os.getloadavg()[0]:.1f}"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 6, 30])
    parser.add_argument("--parts", nargs="+", default=["speed", "loader", "order", "ray"])
    options = parser.parse_args()
    names = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.threads} thread(s), {names}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pack = made_up_pack(Path(folder) / "rows.arrow")
        for part in options.parts:
            {"speed": speed, "loader": loader, "order": sample_numbers, "ray": on_ray}[part](pack, options)


if __name__ == "__main__":
    main()

"""Tokens a second and MFU on one GPU: 124M parameters, context 1024, bf16, compiled; no ray, no store.

    python benchmarks/gpu_train.py [--params 124] [--rows 32] [--steps 60] [--eager] [--optimizer muon]

NOT YET RUN ON A GPU: none was at hand when it was written; on a CPU it says so and stops. It trains made-up rows
through the same `train` loop as everything else, reads the first steps as start-up (compilation apart), and prints the
median of the rest beside the card's own measured bf16 matrix peak. What to look for: MFU at or above 40% of that peak.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from catalog.pack import PackFormat, Packs, write_pack
from training.config import OptimizerName, TrainConfig, sized
from training.context import LocalContext
from training.loop import train
from training.model import Llama
from training.order import Order
from training.peak import matmul_peak
from training.telemetry import Progress

CONTEXT, VOCAB, WARM_UP = 1024, 32_768, 10


def made_up_packs(path: Path, rows: int) -> Packs:
    """Rows of random tokens, one document each."""
    write_pack(
        path,
        PackFormat(context=CONTEXT, vocab_size=VOCAB, end_of_text=0, tokenizer="made-up"),
        tokens=np.random.default_rng(1).integers(1, VOCAB, (rows, CONTEXT)).astype(np.uint16),
        cells=np.zeros(rows, np.int32),
        starts=[[0]] * rows,
        documents=[[bytes([1] * 16)]] * rows,
    )
    return Packs([path])


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--params", type=int, default=124, help="millions")
    parser.add_argument("--rows", type=int, default=32, help="rows of 1024 tokens a step, in one piece")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--optimizer", choices=get_args(OptimizerName), default=TrainConfig.optimizer)
    parser.add_argument("--eager", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU here: this benchmark has nothing to measure")
    context = LocalContext(device_name="cuda")
    model = sized(options.params * 1_000_000, vocab_size=VOCAB, context=CONTEXT)
    config = TrainConfig(
        tokens=options.rows * CONTEXT * options.steps,
        batch_rows=options.rows,
        micro_batch_rows=options.rows,
        precision="bf16",
        optimizer=options.optimizer,
        compile="never" if options.eager else "always",
        checkpoint_every=10**9,
        trackers=(),
    )
    clocks = [time.perf_counter()]

    def on_progress(_: Progress) -> None:
        clocks.append(time.perf_counter())

    network = Llama(model)
    network.initialise(0)
    with tempfile.TemporaryDirectory() as folder:
        packs = made_up_packs(Path(folder) / "rows.arrow", 16 * options.rows)
        train(
            network.to(context.device),
            packs=packs,
            order=Order(packs.rows_per_cell, None, seed=0),
            config=config,
            dtype=torch.bfloat16,
            run_dir=Path(folder),
            context=context,
            judge=None,
            on_progress=on_progress,
        )
    seconds = statistics.median(b - a for a, b in zip(clocks[WARM_UP:-2], clocks[WARM_UP + 1 : -1], strict=True))
    peak, tokens = matmul_peak(context.device, torch.bfloat16), options.rows * CONTEXT / seconds
    achieved = tokens * model.flops_per_token
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {'eager' if options.eager else 'compiled'}")
    print(f"parameters          {model.num_parameters:>15,}")
    print(f"first step          {clocks[1] - clocks[0]:>15.1f} s")
    print(f"step                {seconds * 1e3:>15.1f} ms")
    print(f"tokens/s            {tokens:>15,.0f}")
    print(f"measured bf16 peak  {peak / 1e12:>15.1f} TFLOP/s")
    print(f"MFU                 {achieved / peak:>15.1%}")
    print(f"memory              {torch.cuda.max_memory_allocated() / 2**30:>15.1f} GiB")


if __name__ == "__main__":
    main()

"""Training throughput on CPU cores: our loop against transformers' Llama of the same shape.

    python benchmarks/train.py [--threads 1] [--steps 30]

Both train on the same made-up rows of 256 tokens in bf16 where the CPU multiplies it, 16 rows a step, AdamW, in turns,
three times; medians after a warm-up. One document a row, so that transformers may use its causal path.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from catalog.pack import PackFormat, write_pack
from training.config import ModelConfig, TrainConfig, sized
from training.context import LocalContext, resolved
from training.folder import hf_config
from training.pretrain import pretrain
from training.telemetry import Progress

CONTEXT, VOCAB, ROWS, TURNS, WARM_UP = 256, 4096, 16, 3, 5
SIZES = (1_000_000, 3_000_000, 6_000_000)


def made_up_pack(path: Path) -> Path:
    """256 rows of random tokens, one document each."""
    tokens = np.random.default_rng(1).integers(1, VOCAB, (256, CONTEXT)).astype(np.uint16)
    write_pack(
        path,
        PackFormat(context=CONTEXT, vocab_size=VOCAB, end_of_text=0, tokenizer="made-up"),
        tokens=tokens,
        cells=np.zeros(256, np.int32),
        starts=[[0]] * 256,
        documents=[[bytes([1] * 16)]] * 256,
    )
    return path


def ours(pack: Path, model: ModelConfig, *, threads: int, steps: int) -> float:
    """Tokens per second of `pretrain`, data, optimiser and metrics included."""
    seen: list[tuple[float, int]] = []

    def on_progress(progress: Progress) -> None:
        seen.append((time.perf_counter(), progress.tokens))

    with tempfile.TemporaryDirectory() as folder:
        pretrain(
            [pack],
            weights=None,
            model=model,
            train=TrainConfig(tokens=ROWS * CONTEXT * steps, batch_rows=ROWS, checkpoint_every=10**9),
            run_dir=Path(folder),
            context=LocalContext(device_name="cpu", num_threads=threads),
            on_progress=on_progress,
        )
    (begin, before), (end, after) = seen[WARM_UP], seen[-2]  # the last step also writes a checkpoint
    return (after - before) / (end - begin)


def theirs(model: ModelConfig, *, threads: int, steps: int) -> float:
    """Tokens per second of LlamaForCausalLM under autocast with fused AdamW."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(threads)
    network = LlamaForCausalLM(LlamaConfig(**hf_config(model, end_of_text=0)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(1, VOCAB, (ROWS, CONTEXT))
    is_bf16 = resolved("auto", torch.device("cpu")) == "bf16"
    begin = 0.0
    for step in range(steps):
        if step == WARM_UP:
            begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            loss = network(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (steps - WARM_UP) * ROWS * CONTEXT / (time.perf_counter() - begin)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    names = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.threads} thread(s), {names}")
    print(f"{'parameters':>12} {'ours':>10} {'transformers':>14}   tokens/s, median of {TURNS} (spread)")
    with tempfile.TemporaryDirectory() as folder:
        pack = made_up_pack(Path(folder) / "rows.arrow")
        for size in SIZES:
            model = sized(size, vocab_size=VOCAB, context=CONTEXT)
            rates: tuple[list[float], list[float]] = ([], [])
            for _ in range(TURNS):
                rates[0].append(ours(pack, model, threads=options.threads, steps=options.steps))
                rates[1].append(theirs(model, threads=options.threads, steps=options.steps))
            middle = [statistics.median(each) for each in rates]
            spread = [(max(each) - min(each)) / m for each, m in zip(rates, middle, strict=True)]
            print(
                f"{model.num_parameters:>12,} {middle[0]:>10,.0f} {middle[1]:>14,.0f}   "
                f"{middle[0] / middle[1]:.2f}x  ({spread[0]:.0%}, {spread[1]:.0%})",
                flush=True,
            )


if __name__ == "__main__":
    main()

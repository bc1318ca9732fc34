"""Batches, rates and optimisers: one target's stream by `weigh-stacked` and its pool, each trained in several settings.

    python benchmarks/reproduce_batch.py STORE --share 0.25 --part 1 --settings muon:1e-2x16 adamw:4e-3x16

STORE is that of benchmarks/reproduce.py and its share. `--part` N trains on 1/N of the store's tokens. A setting is
optimiser, learning rate and rows of a step of pretraining; fine-tuning is that of the reproduction's rows. Scores are
of the target's validation documents. What is there is not made again.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import get_args

import numpy as np
from reproduce import make_table, start_worker, table_here
from reproduce_rows import Row
from reproduce_text import POOL_OF, TARGETS, Bench

from catalog.tables import read_table
from clusters.tuning import parse_setting
from training.compare import Evaluate
from training.config import OptimizerName
from training.steps import Pretrain
from training.tune import Setting as Learning

STREAMS = ("slm", "stacked")  # the pool as it is, and what the selector draws of it


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One model: `rows` a step at `rate` by `optimizer`, on 1/`part` of the tokens."""

    optimizer: OptimizerName
    rows: int
    rate: float
    part: int
    params: int
    method: str

    @property
    def name(self) -> str:
        """Part of the names of its snapshots."""
        return f"batch-{self.params}-{self.part}-{self.optimizer}-{self.rows}x{self.rate:g}".replace(".", "_")


def bits(setting: Setting, target: str) -> list[float]:
    """Bits a byte before and after fine-tuning."""
    table, row = table_here(), Row(method=setting.method, target=target)
    step = Pretrain(
        tokens=table.tokens // setting.part,
        params=setting.params,
        optimizer=setting.optimizer,
        batch_rows=setting.rows,
        learning_rate=setting.rate,
    )
    packs = table.pools[POOL_OF[target]].packs if setting.method == "slm" else table.drawn(row)
    name = f"{target}-{setting.method}-{setting.name}"
    served = table.bench.do(step, packs, into=name)
    tuned = table.tuned(row, served, into=f"{name}-tuned")
    documents = table.targets[target, row.size].validation
    found = table.bench.do(Evaluate(), documents, served, tuned, into=f"{name}-scores")
    scores = read_table(table.bench.catalog.store, found.artifact("scores"))
    parts = [scores.filter(np.array(scores["model"].to_pylist()) == each.name) for each in (served, tuned)]
    return [float(np.sum(each["nll_nats"]) / np.log(2) / np.sum(each["n_bytes"])) for each in parts]


def lines(settings: list[Setting], found: list[list[float]]) -> Iterator[str]:
    """Rows of the Markdown table: one for each setting, of which `settings` holds both streams."""
    for at in range(0, len(settings), len(STREAMS)):
        (plain, plain_tuned), (drawn, drawn_tuned) = found[at : at + len(STREAMS)]
        each = settings[at]
        yield (
            f"| {each.optimizer} | {each.rows} | {each.rate:g} | {plain:.3f} / {plain_tuned:.3f} "
            f"| {drawn:.3f} / {drawn_tuned:.3f} | {plain - drawn:+.3f} / {plain_tuned - drawn_tuned:+.3f} |"
        )


def parse(text: str) -> tuple[OptimizerName, Learning]:
    """`muon:1e-2x16`."""
    optimizer, _, learning = text.partition(":")
    if optimizer not in get_args(OptimizerName):
        raise SystemExit(f"{text!r}: expected OPTIMISER:RATExROWS, such as muon:1e-2x16")
    return optimizer, parse_setting(learning)


def main() -> None:
    """Make the models, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--part", type=int, default=1)
    parser.add_argument("--params", type=int, default=1_000_000)
    parser.add_argument("--settings", nargs="+", default=["muon:1e-2x16"], metavar="OPTIMISER:RATExROWS")
    parser.add_argument("--target", choices=TARGETS, default=TARGETS[0])
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    table = make_table(Bench(folder=options.store, share=options.share))
    wanted = [
        Setting(
            optimizer=optimizer,
            rows=learning.batch_rows,
            rate=learning.learning_rate,
            part=options.part,
            params=options.params,
            method=method,
        )
        for optimizer, learning in map(parse, options.settings)
        for method in STREAMS
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, context, initializer=start_worker, initargs=(table,)) as pool:
        found = list(pool.map(bits, wanted, repeat(options.target)))
    print(f"{table.tokens // options.part:,} tokens, {options.params:,} parameters, {options.target}\n")
    print("| optimiser | rows of a step | learning rate | pool, before / after | drawn, before / after | gain |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    print("\n".join(lines(wanted, found)))


if __name__ == "__main__":
    main()

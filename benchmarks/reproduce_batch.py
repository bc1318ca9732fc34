"""Batches, rates and optimisers: one target's stream by `weigh-stacked` and its pool, each trained in several settings.

    python benchmarks/reproduce_batch.py STORE --share 0.25 --part 1 --settings muon:1e-2x16 adamw:4e-3x16
    python benchmarks/reproduce_batch.py STORE --share 0.25 --tuning adamw:1.3e-3x16 muon:1.3e-3x4 --size 1:100

STORE is that of benchmarks/reproduce.py and its share. `--part` N trains on 1/N of the store's tokens. A setting is
optimiser, learning rate and rows of a step; every one of pretraining is fine-tuned with every one of fine-tuning.
Scores are of the target's validation documents. What is there is not made again.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from reproduce import make_table, start_worker, table_here
from reproduce_rows import Row
from reproduce_text import POOL_OF, SIZES, TARGETS, Bench

from catalog.snapshot import Snapshot
from catalog.tables import read_table
from clusters.tuning import parse_setting
from training.compare import Evaluate
from training.config import OptimizerName
from training.steps import Finetune, Pretrain

STREAMS = ("slm", "stacked")  # the pool as it is, and what the selector draws of it


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How one model learns: `rows` a step at `rate` by `optimizer`."""

    optimizer: OptimizerName
    rows: int
    rate: float

    @property
    def name(self) -> str:
        """Part of a snapshot's name."""
        return f"{self.optimizer}-{self.rows}x{self.rate:g}".replace(".", "_")

    @property
    def learning(self) -> dict[str, Any]:
        """As settings of a step."""
        return {"optimizer": self.optimizer, "batch_rows": self.rows, "learning_rate": self.rate}

    def __str__(self) -> str:
        return f"{self.optimizer}, {self.rows} rows, {self.rate:g}"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A row's stream, on 1/`part` of its tokens, learned in one way and fine-tuned in others."""

    row: Row
    part: int
    params: int
    pretraining: Setting
    tuning: tuple[Setting, ...]


def bits(model: Model) -> list[float]:
    """Bits a byte before fine-tuning, and after each way of it."""
    table, row = table_here(), model.row
    step = Pretrain(tokens=table.tokens // model.part, params=model.params, **model.pretraining.learning)
    pool, how = POOL_OF[row.target], f"batch-{model.params}-{model.part}-{model.pretraining.name}"
    name, packs = (pool, table.pools[pool].packs) if row.method == "slm" else (row.name, table.drawn(row))
    served = table.bench.do(step, packs, into=f"{name}-{how}")
    tuned = [
        table.tuned(row, served, into=f"{row.name}-{how}-tuned-{each.name}", learning=each.learning)
        for each in model.tuning
    ]
    documents = table.targets[row.target, row.size].validation
    names = [f"{row.name}-{how}-scores", *(f"{each.name}-scores" for each in tuned)]
    models = zip([served, *tuned], names, strict=True)
    return [_bits(table.bench.do(Evaluate(), documents, each, into=into)) for each, into in models]


def _bits(evaluation: Snapshot) -> float:
    """Bits a byte of an evaluation of one model."""
    scores = read_table(table_here().bench.catalog.store, evaluation.artifact("scores"))
    return float(np.sum(scores["nll_nats"]) / np.log(2) / np.sum(scores["n_bytes"]))


def lines(models: list[Model], found: list[list[float]]) -> Iterator[str]:
    """Rows of the Markdown table: one for each setting, of which `models` holds both streams."""
    for at in range(0, len(models), len(STREAMS)):
        (plain, *plain_tuned), (drawn, *drawn_tuned) = found[at : at + len(STREAMS)]
        yield f"| {models[at].pretraining} | | {plain:.3f} | {drawn:.3f} | {plain - drawn:+.3f} |"
        for tuning, one, other in zip(models[at].tuning, plain_tuned, drawn_tuned, strict=True):
            yield f"| {models[at].pretraining} | {tuning} | {one:.3f} | {other:.3f} | {one - other:+.3f} |"


def parse(text: str) -> Setting:
    """`muon:1e-2x16`."""
    optimizer, _, learning = text.partition(":")
    if optimizer not in get_args(OptimizerName):
        raise SystemExit(f"{text!r}: expected OPTIMISER:RATExROWS, such as muon:1e-2x16")
    numbers = parse_setting(learning)
    return Setting(optimizer=optimizer, rows=numbers.batch_rows, rate=numbers.learning_rate)


def main() -> None:
    """Make the models, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--part", type=int, default=1)
    parser.add_argument("--params", type=int, default=1_000_000)
    parser.add_argument("--settings", nargs="+", default=[_written(Pretrain)], metavar="OPTIMISER:RATExROWS")
    parser.add_argument("--tuning", nargs="+", default=[_written(Finetune)], metavar="OPTIMISER:RATExROWS")
    parser.add_argument("--target", choices=TARGETS, default=TARGETS[0])
    parser.add_argument("--size", choices=SIZES, default="1:1000")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    table = make_table(Bench(folder=options.store, share=options.share))
    models = [
        Model(
            row=Row(method=method, target=options.target, size=options.size),
            part=options.part,
            params=options.params,
            pretraining=parse(setting),
            tuning=tuple(map(parse, options.tuning)),
        )
        for setting in options.settings
        for method in STREAMS
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, context, initializer=start_worker, initargs=(table,)) as pool:
        found = list(pool.map(bits, models))
    print(f"{table.tokens // options.part:,} tokens, {options.params:,} parameters, {options.target} {options.size}\n")
    print("| pretraining | fine-tuning | pool | drawn | gain |")
    print("| --- | --- | ---: | ---: | ---: |")
    print("\n".join(lines(models, found)))


def _written(step: type[Pretrain | Finetune]) -> str:
    """The default of a step, as `parse` reads it."""
    return f"{step.optimizer}:{step.learning_rate:g}x{step.batch_rows}"


if __name__ == "__main__":
    main()

"""Importance weights: how much of the training stream each cell should be.

Cluster importance sampling (2402.01093, section 3.2) draws windows so that the histogram over cells follows the target
instead of the pool. The ratio of two histograms is noisy where the target has few windows and repeats cells that are
small, so the target histogram is smoothed towards the pool's, tempered, mixed with a share of the pool, and capped by
epochs (kernels.histogram). Counts are tokens. The result is a mixture: one weight per cell, with bootstrap intervals
over target documents, the effective sample size, and how much of the target lies outside what the pool covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from catalog import schema
from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import Store
from catalog.tables import read_live, write_table
from dataops.cells import load_cells
from dataops.kernels.histogram import bootstrap_intervals, dirichlet_alpha, importance_weights, token_histogram


@dataclass(frozen=True, kw_only=True)
class Weigh:
    """Weights that turn the pool (first input) towards the target (second input) in a stream of `tokens` tokens."""

    verb: ClassVar[str] = "weigh"
    revision: ClassVar[int] = 1

    tokens: int
    temperature: float = 1.0
    defence: float = 0.1
    max_epochs: float = 4.0
    bootstrap_draws: int = 200
    seed: int = 1

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise UsageError(f"a training stream of {self.tokens} tokens: expected at least 1")
        if self.temperature <= 0 or self.max_epochs <= 0 or not 0 <= self.defence <= 1:
            raise UsageError(
                f"temperature {self.temperature}, max_epochs {self.max_epochs}, defence {self.defence}: "
                "expected positive numbers, and a share from 0 to 1 for defence"
            )

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A mixture snapshot with the table `weights`."""
        pool, target = (each.require("documents", "cells") for each in inputs)
        if pool.artifact("cell-model") != target.artifact("cell-model"):
            raise UsageError(f"{pool.ref} and {target.ref} were put into different cells: assign both by the same fit")
        task = {
            "step": self,
            "pool": (pool.contents.shards, pool.contents.layers),
            "target": (target.contents.shards, target.contents.layers),
            "cell-model": pool.artifact("cell-model"),
        }
        (receipt,) = work.stage("weigh", _weigh, [task], unit="windows")
        artifacts = {"weights": file_ref(receipt["weights"]), "cell-model": pool.artifact("cell-model")}
        return Contents(kind="mixture", artifacts=artifacts, summary=receipt["summary"])


def _read_cells(store: Store, side: tuple[Sequence[Shard], tuple[str, ...]]) -> pa.Table:
    """id, cell, n_tokens and similarity of all live windows of one side."""
    shards, layers = side
    columns = ["id", "cell", "n_tokens", "similarity"]
    return pa.concat_tables(
        [read_live(store, shard, layers, columns, table="cells") for shard in shards]
    ).combine_chunks()


def _weigh(store: Store, task: Task) -> Receipt:
    step: Weigh = task["step"]
    num_cells = load_cells(store, task["cell-model"]).num_cells
    pool, target = _read_cells(store, task["pool"]), _read_cells(store, task["target"])
    if not pool.num_rows or not target.num_rows:
        raise UsageError(f"the pool has {pool.num_rows} windows and the target {target.num_rows}: both need some")
    pool_tokens = token_histogram(pool["cell"].to_numpy(), pool["n_tokens"].to_numpy(), num_cells)
    target_tokens = token_histogram(target["cell"].to_numpy(), target["n_tokens"].to_numpy(), num_cells)
    windows = np.bincount(target["cell"].to_numpy(), minlength=num_cells)
    generic = pool_tokens / pool_tokens.sum()
    alpha = dirichlet_alpha(windows, generic)
    weights = importance_weights(
        target_tokens * (windows.sum() / target_tokens.sum()),  # tokens, in units of the mean window
        pool_tokens,
        budget=step.tokens,
        alpha=alpha,
        temperature=step.temperature,
        defence=step.defence,
        max_epochs=step.max_epochs,
    )
    low, high = bootstrap_intervals(
        target["id"].combine_chunks().dictionary_encode().indices.to_numpy(),
        target["cell"].to_numpy(),
        generic,
        alpha=alpha,
        draws=step.bootstrap_draws,
        seed=step.seed,
        coverage=0.95,
    )
    capped = np.isin(np.arange(num_cells), weights.capped)
    table = pa.table(
        {
            "cell": np.arange(num_cells, dtype=np.int32),
            "pool_tokens": pool_tokens,
            "target_tokens": target_tokens,
            "pool_share": weights.generic,
            "target_share": weights.target,
            "weight": weights.sampling,
            "ratio": np.divide(weights.target, generic, out=np.ones(num_cells), where=generic > 0),
            "ratio_low": low,
            "ratio_high": high,
            "epochs": weights.epochs,
            "capped": capped,
        }
    ).cast(schema.WEIGHTS)
    edge = np.percentile(pool["similarity"].to_numpy(), 1)
    summary = {
        "method": "cluster importance sampling",
        "cells": num_cells,
        "tokens": step.tokens,
        "alpha": float(alpha),
        "effective_sample_size": weights.effective_cells,
        "coverage": float(np.mean(target["similarity"].to_numpy() >= edge)),
        "capped_cells": int(capped.sum()),
        "pool_too_small": weights.over_cap,
        "pool_tokens": int(pool_tokens.sum()),
        "target_tokens": int(target_tokens.sum()),
    }
    return {
        "weights": as_json(write_table(store, table)),
        "summary": summary,
        "windows": pool.num_rows + target.num_rows,
    }

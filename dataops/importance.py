"""Importance weights: how much of the training stream each cell should be.

Cluster importance sampling (2402.01093, section 3.2) draws windows so that the histogram over cells follows the target
instead of the pool. The ratio of two histograms is noisy where the target has few windows and repeats cells that are
small, so the target histogram is smoothed towards the pool's down the tree of cells, as finely as held-out documents
bear out (kernels.resolution); tempered, mixed with a share of the pool, and capped by epochs (kernels.histogram).
Counts are tokens. The result is a mixture: one weight per cell, with bootstrap intervals over target documents, the
effective sample size, and how much of the target lies outside what the pool covers.

Feedback shifts the counts of the target before they are smoothed: n_c + w (a_c - r_c), not below 0, where a_c and r_c
are windows of accepted and rejected text in the cell and w is `feedback_weight`. That is Rocchio's rule (1971; Manning
et al. 2008, section 9.1.1) on counts instead of means, so that ten verdicts weigh as ten windows and not as much as the
whole target. The level and the strength of smoothing are still chosen on the target's documents alone.

Baselines are settings: `defence: 1` draws from the pool as it is; `smoothing: none, defence: 0, max_epochs: 1e9` and a
number of `cells` is the paper's plain importance sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from catalog import schema
from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import Store
from catalog.tables import read_live, write_table
from dataops.cells import level_of, load_cells
from dataops.feedback import Votes, read_votes
from dataops.kernels.histogram import (
    ImportanceWeights,
    bootstrap_intervals,
    dirichlet_alpha,
    importance_weights,
    share_above_cap,
    smoothed,
    token_histogram,
)
from dataops.kernels.resolution import Level, Shares, backed_off, choose_level
from dataops.kernels.tree import Tree, cells_at

Part = tuple[Sequence[Shard], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Weigh:
    """Weights that turn the pool (first input) towards the target (second input) in a stream of `tokens` tokens.

    The third input, if any, is feedback in the same cells, each window of which counts `feedback_weight` windows.
    `cells` is how many cells to compare on: "chosen" by held-out documents, or the finest level with at most that many.
    """

    verb: ClassVar[str] = "weigh"
    revision: ClassVar[int] = 4

    tokens: int
    cells: int | Literal["chosen"] = "chosen"
    smoothing: Literal["tree", "flat", "none"] = "tree"
    temperature: float = 1.0
    defence: float = 0.1
    max_epochs: float = 4.0
    feedback_weight: float = 1.0
    bootstrap_draws: int = 200
    seed: int = 1

    def __post_init__(self) -> None:
        check_sampling(self.tokens, self.temperature, self.defence, self.max_epochs, self.feedback_weight)
        if self.bootstrap_draws < 1:
            raise UsageError(f"bootstrap_draws {self.bootstrap_draws}: expected at least 1")

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A mixture snapshot with the table `weights`."""
        pool, target, *feedback = same_cells(*inputs)
        task = {
            "step": self,
            "feedback": parts_of(feedback),
            "pool": (pool.contents.shards, pool.contents.layers),
            "target": (target.contents.shards, target.contents.layers),
            "cell-model": pool.artifact("cell-model"),
        }
        (receipt,) = work.stage("weigh", _weigh, [task], unit="windows")
        artifacts = {"weights": file_ref(receipt["weights"]), "cell-model": pool.artifact("cell-model")}
        summary = {**receipt["summary"], "quality_gate": has_quality_gate(pool, target)}
        return Contents(kind="mixture", artifacts=artifacts, summary=summary)


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """Windows in their cells, one entry each: what both sides of a comparison are."""

    document: np.ndarray  # int64, documents numbered in the order of their ids; empty where they were not asked for
    cell: np.ndarray  # int32
    tokens: np.ndarray  # int32
    similarity: np.ndarray  # float32, to the centroid

    @property
    def mass(self) -> np.ndarray:
        """Tokens in units of the mean window, so that counts are as large as windows are many."""
        return self.tokens / self.tokens.mean()


def check_sampling(tokens: int, temperature: float, defence: float, max_epochs: float, feedback_weight: float) -> None:
    """Raise UsageError for settings of a stream that mean nothing."""
    if tokens < 1:
        raise UsageError(f"a training stream of {tokens} tokens: expected at least 1")
    if temperature <= 0 or max_epochs <= 0 or not 0 <= defence <= 1:
        raise UsageError(
            f"temperature {temperature}, max_epochs {max_epochs}, defence {defence}: "
            "expected positive numbers, and a share from 0 to 1 for defence"
        )
    if feedback_weight < 0:
        raise UsageError(f"feedback_weight {feedback_weight}: expected 0 or more")


def same_cells(*inputs: Snapshot) -> list[Snapshot]:
    """The inputs, when all went into the cells of one fit by the tokens of one tokenizer; else UsageError."""
    placed = [each.require("documents", "cells") for each in inputs]
    for other in placed[1:]:
        if other.artifact("cell-model") != placed[0].artifact("cell-model"):
            refs = f"{placed[0].ref} and {other.ref}"
            raise UsageError(f"{refs} were put into different cells: assign both by the same fit")
        if other.artifact("tokenizer") != placed[0].artifact("tokenizer"):
            refs = f"{placed[0].ref} and {other.ref}"
            raise UsageError(f"{refs} were cut into tokens of different tokenizers: tokenize both by the same one")
    return placed


def has_quality_gate(*inputs: Snapshot) -> bool:
    """Whether all went through `quality-filter`: noise in the target is imitated, noise in the pool is drawn."""
    return all(any(layer.startswith("quality") for layer in each.contents.layers) for each in inputs)


def read_placed(store: Store, part: Part, *, documents: bool = True) -> Placed:
    """All live windows of a snapshot with cells, which may be none; of a large pool better without `documents`."""
    shards, layers = part
    columns = [*(["id"] if documents else []), "cell", "n_tokens", "similarity"]
    tables = [read_live(store, shard, layers, columns, table="cells") for shard in shards]
    table = pa.concat_tables(tables).combine_chunks()
    return Placed(
        document=_ranks(table["id"]) if documents and len(table) else np.empty(0, np.int64),
        cell=table["cell"].to_numpy(),
        tokens=table["n_tokens"].to_numpy(),
        similarity=table["similarity"].to_numpy(),
    )


def _ranks(ids: pa.ChunkedArray) -> np.ndarray:
    """The number of each id among the different ones in their order."""
    coded = ids.combine_chunks().dictionary_encode()
    rank = np.argsort(np.argsort(coded.dictionary.to_numpy(zero_copy_only=False)))
    return np.asarray(rank[coded.indices.to_numpy()])


@dataclass(frozen=True, kw_only=True, eq=False)
class Weighed:
    """Weights of all leaves, how the number of cells was chosen, and the estimate behind them."""

    weights: ImportanceWeights
    levels: list[Level]
    level: int
    alpha: float
    estimate: Shares


def weigh(step: Weigh, pool: Placed, target: Placed, tree: Tree, *, votes: ArrayLike = 0.0) -> Weighed:
    """The weights of a step on placed windows; `votes` are windows to add to each leaf of the target, or to take."""
    levels = [cells_at(tree, level) for level in range(len(tree.parents))]
    size = token_histogram(pool.cell, pool.tokens, tree.num_cells[-1]).astype(np.float64)

    def sampling(share: np.ndarray) -> ImportanceWeights:
        return importance_weights(
            share,
            size,
            budget=step.tokens,
            temperature=step.temperature,
            defence=step.defence,
            max_epochs=step.max_epochs,
        )

    shift = step.feedback_weight * np.asarray(votes, np.float64)
    counts = np.bincount(target.cell, target.mass, tree.num_cells[-1]).astype(np.float64)
    if not np.maximum(counts + shift, 0)[size > 0].any():
        raise UsageError(
            "no target window lies in a cell where the pool has text, less what feedback rejects: this pool can't be "
            "turned towards it"
        )
    settings = {"temperature": step.temperature, "defence": step.defence, "max_epochs": step.max_epochs}
    found, chosen = choose_level(
        target.document,
        target.cell,
        target.mass,
        size,
        levels,
        sampling=lambda share: sampling(share).sampling,
        moved=lambda share: share_above_cap(share, size, budget=step.tokens, **settings),
    )
    if step.cells != "chosen":
        chosen = level_of(tree, step.cells)
    shares, alpha = _estimate(step, size, levels, found, chosen, target)

    def estimate(counts: np.ndarray) -> np.ndarray:
        return shares(np.maximum(counts + shift, 0))

    return Weighed(weights=sampling(estimate(counts)), levels=found, level=chosen, alpha=alpha, estimate=estimate)


def _estimate(
    step: Weigh, size: np.ndarray, levels: list[np.ndarray], found: list[Level], chosen: int, target: Placed
) -> tuple[Shares, float]:
    """From counts of the target by leaf to its shares, and the strength of smoothing at the last level."""
    if step.smoothing == "tree":
        alphas = [each.alpha for each in found[: chosen + 1]]
        return partial(backed_off, pool=size, levels=levels[: chosen + 1], alphas=alphas), alphas[-1]
    level = levels[chosen]
    share = np.bincount(level, size) / size.sum()
    alpha = 1e-9
    if step.smoothing == "flat":
        alpha = dirichlet_alpha(np.bincount(level[target.cell], minlength=len(share)), share)

    def flat(counts: np.ndarray) -> np.ndarray:
        of_level = smoothed(np.bincount(level, counts, len(share)), share, alpha)
        inside = np.divide(size, (share * size.sum())[level], out=np.zeros_like(size), where=size > 0)
        return np.asarray(of_level[level] * inside, np.float64)

    return flat, alpha


def coverage(pool: Placed, target: Placed) -> float:
    """The share of target windows that are no further from their centroid than 99% of the pool's windows are."""
    return float(np.mean(target.similarity >= np.percentile(pool.similarity, 1)))


def _weigh(store: Store, task: Task) -> Receipt:
    step: Weigh = task["step"]
    tree = load_cells(store, task["cell-model"]).tree
    pool, target = read_placed(store, task["pool"], documents=False), read_placed(store, task["target"])
    if not len(pool.cell) or not len(target.cell):
        counts = f"the pool has {len(pool.cell)} windows and the target {len(target.cell)}"
        raise UsageError(f"{counts}: both need some")
    votes = votes_of(store, task, target, tree)
    made = weigh(step, pool, target, tree, votes=votes.windows if votes else 0.0)
    low, high = bootstrap_intervals(
        target.document,
        target.cell,
        target.mass,
        made.weights.generic,
        estimate=made.estimate,
        draws=step.bootstrap_draws,
        seed=step.seed,
        coverage=0.95,
    )
    if len(np.unique(target.document)) < 2:
        low = high = np.full(len(low), np.nan)  # draws of one document are all the same: they tell of no error
    pool_tokens = token_histogram(pool.cell, pool.tokens, tree.num_cells[-1])
    target_tokens = token_histogram(target.cell, target.tokens, tree.num_cells[-1])
    table = weight_table(made.weights, pool_tokens, target_tokens, low=low, high=high)
    summary = {
        "method": "cluster importance sampling",
        **mixture_summary(made.weights, table, tokens=step.tokens),
        "alpha": made.alpha,
        "resolution": made.levels[made.level].cells,
        "levels": [
            {name: getattr(each, name) for name in ("cells", "alpha", "gain", "error", "rise", "moved")}
            for each in made.levels
        ],
        "coverage": coverage(pool, target),
        **({"feedback": votes.summary} if votes else {}),
    }
    return {
        "weights": as_json(write_table(store, table)),
        "summary": summary,
        "windows": len(pool.cell) + len(target.cell),
    }


def parts_of(snapshots: Sequence[Snapshot]) -> list[Part]:
    """What tasks read of each."""
    return [(each.contents.shards, each.contents.layers) for each in snapshots]


def votes_of(store: Store, task: Task, target: Placed, tree: Tree) -> Votes | None:
    """The verdicts of a task's feedback, if it has any, in windows as long as the target's."""
    if not task["feedback"]:
        return None
    (part,) = task["feedback"]
    return read_votes(store, *part, window_tokens=target.tokens.mean(), num_cells=tree.num_cells[-1])


def weight_table(
    weights: ImportanceWeights, pool_tokens: np.ndarray, target_tokens: np.ndarray, *, low: np.ndarray, high: np.ndarray
) -> pa.Table:
    """The table `weights`, a row per cell."""
    num_cells = len(pool_tokens)
    generic = weights.generic
    return pa.table(
        {
            "cell": np.arange(num_cells, dtype=np.int32),
            "pool_tokens": pool_tokens,
            "target_tokens": target_tokens,
            "pool_share": generic,
            "target_share": weights.target,
            "weight": weights.sampling,
            "ratio": np.divide(weights.target, generic, out=np.ones(num_cells), where=generic > 0),
            "ratio_low": pa.array(low, from_pandas=True),
            "ratio_high": pa.array(high, from_pandas=True),
            "epochs": weights.epochs,
            "capped": np.isin(np.arange(num_cells), weights.capped),
        }
    ).cast(schema.WEIGHTS)


def mixture_summary(weights: ImportanceWeights, table: pa.Table, *, tokens: int) -> dict[str, Any]:
    """What every mixture says about itself."""
    return {
        "cells": table.num_rows,
        "tokens": tokens,
        "effective_sample_size": weights.effective_sample_size,
        "capped_cells": len(weights.capped),
        "pool_too_small": weights.over_cap,
        "pool_tokens": int(table["pool_tokens"].to_numpy().sum()),
        "target_tokens": int(table["target_tokens"].to_numpy().sum()),
    }

"""Resampling: the mixture made into a snapshot, window by window, with every draw on record.

A window of cell c is drawn when its keyed uniform number is below T q_c / |c|, the share of the cell that a stream of T
tokens asks for. The number depends on (seed, document id, window) alone and the threshold grows with T, so a larger
budget contains every smaller one. A cell that is asked for more than once over is taken whole; how often it is repeated
is the mixture's business when training. Where the mixture tells windows of a cell apart (`factors`), a window asks for
its factor times T q_c / |c|: the whole part is drawn for certain, what is left over as its chance, and `copies` counts
them. So every window comes as often as its weight says, within one, and at the tokens that the mixture was weighed for
none above its cap; repeating what was drawn of a cell instead would show a tenth of its windows ten times where each
was wanted once. Documents without a drawn window leave by the rule `resample`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from catalog import schema
from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json
from catalog.snapshot import Contents, Snapshot
from catalog.store import Store
from catalog.tables import read_live, read_table, write_table
from dataops.kernels.sampling import nested_copies
from dataops.step import counts, decide, drops, extend, layer_name, shard_tasks
from dataops.windows import window_numbers

SAME_POOL = 0.1  # a takedown after weighing may take a part of the pool, not more than this share of it


@dataclass(frozen=True, kw_only=True)
class Resample:
    """Draw the windows that a stream of `tokens` tokens under the mixture (second input) needs from the first."""

    verb: ClassVar[str] = "resample"
    revision: ClassVar[int] = 4

    tokens: int
    seed: int = 1

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise UsageError(f"a budget of {self.tokens} tokens: expected at least 1")

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A decision layer `resample` and the table `draws` on the first input."""
        pool, mixture = inputs
        pool.require("documents", "cells")
        weights = mixture.require("mixture").artifact("weights")
        if pool.artifact("cell-model") != mixture.artifact("cell-model"):
            raise UsageError(f"{pool.ref} and {mixture.ref} speak of different cells: weigh the same fit")
        layer = layer_name(pool, "resample")
        tasks = shard_tasks(pool, step=self, weights=weights, layer=layer)
        factors = mixture.contents.shards
        if factors and len(factors) != len(tasks):
            raise UsageError(f"{mixture.ref} tells windows apart by score: resample the pool that was weighed for it")
        tasks = [{**task, "factors": factors[i].tables["factors"] if factors else None} for i, task in enumerate(tasks)]
        receipts = work.stage("draw", _draw, tasks)
        _check_pool(work.store, pool, mixture, np.sum([receipt["pool_tokens"] for receipt in receipts], axis=0))
        drawn = sum(receipt["drawn"] for receipt in receipts)
        if not drawn:
            raise UsageError(f"a budget of {self.tokens} tokens draws no window of {pool.ref}: ask for more tokens")
        summary = {
            **counts(receipts),
            "budget": self.tokens,
            "windows": drawn,
            "tokens": sum(r["tokens"] for r in receipts),
        }
        return extend(pool, receipts, layer=layer, artifacts={"weights": weights}, summary=summary)


def _check_pool(store: Store, pool: Snapshot, mixture: Snapshot, tokens: np.ndarray) -> None:
    """Raise UsageError where the mixture was weighed for a pool with other `tokens` in its cells.

    Its weights would repeat this one more often than the cap allows. Where it tells windows apart, ids are compared.
    """
    weighed = read_table(store, mixture.artifact("weights"), ["pool_tokens"])["pool_tokens"].to_numpy()
    if np.abs(tokens - weighed).sum() > SAME_POOL * weighed.sum():
        raise UsageError(
            f"{pool.ref} has {tokens.sum():,} tokens, {mixture.ref} was weighed for a pool of {weighed.sum():,}, or of "
            "others in each cell: weigh this one"
        )


def _draw(store: Store, task: Task) -> Receipt:
    step: Resample = task["step"]
    live = read_live(store, task["shard"], task["layers"], ["row", "id", "h64"])
    windows = read_live(
        store, task["shard"], task["layers"], ["row", "id", "window", "n_tokens", "cell"], table="cells"
    )
    weights = read_table(store, task["weights"])
    size = np.maximum(weights["pool_tokens"].to_numpy(), 1)
    epochs = (step.tokens * weights["weight"].to_numpy() / size)[windows["cell"].to_numpy()]
    epochs = epochs * _factors(store, task, windows) if task["factors"] else np.minimum(1.0, epochs)
    rows = windows["row"].to_numpy()
    h64 = live["h64"].to_numpy()[np.searchsorted(live["row"].to_numpy(), rows)]
    copies = nested_copies(step.seed, h64, windows["window"].to_numpy(), epochs)
    drawn = copies > 0
    draws = windows.append_column("copies", pa.array(copies)).filter(pa.array(drawn))
    draws = draws.select(schema.DRAWS.names).cast(schema.DRAWS)
    gone = np.flatnonzero(~np.isin(live["row"].to_numpy(), rows[drawn]))
    dropped = drops(live["row"].to_numpy()[gone], "resample", f"no window drawn for {step.tokens} tokens")
    receipt = decide(store, live.select(["row", "id"]), dropped, layer=task["layer"])
    receipt["tables"]["draws"] = as_json(write_table(store, draws))
    n_tokens = windows["n_tokens"].to_numpy()
    of_cells = np.bincount(windows["cell"].to_numpy(), n_tokens, len(size)).astype(np.int64)
    drawn_tokens = int((n_tokens * copies).sum())
    return {**receipt, "drawn": int(drawn.sum()), "tokens": drawn_tokens, "pool_tokens": of_cells.tolist()}


def _factors(store: Store, task: Task, windows: pa.Table) -> np.ndarray:
    """The factor of each window, float64[n]. Raises UsageError where the mixture does not know it."""
    known = read_table(store, task["factors"], ["row", "id", "window", "factor"])
    have, wanted = window_numbers(known), window_numbers(windows)
    at = np.minimum(np.searchsorted(have, wanted), max(len(have) - 1, 0))
    if len(wanted) and (
        not len(have) or (have[at] != wanted).any() or not known["id"].take(pa.array(at)).equals(windows["id"])
    ):
        raise UsageError("the mixture was weighed on other windows: resample the pool that was weighed for it")
    return known["factor"].to_numpy()[at].astype(np.float64) if len(wanted) else np.empty(0)

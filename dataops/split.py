"""Splitting the target: each document goes to exactly one part, decided by its id alone.

The parts are snapshots over the same shards; what went elsewhere carries the rule `split`. Near-duplicates must have
been removed before, or a validation document could be a training document with another date.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work
from catalog.snapshot import Contents, Snapshot
from catalog.store import Store
from catalog.tables import read_live
from dataops.kernels.hashing import uniform
from dataops.step import counts, decide, drops, extend, layer_name, shard_tasks


@dataclass(frozen=True, kw_only=True)
class Split:
    """Keep the documents whose keyed uniform number lies in [start, stop)."""

    verb: ClassVar[str] = "split"
    revision: ClassVar[int] = 1

    start: float
    stop: float
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= 1:
            raise UsageError(f"a split from {self.start} to {self.stop}: expected 0 <= start < stop <= 1")

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A decision layer `split` on the one snapshot given."""
        (snapshot,) = inputs
        snapshot.require("documents")
        layer = layer_name(snapshot, "split")
        receipts = work.stage("split", _split, shard_tasks(snapshot, step=self, layer=layer))
        return extend(snapshot, receipts, layer=layer, summary=counts(receipts))


def _split(store: Store, task: Task) -> Receipt:
    step: Split = task["step"]
    live = read_live(store, task["shard"], task["layers"], ["row", "id", "h64"])
    drawn = uniform(step.seed, live["h64"].to_numpy())
    gone = np.flatnonzero((drawn < step.start) | (drawn >= step.stop))
    reasons = [f"draw {drawn[i]:.4f} outside [{step.start}, {step.stop})" for i in gone]
    dropped = drops(live["row"].to_numpy()[gone], "split", reasons)
    return decide(store, live.select(["row", "id"]), dropped, layer=task["layer"])

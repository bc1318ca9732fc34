"""Mixtures over what exists: several targets in one mixture, and packs that are read by another one.

A model for several targets needs no new selection: q = sum of share_i q_i over the mixtures of each target, capped
again because two targets may want the same cell. `Remix` gives packs of a whole pool other weights, so that one pack
serves any number of targets; packs of a resampled snapshot are smaller, and serve one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from catalog import schema
from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import Store
from catalog.tables import read_table, write_table
from dataops.importance import mixture_summary, weight_table
from dataops.kernels.histogram import importance_weights


@dataclass(frozen=True, kw_only=True)
class Combine:
    """One mixture of several over the same pool; `shares` of the stream in their order, equal ones where empty.

    `max_epochs` caps cells. A window that several mixtures tell apart comes as often as each of them lets it, together.
    """

    verb: ClassVar[str] = "combine"
    revision: ClassVar[int] = 2

    tokens: int
    shares: tuple[float, ...] = ()
    max_epochs: float = 4.0

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.max_epochs <= 0 or any(share <= 0 for share in self.shares):
            raise UsageError(
                f"tokens {self.tokens}, max_epochs {self.max_epochs}, shares {self.shares}: expected positive numbers"
            )

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A mixture snapshot with `weights`, and `factors` where an input has some."""
        mixtures = [each.require("mixture") for each in inputs]
        model = mixtures[0].artifact("cell-model")
        if any(each.artifact("cell-model") != model for each in mixtures):
            raise UsageError("mixtures of different cells can't be combined: weigh every target on the same pool")
        if self.shares and len(self.shares) != len(mixtures):
            raise UsageError(f"{len(self.shares)} shares for {len(mixtures)} mixtures: expected one each, or none")
        given = np.array(self.shares or [1.0] * len(mixtures))
        shares = (given / given.sum()).tolist()
        scored = [len(each.contents.shards) for each in mixtures if each.contents.shards]
        if len(set(scored)) > 1:
            raise UsageError("mixtures that tell windows apart must have been weighed on the same pool")
        weights = [each.artifact("weights") for each in mixtures]
        task = {"step": self, "weights": weights, "shares": shares}
        (receipt,) = work.stage("combine", _combine, [task], unit="cells")
        factors = [[shard.tables["factors"] for shard in each.contents.shards] for each in mixtures]
        task["as_it_is"] = receipt["summary"]["pool_too_small"]
        tasks = [{**task, "factors": [each[i] if each else None for each in factors]} for i in range(max([0, *scored]))]
        mixed = work.stage("factors", _mix_factors, tasks, unit="windows")
        shards = tuple(Shard(rows=each["windows"], tables={"factors": file_ref(each["factors"])}) for each in mixed)
        artifacts = {"weights": file_ref(receipt["weights"]), "cell-model": model}
        return Contents(kind="mixture", shards=shards, artifacts=artifacts, summary=receipt["summary"])


@dataclass(frozen=True, kw_only=True)
class Remix:
    """The packs of a pool (first input), to be read by the weights of a mixture over its cells (second)."""

    verb: ClassVar[str] = "remix"
    revision: ClassVar[int] = 1

    def build(self, work: Work, *inputs: Snapshot) -> Contents:  # noqa: ARG002 (nothing is computed)
        """The same files with the artifact `weights` of the mixture."""
        packs, mixture = inputs[0].require("packs"), inputs[1].require("mixture")
        if packs.artifact("cell-model") != mixture.artifact("cell-model"):
            raise UsageError(f"{packs.ref} and {mixture.ref} speak of different cells: weigh the pool that was packed")
        if "weights" in packs.contents.artifacts:
            raise UsageError(f"{packs.ref} holds the windows drawn for one mixture: remix packs of the whole pool")
        if mixture.contents.shards:
            raise UsageError(f"{mixture.ref} tells windows of a cell apart, packs don't: resample the pool and pack it")
        contents = packs.contents
        artifacts = {**contents.artifacts, "weights": mixture.artifact("weights")}
        return Contents(kind="packs", shards=contents.shards, artifacts=artifacts, summary=contents.summary)


def _combine(store: Store, task: Task) -> Receipt:
    step: Combine = task["step"]
    tables = [read_table(store, ref) for ref in task["weights"]]
    size = tables[0]["pool_tokens"].to_numpy()
    if any(not np.array_equal(each["pool_tokens"].to_numpy(), size) for each in tables):
        raise UsageError("mixtures of different pools can't be combined: weigh every target on the same pool")
    wanted = sum(share * each["weight"].to_numpy() for share, each in zip(task["shares"], tables, strict=True))
    target_tokens = sum(each["target_tokens"].to_numpy() for each in tables)
    weights = importance_weights(
        np.asarray(wanted), size, budget=step.tokens, temperature=1.0, defence=0.0, max_epochs=step.max_epochs
    )
    unknown = pa.nulls(len(size), pa.float64())
    table = weight_table(weights, size, np.asarray(target_tokens), low=unknown, high=unknown)
    summary = {"method": "combination", **mixture_summary(weights, table, tokens=step.tokens), "shares": task["shares"]}
    return {"weights": as_json(write_table(store, table)), "summary": summary, "cells": table.num_rows}


def _mix_factors(store: Store, task: Task) -> Receipt:
    """One shard's factors: the mean of those of all mixtures, by what each asks of the cell; 1 where one has none.

    Where the stream is too long for the pool and its cap, the weights are those of the pool, and so are the factors: 1.
    """
    asked = [
        share * read_table(store, ref, ["weight"])["weight"].to_numpy()
        for share, ref in zip(task["shares"], task["weights"], strict=True)
    ]
    tables = [read_table(store, ref) if ref else None for ref in task["factors"]]
    first = next(each for each in tables if each is not None)
    cell = first["cell"].to_numpy()
    total, mixed, score = np.zeros(len(cell)), np.zeros(len(cell)), np.zeros(len(cell))
    for of_cell, table in zip(asked, tables, strict=True):
        total += of_cell[cell]
        if table is None:
            mixed += of_cell[cell]
            continue
        if not np.array_equal(table["window"].to_numpy(), first["window"].to_numpy()) or not table["id"].equals(
            first["id"]
        ):
            raise UsageError("mixtures that tell windows apart must have been weighed on the same pool")
        mixed += of_cell[cell] * table["factor"].to_numpy()
        score += of_cell[cell] * table["score"].to_numpy()
    alive = total > 0
    columns = {name: first[name] for name in ("row", "id", "window", "cell")}
    columns["score"] = np.divide(score, total, out=np.zeros_like(score), where=alive)
    columns["factor"] = np.divide(mixed, total, out=np.ones_like(mixed), where=alive & (not task["as_it_is"]))
    table = pa.table(columns).cast(schema.FACTORS)
    return {"factors": as_json(write_table(store, table)), "windows": table.num_rows}

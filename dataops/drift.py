"""Drift: whether new text is still what a model was made for, and whether that calls for a new model.

Four measures, each beside what chance makes of it (kernels.drift): the histogram over cells against that of the target
(PSI, with the usual bands 0.1 and 0.25 for what exceeds chance), the distances to the centroids (Kolmogorov-Smirnov),
the share of windows further out than 99% of the pool's, and the model's bits per byte against its own on held-out
target text. The first two say that text changed, the last that the model minds.

`measure-drift` reads scores that `evaluate` made, so nothing here runs a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog import schema
from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import Store
from catalog.tables import read_live, read_table, write_table
from dataops.cells import level_of, load_cells
from dataops.importance import Part, same_cells
from dataops.kernels.drift import Shift, Windows, interval_of_psi, kolmogorov_smirnov, ratio_difference, shift_of_cells
from dataops.kernels.tree import cells_at

FEWEST = 2  # documents on either side: below, chance can't be told from anything


@dataclass(frozen=True, kw_only=True)
class MeasureDrift:
    """Compare new documents (first input) with the target that a model was made for (second).

    The third input holds the fit of their cells, the fourth and fifth the model's scores on the new documents and on
    held-out ones of the target. `cells`: compare on the finest level with at most so many. `moderate` and `large` are
    the bands of the PSI less what is expected by chance, `distance` that of the KS gap, `level` the chance of a false
    alarm of either; the model is worse where 95% of a bootstrap lies above `worse_by` bits per byte.
    """

    verb: ClassVar[str] = "measure-drift"
    revision: ClassVar[int] = 2

    cells: int = 64
    level: float = 0.01
    moderate: float = 0.1
    large: float = 0.25
    distance: float = 0.1
    worse_by: float = 0.05
    draws: int = 999
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.level < 1 or self.draws < 1 / self.level - 1 or not 0 < self.moderate <= self.large:
            raise UsageError(
                f"level {self.level}, draws {self.draws}, moderate {self.moderate}, large {self.large}: expected a "
                "level between 0 and 1, at least 1 / level - 1 draws, and 0 < moderate <= large"
            )

    def evidence(self, *inputs: Snapshot) -> list[str]:
        """The reference of the model that the scores are of, which the verdict names."""
        return list(inputs[3].require("evaluation").inputs[1:])

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A verdict snapshot with the table `shifts`: each cell's share of both."""
        new, target, fitted, scores, held_out = inputs
        same_cells(new, target)
        model = _scored(work, scores, held_out)
        task = {
            "step": self,
            "model": model.name,
            "reference": model.ref,
            "new": (new.contents.shards, new.contents.layers),
            "target": (target.contents.shards, target.contents.layers),
            "cell-model": target.artifact("cell-model"),
            "furthest": furthest(fitted),
            "scores": scores.artifact("scores"),
            "held-out": held_out.artifact("scores"),
        }
        (receipt,) = work.stage("measure", _measure, [task], unit="windows")
        return Contents(kind="verdict", artifacts={"shifts": file_ref(receipt["shifts"])}, summary=receipt["summary"])


def furthest(fitted: Snapshot) -> float:
    """The similarity that 99% of the fitted pool's windows have to their centroid. Raises UsageError."""
    summary = fitted.require("documents", "cells").contents.summary
    if "similarity_1st_percentile" not in summary:
        raise UsageError(f"{fitted.ref} does not say how far its windows lie: give the snapshot that fit-cells made")
    return float(summary["similarity_1st_percentile"])


def _scored(work: Work, scores: Snapshot, held_out: Snapshot) -> Snapshot:
    """The one model of the scores, which the held-out ones have too. Raises UsageError."""
    models, others = (work.catalog.inputs(each.require("evaluation"))[1:] for each in (scores, held_out))
    if len(models) != 1 or (models[0].name, models[0].id) not in {(each.name, each.id) for each in others}:
        raise UsageError(
            f"{scores.ref} scored {', '.join(each.ref for each in models)}: expected one model, which {held_out.ref} "
            f"scored too; it scored {', '.join(each.ref for each in others)}"
        )
    return models[0]


def judge(step: MeasureDrift, found: Mapping[str, Any]) -> tuple[str, list[str]]:
    """`retrain`, `watch` or `no-drift`, and the reasons in words; `found` has the figures of the view `drifts`.

    Retrain when the cells shifted by a large band or the model is worse by more than `worse_by`; watch when something
    less is beyond chance.
    """
    excess = found["psi"] - found["psi_expected"]
    is_shift = found["psi_p"] <= step.level and excess >= step.moderate
    is_large = is_shift and excess >= step.large
    is_worse = found["low"] > step.worse_by
    is_apart = found["ks_p"] <= step.level and found["ks"] - found["ks_expected"] >= step.distance
    reasons = []
    if is_shift:
        band = "large" if is_large else "moderate"
        reasons.append(f"the cells shifted: PSI {found['psi']:.3f}, {excess:.3f} above chance, a {band} shift")
    if is_apart:
        reasons.append(
            f"the distances to the centroids differ: gap {found['ks']:.3f}, by chance {found['ks_expected']:.3f}"
        )
    if is_worse:
        reasons.append(
            f"the model is worse on the new text, by {found['difference']:.3f} bits/byte, at least {found['low']:.3f}"
        )
    verdict = "retrain" if is_large or is_worse else "watch" if reasons else "no-drift"
    return verdict, reasons or ["nothing is beyond chance and its threshold"]


def _measure(store: Store, task: Task) -> Receipt:
    step: MeasureDrift = task["step"]
    known = _contents(store, task["target"])
    new, old = _placed(store, task["new"], without=known), _placed(store, task["target"], without=None)
    tree = load_cells(store, task["cell-model"]).tree
    level = level_of(tree, step.cells)
    windows = _windows(old, new, cells_at(tree, level))
    num_known = _num_documents(store, task["new"]) - windows.new
    if min(windows.old, windows.new) < FEWEST:
        raise UsageError(
            f"{windows.new} new documents, {num_known} more that the target has already, beside {windows.old} of the "
            f"target: expected at least {FEWEST} of both"
        )
    cells = shift_of_cells(windows, tree.num_cells[level], draws=step.draws, level=step.level, seed=step.seed)
    low, high = interval_of_psi(windows, tree.num_cells[level], cells, draws=step.draws, seed=step.seed)
    gap = kolmogorov_smirnov(windows, draws=step.draws, level=step.level, seed=step.seed)
    found = {
        "model": task["reference"],
        "documents": windows.new,
        "known_documents": num_known,
        "target_documents": windows.old,
        "windows": new.num_rows,
        "target_windows": old.num_rows,
        "cells": tree.num_cells[level],
        **_named("psi", cells),
        "psi_low": low,
        "psi_high": high,
        **_named("ks", gap),
        **_outside(windows, 1 - task["furthest"], draws=step.draws, seed=step.seed),
        **_bits(store, task, new["id"].combine_chunks().unique(), draws=step.draws, seed=step.seed),
    }
    verdict, reasons = judge(step, found)
    shifts = _shifts(windows, tree.num_cells[level])
    return {
        "shifts": as_json(write_table(store, shifts)),
        "summary": {**found, "verdict": verdict, "reasons": reasons},
        "windows": new.num_rows + old.num_rows,
    }


def _contents(store: Store, part: Part) -> pa.Array:
    """The content hash of every document of the shards, dropped ones too."""
    tables = [read_table(store, shard.tables["documents"], ["content"]) for shard in part[0]]
    return pa.concat_tables(tables)["content"].combine_chunks()


def fresh_documents(store: Store, new: Part, target: Part) -> int:
    """How many documents of `new` say what none of the target says, dropped ones of it included."""
    known = _contents(store, target)
    contents = [read_live(store, shard, new[1], ["content"])["content"] for shard in new[0]]
    return sum(len(each) - pc.sum(pc.is_in(each, value_set=known)).as_py() if len(each) else 0 for each in contents)


def _num_documents(store: Store, part: Part) -> int:
    return sum(len(read_live(store, shard, part[1], ["row"])) for shard in part[0])


def _placed(store: Store, part: Part, *, without: pa.Array | None) -> pa.Table:
    """id, cell, n_tokens and similarity of the live windows, less those of documents whose content is in `without`."""
    shards, layers = part
    tables = [_placed_shard(store, shard, layers, without) for shard in shards]
    return pa.concat_tables(tables).combine_chunks()


def _placed_shard(store: Store, shard: Shard, layers: tuple[str, ...], without: pa.Array | None) -> pa.Table:
    rows = read_live(store, shard, layers, ["row", "id", "cell", "n_tokens", "similarity"], table="cells")
    if without is not None:
        documents = read_live(store, shard, layers, ["row", "content"])
        fresh = documents.filter(pc.invert(pc.is_in(documents["content"], value_set=without)))
        rows = rows.filter(pc.is_in(rows["row"], value_set=fresh["row"].combine_chunks()))
    return rows.drop_columns(["row"])


def _windows(old: pa.Table, new: pa.Table, level: np.ndarray) -> Windows:
    """Both sets of windows, documents numbered in the order of their ids; a window counts its tokens."""
    both = pa.concat_tables([old, new])
    numbers: list[np.ndarray] = []
    sizes: list[int] = []
    for table in (old, new):
        ids = np.asarray(table["id"].to_pylist(), object).astype(str)
        names, index = np.unique(ids, return_inverse=True)
        numbers.append(index + sum(sizes))
        sizes.append(len(names))
    tokens = both["n_tokens"].to_numpy().astype(np.float64)
    return Windows(
        document=np.concatenate(numbers).astype(np.int64),
        cell=level[both["cell"].to_numpy()].astype(np.int64),
        mass=tokens / tokens.mean() if len(tokens) else tokens,
        distance=1 - both["similarity"].to_numpy().astype(np.float64),
        old=sizes[0],
        new=sizes[1],
    )


def _named(name: str, shift: Shift) -> dict[str, float]:
    return {
        name: shift.value,
        f"{name}_expected": shift.expected,
        f"{name}_limit": shift.limit,
        f"{name}_p": shift.p,
    }


def _outside(windows: Windows, furthest: float, *, draws: int, seed: int) -> dict[str, float]:
    """The shares of windows further out than 99% of the pool's, and their difference."""
    size = windows.documents
    every = np.bincount(windows.document, minlength=size).astype(np.float64)
    out = np.bincount(windows.document, windows.distance > furthest, size).astype(np.float64)
    old, new = slice(0, windows.old), slice(windows.old, size)
    _, low, high = ratio_difference((out[new], every[new]), (out[old], every[old]), draws=draws, seed=seed)
    return {
        "outside": float(out[new].sum() / every[new].sum()),
        "target_outside": float(out[old].sum() / every[old].sum()),
        "outside_low": low,
        "outside_high": high,
    }


def _bits(store: Store, task: Task, fresh: pa.Array, *, draws: int, seed: int) -> dict[str, float]:
    """Bits per byte of the model on new and on held-out documents, and their difference."""

    def sample(name: str, ids: pa.Array | None) -> tuple[np.ndarray, np.ndarray]:
        table = read_table(store, task[name], ["model", "id", "nll_nats", "n_bytes"])
        table = table.filter(pc.equal(table["model"], task["model"]))
        table = table if ids is None else table.filter(pc.is_in(table["id"], value_set=ids))
        return table["nll_nats"].to_numpy() / np.log(2), table["n_bytes"].to_numpy().astype(np.float64)

    new, old = sample("scores", fresh), sample("held-out", None)
    for side, (bits, _) in (("new", new), ("held-out", old)):
        if not len(bits):
            raise UsageError(
                f"{task['model']} scored no {side} document: expected an evaluation of the new documents, then one of "
                "held-out documents"
            )
    difference, low, high = ratio_difference(new, old, draws=draws, seed=seed)
    return {
        "bits_per_byte": float(new[0].sum() / new[1].sum()),
        "held_out_bits_per_byte": float(old[0].sum() / old[1].sum()),
        "difference": difference,
        "low": low,
        "high": high,
    }


def _shifts(windows: Windows, num_cells: int) -> pa.Table:
    """The table `shifts`, a row per cell."""
    is_new = windows.document >= windows.old
    new, old = (np.bincount(windows.cell, windows.mass * side, num_cells) for side in (is_new, ~is_new))
    columns = {
        "cell": np.arange(num_cells, dtype=np.int32),
        "target_share": old / old.sum(),
        "new_share": new / new.sum(),
    }
    return pa.table(columns).cast(schema.SHIFTS)

"""What a finished training run has seen: how often, as stored with the model (training.given), and when first, by a
replay of its order, as sample g is a function of packs, weights and seed.

Cost: 1.7 million samples a second (one core, measured); the packs' tokens are not read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from catalog.pack import Packs, cell_weights
from catalog.snapshot import Run, Snapshot
from catalog.store import Store
from catalog.tables import read_table
from training.family import BANKED, expert_weights
from training.inputs import pack_paths
from training.order import Order

BLOCK = 1 << 20
_MIXED_COMPANY = 4  # the revision of `pretrain` since which consecutive samples of banked families are of any cells


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How many training samples were one of some rows, -1: not known; number of the first, -1: none, or not known."""

    samples: int
    first: int


def seen(store: Store, packs: Snapshot, model: Snapshot, run: Run, rows: np.ndarray) -> Seen:
    """What `run`, which trained `model` on `packs`, saw of these rows (numbered through the files of the packs).

    Every step that was taken counts, also those after the one whose weights early stopping kept. The runs of a model
    that was made by several, as experts are, are counted together. A model from before `given` was stored is counted
    by the replay alone.
    """
    reader = Packs(pack_paths(store, packs))
    count, first = 0, -1
    if "given" in model.contents.counts:
        count = int(_times(store, model, reader)[rows].sum())
        if not count:
            return Seen(samples=0, first=-1)
    orders = _orders(packs, reader, cell_weights(store, packs, reader.rows_per_cell), run)
    wanted = np.zeros(len(reader), bool)
    wanted[rows] = True
    if not reads_in_this_order(run):
        return Seen(samples=count or -1, first=-1)
    replayed = 0
    end = model.contents.summary["steps"] // len(orders) * run.parameters["batch_rows"]
    for order in orders:
        for begin in range(0, end, BLOCK):
            samples = order.samples(begin, min(begin + BLOCK, end))
            hits = np.flatnonzero(wanted[reader.rows(samples.cells, samples.rows)])
            if len(hits) and (first < 0 or begin + int(hits[0]) < first):
                first = begin + int(hits[0])
            replayed += len(hits)
    return Seen(samples=count or replayed, first=first)


def reads_in_this_order(run: Run) -> bool:
    """Whether the samples of a run are those that its order has now: of families with banks they changed."""
    return run.parameters.get("family") not in BANKED or run.parameters["revision"] >= _MIXED_COMPANY


def _times(store: Store, model: Snapshot, reader: Packs) -> np.ndarray:
    """How many samples were each row of the packs, int64[rows], as stored with the model."""
    table = read_table(store, model.contents.counts["given"], ["shard", "row", "samples"])
    begins = np.array([first for first, _ in reader.files()], np.int64)
    times = np.zeros(len(reader), np.int64)
    times[begins[table["shard"].to_numpy()] + table["row"].to_numpy()] = table["samples"].to_numpy()
    return times


def _orders(packs: Snapshot, reader: Packs, weights: tuple[float, ...] | None, run: Run) -> list[Order]:
    settings, rows_per_cell = run.parameters, reader.rows_per_cell
    seed = settings["seed"]
    if settings.get("family") != "mixture":
        return [Order(rows_per_cell, weights, seed=seed)]
    cells = len(packs.contents.summary["rows_per_cell"])
    own = expert_weights(rows_per_cell if weights is None else weights, experts=settings["experts"], cells=cells)
    return [Order(rows_per_cell, each.tolist(), seed=seed) for each in own]

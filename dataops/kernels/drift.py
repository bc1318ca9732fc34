"""Have new documents come from where the old ones came from? Measures with what chance alone would make of them.

Windows of a document are alike, so the unit of chance is the document throughout. What a measure shows when nothing has
changed is found by dealing the documents of both samples out again at random, with the same numbers of each (a
permutation test, exact whatever the sizes). Few documents then show a large value beside a large expected one.

Population stability index (Siddiqi 2006): sum (p - q) ln(p / q) over cells. Both shares get half a pseudo-window per
cell in all, spread as the samples together are: cells that neither has fall out, cells that one lacks stay finite.
Cost: `draws` passes over the (document, cell) pairs, or over the windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRIOR = 0.5  # pseudo-windows per cell, Jeffreys
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """Windows of old and new documents: `document` int64 numbers the old ones from 0 on, then the `new` new ones.

    `mass` float64 is what a window counts, `distance` float64 how far it is from its centroid, `cell` int64 its cell.
    """

    document: NDArray[np.int64]
    cell: NDArray[np.int64]
    mass: Floats
    distance: Floats
    old: int
    new: int

    @property
    def documents(self) -> int:
        """Documents of both."""
        return self.old + self.new


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A measure of drift beside what chance makes of it: mean and upper `limit` of the permutations, and p."""

    value: float
    expected: float
    limit: float
    p: float


def psi(new: Floats, old: Floats) -> float:
    """The index between counts of two samples by cell, each float64[cells] with a positive sum, smoothed."""
    both = new + old
    alive = both > 0
    prior = PRIOR * np.count_nonzero(alive) * both[alive] / both.sum()
    p = (new[alive] + prior) / (new.sum() + prior.sum())
    q = (old[alive] + prior) / (old.sum() + prior.sum())
    return float(((p - q) * np.log(p / q)).sum())


def shift_of_cells(windows: Windows, num_cells: int, *, draws: int, level: float, seed: int) -> Shift:
    """The index of the new documents' histogram to the old ones', by chance exceeded with probability `level`."""
    document, cell, mass = _paired(windows, num_cells)
    both = _histogram(cell, mass, num_cells)

    def index(is_new: NDArray[np.bool_]) -> float:
        new = _histogram(cell, mass * is_new[document], num_cells)
        return psi(new, np.maximum(both - new, 0.0))

    return _among_permutations(index, windows, draws=draws, level=level, seed=seed)


def interval_of_psi(windows: Windows, num_cells: int, shift: Shift, *, draws: int, seed: int) -> tuple[float, float]:
    """95% for what exceeds chance in the index `shift`: (low, high), not below 0.

    Each sample's documents are drawn with replacement, which says how much the index varies; its middle is the index
    less what is expected by chance, because drawing again adds an excess of its own. Of a large shift seen in few
    documents it says too little, never that there is one where there is none (benchmarks/drift.py).
    """
    document, cell, mass = _paired(windows, num_cells)
    generator = np.random.Generator(np.random.Philox(seed))
    is_new = (document >= windows.old).astype(np.float64)
    found = np.empty(draws)
    for draw in range(draws):
        times = np.concatenate([_drawn(generator, windows.old), _drawn(generator, windows.new)])
        drawn = mass * times[document]
        new, old = (_histogram(cell, drawn * side, num_cells) for side in (is_new, 1 - is_new))
        found[draw] = psi(new, old)
    excess = max(0.0, shift.value - shift.expected)
    low, high = np.quantile(found, (0.025, 0.975)) - found.mean()
    return max(0.0, excess + float(low)), excess + float(high)


def kolmogorov_smirnov(windows: Windows, *, draws: int, level: float, seed: int) -> Shift:
    """The largest gap between the distribution functions of the new windows' distances and the old ones'."""
    order = np.argsort(windows.distance, kind="stable")
    document, distance = windows.document[order], windows.distance[order]
    last = np.append(distance[1:] != distance[:-1], True)  # of equal distances: both functions jump there at once

    def gap(is_new: NDArray[np.bool_]) -> float:
        chosen = is_new[document]
        new = np.cumsum(chosen)
        old = np.arange(1, len(chosen) + 1) - new
        return float(np.abs(new / new[-1] - old / old[-1])[last].max())

    return _among_permutations(gap, windows, draws=draws, level=level, seed=seed)


def ratio_difference(
    new: tuple[Floats, Floats], old: tuple[Floats, Floats], *, draws: int, seed: int
) -> tuple[float, float, float]:
    """Sum over sum of the new documents minus that of the old ones, with 95% of a bootstrap over the documents of both.

    Each sample is (numerators float64[documents], denominators float64[documents]). Returns (difference, low, high).
    """
    generator = np.random.Generator(np.random.Philox(seed))
    found = np.empty(draws)
    for draw in range(draws):
        found[draw] = _drawn_ratio(generator, *new) - _drawn_ratio(generator, *old)
    low, high = np.quantile(found, (0.025, 0.975))
    return float(new[0].sum() / new[1].sum() - old[0].sum() / old[1].sum()), float(low), float(high)


def _drawn_ratio(generator: np.random.Generator, above: Floats, below: Floats) -> float:
    times = _drawn(generator, len(above))
    return float((times @ above) / max(float(times @ below), 1e-300))


def _drawn(generator: np.random.Generator, size: int) -> Floats:
    """How often each of `size` documents comes when as many are drawn with replacement."""
    return np.bincount(generator.integers(size, size=size), minlength=size).astype(np.float64)


def _histogram(cell: NDArray[np.int64], mass: Floats, num_cells: int) -> Floats:
    return np.bincount(cell, mass, num_cells).astype(np.float64)


def _paired(windows: Windows, num_cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Mass of each document in each cell that it touches."""
    keys, index = np.unique(windows.document * num_cells + windows.cell, return_inverse=True)
    return keys // num_cells, keys % num_cells, np.bincount(index, windows.mass, len(keys)).astype(np.float64)


def _among_permutations(
    measure: Callable[[NDArray[np.bool_]], float], windows: Windows, *, draws: int, level: float, seed: int
) -> Shift:
    """The measure of the documents as they are, and of `draws` random deals of them."""
    generator = np.random.Generator(np.random.Philox(seed))
    here = measure(np.arange(windows.documents) >= windows.old)
    dealt = np.empty(draws)
    for draw in range(draws):
        is_new = np.zeros(windows.documents, bool)
        is_new[generator.permutation(windows.documents)[: windows.new]] = True
        dealt[draw] = measure(is_new)
    return Shift(
        value=here,
        expected=float(dealt.mean()),
        limit=float(np.quantile(dealt, 1 - level)),
        p=float((1 + np.count_nonzero(dealt >= here)) / (1 + draws)),
    )

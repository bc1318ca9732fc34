"""The target's histogram over the cells of a tree: as fine as its documents bear out (method section 3, item 7).

Walking down the tree, the shares of a cell's children given that cell are smoothed towards the pool's shares of them,
p(c | parent) = (n_c + a p_g(c | parent)) / (n_parent + a). Where a parent has few target windows its children get what
the pool gives them: the leaf backs off to its parent. Each level has one strength a, the one that best predicts each
target *document* from the others, because windows of a document are alike.

How fine to go is judged on held-out documents by the weights that come of these shares, cap and all: the mean of
ln(q_c / p_g(c)) over held-out windows. Unlike the likelihood of a histogram this compares across numbers of cells: it
is what the target gains over the pool in nats a window. Finer cells raise it while they tell target and pool apart, and
what the cap takes from small cells it takes from the gain too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.histogram import best_alpha

FOLDS = 5
Shares = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Level:
    """One number of cells: what held-out target windows gain over the pool there, in nats, with its standard error.

    `rise` and its error compare with the level chosen before; `alpha` is the strength of smoothing at this level;
    `moved` is the share of the stream that lies above the cap of epochs there.
    """

    cells: int
    alpha: float
    gain: float
    error: float
    rise: float
    rise_error: float
    moved: float


def document_alpha(
    documents: ArrayLike, cells: ArrayLike, mass: ArrayLike, parents: ArrayLike, pool: ArrayLike
) -> float:
    """The strength of smoothing inside parents that best predicts each target document from the others.

    Target windows: `documents` int64[w] (0..), `cells` int64[w], `mass` float64[w]. `parents` int[k] and pool tokens
    `pool` [k] of each cell. Maximises sum_dc m_dc ln((n_c - m_dc + a g_c) / (n_parent - m_dparent + a)), g_c being the
    pool's share of c in its parent, on a grid of ln a and by golden section. With one document it is the largest.
    """
    document, cell = np.asarray(documents, np.int64), np.asarray(cells, np.int64)
    parent, size = np.asarray(parents, np.int64), np.asarray(pool, np.float64)
    weight = np.asarray(mass, np.float64)
    given = _given(size, parent)
    alive = given[cell] > 0
    document, cell, weight = document[alive], cell[alive], weight[alive]
    own, at, mine = _paired(document, cell, weight, len(size))
    family, _, of_family = _paired(document, parent[cell], weight, int(parent.max()) + 1)
    family_mass = dict(zip(family.tolist(), of_family.tolist(), strict=True))
    num_parents = int(parent.max()) + 1
    of_parent = np.array(
        [
            family_mass[d * num_parents + p]
            for d, p in zip((own // len(size)).tolist(), parent[at].tolist(), strict=True)
        ]
    )
    n = np.bincount(cell, weight, len(size))
    n_parent = np.bincount(parent[cell], weight, num_parents)
    rest, rest_of_parent, share = n[at] - mine, n_parent[parent[at]] - of_parent, given[at]

    def misfit(log_alpha: float) -> float:
        alpha = math.exp(log_alpha)
        return -float(
            (mine * (np.log(np.maximum(rest, 0) + alpha * share) - np.log(np.maximum(rest_of_parent, 0) + alpha))).sum()
        )

    says = len(mine) > 0 and bool((rest_of_parent > 0).any())
    return best_alpha(misfit if says else None, float(weight.sum()))


def backed_off(
    counts: ArrayLike, pool: ArrayLike, levels: Sequence[NDArray[np.int32]], alphas: Sequence[float]
) -> NDArray[np.float64]:
    """The target's shares of the leaves, float64[k]: smoothed level by level, the pool's shares inside the last level.

    `counts` and pool tokens `pool` are of leaves; `levels[l]` int32[k] is the cell of level l that each leaf lies in,
    from coarse to fine, and `alphas[l]` the strength there.
    """
    n, size = np.asarray(counts, np.float64), np.asarray(pool, np.float64)
    n = np.where(size > 0, n, 0.0)
    shares, above = np.ones(1), np.zeros(len(size), np.int64)
    for level, alpha in zip(levels, alphas, strict=True):
        num_cells = int(level.max()) + 1
        parent = np.zeros(num_cells, np.int64)
        parent[level] = above
        given = _given(np.bincount(level, size, num_cells), parent)
        count = np.bincount(level, n, num_cells)
        of_parent = np.bincount(parent, count, len(shares))
        shares = shares[parent] * (count + alpha * given) / (of_parent[parent] + alpha)
        above = level.astype(np.int64)
    leaves = shares[above] * _given(size, above)
    return leaves / leaves.sum()


def choose_level(
    documents: ArrayLike,
    cells: ArrayLike,
    mass: ArrayLike,
    pool: ArrayLike,
    levels: Sequence[NDArray[np.int32]],
    *,
    sampling: Shares,
    moved: Callable[[NDArray[np.float64]], float],
) -> tuple[list[Level], int]:
    """All levels from coarse to fine, and the number of the one to use.

    A finer level is chosen where it raises the held-out gain over the level chosen so far by more than the standard
    error of the difference, over documents. `sampling` turns target shares float64[k] into the weights that would be
    used, `moved` into the share above the cap, which is reported. Folds are by document number: number documents in the
    order of their hashes first.
    """
    document, cell = np.asarray(documents, np.int64), np.asarray(cells, np.int64)
    weight, size = np.asarray(mass, np.float64), np.asarray(pool, np.float64)
    generic = size / size.sum()
    num_documents = int(document.max()) + 1
    folds = min(FOLDS, num_documents)
    total = np.bincount(document, weight, num_documents)
    alphas = _alphas(document, cell, weight, size, levels)
    gains = np.zeros((len(levels), num_documents))
    for fold in range(folds):
        inside = document % folds != fold
        if not inside.any():
            continue
        counts = np.bincount(cell[inside], weight[inside], len(size))
        strengths = _alphas(document[inside], cell[inside], weight[inside], size, levels)
        for depth in range(len(levels)):
            q = sampling(backed_off(counts, size, levels[: depth + 1], strengths[: depth + 1]))
            ratio = np.log(np.maximum(np.divide(q, generic, out=np.ones_like(q), where=generic > 0), 1e-9))
            held = ~inside
            gains[depth] += np.bincount(document[held], weight[held] * ratio[cell[held]], num_documents)
    counts = np.bincount(cell, weight, len(size))
    found: list[Level] = []
    chosen = 0
    for depth, level in enumerate(levels):
        rise, rise_error = _mean(gains[depth] - gains[chosen], total)
        gain, error = _mean(gains[depth], total)
        above = moved(backed_off(counts, size, levels[: depth + 1], alphas[: depth + 1]))
        found.append(Level(int(level.max()) + 1, alphas[depth], gain, error, rise, rise_error, above))
        if rise > rise_error:
            chosen = depth
    return found, chosen


def _alphas(
    document: NDArray[np.int64],
    cell: NDArray[np.int64],
    weight: NDArray[np.float64],
    size: NDArray[np.float64],
    levels: Sequence[NDArray[np.int32]],
) -> list[float]:
    alphas, above = [], np.zeros(len(size), np.int64)
    for level in levels:
        num_cells = int(level.max()) + 1
        parent = np.zeros(num_cells, np.int64)
        parent[level] = above
        alphas.append(
            document_alpha(document, level[cell].astype(np.int64), weight, parent, np.bincount(level, size, num_cells))
        )
        above = level.astype(np.int64)
    return alphas


def _given(size: NDArray[Any], parent: NDArray[np.int64]) -> NDArray[np.float64]:
    """The pool's share of each cell in its parent; 0 in a parent without text."""
    total = np.bincount(parent, size)[parent]
    return np.divide(size, total, out=np.zeros_like(size), where=total > 0)


def _paired(
    document: NDArray[np.int64], cell: NDArray[np.int64], weight: NDArray[np.float64], num_cells: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Mass of each document in each cell it touches: (key = document * num_cells + cell, cell, mass)."""
    keys, index = np.unique(document * num_cells + cell, return_inverse=True)
    return keys, keys % num_cells, np.bincount(index, weight, len(keys))


def _mean(sums: NDArray[Any], mass: NDArray[Any]) -> tuple[float, float]:
    """The ratio of totals over documents and its standard error."""
    mean = float(sums.sum() / mass.sum())
    residual = sums - mean * mass
    return mean, float(np.sqrt((residual**2).sum()) / mass.sum())

"""Cells as a tree, so that every number of cells comes from one fit (method section 2).

The root splits the points `branching` ways, each of those cells again, until there are `leaves`; every split is a
balanced k-means (kernels.kmeans). Searching stops at these levels only. The levels between them, each a quarter of the
next finer one, merge neighbouring cells: 1024 leaves at 64 ways have levels of 16, 64, 256 and 1024 cells. A wide split
at the top loses fewer points to a wrong branch than four narrow ones (docs/decisions.md).

`assign` takes the nearest child at every searched level, a pure function of the point; the leaf it ends in need not be
the nearest of all. It costs d * branching multiply-adds a point and split.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.kmeans import moved, nearest, split
from dataops.kernels.ragged import read_only

MAX_SKEW = 4.0  # largest share of the points in a leaf while fitting, in units of 1 / leaves
MERGED = 4  # cells that one cell of the next coarser level stands for
FEWEST = 16  # cells of the coarsest merged level: fewer tell a target from the pool no better than one


@dataclass(frozen=True, eq=False)
class Tree:
    """Levels of unit centroids from coarse to fine: `centroids[l]` float32[k_l, d], `parents[l]` int32[k_l].

    The children of a cell are consecutive; `parents[0]` is all 0 (the root). Cell numbers are positions, so the same
    fit gives the same cells. `searched` lists the levels that a point is compared with; the others are merged cells.
    """

    centroids: tuple[NDArray[np.float32], ...]
    parents: tuple[NDArray[np.int32], ...]
    searched: tuple[int, ...]

    @property
    def num_cells(self) -> tuple[int, ...]:
        """Cells of each level, from coarse to fine."""
        return tuple(len(level) for level in self.centroids)


def fit_tree(
    points: ArrayLike,
    *,
    branching: int,
    leaves: int,
    seed: int,
    iterations: int,
    weights: ArrayLike | None = None,
) -> Tree:
    """A tree of cells fitted to unit vectors float32[n, d]; `weights` float64[n] count points (each 1 by default).

    Children are shared out as evenly as integers allow, the heavier cells first. A cell with fewer points than children
    gets a child per point, so a small sample can end with fewer leaves. Equal arguments give equal bytes.

    Raises ValueError if branching < 2, leaves < 1, there is no point, or the weights are not n positive numbers.
    """
    if branching < 2 or leaves < 1:
        raise ValueError(f"branching {branching}, leaves {leaves}: expected at least 2 and 1")
    vectors, mass = _checked(points, weights)
    sizes = [min(branching, leaves)]
    while sizes[-1] < leaves:
        sizes.append(min(leaves, sizes[-1] * branching))
    skew = MAX_SKEW ** (1 / len(sizes))
    levels: list[tuple[NDArray[np.float32], NDArray[np.int32]]] = []
    searched: list[int] = []
    cell, num_cells = np.zeros(len(vectors), np.int64), 1
    for depth, size in enumerate(sizes):
        children = _shares(np.bincount(cell, mass, num_cells), np.bincount(cell, minlength=num_cells), size)
        owner = np.repeat(np.arange(num_cells), children)
        above = levels[-1][0] if levels else np.zeros((1, vectors.shape[1]), np.float32)
        centroids, finer = above[owner].copy(), np.empty_like(cell)
        for parent, rows, place in _families(cell, owner, num_cells):
            draw = np.random.default_rng([seed, depth, parent])
            count = place.stop - place.start
            centroids[place], child = split(
                vectors[rows], mass[rows], cells=count, skew=skew, iterations=iterations, draw=draw
            )
            finer[rows] = place.start + child
        weight = np.bincount(finer, mass, len(owner))
        merges = _merges(centroids, weight, owner, least=FEWEST if depth == 0 else 2, seed=seed)
        order = np.lexsort([*merges, owner])
        position = np.argsort(order)
        cell, num_cells = position[finer], len(owner)
        levels += _stacked(centroids[order], weight[order], owner[order], [each[order] for each in merges])
        searched.append(len(levels) - 1)
    return Tree(
        tuple(read_only(each, np.float32) for each, _ in levels),
        tuple(read_only(each, np.int32) for _, each in levels),
        tuple(searched),
    )


def refit_tree(tree: Tree, points: ArrayLike, *, iterations: int, weights: ArrayLike | None = None) -> Tree:
    """The same cells, moved to where `points` float32[n, d] lie: structure and numbers stay, so cell 7 is still cell 7.

    Lloyd's algorithm goes on from the centroids of `tree`, without limits on size: pushing points out of a full cell
    would carry other cells away. A cell that no point comes to stays where it was. Raises ValueError for the points and
    weights that `fit_tree` refuses.
    """
    vectors, mass = _checked(points, weights)
    _check_dims(tree.centroids[0], vectors)
    centroids = [level.copy() for level in tree.centroids]
    cell, num_cells = np.zeros(len(vectors), np.int64), 1
    for depth, level in enumerate(tree.searched):
        owner = _ancestor(tree, level, tree.searched[depth - 1]) if depth else np.zeros(tree.num_cells[level], np.int32)
        finer = np.empty_like(cell)
        for _, rows, place in _families(cell, owner, num_cells):
            for _ in range(max(1, iterations)):
                before = centroids[level][place]
                after, child = moved(before, vectors[rows], mass[rows], skew=np.inf, iterations=1)
                reached = np.bincount(child, minlength=len(before)) > 0
                centroids[level][place] = np.where(reached[:, None], after, before)
            finer[rows] = place.start + child
        weight = np.bincount(finer, mass, tree.num_cells[level])
        for merged in range(tree.searched[depth - 1] + 1 if depth else 0, level):
            centroids[merged] = _joined(centroids[level], weight, _ancestor(tree, level, merged), centroids[merged])
        cell, num_cells = finer, tree.num_cells[level]
    return Tree(tuple(read_only(each, np.float32) for each in centroids), tree.parents, tree.searched)


def assign(cells: Tree | ArrayLike, points: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The cell of each point and its similarity to that centroid: (int32[n], float32[n]).

    For a `Tree` the leaf reached by going to the nearest child at every searched level; for centroids float32[k, d] the
    nearest. The lower number wins a tie. Points are unit vectors float32[n, d]; a zero vector has similarity 0 to
    every cell and goes to cell 0.
    """
    vectors = read_only(points, np.float32)
    if not isinstance(cells, Tree):
        flat = read_only(cells, np.float32)
        _check_dims(flat, vectors)
        return nearest(flat, vectors)
    _check_dims(cells.centroids[0], vectors)
    level = cells.searched[0]
    cell, similarity = nearest(cells.centroids[level], vectors)
    for below in cells.searched[1:]:
        finer, closer = np.empty_like(cell), np.empty_like(similarity)
        owner = _ancestor(cells, below, level)
        for _, rows, place in _families(cell, owner, cells.num_cells[level]):
            child, closer[rows] = nearest(cells.centroids[below][place], vectors[rows])
            finer[rows] = place.start + child
        level, cell, similarity = below, finer, closer
    return cell, similarity


def cells_at(tree: Tree, level: int) -> NDArray[np.int32]:
    """The cell of `level` (0 is the coarsest) that each leaf lies in: int32[leaves], so `cells_at(tree, 0)[leaf]`."""
    if not 0 <= level < len(tree.parents):
        raise IndexError(f"level {level} of a tree of {len(tree.parents)} levels")
    return _ancestor(tree, len(tree.parents) - 1, level)


def _ancestor(tree: Tree, level: int, above: int) -> NDArray[np.int32]:
    """The cell of `above` that each cell of `level` lies in."""
    ancestor = np.arange(tree.num_cells[level], dtype=np.int32)
    for parents in tree.parents[level:above:-1]:
        ancestor = parents[ancestor]
    return ancestor


def _checked(points: ArrayLike, weights: ArrayLike | None) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    vectors = read_only(points, np.float32)
    if vectors.ndim != 2 or len(vectors) == 0:
        raise ValueError(f"points have shape {vectors.shape}: expected [n, d] with at least one point")
    mass = read_only(np.ones(len(vectors)) if weights is None else weights, np.float64)
    if mass.shape != (len(vectors),) or not (mass > 0).all():
        raise ValueError(f"weights of shape {mass.shape} for {len(vectors)} points: expected one positive number each")
    return vectors, mass


def _check_dims(centroids: NDArray[np.float32], points: NDArray[np.float32]) -> None:
    if points.ndim != 2 or centroids.ndim != 2 or points.shape[1] != centroids.shape[1]:
        raise ValueError(f"points {points.shape} and centroids {centroids.shape} differ in dimensions")


def _families(cell: NDArray[Any], owner: NDArray[Any], num_cells: int) -> list[tuple[int, NDArray[np.int64], slice]]:
    """For each cell with points: its number, the points in it, and where its children stand; `owner` ascends."""
    order = np.argsort(cell, kind="stable")
    bounds = np.searchsorted(cell[order], np.arange(num_cells + 1))
    first = np.searchsorted(owner, np.arange(num_cells + 1))
    alive = np.flatnonzero(np.diff(bounds)).tolist()
    return [(each, order[bounds[each] : bounds[each + 1]], slice(first[each], first[each + 1])) for each in alive]


def _shares(weight: NDArray[Any], num_points: NDArray[Any], total: int) -> NDArray[np.int64]:
    """Children of each cell: even shares of `total`, the remainder to the heaviest; at least 1, at most one a point."""
    children = np.full(len(weight), total // len(weight))
    children[np.argsort(-weight, kind="stable")[: total % len(weight)]] += 1
    return np.maximum(1, np.minimum(children, num_points))


def _merges(
    centroids: NDArray[np.float32], weight: NDArray[Any], owner: NDArray[Any], *, least: int, seed: int
) -> list[NDArray[np.int64]]:
    """Merged cells inside each owner, from fine to coarse: the number of its merged cell for each cell, int64[cells].

    Goes on while the owner with the most cells keeps `least` of them.
    """
    merges: list[NDArray[np.int64]] = []
    label, points, mass, inside = np.arange(len(centroids)), centroids, np.maximum(weight, 1e-9), owner
    while -(-int(np.bincount(inside).max()) // MERGED) >= least:
        group, total = np.empty(len(points), np.int64), 0
        for each in np.unique(inside).tolist():
            rows = np.flatnonzero(inside == each)
            draw = np.random.default_rng([seed, len(merges), each, 1])
            count = -(-len(rows) // MERGED)
            _, found = split(points[rows], mass[rows], cells=count, skew=2.0, iterations=10, draw=draw)
            names, found = np.unique(found, return_inverse=True)
            group[rows] = total + found
            total += len(names)
        label = group[label]
        merges.append(label)
        points = _joined(points, mass, group, np.zeros((total, points.shape[1]), np.float32))
        mass = np.bincount(group, mass, total)
        inside = inside[np.unique(group, return_index=True)[1]]
    return merges


def _stacked(
    centroids: NDArray[np.float32],
    weight: NDArray[Any],
    owner: NDArray[Any],
    merges: list[NDArray[np.int64]],
) -> list[tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """The levels that one split adds, coarse to fine, each with its parents; cells are in order of all merges."""
    levels: list[tuple[NDArray[np.float32], NDArray[np.int32]]] = []
    above = owner
    for labels in reversed(merges):
        number = np.cumsum(np.diff(labels, prepend=-1) != 0) - 1  # equal labels are consecutive
        first = np.flatnonzero(np.diff(number, prepend=-1))
        empty = np.zeros((len(first), centroids.shape[1]), np.float32)
        levels.append((_joined(centroids, weight, number, empty), above[first].astype(np.int32)))
        above = number
    levels.append((centroids, above.astype(np.int32)))
    return levels


def _joined(
    centroids: NDArray[np.float32], weight: NDArray[Any], group: NDArray[Any], before: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Unit mean of the centroids of each group, by weight; `before` where a group has no weight."""
    sums = np.zeros(before.shape, np.float64)
    np.add.at(sums, group, centroids * np.maximum(weight, 1e-9)[:, None])
    length = np.sqrt((sums**2).sum(axis=1, keepdims=True))
    return np.where(length > 0, sums / np.where(length > 0, length, 1), before).astype(np.float32)

"""Spherical k-means as a tree, so that every number of cells comes from one fit (method section 2).

The root splits the points into `branching` cells, each of those again, until there are `leaves`. Points and centroids
are unit vectors and similarity is their dot product. A split is Lloyd's algorithm from a seeded k-means++ start;
inside a fit no cell may take more than a few times its fair share (weight over number of cells): of an overfull cell
the members with the smallest margin over their next best cell move there. Centroids fitted so are spread evenly;
`assign` afterwards is plain nearest centroid, a pure function of the point.

Dot products add their terms in the order of the dimensions, in float32, vectorised over centroids: an answer depends
neither on the batch nor on threads or a BLAS. Cost of `assign`: d * branching multiply-adds a point and level of the
tree; a fit costs `iterations` + 2 times that.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.ragged import read_only

MAX_SKEW = 4.0  # largest share of the points in a leaf while fitting, in units of 1 / leaves
_LANES = 64  # centroids scored together: their partial sums stay in the first-level cache
_TRIALS = 4  # candidates for each starting centroid


@dataclass(frozen=True, eq=False)
class Tree:
    """Levels of unit centroids from coarse to fine: `centroids[l]` float32[k_l, d], `parents[l]` int32[k_l].

    The children of a cell are consecutive; `parents[0]` is all 0 (the root). Cell numbers are positions, so the same
    fit gives the same cells.
    """

    centroids: tuple[NDArray[np.float32], ...]
    parents: tuple[NDArray[np.int32], ...]

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

    The last level has `leaves` cells and each one above it the `branching`-th part, rounded up; children are shared
    out as evenly as integers allow, the heavier cells first. A cell with fewer points than children gets a child per
    point, so a small sample can end with fewer leaves. Equal arguments give equal bytes.

    Raises ValueError if branching < 2, leaves < 1, there is no point, or the weights are not n positive numbers.
    """
    vectors = read_only(points, np.float32)
    if vectors.ndim != 2 or len(vectors) == 0:
        raise ValueError(f"points have shape {vectors.shape}: expected [n, d] with at least one point")
    if branching < 2 or leaves < 1:
        raise ValueError(f"branching {branching}, leaves {leaves}: expected at least 2 and 1")
    mass = read_only(np.ones(len(vectors)) if weights is None else weights, np.float64)
    if mass.shape != (len(vectors),) or not (mass > 0).all():
        raise ValueError(f"weights of shape {mass.shape} for {len(vectors)} points: expected one positive number each")
    sizes = [leaves]
    while sizes[0] > branching:
        sizes.insert(0, -(-sizes[0] // branching))
    skew = MAX_SKEW ** (1 / len(sizes))
    centroids: list[NDArray[np.float32]] = []
    parents: list[NDArray[np.int32]] = []
    cell = np.zeros(len(vectors), np.int32)
    num_cells = 1
    for level, size in enumerate(sizes):
        children = _shares(np.bincount(cell, mass, num_cells), np.bincount(cell, minlength=num_cells), size)
        order = np.argsort(cell, kind="stable")
        bounds = np.searchsorted(cell[order], np.arange(num_cells + 1))
        starts = np.cumsum([0, *children])
        level_centroids = np.empty((starts[-1], vectors.shape[1]), np.float32)
        finer = np.empty_like(cell)
        for parent in range(num_cells):
            rows = order[bounds[parent] : bounds[parent + 1]]
            draw = np.random.default_rng([seed, level, parent])
            place = slice(starts[parent], starts[parent + 1])
            if rows.size:
                level_centroids[place], child = _split(
                    vectors[rows], mass[rows], int(children[parent]), skew, iterations, draw
                )
                finer[rows] = starts[parent] + child
            else:  # only where points coincide
                level_centroids[place] = centroids[-1][parent]
        centroids.append(read_only(level_centroids, np.float32))
        parents.append(read_only(np.repeat(np.arange(num_cells), children), np.int32))
        cell, num_cells = finer, int(starts[-1])
    return Tree(tuple(centroids), tuple(parents))


def assign(cells: Tree | ArrayLike, points: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The cell of each point and its similarity to that centroid: (int32[n], float32[n]).

    For a `Tree` the leaf reached by going to the nearest child at every level; for centroids float32[k, d] the
    nearest. The lower number wins a tie. Points are unit vectors float32[n, d]; a zero vector has similarity 0 to
    every cell and goes to cell 0.
    """
    vectors = read_only(points, np.float32)
    if not isinstance(cells, Tree):
        flat = read_only(cells, np.float32)
        _check_dims(flat, vectors)
        return _nearest(vectors, _packed(flat), len(flat))
    _check_dims(cells.centroids[0], vectors)
    cell, similarity = _nearest(vectors, _packed(cells.centroids[0]), len(cells.centroids[0]))
    for level in range(1, len(cells.centroids)):
        first = np.searchsorted(cells.parents[level], np.arange(cells.num_cells[level - 1] + 1)).astype(np.int64)
        order = np.argsort(cell, kind="stable")
        bounds = np.searchsorted(cell[order], np.arange(cells.num_cells[level - 1] + 1))
        finer, similarity = np.empty_like(cell), np.empty_like(similarity)
        for parent in np.flatnonzero(np.diff(bounds)).tolist():
            rows = order[bounds[parent] : bounds[parent + 1]]
            children = cells.centroids[level][first[parent] : first[parent + 1]]
            child, close = _nearest(read_only(vectors[rows], np.float32), _packed(children), len(children))
            finer[rows], similarity[rows] = first[parent] + child, close
        cell = finer
    return cell, similarity


def cells_at(tree: Tree, level: int) -> NDArray[np.int32]:
    """The cell of `level` (0 is the coarsest) that each leaf lies in: int32[leaves], so `cells_at(tree, 0)[leaf]`."""
    if not 0 <= level < len(tree.parents):
        raise IndexError(f"level {level} of a tree of {len(tree.parents)} levels")
    ancestor = np.arange(tree.num_cells[-1], dtype=np.int32)
    for parents in tree.parents[:level:-1]:
        ancestor = parents[ancestor]
    return ancestor


def _shares(weight: NDArray[Any], num_points: NDArray[Any], total: int) -> NDArray[np.int64]:
    """Children of each cell: even shares of `total`, the remainder to the heaviest; at least 1, at most one a point."""
    children = np.full(len(weight), total // len(weight))
    children[np.argsort(-weight, kind="stable")[: total % len(weight)]] += 1
    return np.maximum(1, np.minimum(children, num_points))


def _check_dims(centroids: NDArray[np.float32], points: NDArray[np.float32]) -> None:
    if points.ndim != 2 or centroids.ndim != 2 or points.shape[1] != centroids.shape[1]:
        raise ValueError(f"points {points.shape} and centroids {centroids.shape} differ in dimensions")


def _packed(centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centroids as blocks [blocks, d, _LANES], padded with zeros: one dimension of _LANES centroids is contiguous."""
    num, dims = centroids.shape
    blocks = -(-num // _LANES)
    padded = np.zeros((blocks * _LANES, dims), np.float32)
    padded[:num] = centroids
    return read_only(padded.reshape(blocks, _LANES, dims).transpose(0, 2, 1), np.float32)


def _split(
    points: NDArray[np.float32],
    mass: NDArray[np.float64],
    num_cells: int,
    skew: float,
    iterations: int,
    draw: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """One capacity-limited k-means: (centroids [num_cells, d], cell int64[n])."""
    points, mass = read_only(points, np.float32), read_only(mass, np.float64)
    centroids = _spread_start(points, mass, draw.random((num_cells, _TRIALS)))
    capacity = max(skew * mass.sum() / num_cells, mass.max())
    cell = np.zeros(len(points), np.int64)
    for _ in range(max(1, iterations)):
        similarities = _similarities(points, _packed(centroids), num_cells)
        cell = _limited(similarities, mass, capacity)
        centroids = _means(points, mass, cell, centroids)
    return centroids, cell


@numba.njit(cache=True, nogil=True)
def _score(point, packed, out):  # type: ignore[no-untyped-def]
    """Dot products of one point with every packed centroid; terms are added in the order of the dimensions."""
    for block in range(packed.shape[0]):
        sums = out[block * _LANES : (block + 1) * _LANES]
        sums[:] = np.float32(0)
        for dim in range(packed.shape[1]):
            x, lanes = point[dim], packed[block, dim]
            for lane in range(_LANES):
                sums[lane] += x * lanes[lane]


@numba.njit(cache=True, nogil=True)
def _nearest(points, packed, num_cells):  # type: ignore[no-untyped-def]
    cell, similarity = np.zeros(len(points), np.int32), np.zeros(len(points), np.float32)
    scores = np.empty(packed.shape[0] * _LANES, np.float32)
    for i in range(len(points)):
        _score(points[i], packed, scores)
        best = 0
        for k in range(1, num_cells):
            if scores[k] > scores[best]:
                best = k
        cell[i], similarity[i] = best, scores[best]
    return cell, similarity


@numba.njit(cache=True, nogil=True)
def _similarities(points, packed, num_cells):  # type: ignore[no-untyped-def]
    out = np.empty((len(points), num_cells), np.float32)
    scores = np.empty(packed.shape[0] * _LANES, np.float32)
    for i in range(len(points)):
        _score(points[i], packed, scores)
        out[i] = scores[:num_cells]
    return out


def _limited(similarities: NDArray[np.float32], mass: NDArray[np.float64], capacity: float) -> NDArray[np.int64]:
    """Nearest cell of each point under a capacity: an overfull cell keeps the members that would lose most by leaving,
    the others go to their best cell still open. A cell that was overfull is closed, so this ends."""
    cell = similarities.argmax(axis=1)
    load = np.bincount(cell, mass, similarities.shape[1])
    is_open = np.ones(len(load), np.bool_)
    while load.max() > capacity and is_open.sum() > 1:
        full = int(load.argmax())
        is_open[full] = False
        members = np.flatnonzero(cell == full)
        reachable = np.where(is_open, similarities[members], -np.inf)
        elsewhere = reachable.argmax(axis=1)
        loss = similarities[members, full] - reachable.max(axis=1)
        leaving = np.argsort(loss, kind="stable")
        left_before = np.cumsum(mass[members[leaving]]) - mass[members[leaving]]
        leaving = leaving[load[full] - left_before > capacity]
        cell[members[leaving]] = elsewhere[leaving]
        load = np.bincount(cell, mass, len(load))
    return cell


@numba.njit(cache=True, nogil=True)
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for dim in range(a.size):
        total += np.float64(a[dim]) * np.float64(b[dim])
    return total


@numba.njit(cache=True, nogil=True)
def _means(points, mass, cell, previous):  # type: ignore[no-untyped-def]
    """Unit mean of each cell, added in the order of the points; an empty cell takes the point worst served so far."""
    num_cells, dims = previous.shape
    sums, count = np.zeros((num_cells, dims), np.float64), np.zeros(num_cells, np.int64)
    for i in range(len(points)):
        count[cell[i]] += 1
        for dim in range(dims):
            sums[cell[i], dim] += mass[i] * points[i, dim]
    out, served = previous.copy(), np.empty(len(points), np.float64)
    empty = 0
    for k in range(num_cells):
        norm = np.sqrt(_dot(sums[k], sums[k]))
        empty += count[k] == 0
        if norm > 0:
            for dim in range(dims):
                out[k, dim] = sums[k, dim] / norm
    if empty:
        for i in range(len(points)):
            served[i] = _dot(points[i], out[cell[i]])
        for k in range(num_cells):
            if count[k] == 0:
                worst = np.argmin(served)
                out[k] = points[worst]
                served[worst] = np.inf
    return out


@numba.njit(cache=True, nogil=True)
def _spread_start(points, mass, draws):  # type: ignore[no-untyped-def]
    """Greedy k-means++: of a few points drawn in proportion to weight times distance to the centroids chosen so far,
    the one that leaves the smallest total is the next centroid."""
    num, dims = points.shape
    num_cells, trials = draws.shape
    out = np.empty((num_cells, dims), np.float32)
    distance, trial, best = np.full(num, 2.0), np.empty(num), np.empty(num)
    for k in range(num_cells):
        total = 0.0
        for i in range(num):
            total += mass[i] * distance[i]
        smallest = np.inf
        for t in range(trials):
            at, passed = 0, 0.0
            for i in range(num):
                if distance[i] > 0:
                    at = i
                    passed += mass[i] * distance[i]
                    if passed > draws[k, t] * total:
                        break
            remaining = 0.0
            for i in range(num):
                trial[i] = min(distance[i], max(0.0, 1.0 - _dot(points[i], points[at])))
                remaining += mass[i] * trial[i]
            if remaining < smallest:
                smallest = remaining
                out[k] = points[at]
                best, trial = trial, best
        distance, best = best, distance
    return out

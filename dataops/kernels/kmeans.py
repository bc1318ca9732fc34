"""Spherical, balanced k-means on unit vectors: one split, and the nearest of some centroids.

Points and centroids are unit vectors and similarity is their dot product. A split is Lloyd's algorithm from a seeded
k-means++ start; inside a fit no cell may take more than a few times its fair share (weight over number of cells): of an
overfull cell the members with the smallest margin over their next best cell move there. Centroids fitted so are spread
evenly.

Dot products add their terms in the order of the dimensions, in float32, vectorised over centroids: an answer depends
neither on the batch nor on threads or a BLAS. Cost of `nearest`: d multiply-adds a point and centroid; of a split, that
times `iterations` + 2.
"""

import numba
import numpy as np
from numpy.typing import NDArray

from dataops.kernels.ragged import read_only

LANES = 64  # centroids scored together: their partial sums stay in the first-level cache
_TRIALS = 4  # candidates for each starting centroid


def nearest(
    centroids: NDArray[np.float32], points: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The nearest of centroids float32[k, d] and the similarity to it, for each of points float32[n, d]; lower wins."""
    cell, similarity = _nearest(read_only(points, np.float32), _packed(centroids), len(centroids))
    return cell, similarity


def split(
    points: NDArray[np.float32],
    mass: NDArray[np.float64],
    *,
    cells: int,
    skew: float,
    iterations: int,
    draw: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Points float32[n, d] of weight float64[n] in `cells` cells: (centroids float32[cells, d], cell int64[n])."""
    start = _spread_start(read_only(points, np.float32), read_only(mass, np.float64), draw.random((cells, _TRIALS)))
    return moved(start, points, mass, skew=skew, iterations=iterations)


def moved(
    centroids: NDArray[np.float32],
    points: NDArray[np.float32],
    mass: NDArray[np.float64],
    *,
    skew: float,
    iterations: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Lloyd's algorithm from `centroids` on, no cell above `skew` fair shares: (centroids, cell int64[n])."""
    points, mass = read_only(points, np.float32), read_only(mass, np.float64)
    num_cells = len(centroids)
    capacity = max(skew * mass.sum() / num_cells, mass.max())
    cell = np.zeros(len(points), np.int64)
    for _ in range(max(1, iterations)):
        similarities = _similarities(points, _packed(centroids), num_cells)
        cell = _limited(similarities, mass, capacity)
        centroids = _means(points, mass, cell, centroids)
    return centroids, cell


def _packed(centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centroids as blocks [blocks, d, LANES], padded with zeros: one dimension of LANES centroids is contiguous."""
    num, dims = centroids.shape
    blocks = -(-num // LANES)
    padded = np.zeros((blocks * LANES, dims), np.float32)
    padded[:num] = centroids
    return read_only(padded.reshape(blocks, LANES, dims).transpose(0, 2, 1), np.float32)


@numba.njit(cache=True, nogil=True)
def _score(point, packed, out):  # type: ignore[no-untyped-def]
    """Dot products of one point with every packed centroid; terms are added in the order of the dimensions."""
    for block in range(packed.shape[0]):
        sums = out[block * LANES : (block + 1) * LANES]
        sums[:] = np.float32(0)
        for dim in range(packed.shape[1]):
            x, lanes = point[dim], packed[block, dim]
            for lane in range(LANES):
                sums[lane] += x * lanes[lane]


@numba.njit(cache=True, nogil=True)
def _nearest(points, packed, num_cells):  # type: ignore[no-untyped-def]
    cell, similarity = np.zeros(len(points), np.int32), np.zeros(len(points), np.float32)
    scores = np.empty(packed.shape[0] * LANES, np.float32)
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
    scores = np.empty(packed.shape[0] * LANES, np.float32)
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

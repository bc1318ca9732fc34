"""Which row comes g-th: a pure function of (rows per cell, weights, seed, g), so resume costs nothing.

Cells. A Huffman tree over the cells splits the stream: at a node, the first n samples send floor(n p + 1/2) to the
left child, the rest to the right. Both counts grow by at most one per sample, so every sample has one cell and, for
free, its number among the draws of that cell. After *any* n samples a cell with weight w has been drawn n w times, give
or take less than 2: each level rounds by at most 1/2 and hands its parent's error on times p, and in a Huffman tree the
weight halves at least every second level (1/2 * (1 + 1 + 1/2 + 1/2 + ...) = 2).

Rows. Draw k of a cell is row perm(k mod rows) of epoch k div rows, where perm is a Feistel network keyed by
(seed, cell, epoch) that walks its cycle back into range (Black and Rogaway 2002): no row repeats inside an epoch.

Stages. A mixture may change at a sample number: from there on another tree decides, and every cell goes on with the
draw it had come to, which the tree before tells in one pass over its nodes. So no row repeats inside an epoch across
stages either, and the list of stages is all the state there is.

Cost: about log2(cells) numpy passes per call; memory is one entry per cell. Rejected: drawing cells at random (counts
drift as sqrt(n)), permutations held in memory (8 bytes a row), an iterator with state (resume replays it).
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_PROBABILITY_BITS = 31
MAX_SAMPLES = 1 << 32
# 6 rounds, or a domain of 4 bits, are measurably uneven on cells below 20 rows (a place 12 deviations off in 100,000
# keys); 8 rounds on at least 6 bits are not (3.6 at most over sizes 2 to 33)
_ROUNDS = 8
_LEAST_BITS = 6


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Draws of consecutive sample numbers; each int64[n]."""

    cells: np.ndarray
    epochs: np.ndarray
    rows: np.ndarray  # within the cell, 0 <= row < rows of the cell


@dataclass(frozen=True, kw_only=True)
class Change:
    """From sample number `begin` on the cells are weighted by `weights`."""

    begin: int
    weights: tuple[float, ...]


class Order:
    """The endless weighted stream over the rows of cells.

    `rows_per_cell` int[C]; `weights` float[C], any positive scale; None means in proportion to rows. `changes`
    are later stages, ascending. Raises ValueError that names the cell when weight is wanted from a cell without rows,
    and the change that does not begin after the one before.
    """

    def __init__(
        self,
        rows_per_cell: Sequence[int] | np.ndarray,
        weights: Sequence[float] | None,
        *,
        seed: int,
        changes: Sequence[Change] = (),
    ):
        self.rows_per_cell = np.asarray(rows_per_cell, np.int64)
        self.weights = _normalised(self.rows_per_cell, weights)
        self.seed = seed
        self._begins, self._trees = [0], [_Tree(self.weights)]
        self._begun = [np.zeros(len(self.rows_per_cell), np.int64)]
        for change in changes:
            self._append(change)

    @property
    def stages(self) -> tuple[Change, ...]:
        """The log of what weighted the cells from which sample on; weights sum to 1."""
        pairs = zip(self._begins, self._trees, strict=True)
        return tuple(Change(begin=begin, weights=tuple(tree.weights.tolist())) for begin, tree in pairs)

    def samples(self, begin: int, end: int) -> Samples:
        """The draws numbered begin <= g < end."""
        if not 0 <= begin <= end <= MAX_SAMPLES:
            raise ValueError(f"samples {begin} to {end} are outside 0 to {MAX_SAMPLES}")
        cuts = [begin, *(each for each in self._begins if begin < each < end), end]
        parts = [self._within_stage(first, last) for first, last in pairwise(cuts)]
        return Samples(
            cells=np.concatenate([part.cells for part in parts]),
            epochs=np.concatenate([part.epochs for part in parts]),
            rows=np.concatenate([part.rows for part in parts]),
        )

    def _within_stage(self, begin: int, end: int) -> Samples:
        stage = bisect_right(self._begins, begin) - 1
        numbers = np.arange(begin - self._begins[stage], end - self._begins[stage], dtype=np.uint64)
        cells, draws = self._trees[stage].descend(numbers)
        count = draws.astype(np.int64) + self._begun[stage][cells]
        size = self.rows_per_cell[cells]
        epochs, places = np.divmod(count, size)
        return Samples(cells=cells, epochs=epochs, rows=_permute(places, size, _key(self.seed, cells, epochs)))

    def _append(self, change: Change) -> None:
        length = change.begin - self._begins[-1]
        if length <= 0:
            raise ValueError(
                f"the mixture of sample {self._begins[-1]} can't change at sample {change.begin}: expected a later one"
            )
        self._begun.append(self._begun[-1] + self._trees[-1].counts(length))
        self._begins.append(change.begin)
        self._trees.append(_Tree(_normalised(self.rows_per_cell, change.weights)))


class _Tree:
    """A Huffman tree over cells that deals out draws; leaves are nodes < C, the root is the last node."""

    def __init__(self, weights: np.ndarray):
        self.weights = weights
        self._left, self._right, self._share = _huffman(weights)

    def descend(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cell and draw number within the cell of each draw; uint64[n] in and out."""
        cells = np.empty(len(number), np.int64)
        draws = np.empty(len(number), np.uint64)
        node = np.full(len(number), len(self._left) - 1, np.int64)
        at = np.arange(len(number))
        while True:
            done = node < len(self.weights)
            if done.any():
                cells[at[done]], draws[at[done]] = node[done], number[done]
                at, node, number = at[~done], node[~done], number[~done]
            if not len(at):
                return cells, draws
            share = self._share[node]
            before = _rounded(number, share)
            goes_left = _rounded(number + np.uint64(1), share) != before
            number = np.where(goes_left, before, number - before)
            node = np.where(goes_left, self._left[node], self._right[node])

    def counts(self, draws: int) -> np.ndarray:
        """How many of the first `draws` each cell gets, int64[C]: children are numbered below their parent."""
        given = np.zeros(len(self._left), np.uint64)
        given[-1] = draws
        for node in range(len(self._left) - 1, len(self.weights) - 1, -1):
            to_left = _rounded(given[node], self._share[node])
            given[self._left[node]] = to_left
            given[self._right[node]] += given[node] - to_left  # += because a lone cell is both children
        return given[: len(self.weights)].astype(np.int64)


def _normalised(rows_per_cell: np.ndarray, weights: Sequence[float] | None) -> np.ndarray:
    wanted = np.asarray(rows_per_cell if weights is None else weights, np.float64)
    if len(wanted) > len(rows_per_cell) and not wanted[len(rows_per_cell) :].any():
        wanted = wanted[: len(rows_per_cell)]
    if len(wanted) != len(rows_per_cell):
        raise ValueError(f"{len(wanted)} weights for {len(rows_per_cell)} cells: give one weight per cell")
    if not np.isfinite(wanted).all() or (wanted < 0).any() or wanted.sum() <= 0:
        raise ValueError("weights must be finite, none negative, and their sum positive")
    empty = np.flatnonzero((wanted > 0) & (rows_per_cell == 0))
    if len(empty):
        cell = int(empty[0])
        raise ValueError(
            f"cell {cell} has weight {wanted[cell] / wanted.sum():.3g} but no rows in the packs ({len(empty)} such "
            "cells): add rows or give it weight 0"
        )
    return wanted / wanted.sum()


def _huffman(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left child, right child and left share (fixed point) of each node; the first C nodes are the leaves."""
    size = len(weights)
    left, right, share = [0] * size, [0] * size, [0] * size
    heap = [(float(weights[cell]), cell) for cell in range(size) if weights[cell] > 0]
    heapq.heapify(heap)
    if len(heap) == 1:
        # a root that sends everything left keeps "the last node is the root" true
        left, right, share = [*left, heap[0][1]], [*right, heap[0][1]], [*share, 1 << _PROBABILITY_BITS]
    while len(heap) > 1:
        light, light_node = heapq.heappop(heap)
        heavy, heavy_node = heapq.heappop(heap)
        left.append(heavy_node)
        right.append(light_node)
        share.append(round(heavy / (light + heavy) * (1 << _PROBABILITY_BITS)))
        heapq.heappush(heap, (light + heavy, len(left) - 1))
    return np.asarray(left, np.int64), np.asarray(right, np.int64), np.asarray(share, np.uint64)


def _rounded(number: np.ndarray, share: np.ndarray) -> np.ndarray:
    """floor(number * share + 1/2); exact for number <= 2^32 because share < 2^32."""
    return (number * share + np.uint64(1 << (_PROBABILITY_BITS - 1))) >> np.uint64(_PROBABILITY_BITS)


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _key(seed: int, cells: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    start = _mix(np.array([seed % (1 << 64)], np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    return _mix(_mix(start + cells.astype(np.uint64)) + epochs.astype(np.uint64))


def _permute(places: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Image of each place under a keyed permutation of range(size); all int64[n]."""
    # the domain is below twice the size, or 64
    bits = np.maximum(np.ceil(np.log2(np.maximum(size, 1))).astype(np.int64), _LEAST_BITS)
    low_bits = (bits // 2).astype(np.uint64)
    high_bits = (bits - bits // 2).astype(np.uint64)
    out = places.astype(np.uint64)
    at = np.flatnonzero(size > 1)
    while len(at):
        out[at] = _feistel(out[at], low_bits[at], high_bits[at], key[at])
        at = at[out[at] >= size[at].astype(np.uint64)]
    return out.astype(np.int64)


def _feistel(x: np.ndarray, low_bits: np.ndarray, high_bits: np.ndarray, key: np.ndarray) -> np.ndarray:
    """An unbalanced Feistel network on low_bits + high_bits bits; rounds alternate between the halves."""
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << high_bits) - np.uint64(1)
    low, high = x & low_mask, x >> low_bits
    for turn in range(0, _ROUNDS, 2):
        low ^= _mix((high + key) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(turn)) & low_mask
        high ^= _mix((low + key) * np.uint64(0xD1B54A32D192ED03) + np.uint64(turn + 1)) & high_mask
    return (high << low_bits) | low

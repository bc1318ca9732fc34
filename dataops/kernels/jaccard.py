"""Exact Jaccard similarity of pairs of sets, by merging their sorted hashes: |A| + |B| steps a pair.

This is what makes deduplication safe: a sketch proposes a pair, the sets decide (design, Deduplication step 5).
"""

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.ragged import Ragged, read_only


def pair_jaccard(one: Ragged, other: Ragged, left: ArrayLike, right: ArrayLike) -> NDArray[np.float64]:
    """|A ∩ B| / |A ∪ B| of set `left[i]` of `one` and set `right[i]` of `other`: float64[m].

    The sets are ragged uint64, each ascending and distinct, as `shingles` gives them. Two empty sets have similarity 0:
    texts too short for a shingle are compared exactly, not by shingles. Raises ValueError if the pairs differ in length
    and IndexError if a pair names no set.
    """
    first, second = read_only(left, np.int64), read_only(right, np.int64)
    if first.shape != second.shape:
        raise ValueError(f"{first.size} left members for {second.size} right ones")
    for side, sets in ((first, one), (second, other)):
        if side.size and not 0 <= side.min() <= side.max() < len(sets.offsets) - 1:
            raise IndexError(f"pairs name sets {side.min()}..{side.max()} of {len(sets.offsets) - 1}")
    return _pair_jaccard(*_arrays(one), *_arrays(other), first, second)


def _arrays(sets: Ragged) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    return read_only(sets.offsets, np.int64), read_only(sets.values, np.uint64)


@numba.njit(cache=True, nogil=True)
def _pair_jaccard(offsets, values, other_offsets, other_values, left, right):  # type: ignore[no-untyped-def]
    out = np.zeros(left.size, np.float64)
    for pair in range(left.size):
        i, i_end = offsets[left[pair]], offsets[left[pair] + 1]
        j, j_end = other_offsets[right[pair]], other_offsets[right[pair] + 1]
        total = (i_end - i) + (j_end - j)
        shared = 0
        while i < i_end and j < j_end:  # no branch on the data: it could not be predicted
            a, b = values[i], other_values[j]
            shared += a == b
            i += a <= b
            j += b <= a
        if total > 0:
            out[pair] = shared / (total - shared)
    return out

"""Who is kept: near-duplicate decisions without chains, and candidate pairs without all pairs of a bucket.

Connected components over similarity edges drop documents that resemble nothing that is kept (a chain of small changes
joins strangers; one audit found 64% of removed pairs wrong). Here documents are visited from most to least preferred
and one is dropped only if a document already kept has an edge at or above the threshold with it. Cost: a sort of the
edges.
"""

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.ragged import read_only


def keep_decisions(
    num_documents: int, left: ArrayLike, right: ArrayLike, similarity: ArrayLike, rank: ArrayLike, threshold: float
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.float64]]:
    """Which documents stay: (kept bool[n], kept_by int64[n], similarity float64[n]).

    Edges are (`left`, `right`, `similarity`), in any order and direction, repeats allowed; an edge of a document with
    itself says nothing. `rank` int64[n] is a permutation, 0 the most preferred. A dropped document names in `kept_by`
    the kept one most similar to it (the more preferred of equals) and that similarity; a kept one has -1 and 0. So
    every dropped document has a kept neighbour at `threshold` or above, and no two kept documents have such an edge.

    Raises ValueError if `rank` is not a permutation or the edges differ in length, IndexError if one names no document.
    """
    first, second = np.asarray(left, np.int64), np.asarray(right, np.int64)
    weight, order = np.asarray(similarity, np.float64), np.asarray(rank, np.int64)
    if not first.shape == second.shape == weight.shape:
        raise ValueError(f"edges of unequal length: {first.size} left, {second.size} right, {weight.size} similarities")
    if order.shape != (num_documents,) or not np.array_equal(np.sort(order), np.arange(num_documents)):
        raise ValueError(f"rank must be a permutation of 0..{num_documents - 1}, so that no two documents tie")
    if first.size and not 0 <= min(first.min(), second.min()) <= max(first.max(), second.max()) < num_documents:
        raise IndexError(f"an edge names a document outside 0..{num_documents - 1}")
    strong = (weight >= threshold) & (first != second)
    first, second, weight = first[strong], second[strong], weight[strong]
    first_rank, second_rank = order[first], order[second]
    preferred, other = np.minimum(first_rank, second_rank), np.maximum(first_rank, second_rank)
    sequence = np.lexsort((preferred, -weight, other))
    by_rank = np.empty(num_documents, np.int64)
    by_rank[order] = np.arange(num_documents)
    return _decide(
        read_only(by_rank, np.int64),
        read_only(by_rank[preferred[sequence]], np.int64),
        read_only(other[sequence], np.int64),
        read_only(weight[sequence], np.float64),
    )


def star_pairs(keys: ArrayLike, documents: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Candidate pairs of every bucket: its first document with each other one, distinct: (left, right) int64[m].

    `keys` uint64[n] is ascending; within equal keys `documents` int64[n] go from most to least preferred. A bucket of b
    documents gives at most b - 1 pairs. Raises ValueError if the lengths differ or the keys are not ascending.
    """
    bucket, document = np.asarray(keys, np.uint64), np.asarray(documents, np.int64)
    if bucket.shape != document.shape:
        raise ValueError(f"{bucket.size} keys for {document.size} documents")
    if np.any(bucket[1:] < bucket[:-1]):
        raise ValueError("keys are not ascending: sort by key, then by preference")
    if bucket.size == 0:
        return document, document
    opens = np.append(True, bucket[1:] != bucket[:-1])
    left = document[opens][np.cumsum(opens) - 1]
    other = left != document
    left, right = left[other], document[other]
    sequence = np.lexsort((right, left))
    left, right = left[sequence], right[sequence]
    distinct = np.append(True, (left[1:] != left[:-1]) | (right[1:] != right[:-1]))[: left.size]
    return left[distinct], right[distinct]


@numba.njit(cache=True, nogil=True)
def _decide(by_rank, preferred, other_rank, weight):  # type: ignore[no-untyped-def]
    """Edges ordered by the rank of their less preferred end, then by falling similarity, then by the preferred end."""
    kept = np.ones(by_rank.size, np.bool_)
    kept_by = np.full(by_rank.size, -1, np.int64)
    similarity = np.zeros(by_rank.size, np.float64)
    for edge in range(preferred.size):
        document = by_rank[other_rank[edge]]
        if kept[document] and kept[preferred[edge]]:
            kept[document] = False
            kept_by[document] = preferred[edge]
            similarity[document] = weight[edge]
    return kept, kept_by, similarity

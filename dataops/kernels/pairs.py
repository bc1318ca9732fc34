"""Candidate pairs from band buckets, told apart by sketches before any text is read.

A bucket of b documents has b(b-1)/2 pairs, and buckets of boilerplate are large. So small buckets give all their
pairs, and in a large one each document meets only leaders: those that resembled no leader before them. Either way a
pair is proposed only if the sketches say that it may be similar enough. A sketch is the low byte of each entry of a
MinHash signature (b-bit minwise hashing, Li and König 2010, with b = 8): equal bytes estimate the Jaccard similarity as
equal entries do, in a quarter of the memory.
"""

import math

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.ragged import read_only

CHANCE = 1 / 256  # that two bytes are equal though the entries are not


def sketches(signatures: ArrayLike) -> NDArray[np.uint8]:
    """The low byte of each entry of uint32[n, permutations] signatures."""
    return read_only(signatures, np.uint32).astype(np.uint8)


def matches_at(similarity: float, permutations: int, *, deviations: float = 0.0) -> int:
    """How many bytes of two sketches are equal at a Jaccard similarity, `deviations` standard deviations below that.

    At 3 deviations two or three pairs in a thousand of that similarity have fewer (measured, 40 to 5,000 shingles).
    """
    equal = similarity + (1 - similarity) * CHANCE
    return max(0, math.floor(permutations * equal - deviations * math.sqrt(permutations * equal * (1 - equal))))


def candidate_pairs(
    keys: ArrayLike,
    documents: ArrayLike,
    preference: ArrayLike,
    sketch: ArrayLike,
    *,
    at_least: int,
    covered: int,
    all_pairs_up_to: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct pairs (left < right, int64[m], ascending) of documents that share a key and whose sketches agree.

    keys uint64[k] ascending, documents int64[k] the document behind each; preference uint64[n] and sketch
    uint8[n, permutations] are those of all documents. A pair needs `at_least` equal bytes. In a bucket of more than
    `all_pairs_up_to` documents, taken by ascending preference, each meets the first `all_pairs_up_to` leaders only; one
    with `covered` equal bytes or more becomes no leader itself. The answer does not depend on the order within a key.

    Raises ValueError if keys and documents differ in length or keys are not ascending.
    """
    bucket, member = read_only(keys, np.uint64), read_only(documents, np.int64)
    if bucket.shape != member.shape:
        raise ValueError(f"{bucket.size} keys for {member.size} documents")
    if np.any(bucket[1:] < bucket[:-1]):
        raise ValueError("keys are not ascending: sort them first")
    table, order = read_only(sketch, np.uint8), read_only(preference, np.uint64)
    left, right = _pairs(bucket, member, order, table, at_least, covered, all_pairs_up_to)
    sequence = np.lexsort((right, left))
    left, right = left[sequence], right[sequence]
    distinct = np.append(True, (left[1:] != left[:-1]) | (right[1:] != right[:-1]))[: left.size]
    return left[distinct], right[distinct]


@numba.njit(cache=True, nogil=True)
def _equal_bytes(a, b):  # type: ignore[no-untyped-def]
    equal = np.int32(0)
    for i in range(a.size):
        equal += a[i] == b[i]
    return equal


@numba.njit(cache=True, nogil=True)
def _pairs(keys, documents, preference, sketch, at_least, covered, limit):  # type: ignore[no-untyped-def]
    left, right = np.empty(1024, np.int64), np.empty(1024, np.int64)
    count = 0
    begin = 0
    while begin < keys.size:
        end = begin + 1
        while end < keys.size and keys[end] == keys[begin]:
            end += 1
        if end - begin > 1:
            members = np.sort(documents[begin:end])
            members = members[np.argsort(preference[members], kind="mergesort")]
            leaders = np.empty(min(limit, members.size), np.int64)
            leaders[0] = members[0]
            led = 1
            for document in members[1:]:
                closest = np.int32(0)
                for leader in leaders[:led]:
                    equal = _equal_bytes(sketch[leader], sketch[document])
                    closest = max(closest, equal)
                    if equal >= at_least and leader != document:
                        if count == left.size:
                            left = np.append(left, np.empty(count, np.int64))
                            right = np.append(right, np.empty(count, np.int64))
                        left[count], right[count] = min(leader, document), max(leader, document)
                        count += 1
                if led < leaders.size and (members.size <= limit or closest < covered):
                    leaders[led] = document
                    led += 1
        begin = end
    return left[:count], right[:count]

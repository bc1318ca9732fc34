"""MinHash signatures equal, bit for bit, to datasketch 2.0's default scheme `affine32`, and band keys for LSH.

A 64-bit shingle hash enters as its upper 32 bits (`sketch_input`), is mixed once by MurmurHash3's finaliser, and
permuted by h -> a*h + b modulo 2^32 with odd a; a signature holds each permutation's minimum. The share of equal
entries of two signatures estimates the Jaccard similarity of the sets (Broder 1997). Cost: one 32-bit multiply-add
and minimum per shingle and permutation, vectorised over permutations, eight shingles for each load of a permutation.
"""

import functools

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels import codepoints
from dataops.kernels.hashing import mix_one
from dataops.kernels.ngrams import at_least_one, hash_words, roll_ngrams
from dataops.kernels.ragged import Texts, read_only, text_bytes
from dataops.kernels.text import fold

EMPTY = np.uint32(0xFFFFFFFF)  # the signature of the empty set

_F1, _F2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_S13, _S16, _S32 = np.uint32(13), np.uint32(16), np.uint64(32)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_UNROLL = 8


def permutations(num_perm: int, seed: int) -> NDArray[np.uint32]:
    """The multipliers (odd) and offsets of `num_perm` permutations, uint32[2, num_perm]: datasketch's for that seed."""
    if num_perm < 1:
        raise ValueError(f"num_perm is {num_perm}: a signature needs at least one permutation")
    draw = np.random.RandomState(seed)
    a = draw.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    b = draw.randint(0, 1 << 32, num_perm, dtype=np.uint32)
    return np.array([a, b])


@functools.cache
def optimal_bands(threshold: float, num_perm: int, *, miss_weight: float) -> tuple[int, int]:
    """(bands, rows) for a wanted similarity: the least of missed pairs, weighted, and false candidates, 1 - weighted.

    Both are areas under the curve 1 - (1 - s^rows)^bands of the chance that a pair of similarity s becomes a candidate:
    above it from `threshold` on, under it up to there (Leskovec et al., Mining of Massive Datasets, 3.4). The choice is
    that of datasketch's optimiser, whose import alone takes 0.3 s; Gauss-Legendre quadrature on as many nodes as there
    are permutations is exact for these polynomials.
    """
    nodes, weights = np.polynomial.legendre.leggauss(max(num_perm, 2))
    below, above = threshold * (nodes + 1) / 2, threshold + (1 - threshold) * (nodes + 1) / 2
    best = (np.inf, 0, 0)
    for bands in range(1, num_perm + 1):
        for rows in range(1, num_perm // bands + 1):
            false = threshold / 2 * np.dot(weights, 1 - (1 - below**rows) ** bands)
            missed = (1 - threshold) / 2 * np.dot(weights, (1 - above**rows) ** bands)
            error = float((1 - miss_weight) * false + miss_weight * missed)
            if error < best[0]:
                best = (error, bands, rows)
    return best[1:]


def sketch_input(values: ArrayLike) -> NDArray[np.uint32]:
    """What datasketch's `hashfunc` would return for each 64-bit shingle hash: its upper 32 bits, uint32[m]."""
    return (read_only(values, np.uint64) >> _S32).astype(np.uint32)


def minhash(offsets: ArrayLike, values: ArrayLike, hashes: ArrayLike) -> NDArray[np.uint32]:
    """Signature of each set of a ragged uint64 array under `hashes` (see `permutations`): uint32[n, num_perm].

    An empty set's signature is `EMPTY` throughout. Order and repeats inside a set do not matter.
    """
    a, b = read_only(hashes, np.uint32)
    return _minhash(read_only(offsets, np.int64), read_only(values, np.uint64), a, b)


def minhash_texts(texts: Texts, n: int, hashes: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """`minhash` of the `n`-word shingles of each text: (n-grams of each text int64[n], signatures uint32[n, num_perm]).

    The same as `minhash(*ngram_hashes(texts, n), hashes)`, document by document in the processor's cache.
    """
    folded = fold(text_bytes(texts))
    a, b = read_only(hashes, np.uint32)
    found: tuple[NDArray[np.int64], NDArray[np.uint32]] = _minhash_texts(
        folded.offsets, folded.values, codepoints.classes(), at_least_one(n), a, b
    )
    return found


def band_keys(signatures: ArrayLike, bands: int, rows: int) -> NDArray[np.uint64]:
    """A 64-bit key for each of the `bands` runs of `rows` signature entries: uint64[n, bands].

    The band's number is mixed in, so keys of different bands differ and one exchange serves all bands. Equal runs in
    one band give equal keys; different runs collide with probability about 2^-64. Raises ValueError if the signatures
    are shorter than bands * rows.
    """
    table = read_only(signatures, np.uint32)
    if bands < 1 or rows < 1 or bands * rows > table.shape[1]:
        raise ValueError(f"{bands} bands of {rows} rows do not fit a signature of {table.shape[1]} permutations")
    return _band_keys(table, bands, rows)


@numba.njit(cache=True, nogil=True)
def _finalised(value):  # type: ignore[no-untyped-def]
    """MurmurHash3's 32-bit finaliser of the upper half of a 64-bit hash."""
    h = np.uint32(value >> _S32)
    h = np.uint32(np.uint32(h ^ np.uint32(h >> _S16)) * _F1)
    h = np.uint32(np.uint32(h ^ np.uint32(h >> _S13)) * _F2)
    return np.uint32(h ^ np.uint32(h >> _S16))


@numba.njit(cache=True, nogil=True)
def _lower(values, begin, end, a, b, lowest):  # type: ignore[no-untyped-def]
    """Lower each of `lowest` to its permutation's minimum over values begin..end."""
    width = a.size
    i = begin
    while i + _UNROLL <= end:
        h0, h1 = _finalised(values[i]), _finalised(values[i + 1])
        h2, h3 = _finalised(values[i + 2]), _finalised(values[i + 3])
        h4, h5 = _finalised(values[i + 4]), _finalised(values[i + 5])
        h6, h7 = _finalised(values[i + 6]), _finalised(values[i + 7])
        for p in range(width):
            m, s = a[p], b[p]
            low = min(np.uint32(m * h0 + s), np.uint32(m * h1 + s))
            low = min(low, min(np.uint32(m * h2 + s), np.uint32(m * h3 + s)))
            low = min(low, min(np.uint32(m * h4 + s), np.uint32(m * h5 + s)))
            low = min(low, min(np.uint32(m * h6 + s), np.uint32(m * h7 + s)))
            lowest[p] = min(lowest[p], low)
        i += _UNROLL
    while i < end:
        h = _finalised(values[i])
        for p in range(width):
            lowest[p] = min(lowest[p], np.uint32(a[p] * h + b[p]))
        i += 1


@numba.njit(cache=True, nogil=True)
def _minhash(offsets, values, a, b):  # type: ignore[no-untyped-def]
    out = np.full((offsets.size - 1, a.size), EMPTY, np.uint32)
    for row in range(offsets.size - 1):
        _lower(values, offsets[row], offsets[row + 1], a, b, out[row])
    return out


@numba.njit(cache=True, nogil=True)
def _minhash_texts(offsets, data, classes, n, a, b):  # type: ignore[no-untyped-def]
    num = offsets.size - 1
    out, counts = np.full((num, a.size), EMPTY, np.uint32), np.zeros(num, np.int64)
    longest = 0
    for row in range(num):
        longest = max(longest, offsets[row + 1] - offsets[row])
    words, grams = np.empty(longest // 2 + 2, np.uint64), np.empty(longest // 2 + 2, np.uint64)
    for row in range(num):
        num_words = hash_words(data, offsets[row], offsets[row + 1], classes, words, 0)
        counts[row] = roll_ngrams(words, 0, num_words, n, grams, 0)
        _lower(grams, 0, counts[row], a, b, out[row])
    return counts, out


@numba.njit(cache=True, nogil=True)
def _band_keys(signatures, bands, rows):  # type: ignore[no-untyped-def]
    keys = np.empty((signatures.shape[0], bands), np.uint64)
    for row in range(signatures.shape[0]):
        for band in range(bands):
            key = mix_one(np.uint64(band) + _GOLDEN)
            for p in range(band * rows, (band + 1) * rows):
                key = mix_one((key ^ np.uint64(signatures[row, p])) + _GOLDEN)
            keys[row, band] = key
    return keys

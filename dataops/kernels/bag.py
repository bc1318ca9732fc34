"""Bags of hashed words and word pairs, and how much more likely a text's bag is in a target than in a pool.

The score of a text is the *mean* log ratio of its features. DSIR (2302.03169) takes the sum, which ranks by length and
dwarfs any noise added to it. The target's shares are smoothed towards the pool's with a strength that predicts left-out
features best (kernels.histogram). Cost: one hash and one addition a word and pair.
"""

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.hashing import pair_one
from dataops.kernels.histogram import dirichlet_alpha, smoothed
from dataops.kernels.ngrams import word_hashes
from dataops.kernels.ragged import Texts, read_only


def bag_counts(texts: Texts, buckets: int) -> NDArray[np.int64]:
    """How often each feature occurs in all texts together: int64[buckets]. Counts add up."""
    words = word_hashes(texts)
    return _bag_counts(words.offsets, words.values, buckets)


def log_ratios(target_counts: ArrayLike, pool_counts: ArrayLike) -> NDArray[np.float32]:
    """ln P(feature | target) / P(feature | pool), both smoothed: float32[buckets]."""
    pool = np.asarray(pool_counts, np.float64) + 1.0
    generic = pool / pool.sum()
    target = smoothed(target_counts, generic, dirichlet_alpha(target_counts, generic))
    return np.log(target / generic).astype(np.float32)


def mean_ratios(texts: Texts, ratios: ArrayLike) -> NDArray[np.float32]:
    """The mean of `ratios` float32[buckets] over the features of each text: float32[n], 0 for a text without words."""
    words = word_hashes(texts)
    return _mean_ratios(words.offsets, words.values, read_only(ratios, np.float32))


@numba.njit(cache=True, nogil=True)
def _bag_counts(offsets, words, buckets):  # type: ignore[no-untyped-def]
    counts, size = np.zeros(buckets, np.int64), np.uint64(buckets)
    for row in range(offsets.size - 1):
        for i in range(offsets[row], offsets[row + 1]):
            counts[np.int64(words[i] % size)] += 1
            if i > offsets[row]:
                counts[np.int64(pair_one(words[i - 1], words[i]) % size)] += 1
    return counts


@numba.njit(cache=True, nogil=True)
def _mean_ratios(offsets, words, ratios):  # type: ignore[no-untyped-def]
    out, size = np.zeros(offsets.size - 1, np.float32), np.uint64(ratios.size)
    for row in range(offsets.size - 1):
        total, count = 0.0, 0
        for i in range(offsets[row], offsets[row + 1]):
            total += ratios[np.int64(words[i] % size)]
            count += 1
            if i > offsets[row]:
                total += ratios[np.int64(pair_one(words[i - 1], words[i]) % size)]
                count += 1
        if count:
            out[row] = total / count
    return out

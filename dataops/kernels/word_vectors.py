"""A text as the mean of the vectors of its words, looked up by word hash.

Common words weigh little: a / (a + p) for a word of share p (smooth inverse frequency, Arora et al. 2017), and what all
texts have in common, their mean, is taken out. Cost: `dims` additions and a binary search a word.
"""

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.ngrams import by_prefix, find_hash, word_hashes
from dataops.kernels.ragged import Texts, read_only

_COMMON = 1e-3  # share of the words at which a word weighs half


def word_weights(counts: ArrayLike) -> NDArray[np.float64]:
    """a / (a + share) for words that occur `counts` times."""
    share = np.asarray(counts, np.float64) / max(float(np.sum(counts)), 1.0)
    return _COMMON / (_COMMON + share)


def mean_vectors(texts: Texts, hashes: ArrayLike, vectors: ArrayLike, common: ArrayLike) -> NDArray[np.float32]:
    """The unit vector of each text, float32[n, dims]; 0 for a text without known words.

    `vectors` float32[v, dims] are those of the words with `hashes` uint64[v] (ascending), weights included; `common`
    float32[dims] is taken from each mean. Words are added in the order of the text. Raises ValueError unless the hashes
    ascend.
    """
    known, starts, shift = by_prefix(hashes)
    words = word_hashes(texts)
    matrix, mean = read_only(vectors, np.float32), read_only(common, np.float32)
    return _mean_vectors(words.offsets, words.values, known, starts, shift, matrix, mean)


@numba.njit(cache=True, nogil=True)
def _mean_vectors(offsets, words, known, starts, shift, vectors, common):  # type: ignore[no-untyped-def]
    num, dims = offsets.size - 1, vectors.shape[1]
    out = np.zeros((num, dims), np.float32)
    for row in range(num):
        vector, found = out[row], 0
        for i in range(offsets[row], offsets[row + 1]):
            at = find_hash(words[i], known, starts, shift)
            if at >= 0:
                found += 1
                direction = vectors[at]
                for dim in range(dims):
                    vector[dim] += direction[dim]
        if found == 0:
            continue
        norm = 0.0
        for dim in range(dims):
            vector[dim] = vector[dim] / np.float32(found) - common[dim]
            norm += np.float64(vector[dim]) * np.float64(vector[dim])
        if norm > 0:
            scale = np.float32(1.0 / np.sqrt(norm))
            for dim in range(dims):
                vector[dim] *= scale
    return out

"""Text embedding learned from the corpus itself, on a CPU: hashed words and word pairs, tf-idf, truncated SVD.

Words and pairs of neighbouring words of the matching form are hashed into `buckets` features. A feature weighs (1 +
ln count) * idf, a document's features have unit norm, and the projection is the leading right singular vectors of a
sample of such rows (latent semantic analysis; c-BTM, arXiv 2303.14177, clusters on TF-IDF -> SVD -> normalise).
Fitting is subspace iteration, every sum in one fixed order, so the projection is the same for any number of threads.
Cost of `embed`: `dims` multiply-adds a distinct feature, on rows of the projection fetched from memory at random.
"""

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.hashing import pair_one
from dataops.kernels.ngrams import word_hashes
from dataops.kernels.ragged import Texts, read_only

_OVERSAMPLE = 16  # extra directions carried while iterating, so that the last ones kept are accurate
_ROUNDS = 4


def document_frequency(texts: Texts, buckets: int) -> NDArray[np.int64]:
    """In how many texts each feature occurs: int64[buckets]. Frequencies of disjoint sets of texts add up."""
    words = word_hashes(texts)
    _, features, _ = _features(words.offsets, words.values, _positive("buckets", buckets))
    return np.bincount(features, minlength=buckets)


def inverse_document_frequency(frequency: ArrayLike, num_documents: int) -> NDArray[np.float32]:
    """ln((1 + documents) / (1 + frequency)) for each feature: float32[buckets], 0 for one that every document has."""
    return np.log((1.0 + num_documents) / (1.0 + np.asarray(frequency, np.float64))).astype(np.float32)


def fit_projection(sample_texts: Texts, idf: ArrayLike, *, dims: int, seed: int) -> NDArray[np.float32]:
    """The projection float32[buckets, dims] that keeps most of the sample's tf-idf rows: orthonormal columns, strongest
    first.

    The strongest direction of such rows is their common mean, which tells documents little apart: it is left out.
    Raises ValueError if the sample has fewer texts with words than dims + 1. Equal arguments give equal bytes.
    """
    weights = read_only(idf, np.float32)
    words = word_hashes(sample_texts)
    offsets, features, values = _weighted(words.offsets, words.values, weights)
    width = _positive("dims", dims) + 1 + _OVERSAMPLE
    rank = min(int((np.diff(offsets) > 0).sum()), int(np.count_nonzero(np.bincount(features))))
    if rank < dims + 1:
        raise ValueError(f"{dims} dimensions from a sample of rank {rank} at most: expected at least {dims + 1} texts")
    turned, rows, weighed = _transpose(offsets, features, values, weights.size)
    left = np.random.default_rng(seed).standard_normal((offsets.size - 1, width))
    for _ in range(_ROUNDS):  # subspace iteration on the side of the texts, which are fewer than the buckets
        right = _times_dense(turned, rows, weighed, _orthonormal(left))
        left = _times_dense(offsets, features, values, right)
    right = _times_dense(turned, rows, weighed, _orthonormal(left))
    strength, turn = _principal(_gram(right))
    kept = slice(1, dims + 1)
    length = np.sqrt(np.maximum(strength[kept], 0))
    scale = np.divide(1, length, out=np.zeros_like(length), where=length > 1e-9 * np.sqrt(strength[0]))
    return _times(right, turn[:, kept] * scale).astype(np.float32)


def random_projection(buckets: int, *, dims: int, seed: int) -> NDArray[np.float32]:
    """Random signs / sqrt(dims), float32[buckets, dims]: keeps distances, learns nothing; the fitted one's baseline."""
    signs = np.random.default_rng(seed).integers(0, 2, (buckets, dims), dtype=np.int8) * 2 - 1
    return (signs / np.sqrt(dims)).astype(np.float32)


def embed(texts: Texts, idf: ArrayLike, projection: ArrayLike) -> NDArray[np.float32]:
    """The unit vector of each text, float32[n, dims]; 0 for a text without known features.

    `idf` float32[buckets] and `projection` float32[buckets, dims] must come from one fit. A feature's terms are added
    in the order in which features first occur in the text, so a vector does not depend on the batch.
    """
    weights, matrix = read_only(idf, np.float32), read_only(projection, np.float32)
    if matrix.ndim != 2 or weights.shape != matrix.shape[:1]:
        raise ValueError(f"idf of {weights.shape} buckets and a projection of {matrix.shape} are not of one fit")
    words = word_hashes(texts)
    return _embed(words.offsets, words.values, weights, matrix)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} is {value}: expected at least 1")
    return value


@numba.njit(cache=True, nogil=True)
def _count_features(words, begin, end, buckets, counts, found):  # type: ignore[no-untyped-def]
    """Counts words and pairs into `counts` (all 0 before); `found` lists the features in order of first occurrence."""
    num = 0
    size = np.uint64(buckets)
    for i in range(begin, end):
        feature = np.int64(words[i] % size)
        if counts[feature] == 0:
            found[num] = feature
            num += 1
        counts[feature] += 1
        if i > begin:
            feature = np.int64(pair_one(words[i - 1], words[i]) % size)
            if counts[feature] == 0:
                found[num] = feature
                num += 1
            counts[feature] += 1
    return num


@numba.njit(cache=True, nogil=True)
def _features(offsets, words, buckets):  # type: ignore[no-untyped-def]
    """Distinct features of each text with their counts: (offsets, features, counts)."""
    num = offsets.size - 1
    counts, found = np.zeros(buckets, np.int64), np.empty(buckets, np.int64)
    out, times = np.empty(2 * words.size, np.int64), np.empty(2 * words.size, np.int64)
    out_offsets = np.zeros(num + 1, np.int64)
    total = 0
    for row in range(num):
        size = _count_features(words, offsets[row], offsets[row + 1], buckets, counts, found)
        for j in range(size):
            out[total], times[total] = found[j], counts[found[j]]
            counts[found[j]] = 0
            total += 1
        out_offsets[row + 1] = total
    return out_offsets, out[:total].copy(), times[:total].copy()


@numba.njit(cache=True, nogil=True)
def _weighted(offsets, words, idf):  # type: ignore[no-untyped-def]
    """tf-idf rows of unit norm: (offsets, features, values float64)."""
    out_offsets, features, times = _features(offsets, words, idf.size)
    values = np.empty(features.size, np.float64)
    for row in range(out_offsets.size - 1):
        norm = 0.0
        for j in range(out_offsets[row], out_offsets[row + 1]):
            values[j] = (1.0 + np.log(np.float64(times[j]))) * idf[features[j]]
            norm += values[j] * values[j]
        for j in range(out_offsets[row], out_offsets[row + 1]):
            values[j] = values[j] / np.sqrt(norm) if norm > 0 else 0.0
    return out_offsets, features, values


@numba.njit(cache=True, nogil=True)
def _embed(offsets, words, idf, projection):  # type: ignore[no-untyped-def]
    num, dims = offsets.size - 1, projection.shape[1]
    counts, found = np.zeros(idf.size, np.int64), np.empty(idf.size, np.int64)
    out = np.zeros((num, dims), np.float32)
    for row in range(num):
        size = _count_features(words, offsets[row], offsets[row + 1], idf.size, counts, found)
        vector = out[row]
        for j in range(size):
            feature = found[j]
            direction = projection[feature]
            weight = np.float32((1.0 + np.log(np.float64(counts[feature]))) * idf[feature])
            counts[feature] = 0
            for dim in range(dims):
                vector[dim] += weight * direction[dim]
        norm = 0.0
        for dim in range(dims):
            norm += np.float64(vector[dim]) * np.float64(vector[dim])
        if norm > 0:
            scale = np.float32(1.0 / np.sqrt(norm))
            for dim in range(dims):
                vector[dim] *= scale
    return out


@numba.njit(cache=True, nogil=True)
def _times_dense(offsets, features, values, basis):  # type: ignore[no-untyped-def]
    """Rows @ basis, [n, width]: the sum of what each row's features have in `basis`, in their order."""
    out = np.zeros((offsets.size - 1, basis.shape[1]), np.float64)
    for row in range(offsets.size - 1):
        sums = out[row]
        for j in range(offsets[row], offsets[row + 1]):
            value, direction = values[j], basis[features[j]]
            for k in range(sums.size):
                sums[k] += value * direction[k]
    return out


@numba.njit(cache=True, nogil=True)
def _transpose(offsets, features, values, buckets):  # type: ignore[no-untyped-def]
    """The texts of each feature, ascending, and their values: (offsets [buckets + 1], rows, values)."""
    turned = np.zeros(buckets + 1, np.int64)
    for feature in features:
        turned[feature + 1] += 1
    for feature in range(buckets):
        turned[feature + 1] += turned[feature]
    free, rows, out = turned[:-1].copy(), np.empty(features.size, np.int64), np.empty(features.size, np.float64)
    for row in range(offsets.size - 1):
        for j in range(offsets[row], offsets[row + 1]):
            at = free[features[j]]
            rows[at], out[at] = row, values[j]
            free[features[j]] = at + 1
    return turned, rows, out


@numba.njit(cache=True, nogil=True)
def _orthonormal(columns):  # type: ignore[no-untyped-def]
    """Gram-Schmidt on the columns, in place; a column that depends on earlier ones becomes 0."""
    rows, width = columns.shape
    dots = np.empty(width, np.float64)
    for k in range(width):
        norm = 0.0
        for row in range(rows):
            norm += columns[row, k] * columns[row, k]
        scale = 1.0 / np.sqrt(norm) if norm > 1e-20 else 0.0
        dots[:] = 0.0
        for row in range(rows):
            entries = columns[row]
            entries[k] *= scale
            for j in range(k + 1, width):
                dots[j] += entries[k] * entries[j]
        for row in range(rows):
            entries = columns[row]
            for j in range(k + 1, width):
                entries[j] -= entries[k] * dots[j]
    return columns


@numba.njit(cache=True, nogil=True)
def _times(a, b):  # type: ignore[no-untyped-def]
    """a @ b, added in the order of the columns of a: a BLAS would order by threads and machine."""
    out = np.zeros((a.shape[0], b.shape[1]), np.float64)
    for row in range(a.shape[0]):
        sums = out[row]
        for j in range(a.shape[1]):
            value, entries = a[row, j], b[j]
            for k in range(sums.size):
                sums[k] += value * entries[k]
    return out


@numba.njit(cache=True, nogil=True)
def _gram(columns):  # type: ignore[no-untyped-def]
    """columns' transpose @ columns, added in the order of the rows."""
    width = columns.shape[1]
    out = np.zeros((width, width), np.float64)
    for row in range(columns.shape[0]):
        entries = columns[row]
        for a in range(width):
            value, sums = entries[a], out[a]
            for b in range(width):
                sums[b] += value * entries[b]
    return out


@numba.njit(cache=True, nogil=True)
def _principal(symmetric):  # type: ignore[no-untyped-def]
    """Eigenvalues of a symmetric matrix, largest first, and their vectors as columns, by Jacobi rotations; the largest
    entry of each vector is positive."""
    size = symmetric.shape[0]
    a, vectors = symmetric.copy(), np.eye(size)
    scale = 0.0
    for i in range(size):
        scale = max(scale, abs(a[i, i]))
    for _ in range(60):
        off = 0.0
        for p in range(size - 1):
            for q in range(p + 1, size):
                off = max(off, abs(a[p, q]))
                if abs(a[p, q]) <= 1e-15 * scale:
                    continue
                theta = (a[q, q] - a[p, p]) / (2.0 * a[p, q])
                t = 1.0 / (abs(theta) + np.sqrt(theta * theta + 1.0))
                if theta < 0:
                    t = -t
                c = 1.0 / np.sqrt(t * t + 1.0)
                s = t * c
                for k in range(size):
                    x, y = a[k, p], a[k, q]
                    a[k, p], a[k, q] = c * x - s * y, s * x + c * y
                for k in range(size):
                    x, y = a[p, k], a[q, k]
                    a[p, k], a[q, k] = c * x - s * y, s * x + c * y
                    x, y = vectors[k, p], vectors[k, q]
                    vectors[k, p], vectors[k, q] = c * x - s * y, s * x + c * y
        if off <= 1e-15 * scale:
            break
    out, values = np.empty((size, size)), np.empty(size)
    taken = np.zeros(size, np.bool_)
    for column in range(size):
        best = -1
        for k in range(size):
            if not taken[k] and (best < 0 or a[k, k] > a[best, best]):
                best = k
        taken[best] = True
        values[column] = a[best, best]
        largest = 0
        for k in range(size):
            if abs(vectors[k, best]) > abs(vectors[largest, best]):
                largest = k
        sign = 1.0 if vectors[largest, best] >= 0 else -1.0
        for k in range(size):
            out[k, column] = sign * vectors[k, best]
    return values, out

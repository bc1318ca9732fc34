"""Vectors are tf-idf rows on leading singular directions, as numpy computes them, and tell planted topics apart."""

import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from dataops.kernels import embed as em
from dataops.kernels.ngrams import word_hashes
from dataops.kernels.tree import assign, fit_tree

BUCKETS, DIMS = 512, 6


def planted(num_topics: int, size: int) -> tuple[pa.Array, np.ndarray]:
    """Texts of 60 words, half from their topic's own 30 words and half from 40 that all topics share."""
    draw = np.random.default_rng(0)
    topic = draw.integers(0, num_topics, size)
    own = [[f"t{t}w{w}" for w in draw.integers(0, 30, 30)] for t in topic]
    shared = [[f"c{w}" for w in draw.integers(0, 40, 30)] for _ in topic]
    return pa.array([" ".join(draw.permutation(a + b)) for a, b in zip(own, shared, strict=True)]), topic


@pytest.fixture(scope="module")
def fitted() -> tuple[pa.Array, np.ndarray, np.ndarray]:
    texts, _ = planted(6, 120)
    idf = em.inverse_document_frequency(em.document_frequency(texts, BUCKETS), len(texts))
    return texts, idf, em.fit_projection(texts, idf, dims=DIMS, seed=0)


def slow_rows(texts: pa.Array, idf: np.ndarray) -> np.ndarray:
    """Dense tf-idf rows of unit norm, with the features counted in plain Python."""
    words, rows = word_hashes(texts), np.zeros((len(texts), len(idf)))
    for i in range(len(texts)):
        document = words.row(i).tolist()
        pairs = [slow_mix((a * 0x9FB21C651E98DF25 + b) % 2**64) for a, b in pairwise(document)]
        for feature in [value % len(idf) for value in document + pairs]:
            rows[i, feature] += 1
    rows = np.where(rows > 0, 1 + np.log(np.maximum(rows, 1)), 0) * idf
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def slow_mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def test_document_frequencies_count_documents_and_add_up(fitted: tuple[pa.Array, np.ndarray, np.ndarray]) -> None:
    texts, _, _ = fitted
    whole = em.document_frequency(texts, BUCKETS)
    assert np.array_equal(whole, (slow_rows(texts, np.ones(BUCKETS)) > 0).sum(axis=0))
    parts = em.document_frequency(texts[:50], BUCKETS) + em.document_frequency(texts[50:], BUCKETS)
    assert np.array_equal(parts, whole)
    idf = em.inverse_document_frequency([0, 3, 9], 9)
    assert idf == pytest.approx([math.log(10), math.log(10 / 4), 0])


def test_the_projection_spans_the_leading_singular_directions_after_the_first(
    fitted: tuple[pa.Array, np.ndarray, np.ndarray],
) -> None:
    texts, idf, projection = fitted
    _, singular, directions = np.linalg.svd(slow_rows(texts, idf), full_matrices=False)
    kept = np.linalg.norm(slow_rows(texts, idf) @ projection, axis=0)
    assert kept == pytest.approx(singular[1 : DIMS + 1], rel=0.02)  # the sixth is noise, close to the seventh
    assert kept[:5] == pytest.approx(singular[1:6], rel=1e-4)
    assert np.abs(projection.T @ projection - np.eye(DIMS)).max() < 1e-5
    topics = np.linalg.svd(projection.T @ directions[1:6].T)[1]  # five directions tell six topics apart
    assert topics.min() > 0.999


def test_vectors_are_projected_rows_of_unit_norm(fitted: tuple[pa.Array, np.ndarray, np.ndarray]) -> None:
    texts, idf, projection = fitted
    expected = slow_rows(texts, idf) @ projection
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.abs(em.embed(texts, idf, projection) - expected).max() < 1e-5


def test_vectors_do_not_depend_on_the_batch_and_fits_repeat(fitted: tuple[pa.Array, np.ndarray, np.ndarray]) -> None:
    texts, idf, projection = fitted
    whole = em.embed(texts, idf, projection)
    parts = [em.embed(texts[i : i + 7], idf, projection) for i in range(0, len(texts), 7)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    assert em.fit_projection(texts, idf, dims=DIMS, seed=0).tobytes() == projection.tobytes()


def test_planted_topics_become_cells_with_the_fitted_projection_and_not_with_a_random_one() -> None:
    texts, topic = planted(6, 600)
    idf = em.inverse_document_frequency(em.document_frequency(texts, 4096), len(texts))
    purity = {}
    for name, projection in {
        "fitted": em.fit_projection(texts[:300], idf, dims=8, seed=0),
        "random": em.random_projection(4096, dims=8, seed=0),
    }.items():
        points = em.embed(texts, idf, projection)
        cell, _ = assign(fit_tree(points, branching=6, leaves=6, seed=0, iterations=10), points)
        purity[name] = sum(np.bincount(topic[cell == c]).max() for c in np.unique(cell)) / len(topic)
    assert purity["fitted"] > 0.98
    assert purity["random"] < 0.6


def test_texts_without_words_are_zero(fitted: tuple[pa.Array, np.ndarray, np.ndarray]) -> None:
    _, idf, projection = fitted
    vectors = em.embed(pa.array(["", None, "...", "one word"]), idf, projection)
    assert not vectors[:3].any()
    assert np.linalg.norm(vectors[3]) == pytest.approx(1, abs=1e-6)


def test_what_does_not_fit_together_is_named(fitted: tuple[pa.Array, np.ndarray, np.ndarray]) -> None:
    texts, idf, projection = fitted
    with pytest.raises(ValueError, match="not of one fit"):
        em.embed(texts, idf[:-1], projection)
    with pytest.raises(ValueError, match="at least 7 texts"):
        em.fit_projection(texts[:6], idf, dims=6, seed=0)

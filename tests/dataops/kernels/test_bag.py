"""Bags count words and pairs; the score of a text is the mean of its features' log ratios."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from dataops.kernels.bag import bag_counts, log_ratios, mean_ratios

TEXTS = pa.array(["a b c a b", "b", "", "d a d a"])


def test_counts_are_words_and_pairs_and_add_up() -> None:
    counts = bag_counts(TEXTS, 1 << 16)
    words = [text.split() for text in TEXTS.to_pylist()]
    expected = Counter(w for text in words for w in text)
    expected.update(pair for text in words for pair in pairwise(text))
    assert sorted(counts[counts > 0].tolist()) == sorted(expected.values())
    assert np.array_equal(counts, bag_counts(TEXTS[:2], 1 << 16) + bag_counts(TEXTS[2:], 1 << 16))


def test_scores_are_means_so_repeating_a_text_changes_little_and_its_length_nothing() -> None:
    ratios = np.arange(1 << 16, dtype=np.float32)
    one = float(mean_ratios(TEXTS[:1], ratios)[0])
    hits = np.repeat(np.arange(1 << 16), bag_counts(TEXTS[:1], 1 << 16))
    assert one == pytest.approx(hits.mean())
    assert mean_ratios(TEXTS, ratios)[2] == 0


def test_features_of_the_target_are_positive_those_of_the_pool_negative_unknown_ones_near_zero() -> None:
    target, pool = np.zeros(100), np.zeros(100)
    target[:10], pool[5:50] = 200, 200
    ratios = log_ratios(target, pool)
    assert ratios[:5].min() > 1
    assert ratios[10:50].max() < -1
    nothing = log_ratios(np.zeros(100), pool)
    assert np.abs(nothing).max() < 1e-5

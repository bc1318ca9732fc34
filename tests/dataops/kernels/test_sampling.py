"""Samples have the rate asked for, nest, and depend on seed, document and window alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.kernels.sampling import nested_copies, window_uniform

H64 = np.repeat(np.arange(5000, dtype=np.uint64) * np.uint64(2**50 + 1), 8)
WINDOW = np.tile(np.arange(8), 5000)


@given(st.floats(0, 6), st.floats(0, 6))
def test_copies_never_fall_and_match_their_rate(first: float, second: float) -> None:
    small, large = (nested_copies(0, H64, WINDOW, rate) for rate in sorted((first, second)))
    assert (small <= large).all()
    assert small.max() - small.min() <= 1
    assert abs(large.mean() - max(first, second)) < 0.01


def test_draws_keep_the_rate_of_each_cell_and_each_window_of_a_document_by_itself() -> None:
    rate = np.where(WINDOW % 2, 0.1, 0.6)
    kept = nested_copies(0, H64, WINDOW, rate) > 0
    assert abs(kept[WINDOW % 2 == 1].mean() - 0.1) < 0.01
    assert abs(kept[WINDOW % 2 == 0].mean() - 0.6) < 0.02
    draws = window_uniform(0, H64, WINDOW).reshape(-1, 8)
    assert np.abs(np.corrcoef(draws.T) - np.eye(8)).max() < 0.06
    assert len(np.unique(draws)) == draws.size


def test_draws_do_not_depend_on_the_batch() -> None:
    whole = window_uniform(3, H64, WINDOW)
    order = np.random.default_rng(0).permutation(len(H64))
    assert np.array_equal(window_uniform(3, H64[order], WINDOW[order]), whole[order])
    assert np.array_equal(window_uniform(3, H64[99:], WINDOW[99:]), whole[99:])


def test_rates_that_are_no_epochs_are_refused() -> None:
    with pytest.raises(ValueError, match="rate -1"):
        nested_copies(0, H64[:1], WINDOW[:1], -1.0)

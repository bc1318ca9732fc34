"""Pair similarities are those of Python's sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.kernels.jaccard import pair_jaccard
from dataops.kernels.ragged import Ragged

VALUES = st.one_of(st.integers(0, 12), st.integers(2**64 - 6, 2**64 - 1))


@given(st.lists(st.sets(VALUES, max_size=20), min_size=1, max_size=8))
def test_pair_jaccard_is_that_of_python_sets(sets: list[set[int]]) -> None:
    offsets = np.cumsum([0, *map(len, sets)])
    values = np.array([value for each in sets for value in sorted(each)], np.uint64)
    left, right = (side.ravel() for side in np.indices((len(sets), len(sets))))
    expected = [len(sets[i] & sets[j]) / max(1, len(sets[i] | sets[j])) for i, j in zip(left, right, strict=True)]
    assert pair_jaccard(Ragged(offsets, values), Ragged(offsets, values), left, right).tolist() == expected


def test_the_sides_may_lie_in_different_arrays() -> None:
    one = Ragged(np.array([0, 2]), np.array([1, 2], np.uint64))
    other = Ragged(np.array([0, 0, 3]), np.array([1, 2, 3], np.uint64))
    assert pair_jaccard(one, other, [0, 0], [1, 0]).tolist() == [2 / 3, 0]


def test_pairs_that_name_no_set_are_refused() -> None:
    sets = Ragged(np.array([0, 1]), np.array([5], np.uint64))
    with pytest.raises(IndexError, match=r"0\.\.1 of 1"):
        pair_jaccard(sets, sets, [0, 0], [0, 1])
    with pytest.raises(ValueError, match="1 left members for 2"):
        pair_jaccard(sets, sets, [0], [0, 0])

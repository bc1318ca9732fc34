"""A document is dropped exactly if a kept one is that similar; buckets give stars, never all pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.kernels.components import keep_decisions, star_pairs

SIZE = 12
EDGES = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE - 1), st.sampled_from([0.5, 0.7, 0.8, 0.9, 1.0]))
)
RANKS = st.permutations(range(SIZE))


def decide(edges: list[tuple[int, int, float]], rank: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    left, right, similarity = np.array(edges, np.float64).reshape(-1, 3).T
    return keep_decisions(SIZE, left, right, similarity, rank, 0.8)


@given(EDGES, RANKS)
def test_decisions_are_those_of_visiting_documents_one_by_one(
    edges: list[tuple[int, int, float]], rank: list[int]
) -> None:
    kept, kept_by, similarity = decide(edges, rank)
    still_kept: set[int] = set()
    for document in sorted(range(SIZE), key=rank.__getitem__):
        near = [
            (-s, rank[b if a == document else a]) for a, b, s in edges if s >= 0.8 and document in (a, b) and a != b
        ]
        near = [(s, r) for s, r in near if rank.index(r) in still_kept]
        assert kept[document] == (not near)
        if near:
            assert (-similarity[document], rank[kept_by[document]]) == min(near)
        else:
            still_kept.add(document)
            assert (similarity[document], kept_by[document]) == (0, -1)


@given(EDGES, RANKS, st.randoms(use_true_random=False))
def test_every_dropped_document_has_a_kept_neighbour_and_no_two_kept_are_neighbours(edges, rank, random) -> None:  # type: ignore[no-untyped-def]
    kept, kept_by, similarity = decide(edges, rank)
    strong = {frozenset((a, b)): s for a, b, s in sorted(edges, key=lambda edge: edge[2]) if s >= 0.8 and a != b}
    assert not any(kept[list(pair)].all() for pair in strong)
    for document in np.flatnonzero(~kept):
        assert kept[kept_by[document]]
        assert strong[frozenset((document, kept_by[document]))] == similarity[document]
        assert rank[kept_by[document]] < rank[document]
    shuffled = [(b, a, s) if random.random() < 0.5 else (a, b, s) for a, b, s in edges]
    random.shuffle(shuffled)
    for mine, other in zip((kept, kept_by, similarity), decide(shuffled, rank), strict=True):
        assert np.array_equal(mine, other)


def test_a_chain_does_not_drop_its_far_end() -> None:
    kept, kept_by, _ = keep_decisions(3, [0, 1], [1, 2], [0.9, 0.9], [0, 1, 2], 0.8)
    assert kept.tolist() == [True, False, True]
    assert kept_by.tolist() == [-1, 0, -1]


def test_ranks_that_tie_and_unknown_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="permutation"):
        keep_decisions(2, [0], [1], [1.0], [0, 0], 0.8)
    with pytest.raises(IndexError, match=r"0\.\.1"):
        keep_decisions(2, [0], [2], [1.0], [0, 1], 0.8)
    with pytest.raises(ValueError, match="unequal"):
        keep_decisions(2, [0, 1], [1], [1.0], [0, 1], 0.8)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=30))
def test_star_pairs_join_the_first_of_each_bucket_with_the_others_once(entries: list[tuple[int, int]]) -> None:
    entries = sorted(entries, key=lambda entry: entry[0])
    left, right = star_pairs([key for key, _ in entries], [document for _, document in entries])
    buckets: dict[int, list[int]] = {}
    for key, document in entries:
        buckets.setdefault(key, []).append(document)
    expected = {(first, other) for first, *rest in buckets.values() for other in rest if other != first}
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == sorted(expected)


def test_star_pairs_refuses_unsorted_keys() -> None:
    with pytest.raises(ValueError, match="ascending"):
        star_pairs([2, 1], [0, 0])
    with pytest.raises(ValueError, match="2 keys for 1"):
        star_pairs([1, 2], [0])

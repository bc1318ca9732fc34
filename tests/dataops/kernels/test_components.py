"""A document is dropped exactly if a kept one has an edge with it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.kernels.components import keep_decisions

SIZE = 12
EDGES = st.lists(
    st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE - 1), st.sampled_from([0.8, 0.9, 1.0])).filter(
        lambda edge: edge[0] < edge[1]
    )
)


def decide(edges: list[tuple[int, int, float]], *, at_once: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Decisions on edges (preferred, other, similarity), handed over in batches of `at_once`."""
    ordered = sorted(edges, key=lambda edge: (edge[1], -edge[2], edge[0]))
    batches = [ordered[i : i + at_once] for i in range(0, len(ordered), at_once)]
    return keep_decisions(SIZE, [tuple(np.array(batch).T) for batch in batches])


@given(EDGES, st.integers(1, 5))
def test_decisions_are_those_of_visiting_documents_one_by_one(
    edges: list[tuple[int, int, float]], at_once: int
) -> None:
    kept_by, similarity = decide(edges, at_once=at_once)
    still_kept: set[int] = set()
    for document in range(SIZE):
        near = [(-s, a) for a, b, s in edges if b == document and a in still_kept]
        if near:
            assert (-similarity[document], kept_by[document]) == min(near)
        else:
            assert (similarity[document], kept_by[document]) == (0, -1)
            still_kept.add(document)


@given(EDGES)
def test_every_dropped_document_has_a_kept_neighbour_and_no_two_kept_are_neighbours(
    edges: list[tuple[int, int, float]],
) -> None:
    kept_by, _ = decide(edges)
    assert not any(kept_by[a] < 0 and kept_by[b] < 0 for a, b, _ in edges)
    assert all(kept_by[kept_by[document]] < 0 for document in np.flatnonzero(kept_by >= 0))


def test_a_chain_does_not_drop_its_far_end() -> None:
    kept_by, _ = keep_decisions(3, [([0, 1], [1, 2], [0.9, 0.9])])
    assert kept_by.tolist() == [-1, 0, -1]


@pytest.mark.parametrize(
    "batches",
    [
        [([0, 0], [2, 1], [1.0, 1.0])],
        [([0], [2], [1.0]), ([0], [1], [1.0])],
        [([1], [0], [1.0])],
        [([0], [3], [1.0])],
        [([-1], [1], [1.0])],
    ],
)
def test_edges_out_of_order_or_of_unknown_documents_are_refused(batches: list) -> None:
    with pytest.raises(ValueError, match=r"preferred < other among 0\.\.2"):
        keep_decisions(3, batches)

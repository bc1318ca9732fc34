"""Candidates: all pairs of small buckets, leaders in large ones, and only those whose sketches agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.kernels.minhash import minhash, permutations
from dataops.kernels.pairs import candidate_pairs, matches_at, sketches

DOCUMENTS = 8
EQUAL = np.zeros((DOCUMENTS, 16), np.uint8)
BY_NUMBER = np.arange(DOCUMENTS, dtype=np.uint64)
ENTRIES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, DOCUMENTS - 1)), max_size=24, unique=True)


def pairs(
    entries: list[tuple[int, int]],
    sketch: np.ndarray = EQUAL,
    *,
    at_least: int = 1,
    covered: int = 16,
    up_to: int = DOCUMENTS,
) -> list[tuple[int, int]]:
    entries = sorted(entries, key=lambda entry: entry[0])
    keys = np.array([key for key, _ in entries], np.uint64)
    documents = np.array([document for _, document in entries], np.int64)
    left, right = candidate_pairs(
        keys, documents, BY_NUMBER, sketch, at_least=at_least, covered=covered, all_pairs_up_to=up_to
    )
    return list(zip(left.tolist(), right.tolist(), strict=True))


@given(ENTRIES)
def test_a_small_bucket_gives_all_its_pairs_once(entries: list[tuple[int, int]]) -> None:
    expected = {(min(a, b), max(a, b)) for key, a in entries for other, b in entries if key == other and a != b}
    assert pairs(entries) == sorted(expected)


@given(ENTRIES, st.randoms(use_true_random=False), st.integers(1, 4))
def test_the_order_within_a_key_does_not_matter(entries, random, up_to: int) -> None:  # type: ignore[no-untyped-def]
    sketch = np.random.default_rng(1).integers(0, 3, (DOCUMENTS, 16), np.uint8)
    shuffled = random.sample(entries, len(entries))
    settings = {"sketch": sketch, "at_least": 4, "covered": 7, "up_to": up_to}
    assert pairs(entries, **settings) == pairs(shuffled, **settings)


def test_a_large_bucket_gives_the_leader_with_each_document_that_it_covers() -> None:
    bucket = [(7, document) for document in range(DOCUMENTS)]
    assert pairs(bucket, up_to=3) == [(0, document) for document in range(1, DOCUMENTS)]


def test_documents_unlike_every_leader_lead_too_up_to_the_limit() -> None:
    sketch = EQUAL.copy()
    sketch[4:] = 1  # two groups in one bucket
    bucket = [(7, document) for document in range(DOCUMENTS)]
    assert pairs(bucket, sketch, up_to=3) == [(0, 1), (0, 2), (0, 3), (4, 5), (4, 6), (4, 7)]
    assert pairs(bucket, sketch, up_to=1) == [(0, 1), (0, 2), (0, 3)]


def test_pairs_whose_sketches_disagree_are_left_out() -> None:
    sketch = EQUAL.copy()
    sketch[1, :4], sketch[2, :5] = 1, 2
    assert pairs([(1, 0), (1, 1), (1, 2)], sketch, at_least=12) == [(0, 1)]


def test_equal_bytes_of_sketches_estimate_the_similarity_within_the_stated_deviations() -> None:
    draw = np.random.default_rng(3)
    hashes, trials, similarity = permutations(128, 1), 400, 0.8
    equal = []
    for _ in range(trials):
        union = draw.integers(0, 2**63, 500, np.uint64)
        shared = int(similarity * 500)
        extra = (500 - shared) // 2
        one, other = union[: shared + extra], np.concatenate([union[:shared], union[shared + extra :]])
        a, b = (sketches(minhash([0, len(each)], np.sort(each), hashes))[0] for each in (one, other))
        equal.append(int((a == b).sum()))
    assert abs(np.mean(equal) - matches_at(similarity, 128)) < 1.5
    assert np.mean(np.array(equal) < matches_at(similarity, 128, deviations=3)) < 0.01
    assert 0.05 < np.mean(np.array(equal) < matches_at(similarity, 128, deviations=1)) < 0.25


def test_unsorted_keys_are_refused() -> None:
    settings = {"at_least": 1, "covered": 1, "all_pairs_up_to": 1}
    with pytest.raises(ValueError, match="ascending"):
        candidate_pairs([2, 1], [0, 0], BY_NUMBER, EQUAL, **settings)
    with pytest.raises(ValueError, match="2 keys for 1"):
        candidate_pairs([1, 2], [0], BY_NUMBER, EQUAL, **settings)

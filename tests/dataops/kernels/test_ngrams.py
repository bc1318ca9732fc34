"""Shingles are sets of word runs: equal runs, equal hashes; they agree with Python's own sets of tuples."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.kernels import ngrams
from dataops.kernels.text import matching_form, words

TEXTS = st.lists(
    st.lists(st.sampled_from(["a", "B", "b", "été", "ÉTÉ", "漢字", "x_1", "...", "the"]), max_size=40).map(" ".join)
)


def folded_words(texts: list[str]) -> list[list[str]]:
    return words(matching_form(pa.array(texts, pa.string())))


def runs(document: list[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(document[i:] for i in range(n)), strict=False))


@given(TEXTS)
def test_two_words_have_equal_hashes_exactly_if_they_are_equal(texts: list[str]) -> None:
    offsets, hashes = ngrams.word_hashes(pa.array(texts, pa.string()))
    documents = folded_words(texts)
    assert np.diff(offsets).tolist() == [len(document) for document in documents]
    flat = [word for document in documents for word in document]
    assert len(set(zip(flat, hashes.tolist(), strict=True))) == len(set(flat)) == len(set(hashes.tolist()))


@given(TEXTS, st.integers(1, 14))
def test_shingles_are_the_distinct_word_runs(texts: list[str], n: int) -> None:
    column = pa.array(texts, pa.string())
    sequence, sets = ngrams.ngram_hashes(column, n), ngrams.shingles(column, n)
    expected = [runs(document, n) for document in folded_words(texts)]
    flat = [run for document in expected for run in document]
    assert (
        len(set(zip(flat, sequence.values.tolist(), strict=True)))
        == len(set(flat))
        == len(set(sequence.values.tolist()))
    )
    for i, document in enumerate(expected):
        assert len(sequence.row(i)) == len(document)
        assert sets.row(i).tolist() == sorted(set(sequence.row(i).tolist()))
        assert len(sets.row(i)) == len(set(document))


def test_sets_of_long_repetitive_documents_are_sorted_and_distinct() -> None:
    draw = np.random.default_rng(0)
    texts = [
        " ".join(map(str, draw.integers(0, top, size))) for top, size in [(2, 5000), (10, 3000), (10**6, 4000), (3, 1)]
    ]
    column = pa.array(texts)
    sequence, sets = ngrams.ngram_hashes(column, 2), ngrams.shingles(column, 2)
    for i in range(len(texts)):
        assert np.array_equal(sets.row(i), np.unique(sequence.row(i)))


def test_texts_of_fewer_words_than_n_have_no_shingle() -> None:
    sets = ngrams.shingles(pa.array(["", "one", "one two"]), 3)
    assert [sets.row(i).tolist() for i in range(3)] == [[], [], []]


def test_hashes_do_not_depend_on_the_batch_or_on_case_width_and_punctuation() -> None:
    column = pa.array(["The cat, sat on the mat", "ＴＨＥ  Cat sat — on the MAT!", "", "the cat sat on the mat"])
    sets = ngrams.shingles(column, 3)
    assert sets.row(0).tolist() == sets.row(1).tolist() == sets.row(3).tolist()
    assert ngrams.shingles(column.slice(1, 1), 3).values.tolist() == sets.row(1).tolist()
    assert ngrams.shingles(column.slice(0, 1), 3).values.tolist() == [*sets.row(0).tolist()]
    assert len(sets.row(2)) == 0


def test_word_order_and_n_change_a_hash() -> None:
    column = pa.array(["a b", "b a", "a a"])
    assert len(set(ngrams.shingles(column, 2).values.tolist())) == 3
    assert not set(ngrams.shingles(column, 2).values.tolist()) & set(ngrams.shingles(column, 1).values.tolist())
    with pytest.raises(ValueError, match="0 words"):
        ngrams.shingles(column, 0)


@given(TEXTS, TEXTS, st.integers(1, 4))
def test_contained_ngrams_counts_what_a_python_set_finds(pool: list[str], evaluation: list[str], n: int) -> None:
    known = {run for document in folded_words(evaluation) for run in runs(document, n)}
    vocabulary = np.unique(ngrams.shingles(pa.array(evaluation, pa.string()), n).values)
    hits, total, first = ngrams.contained_ngrams(pa.array(pool, pa.string()), n, vocabulary)
    for i, document in enumerate(folded_words(pool)):
        found = [j for j, run in enumerate(runs(document, n)) if run in known]
        assert (hits[i], total[i]) == (len(found), len(runs(document, n)))
        assert first[i] == (found[0] if found else -1)


@given(TEXTS, TEXTS, st.integers(1, 4))
def test_texts_with_ngrams_counts_each_text_once(pool: list[str], evaluation: list[str], n: int) -> None:
    vocabulary = np.unique(ngrams.shingles(pa.array(evaluation, pa.string()), n).values)
    counted, holds = ngrams.texts_with_ngrams(pa.array(pool, pa.string()), n, vocabulary)
    sets = [set(ngrams.shingles(pa.array([text], pa.string()), n).values.tolist()) for text in pool]
    assert counted.tolist() == [sum(gram in each for each in sets) for gram in vocabulary.tolist()]
    assert holds.tolist() == [bool(each & set(vocabulary.tolist())) for each in sets]


def test_a_vocabulary_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        ngrams.contained_ngrams(pa.array(["a"]), 1, np.array([2, 1], np.uint64))

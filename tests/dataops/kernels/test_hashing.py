"""Identities equal the standard library's, whatever the Arrow layout; draws depend on seed and hash alone."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.kernels import hashing
from dataops.kernels.ragged import text_bytes

TEXTS = ["", "plain", "naïve café", "汉字", "🙂", None, "plain"]


def layouts(texts: list[str | None]) -> list[pa.Array | pa.ChunkedArray]:
    """The same texts in every Arrow layout we accept."""
    return [
        pa.array(texts, pa.string()),
        pa.array(texts, pa.large_string()),
        pa.array(["before", *texts, "after"], pa.string()).slice(1, len(texts)),
        pa.array(texts, pa.string_view()),
        pa.chunked_array([pa.array(texts[:2], pa.string()), pa.array(texts[2:], pa.string())]),
        pa.chunked_array([pa.array(["before", *texts]).slice(1)]),
    ]


@pytest.mark.parametrize("texts", layouts(TEXTS), ids=lambda texts: str(texts.type))
def test_content_hash_is_blake2b_of_the_utf8_bytes_in_every_layout(texts: pa.Array) -> None:
    expected = [hashlib.blake2b((text or "").encode(), digest_size=16).digest() for text in TEXTS]
    assert hashing.content_hash(texts).to_pylist() == expected


def test_text_bytes_of_no_text_is_empty() -> None:
    for texts in (pa.array([], pa.string()), pa.chunked_array([], pa.string()), pa.array(["a"]).slice(1)):
        offsets, data = text_bytes(texts)
        assert offsets.tolist() == [0]
        assert data.size == 0


def test_text_bytes_refuses_what_is_not_text() -> None:
    with pytest.raises(TypeError, match="int64"):
        text_bytes(pa.array([1, 2]))


@given(st.lists(st.tuples(st.text(), st.text()), min_size=2, max_size=2, unique=True))
def test_moving_a_character_between_source_and_key_gives_another_id(pairs: list[tuple[str, str]]) -> None:
    content = hashing.content_hash(pa.array(["same"]))
    first, second = (hashing.document_ids(source, [key], content) for source, key in pairs)
    assert first != second


def test_document_ids_are_one_per_key_and_stable() -> None:
    contents = hashing.content_hash(pa.array(["a", "a"]))
    ids = hashing.to_hex(hashing.document_ids("wiki", ["x#0", "x#1"], contents)).to_pylist()
    assert ids == ["5ab135cfbc2785aeae6ec5f0392dc44a", "dde56f867a55eb9ed44238a4746b3597"]
    with pytest.raises(ValueError, match="1 keys for 2 contents"):
        hashing.document_ids("wiki", ["x"], contents)


def test_hex_round_trips_and_h64_is_its_first_sixteen_digits() -> None:
    ids = hashing.content_hash(pa.array([str(i) for i in range(100)]))
    digits = hashing.to_hex(ids)
    assert hashing.from_hex(digits) == ids
    assert hashing.h64(ids).tolist() == [int(d[:16], 16) for d in digits.to_pylist()]
    assert hashing.h64(ids.slice(3, 2)).tolist() == hashing.h64(ids)[3:5].tolist()
    assert hashing.h64(pa.chunked_array([ids[:7], ids[7:]])).tolist() == hashing.h64(ids).tolist()
    with pytest.raises(ValueError, match="'abc'"):
        hashing.from_hex(pa.array(["abc"]))


def splitmix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_mix64_is_splitmix64(values: list[int]) -> None:
    assert hashing.mix64(np.array(values, np.uint64)).tolist() == [splitmix(x) for x in values]


def test_uniform_is_uniform_independent_across_seeds_and_free_of_batch() -> None:
    values = np.arange(100_000, dtype=np.uint64)
    first, second = hashing.uniform(0, values), hashing.uniform(1, values)
    assert first.min() >= 0
    assert first.max() < 1
    counts, _ = np.histogram(first, bins=100, range=(0, 1))
    assert ((counts - 1000) ** 2 / 1000).sum() < 150  # chi-squared, 99 degrees of freedom: p < 0.001
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01
    assert np.array_equal(hashing.uniform(0, values[777:]), first[777:])


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=9), min_size=1, max_size=3))
def test_distinct_values_ascend(parts: list[list[int]]) -> None:
    found = hashing.distinct(*(np.array(part, np.uint64) for part in parts))
    assert found.dtype == np.uint64
    assert found.tolist() == sorted({value for part in parts for value in part})

"""Signatures equal datasketch's bit for bit; band keys separate bands and runs."""

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given
from hypothesis import strategies as st

from dataops.kernels import minhash as mh
from dataops.kernels.minhash import minhash, minhash_texts, optimal_bands, permutations
from dataops.kernels.ngrams import ngram_hashes

SETS = st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=40), max_size=6)


def ragged(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.cumsum([0, *map(len, rows)]), np.array([value for row in rows for value in row], np.uint64)


@given(SETS, st.sampled_from([1, 7, 16, 128, 250]), st.integers(0, 2**32 - 1))
def test_signatures_are_datasketchs(rows: list[list[int]], num_perm: int, seed: int) -> None:
    offsets, values = ragged(rows)
    got = mh.minhash(offsets, values, mh.permutations(num_perm, seed))
    assert got.dtype == np.uint32
    assert got.shape == (len(rows), num_perm)
    for row, signature in zip(rows, got, strict=True):
        theirs = MinHash(num_perm=num_perm, seed=seed, hashfunc=int)
        theirs.update_batch(mh.sketch_input(np.array(row, np.uint64)).tolist())
        assert theirs.scheme == "affine32"
        assert np.array_equal(theirs.hashvalues, signature)


def test_permutations_are_datasketchs_default() -> None:
    assert np.array_equal(mh.permutations(128, 1), MinHash(num_perm=128, seed=1).permutations)
    with pytest.raises(ValueError, match="num_perm is 0"):
        mh.permutations(0, 1)


def test_the_empty_set_has_the_empty_signature() -> None:
    assert (mh.minhash([0, 0], np.empty(0, np.uint64), mh.permutations(8, 1)) == mh.EMPTY).all()


@given(SETS)
def test_signatures_do_not_depend_on_order_repeats_or_batch(rows: list[list[int]]) -> None:
    hashes = mh.permutations(32, 1)
    expected = mh.minhash(*ragged(rows), hashes)
    assert np.array_equal(mh.minhash(*ragged([row[::-1] + row for row in rows]), hashes), expected)
    alone = [mh.minhash(*ragged([row]), hashes)[0] for row in rows]
    assert np.array_equal(np.array(alone, np.uint32).reshape(-1, 32), expected)


def test_equal_entries_estimate_jaccard_without_bias() -> None:
    draw = np.random.default_rng(0)
    hashes = mh.permutations(256, 1)
    for share in (0.2, 0.5, 0.8):
        errors = []
        for _ in range(60):
            union = draw.integers(0, 2**64, 500, dtype=np.uint64)
            common = int(share * 500)
            rest = (500 - common) // 2
            a, b = union[: common + rest], np.concatenate([union[:common], union[common + rest :]])
            first, second = mh.minhash([0, len(a), len(a) + len(b)], np.concatenate([a, b]), hashes)
            errors.append((first == second).mean() - common / 500)
        assert abs(np.mean(errors)) < 4 * np.sqrt(share * (1 - share) / 256 / 60)


def test_band_keys_are_equal_exactly_where_a_band_is_equal() -> None:
    draw = np.random.default_rng(0)
    signatures = draw.integers(0, 3, (200, 12), dtype=np.uint32)
    keys = mh.band_keys(signatures, 4, 3)
    assert keys.shape == (200, 4)
    meanings = {}
    for row in range(200):
        for band in range(4):
            run = (band, *signatures[row, 3 * band : 3 * band + 3].tolist())
            assert meanings.setdefault(run, keys[row, band]) == keys[row, band]
    assert len(set(meanings.values())) == len(meanings)


def test_band_keys_fill_all_64_bits_evenly() -> None:
    signatures = np.arange(40_000, dtype=np.uint32).reshape(-1, 2)  # what a sum of minima would crowd together
    keys = mh.band_keys(signatures, 1, 2).ravel()
    bits = (keys[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.02
    assert len(np.unique(keys)) == keys.size


def test_bands_beyond_the_signature_are_refused() -> None:
    with pytest.raises(ValueError, match="5 bands of 3 rows do not fit a signature of 12"):
        mh.band_keys(np.zeros((1, 12), np.uint32), 5, 3)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.85, 0.9, 0.95])
@pytest.mark.parametrize("num_perm", [64, 128, 256])
@pytest.mark.parametrize("miss_weight", [0.5, 0.9, 0.98])
def test_bands_and_rows_are_those_of_datasketchs_optimiser(threshold: float, num_perm: int, miss_weight: float) -> None:
    index = MinHashLSH(threshold=threshold, num_perm=num_perm, weights=(1 - miss_weight, miss_weight))
    assert optimal_bands(threshold, num_perm, miss_weight=miss_weight) == (index.b, index.r)


@given(st.lists(st.text(max_size=200), min_size=1, max_size=6), st.integers(1, 6))
def test_texts_have_the_signatures_of_their_shingles(texts: list[str], n: int) -> None:
    arrow = pa.array([text.encode("utf-8", "replace").decode() for text in texts], pa.large_string())
    hashes = permutations(32, 1)
    grams = ngram_hashes(arrow, n)
    counts, signatures = minhash_texts(arrow, n, hashes)
    assert counts.tolist() == np.diff(grams.offsets).tolist()
    assert np.array_equal(signatures, minhash(*grams, hashes))

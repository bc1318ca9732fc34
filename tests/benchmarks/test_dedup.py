"""What the deduplication benchmark calls truth."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from catalog.catalog import Catalog
from catalog.tables import read_table
from tests.dataops.conftest import prose

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_all_similar_pairs_are_those_of_brute_force() -> None:
    from dedup_corpus import THRESHOLD, exact_jaccard, plant, similar_pairs

    draw = random.Random(3)
    originals = [prose(seed, draw.randrange(3, 90)) for seed in range(60)]
    texts = originals
    for _ in range(6):  # copies of copies: clusters, and shingles that are not rare
        texts, _pairs = plant(texts, draw)
    expected = [(a, b) for a, b in combinations(range(len(texts)), 2) if exact_jaccard(texts[a], texts[b]) >= THRESHOLD]
    assert [(a, b) for a, b, _ in similar_pairs(texts)] == expected
    assert len(expected) > 10


def test_planted_copies_have_about_the_jaccard_asked_for() -> None:
    from dedup_corpus import changed, exact_jaccard

    draw = random.Random(1)
    text = prose(1, 3000)
    for wished in (0.3, 0.6, 0.8, 0.95):
        assert exact_jaccard(text, changed(text, wished, ["other"], draw)) == pytest.approx(wished, abs=0.06)


def test_planting_is_seeded_and_names_copy_and_original() -> None:
    from dedup_corpus import exact_jaccard, plant

    texts = [prose(seed, 60) for seed in range(50)]
    first, second = (plant(texts, random.Random(5)) for _ in range(2))
    assert first == second
    planted, pairs = first
    assert len(pairs) == 6
    assert len(planted) == len(set(planted)) == 56
    assert all(exact_jaccard(planted[copy], planted[original]) > 0.05 for copy, original in pairs)
    assert all(planted[original] in texts and planted[copy] not in texts for copy, original in pairs)


def test_recall_counts_pairs_that_do_not_both_stay_and_precision_drops_beside_one_that_stays() -> None:
    from dedup import precision, recall

    pairs = pa.table({"left": [0, 1, 3], "right": [1, 2, 4], "jaccard": [0.82, 0.9, 0.95]})
    gone = np.array([False, True, False, True, True, True])  # 3 and 4 have only each other, 5 nobody
    assert recall(gone, pairs, 0.8, 0.85) == 1
    assert recall(np.zeros(6, bool), pairs, 0.8, 2) == 0
    assert precision(gone, pairs) == pytest.approx(1 / 4)


def test_made_up_stores_are_equal_for_equal_seeds_and_hold_copies(tmp_path: Path) -> None:
    from dedup_corpus import similar_pairs
    from dedup_growth import make_store, rows_per_shard

    count = rows_per_shard(1) + 3000
    for name in ("one", "two"):
        make_store(str(tmp_path / name), count, seed=1)
    one, two = (Catalog.open(tmp_path / name).snapshot("pool") for name in ("one", "two"))
    assert one.id == two.id
    assert one.contents.rows == count
    store = Catalog.open(tmp_path / "one").store
    first, second = (read_table(store, shard.tables["documents"]) for shard in one.contents.shards)
    assert first["n_bytes"].to_pylist()[:9] == [len(text) for text in first["text"].to_pylist()[:9]]
    texts = first["text"].to_pylist()[:1000] + second["text"].to_pylist()
    between = [right for left, right, _ in similar_pairs(texts) if left < 1000 <= right]
    assert len(set(between)) == pytest.approx(0.1 * 2000, rel=0.25)


@pytest.mark.parametrize("paths", [["no-such-folder"], ["no-such.parquet"]])
def test_absent_corpora_are_named(paths: list[str]) -> None:
    from dedup_corpus import parquet_files

    from catalog.errors import UsageError

    with pytest.raises(UsageError, match=paths[0]):
        parquet_files(paths)

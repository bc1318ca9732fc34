"""An audit measures what a deduplication found, and would notice one that is broken."""

from __future__ import annotations

import numpy as np
import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.snapshot import Snapshot
from dataops import audit, fuzzy
from dataops.audit import AuditDedup, copy_at, proportion, similarity
from dataops.fuzzy import FuzzyDedup
from tests.dataops.conftest import WORDS, Make, apply, prose


@pytest.fixture
def deduplicated(catalog: Catalog, ingest: Make) -> Snapshot:
    texts = [prose(seed, 150) for seed in range(250)]
    pool = ingest([{"text": text} for text in [*texts, *(text + " and an end" for text in texts[:40])]])
    return apply(catalog, FuzzyDedup(), pool, into="dedup")


def test_everything_above_the_threshold_is_found_and_nothing_well_below(
    catalog: Catalog, deduplicated: Snapshot
) -> None:
    made = apply(catalog, AuditDedup(sample=250), deduplicated, into="audit").contents
    levels = made.summary["levels"]
    assert sum(row["of"] for row in levels) >= 200
    assert all(row["share"] == 1 for row in levels if row["from"] >= 0.85)
    assert all(row["found"] == 0 for row in levels if row["to"] <= 0.75)
    assert made.summary["precision"] == proportion(40, 40)
    assert apply(catalog, AuditDedup(sample=250), deduplicated, into="again").contents == made


def test_a_step_that_misses_half_shows_in_the_recall(
    catalog: Catalog, deduplicated: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fuzzy.candidate_pairs

    def half(*arguments: object, **settings: object) -> tuple[np.ndarray, np.ndarray]:
        left, right = whole(*arguments, **settings)  # type: ignore[arg-type]
        return left[::2], right[::2]

    monkeypatch.setattr(fuzzy, "candidate_pairs", half)
    levels = apply(catalog, AuditDedup(sample=250), deduplicated, into="audit").contents.summary["levels"]
    assert 0.2 < np.mean([row["share"] for row in levels if row["from"] >= 0.85]) < 0.8


def test_removals_that_are_wrong_show_in_the_precision(
    catalog: Catalog, deduplicated: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "similarity", lambda one, other, shingle: 0.3)
    summary = apply(catalog, AuditDedup(sample=250), deduplicated, into="audit").contents.summary
    assert summary["precision"]["found"] == 0


def test_a_copy_is_about_as_similar_as_asked() -> None:
    text = prose(1, 2000)
    for level in (0.6, 0.8, 0.95):
        copy = copy_at(text, level, 5, WORDS, np.random.default_rng(1))
        assert similarity(text, copy, 5) == pytest.approx(level, abs=0.05)


def test_the_interval_is_wilsons() -> None:
    row = proportion(90, 100)  # Wilson 1927, as in any table
    assert (row["low"], row["high"]) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert proportion(0, 0)["share"] is None


def test_only_a_fuzzy_dedup_snapshot_can_be_audited(catalog: Catalog, ingest: Make) -> None:
    with pytest.raises(UsageError, match="pool@1 was made by ingest: give a snapshot that fuzzy-dedup made"):
        apply(catalog, AuditDedup(), ingest([{"text": prose(1)}]), into="audit")

"""Splits of the target."""

from __future__ import annotations

import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.snapshot import Snapshot
from dataops.split import Split
from tests.dataops.conftest import Make, apply, decisions, live, prose

PARTS = ((0.0, 0.7), (0.7, 0.8), (0.8, 1.0))


def part_of(catalog: Catalog, snapshot: Snapshot, seed: int = 1) -> dict[str, tuple[float, float]]:
    """The part that each document went to; fails where two parts claim one."""
    found: dict[str, tuple[float, float]] = {}
    for start, stop in PARTS:
        part = apply(catalog, Split(start=start, stop=stop, seed=seed), snapshot, into="part")
        for row in live(catalog, part, "id"):
            assert found.setdefault(row["id"], (start, stop)) == (start, stop)
    return found


def test_every_document_goes_to_exactly_one_part_and_parts_have_about_their_share(
    catalog: Catalog, ingest: Make
) -> None:
    pool = ingest([{"text": prose(seed, 30)} for seed in range(1000)])
    found = part_of(catalog, pool)
    assert found.keys() == {row["id"] for row in live(catalog, pool, "id")}
    for start, stop in PARTS:
        share = sum(part == (start, stop) for part in found.values()) / 1000
        assert share == pytest.approx(stop - start, abs=0.05)


def test_documents_that_are_added_leave_the_others_where_they_are(catalog: Catalog, ingest: Make) -> None:
    rows = [{"text": prose(seed, 30)} for seed in range(200)]
    before = part_of(catalog, ingest(rows))
    after = part_of(catalog, ingest([*rows, *({"text": prose(seed, 30)} for seed in range(900, 1000))]))
    assert len(after) == 300
    assert before.items() <= after.items()


def test_another_seed_is_another_split(catalog: Catalog, ingest: Make) -> None:
    pool = ingest([{"text": prose(seed, 30)} for seed in range(200)])
    assert part_of(catalog, pool) != part_of(catalog, pool, seed=2)


def test_what_went_elsewhere_carries_the_rule_split(catalog: Catalog, ingest: Make) -> None:
    part = apply(catalog, Split(start=0.25, stop=0.5), ingest([{"text": prose(seed)} for seed in range(40)]), into="p")
    gone = [row for row in decisions(catalog, part) if not row["kept"]]
    assert gone
    for row in gone:
        draw = float(row["reason"].split()[1])
        assert row["rule"] == "split"
        assert row["reason"].endswith("outside [0.25, 0.5)")
        assert not 0.2501 < draw < 0.4999


def test_a_split_of_a_split_keeps_what_both_keep(catalog: Catalog, ingest: Make) -> None:
    pool = ingest([{"text": prose(seed)} for seed in range(60)])
    first = apply(catalog, Split(start=0.0, stop=0.6), pool, into="first")
    both = apply(catalog, Split(start=0.4, stop=1.0), first, into="both")
    straight = apply(catalog, Split(start=0.4, stop=0.6), pool, into="straight")
    assert both.contents.layers == ("split", "split#2")
    assert live(catalog, both, "id") == live(catalog, straight, "id") != []


@pytest.mark.parametrize(("start", "stop"), [(0.5, 0.5), (-0.1, 0.5), (0.5, 1.1), (0.8, 0.2)])
def test_a_part_that_is_none_is_refused(start: float, stop: float) -> None:
    with pytest.raises(UsageError, match="expected 0 <= start < stop <= 1"):
        Split(start=start, stop=stop)

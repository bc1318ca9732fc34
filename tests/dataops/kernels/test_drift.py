"""Drift measures against slower truths, and what they say when nothing, or something, has changed."""

from __future__ import annotations

import numpy as np
import pytest

from dataops.kernels.drift import Windows, interval_of_psi, kolmogorov_smirnov, psi, ratio_difference, shift_of_cells

CELLS = 16
STEADY = np.linspace(2, 1, CELLS) / np.linspace(2, 1, CELLS).sum()
CHANCE = {"draws": 199, "level": 0.01}


def sample(seed: int, *, old: int, new: int, shares: np.ndarray = STEADY) -> Windows:
    """Documents of 1 to 12 windows that stay near a cell of their own; new ones choose it by `shares`."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(1, 13, old + new)
    document = np.repeat(np.arange(old + new), sizes)
    home = np.concatenate([draw.choice(CELLS, old, p=STEADY), draw.choice(CELLS, new, p=shares)])
    stays = draw.random(len(document)) < 0.6
    cell = np.where(stays, home[document], draw.choice(CELLS, len(document), p=STEADY))
    distance = draw.normal(0.5, 0.1, len(document)) + 0.05 * draw.normal(size=old + new)[document]
    return Windows(
        document=document, cell=cell, mass=draw.uniform(0.5, 1.5, len(document)), distance=distance, old=old, new=new
    )


def test_the_index_is_that_of_its_formula_on_smoothed_shares() -> None:
    new, old = np.array([3.0, 0.0, 1.0, 0.0]), np.array([2.0, 6.0, 0.0, 0.0])
    prior = [
        0.5 * 3 * each / 12 for each in (5, 6, 1)
    ]  # half a window a cell, as both are spread; the last is nobody's
    p = [(n + a) / (4 + 1.5) for n, a in zip((3, 0, 1), prior, strict=True)]
    q = [(n + a) / (8 + 1.5) for n, a in zip((2, 6, 0), prior, strict=True)]
    by_hand = sum((a - b) * np.log(a / b) for a, b in zip(p, q, strict=True))
    assert psi(new, old) == pytest.approx(by_hand)
    assert psi(new, new * 7) < psi(new, old)


@pytest.mark.parametrize(("old", "new"), [(150, 20), (100, 100)])
def test_without_drift_p_is_uniform_and_the_expected_index_is_the_mean_one(old: int, new: int) -> None:
    found = [shift_of_cells(sample(seed, old=old, new=new), CELLS, draws=99, level=0.05, seed=1) for seed in range(60)]
    alarms = sum(each.p <= 0.1 for each in found)
    assert alarms <= 13, "60 trials at 10%: 13 or fewer with probability 0.996"
    assert np.mean([each.p for each in found]) == pytest.approx(0.5, abs=0.12)
    values, expected = ([getattr(each, name) for each in found] for name in ("value", "expected"))
    assert np.mean(values) == pytest.approx(np.mean(expected), rel=0.15)


def test_twenty_documents_show_a_large_index_beside_a_large_expected_one() -> None:
    few = shift_of_cells(sample(3, old=400, new=20), CELLS, **CHANCE, seed=1)
    many = shift_of_cells(sample(3, old=400, new=400), CELLS, **CHANCE, seed=1)
    assert few.value > 0.1 > many.value, "the usual band would cry wolf"
    assert few.expected > 0.1
    assert few.p > 0.01


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_shift_is_found_and_its_interval_holds_the_true_index(seed: int) -> None:
    moved = np.where(np.arange(CELLS) < 8, 0.0, 0.125)
    windows = sample(seed, old=300, new=150, shares=moved)
    found = shift_of_cells(windows, CELLS, **CHANCE, seed=seed)
    assert found.p <= 0.01
    large = sample(99, old=20_000, new=20_000, shares=moved)
    is_new = large.document >= large.old
    truth = psi(*(np.bincount(large.cell, large.mass * side, CELLS) for side in (is_new, ~is_new)))
    low, high = interval_of_psi(windows, CELLS, found, draws=199, seed=seed)
    assert 0.1 < low < truth < high


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_of_twenty_documents_of_the_target_begins_at_zero(seed: int) -> None:
    windows = sample(seed, old=300, new=20)
    found = shift_of_cells(windows, CELLS, **CHANCE, seed=seed)
    low, high = interval_of_psi(windows, CELLS, found, draws=199, seed=seed)
    assert low == 0
    assert high > 0.1, "twenty documents rule little out"


def test_the_gap_is_that_of_every_pair_of_distribution_functions_ties_included() -> None:
    windows = sample(5, old=30, new=12)
    rounded = Windows(**{**vars(windows), "distance": windows.distance.round(1)})
    for each in (windows, rounded):
        new = each.distance[each.document >= each.old]
        old = each.distance[each.document < each.old]
        slow = max(abs(np.mean(new <= x) - np.mean(old <= x)) for x in each.distance)
        assert kolmogorov_smirnov(each, **CHANCE, seed=1).value == pytest.approx(slow)


def largest_gap(one: np.ndarray, other: np.ndarray) -> float:
    """Of two empirical distribution functions, looked at in every point."""
    points = np.concatenate([one, other])
    return float(max(abs((one <= x).mean() - (other <= x).mean()) for x in points))


def test_the_gap_is_that_of_the_two_distribution_functions() -> None:
    windows = sample(6, old=40, new=15)
    new, old = (windows.distance[side] for side in (windows.document >= 40, windows.document < 40))
    assert kolmogorov_smirnov(windows, **CHANCE, seed=1).value == pytest.approx(largest_gap(new, old))


def test_windows_of_one_document_count_as_one_when_chance_is_judged() -> None:
    """Kolmogorov's limit takes 400 windows of 8 documents for 400 observations and is sure; dealing out is not."""
    draw = np.random.default_rng(2)
    document = np.repeat(np.arange(16), 50)
    distance = np.repeat(draw.normal(size=16), 50) + 0.1 * draw.normal(size=800)
    one = np.ones(800)
    windows = Windows(document=document, cell=np.zeros(800, int), mass=one, distance=distance, old=8, new=8)
    assert 2 * np.exp(-400 * largest_gap(distance[400:], distance[:400]) ** 2) < 1e-6  # 2 exp(-2 n m / (n + m) gap^2)
    assert kolmogorov_smirnov(windows, **CHANCE, seed=1).p > 0.05


def test_a_difference_of_ratios_is_zero_for_equal_samples_and_its_interval_widens_with_few_documents() -> None:
    draw = np.random.default_rng(0)
    size = draw.uniform(100, 1000, 400)
    bits = size * draw.normal(2, 0.3, 400)
    same, low, high = ratio_difference((bits, size), (bits, size), draws=400, seed=1)
    assert same == 0
    assert low < 0 < high
    _, low_few, high_few = ratio_difference((bits[:20], size[:20]), (bits, size), draws=400, seed=1)
    assert high_few - low_few > 2 * (high - low)
    assert ratio_difference((bits + size, size), (bits, size), draws=10, seed=1)[0] == pytest.approx(1)

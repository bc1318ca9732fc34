"""Weights sum to one, stay under their bounds and nest; alpha is the one a fine search finds; intervals cover."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.kernels.histogram import (
    ALPHA_RANGE,
    ImportanceWeights,
    bootstrap_intervals,
    dirichlet_alpha,
    importance_weights,
    smoothed,
    token_histogram,
)

CELLS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 1000)), min_size=1, max_size=20).filter(
    lambda cells: sum(size for _, size in cells) > 0
)
PLAIN = {"budget": 1.0, "alpha": 1.0, "temperature": 1.0, "defence": 0.05, "max_epochs": 4.0}


def weights_of(counts, size, *, alpha: float, **settings: float) -> ImportanceWeights:  # type: ignore[no-untyped-def]
    share = np.asarray(size, np.float64) / np.sum(size)
    return importance_weights(smoothed(counts, share, alpha), size, **settings)


def intervals_of(documents, cells, generic, *, alpha: float, **settings):  # type: ignore[no-untyped-def]
    generic = np.asarray(generic)
    return bootstrap_intervals(
        documents, cells, np.ones(len(cells)), generic, estimate=lambda n: smoothed(n, generic, alpha), **settings
    )


def columns(cells: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([n for n, _ in cells]), np.array([size for _, size in cells])


def test_token_histogram_counts_tokens_and_adds_up() -> None:
    draw = np.random.default_rng(0)
    cells, tokens = draw.integers(0, 7, 1000), draw.integers(0, 2**40, 1000)
    expected = [sum(t for c, t in zip(cells.tolist(), tokens.tolist(), strict=True) if c == cell) for cell in range(9)]
    assert token_histogram(cells, tokens, 9).tolist() == expected
    parts = token_histogram(cells[:300], tokens[:300], 9) + token_histogram(cells[300:], tokens[300:], 9)
    assert parts.tolist() == expected
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        token_histogram([3], [1], 3)


def leave_one_out(n: np.ndarray, p: np.ndarray, alpha: float) -> float:
    """Each window predicted from the others, one by one."""
    total = 0.0
    for cell in np.repeat(np.arange(len(n)), n):
        others = n.copy()
        others[cell] -= 1
        total += math.log(smoothed(others, p, alpha)[cell])
    return total


@given(st.lists(st.integers(0, 6), min_size=2, max_size=12), st.integers(0, 1000))
def test_alpha_predicts_left_out_windows_as_well_as_any(counts: list[int], seed: int) -> None:
    n = np.array(counts)
    if n.sum() < 2:
        return
    p = np.random.default_rng(seed).dirichlet(np.ones(len(n)))
    best = leave_one_out(n, p, dirichlet_alpha(n, p))
    for alpha in np.geomspace(ALPHA_RANGE[0] * n.sum(), ALPHA_RANGE[1] * n.sum(), 60):
        assert leave_one_out(n, p, alpha) <= best + 1e-6 * abs(best)


def test_alpha_is_large_for_a_target_like_the_pool_and_small_for_one_unlike_it() -> None:
    draw = np.random.default_rng(0)
    p = draw.dirichlet(np.ones(100))
    alike, unlike = draw.multinomial(2000, p), draw.multinomial(2000, draw.dirichlet(np.ones(100)))
    assert dirichlet_alpha(alike, p) > 10 * dirichlet_alpha(unlike, p)
    assert 20 < dirichlet_alpha(unlike, p) < 500
    assert np.abs(smoothed([1, 0], [0.3, 0.7], dirichlet_alpha([1, 0], [0.3, 0.7])) - [0.3, 0.7]).max() < 1e-5
    assert dirichlet_alpha([0, 0], [0.5, 0.5]) > 1e5


def test_target_windows_where_the_pool_has_nothing_are_left_out() -> None:
    assert dirichlet_alpha([5, 2, 9], [0.5, 0.5, 0.0]) == dirichlet_alpha([5, 2], [0.5, 0.5])
    assert smoothed([5, 2, 9], [0.5, 0.5, 0.0], 1.0)[2] == 0


@given(CELLS, st.floats(0.1, 4), st.floats(0, 1), st.floats(1e-3, 100), st.floats(0.5, 8))
def test_weights_sum_to_one_and_no_cell_passes_the_cap(cells, temperature, defence, share, cap) -> None:  # type: ignore[no-untyped-def]
    counts, size = columns(cells)
    budget = share * size.sum()
    weights = weights_of(
        counts, size, budget=budget, alpha=2.0, temperature=temperature, defence=defence, max_epochs=cap
    )
    assert math.isclose(weights.sampling.sum(), 1, rel_tol=1e-12)
    assert (weights.sampling >= 0).all()
    assert (weights.sampling[size == 0] == 0).all()
    assert weights.over_cap == (share > cap)
    bound = share if weights.over_cap else cap
    assert (weights.epochs <= bound * (1 + 1e-9)).all()
    if weights.over_cap:
        assert np.allclose(weights.epochs[size > 0], share)
    assert 1 <= weights.effective_sample_size <= len(cells) * (1 + 1e-12)
    assert weights.effective_tokens <= size.sum() * (1 + 1e-12)


@given(CELLS, st.floats(0, 0.99))
def test_without_cap_and_temperature_the_defence_bounds_the_lost_ratio(cells, defence: float) -> None:  # type: ignore[no-untyped-def]
    counts, size = columns(cells)
    settings = PLAIN | {"defence": defence, "max_epochs": 1e12}
    weights = weights_of(counts, size, **settings)
    assert (weights.target <= weights.sampling / (1 - defence) * (1 + 1e-9)).all()
    if defence > 0:
        assert (weights.sampling[size > 0] > 0).all()


@given(CELLS, st.floats(0.01, 10), st.floats(0.01, 10))
def test_a_larger_budget_draws_at_least_as_much_from_every_cell(cells, first: float, second: float) -> None:  # type: ignore[no-untyped-def]
    counts, size = columns(cells)
    small, large = (
        weights_of(counts, size, **(PLAIN | {"budget": share * size.sum()})).epochs for share in sorted((first, second))
    )
    assert (small <= large * (1 + 1e-9)).all()


def test_what_the_cap_cuts_goes_to_the_others_in_proportion() -> None:
    weights = weights_of(
        [80, 15, 5, 0], [10, 40, 50, 900], **(PLAIN | {"budget": 100.0, "alpha": 1e-9, "defence": 0.0})
    )
    # Cell 0 may give 4 * 10 of 100 tokens; 15:5 share the other 60, 45 and 15 of them, both under their caps.
    assert np.allclose(weights.sampling, [0.4, 0.45, 0.15, 0], atol=1e-6)
    assert weights.capped.tolist() == [0]
    assert np.allclose(weights.epochs, [4, 45 / 40, 15 / 50, 0], atol=1e-6)


def test_water_filling_equals_pouring_round_by_round() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        counts, size = draw.integers(0, 100, 30), draw.integers(1, 1000, 30)
        weights = weights_of(counts, size, **(PLAIN | {"budget": 2.0 * size.sum()}))
        free = weights_of(counts, size, **(PLAIN | {"budget": 2.0 * size.sum(), "max_epochs": 1e12}))
        defended = 0.05 * size / size.sum()
        ceiling = 4 * size / (2 * size.sum()) - defended
        wanted = free.sampling - defended
        q = wanted
        for _ in range(5000):
            over = q > ceiling
            spilled = (q - ceiling)[over].sum()
            q = np.minimum(q, ceiling)
            room = q < ceiling
            q = np.where(room, q + spilled * wanted * room / (wanted * room).sum(), q)
        assert np.allclose(q + defended, weights.sampling, atol=1e-9)


def test_a_few_full_cells_leave_the_rest_to_the_target_and_not_to_the_defence() -> None:
    size = np.full(1000, 10.0)
    share = np.concatenate([np.full(10, 0.0999), np.full(90, 1e-3 / 90), np.zeros(900)])
    weights = importance_weights(share, size, budget=4000.0, temperature=1.0, defence=0.1, max_epochs=4.0)
    assert weights.sampling[10:100].sum() > 0.8 - 0.01
    assert weights.sampling[100:].sum() == pytest.approx(0.09)


def test_temperature_flattens_or_sharpens() -> None:
    sharp, plain, flat = (
        weights_of([50, 10, 1], [100, 100, 100], **(PLAIN | {"temperature": t})).effective_sample_size
        for t in (2.0, 1.0, 0.5)
    )
    assert sharp < plain < flat


def test_settings_out_of_range_are_named() -> None:
    for name, value in [("budget", 0.0), ("alpha", 0.0), ("temperature", -1.0), ("max_epochs", 0.0), ("defence", 1.5)]:
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            weights_of([1], [1], **(PLAIN | {name: value}))
    with pytest.raises(ValueError, match="tokens in the pool is 0"):
        importance_weights([1.0], [0], **{name: value for name, value in PLAIN.items() if name != "alpha"})
    with pytest.raises(ValueError, match="2 cells, generic shares of 1"):
        dirichlet_alpha([1, 2], [1.0])


def test_intervals_cover_the_true_weights_and_widen_when_documents_are_alike_inside() -> None:
    draw = np.random.default_rng(0)
    generic, truth = np.full(10, 0.1), draw.dirichlet(np.full(10, 3.0))
    covered, width_alike, width_mixed = [], [], []
    for trial in range(40):
        of_document = draw.choice(10, 200, p=truth)
        documents, alike = np.repeat(np.arange(200), 5), np.repeat(of_document, 5)
        mixed = draw.choice(10, 1000, p=truth)
        settings = {"alpha": 1e-6, "draws": 100, "seed": trial, "coverage": 0.95}
        low, high = intervals_of(documents, alike, generic, **settings)
        covered.append((low <= truth / generic) & (truth / generic <= high))
        width_alike.append((high - low).mean())
        low, high = intervals_of(documents, mixed, generic, **settings)
        width_mixed.append((high - low).mean())
    assert 0.88 < np.mean(covered) < 0.99
    assert np.mean(width_alike) > 1.8 * np.mean(width_mixed)  # five windows that are one: sqrt(5) wider


def test_intervals_do_not_depend_on_gaps_in_document_numbers_or_the_order_of_windows() -> None:
    settings = {"alpha": 1.0, "draws": 20, "seed": 0, "coverage": 0.9}
    documents, cells = np.array([7, 7, 30, 99]), np.array([0, 1, 1, 1])
    expected = intervals_of(documents, cells, [0.5, 0.5], **settings)
    again = intervals_of([2, 0, 1, 0], [1, 1, 1, 0], [0.5, 0.5], **settings)
    assert np.array_equal(expected, again)

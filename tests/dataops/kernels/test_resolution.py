"""Smoothing down a tree predicts left-out documents, backs off at small counts, stops where nothing rises."""

import numpy as np
import pytest

from dataops.kernels.histogram import importance_weights, share_above_cap
from dataops.kernels.resolution import backed_off, choose_level, document_alpha

PARENTS = np.repeat(np.arange(4), 4)  # 16 leaves in 4 cells
LEVELS = [PARENTS.astype(np.int32), np.arange(16, dtype=np.int32)]


def leave_one_document_out(documents, cells, mass, parents, pool, alpha: float) -> float:  # type: ignore[no-untyped-def]
    """The slow truth: take each document away, smooth, score it."""
    total = 0.0
    given = pool / np.bincount(parents, pool)[parents]
    for document in set(documents.tolist()):
        held = documents == document
        n = np.bincount(cells[~held], mass[~held], len(pool))
        n_parent = np.bincount(parents, n)
        p = (n + alpha * given) / (n_parent[parents] + alpha)
        total += float((mass[held] * np.log(p[cells[held]])).sum())
    return total


@pytest.mark.parametrize("seed", range(4))
def test_alpha_predicts_left_out_documents_as_well_as_any(seed: int) -> None:
    draw = np.random.default_rng(seed)
    pool = draw.integers(10, 100, 16).astype(float)
    documents = np.repeat(np.arange(30), 4)
    cells = draw.choice(16, 120, p=draw.dirichlet(np.full(16, 0.5)))
    mass = draw.uniform(0.5, 1.5, 120)
    alpha = document_alpha(documents, cells, mass, PARENTS, pool)
    best = leave_one_document_out(documents, cells, mass, PARENTS, pool, alpha)
    for other in np.geomspace(0.2, 1e6, 60):
        assert best >= leave_one_document_out(documents, cells, mass, PARENTS, pool, other) - 1e-3 * abs(best)


def test_windows_that_repeat_inside_documents_are_smoothed_more_than_the_same_counts_from_many_documents() -> None:
    draw = np.random.default_rng(0)
    cells = np.repeat(draw.choice(16, 25), 8)
    pool = np.full(16, 10.0)
    together = document_alpha(np.repeat(np.arange(25), 8), cells, np.ones(200), PARENTS, pool)
    apart = document_alpha(np.arange(200), cells, np.ones(200), PARENTS, pool)
    assert together > 2 * apart


def test_a_leaf_without_target_text_gets_its_parents_share_as_the_pool_divides_it() -> None:
    pool = np.arange(1.0, 17.0)
    counts = np.zeros(16)
    counts[[0, 1]] = 60, 40
    shares = backed_off(counts, pool, LEVELS, [1.0, 5.0])
    assert shares.sum() == pytest.approx(1)
    assert shares[:4].sum() > 0.97
    inside = shares[4:8] / shares[4:8].sum()
    assert inside == pytest.approx(pool[4:8] / pool[4:8].sum())
    assert shares[0] / shares[:4].sum() == pytest.approx((60 + 5 * 1 / 10) / 105)
    coarse = backed_off(counts, pool, LEVELS[:1], [1.0])
    assert coarse[:4] / coarse[:4].sum() == pytest.approx(pool[:4] / 10)


def levels_for(share: np.ndarray, *, budget: float, max_epochs: float = 4.0, documents: int = 200) -> tuple[list, int]:
    draw = np.random.default_rng(0)
    pool = np.full(16, 1000.0)
    cells = draw.choice(16, documents * 3, p=share)
    return choose_level(
        np.repeat(np.arange(documents), 3), cells, np.ones(documents * 3), pool, LEVELS,
        sampling=lambda p: importance_weights(
            p, pool, budget=budget, temperature=1.0, defence=0.1, max_epochs=max_epochs).sampling,
        moved=lambda p: share_above_cap(
            p, pool, budget=budget, temperature=1.0, defence=0.1, max_epochs=max_epochs),
    )  # fmt: skip


def test_finer_cells_are_chosen_where_the_target_differs_inside_coarse_ones_only() -> None:
    uneven = np.tile([0.7, 0.1, 0.1, 0.1], 4) / 4
    found, chosen = levels_for(uneven, budget=1000.0)
    assert chosen == 1
    assert found[1].rise > 0.2
    even = np.repeat([0.7, 0.1, 0.1, 0.1], 4) / 4
    found, chosen = levels_for(even, budget=1000.0)
    assert chosen == 0
    assert found[0].gain > 0.2
    assert abs(found[1].rise) < 0.02


def test_the_cap_takes_the_gain_of_fine_cells_away() -> None:
    uneven = np.tile([0.97, 0.01, 0.01, 0.01], 4) / 4
    free, _ = levels_for(uneven, budget=4_000.0)
    capped, _ = levels_for(uneven, budget=48_000.0)
    assert capped[1].gain < 0.4 * free[1].gain


def test_what_lies_above_the_cap_is_told_and_a_level_that_still_gains_is_chosen() -> None:
    uneven = np.tile([0.7, 0.1, 0.1, 0.1], 4) / 4
    found, chosen = levels_for(uneven, budget=30_000.0)
    q = 0.9 * uneven + 0.1 / 16
    assert found[1].moved == pytest.approx(4 * (q[0] - 4 * 1000 / 30_000), abs=0.03)
    assert found[1].rise > 0.1
    assert chosen == 1


def test_the_gain_is_what_held_out_windows_have_over_the_pool() -> None:
    share = np.tile([0.7, 0.1, 0.1, 0.1], 4) / 4
    found, _ = levels_for(share, budget=1000.0, documents=2000)
    q = 0.9 * share + 0.1 / 16
    assert found[1].gain == pytest.approx(float((share * np.log(q * 16)).sum()), abs=0.03)

"""AUC is the share of won pairs; calibration recovers a known ratio of densities."""

import numpy as np
import pytest

from dataops.kernels.ranking import auc, auc_by_cell, calibrate


def test_auc_is_the_share_of_pairs_that_the_target_wins() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        target, pool = draw.integers(0, 6, 13), draw.integers(0, 5, 17)
        won = sum((t > p) + (t == p) / 2 for t in target for p in pool)
        assert auc(target, pool) == pytest.approx(won / (13 * 17))
    with pytest.raises(ValueError, match="0 target"):
        auc([], [1.0])


def test_auc_by_cell_is_auc_inside_and_unknown_where_too_few() -> None:
    draw = np.random.default_rng(0)
    scores, cells = draw.normal(size=(2, 60)), draw.integers(0, 3, (2, 60))
    found = auc_by_cell(scores[0], cells[0], scores[1], cells[1], num_cells=4, least=2)
    for cell in range(3):
        assert found[cell] == auc(scores[0][cells[0] == cell], scores[1][cells[1] == cell])
    assert np.isnan(found[3])


def test_the_slope_of_two_shifted_normals_is_their_log_ratio() -> None:
    draw = np.random.default_rng(0)
    target, pool = draw.normal(1.0, 1.0, 20_000), draw.normal(0.0, 1.0, 40_000)
    assert calibrate(target, pool) == pytest.approx(1.0, rel=0.05)  # ln N(1,1)/N(0,1) = x - 1/2
    assert calibrate(10 * target + 3, 10 * pool + 3) == pytest.approx(0.1, rel=0.05)


def test_a_score_that_says_what_the_offset_says_already_has_no_slope_left() -> None:
    draw = np.random.default_rng(0)
    target, pool = draw.normal(1.0, 1.0, 20_000), draw.normal(0.0, 1.0, 20_000)
    assert calibrate(target, pool, target_offsets=target, pool_offsets=pool) == pytest.approx(0.0, abs=0.04)
    assert calibrate(-target, -pool) == 0
    assert calibrate(np.ones(5), np.ones(9)) == 0
    assert np.isfinite(calibrate(np.ones(50), np.zeros(50)))


def test_slopes_of_several_scores_are_those_of_their_joint_log_ratio() -> None:
    draw = np.random.default_rng(0)
    target, pool = draw.normal([1.0, 0.5, 0.0], 1.0, (20_000, 3)), draw.normal(0.0, 1.0, (40_000, 3))
    assert calibrate(target, pool) == pytest.approx([1.0, 0.5, 0.0], abs=0.05)
    noisy = [np.column_stack([side[:, 0], side[:, 0] + draw.normal(0, 1, len(side))]) for side in (target, pool)]
    assert calibrate(*noisy) == pytest.approx([1.0, 0.0], abs=0.05)  # a noisier copy adds nothing


def test_a_score_that_speaks_against_the_target_is_left_out_and_the_others_stand_as_alone() -> None:
    draw = np.random.default_rng(0)
    target, pool = draw.normal([1.0, -1.0], 1.0, (5_000, 2)), draw.normal(0.0, 1.0, (5_000, 2))
    first, second = calibrate(target, pool)
    assert second == 0
    assert first == pytest.approx(calibrate(target[:, 0], pool[:, 0])[0])

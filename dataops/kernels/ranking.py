"""How well a score tells target windows from pool windows, and what ratio of densities it stands for.

`auc` is the chance that a target window scores higher than a pool window (ties count half); 1/2 says that the score
tells them apart no better than a coin. `calibrate` turns any score into importance: a logistic regression of "is
target" on the score gives ln P(target | x) / P(pool | x) = slope * score + constant, so scores of different makers and
scales become comparable ratios. Both cost a sort or a few passes.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

_RIDGE = 1e-3  # a perfectly separating score would otherwise have an infinite slope


def auc(target_scores: ArrayLike, pool_scores: ArrayLike) -> float:
    """P(target > pool) + P(equal) / 2 over all pairs. Raises ValueError if a side is empty."""
    target, pool = np.asarray(target_scores, np.float64), np.sort(np.asarray(pool_scores, np.float64))
    if not target.size or not pool.size:
        raise ValueError(f"{target.size} target and {pool.size} pool scores: expected some of both")
    below = np.searchsorted(pool, target, side="left")
    not_above = np.searchsorted(pool, target, side="right")
    return float((below + not_above).sum() / (2 * target.size * pool.size))


def auc_by_cell(
    target_scores: ArrayLike,
    target_cells: ArrayLike,
    pool_scores: ArrayLike,
    pool_cells: ArrayLike,
    *,
    num_cells: int,
    least: int,
) -> NDArray[np.float64]:
    """`auc` inside each cell, float64[num_cells]; NaN where a side has fewer than `least` windows."""
    out = np.full(num_cells, np.nan)
    target, pool = np.asarray(target_scores), np.asarray(pool_scores)
    of_target, of_pool = np.asarray(target_cells), np.asarray(pool_cells)
    for cell in np.intersect1d(of_target, of_pool).tolist():
        ours, theirs = target[of_target == cell], pool[of_pool == cell]
        if min(len(ours), len(theirs)) >= least:
            out[cell] = auc(ours, theirs)
    return out


def calibrate(
    target_scores: ArrayLike, pool_scores: ArrayLike, *, target_offsets: ArrayLike = 0.0, pool_offsets: ArrayLike = 0.0
) -> float:
    """The slope by which a score becomes a log ratio of densities; never negative.

    Both sides weigh the same in the regression. The offsets are a log ratio known already (that of the cell, say): the
    slope is then what the score adds to it. Newton's method on two parameters with a small ridge on the standardised
    slope.
    """
    target, pool = np.asarray(target_scores, np.float64), np.asarray(pool_scores, np.float64)
    if not target.size or not pool.size:
        raise ValueError(f"{target.size} target and {pool.size} pool scores: expected some of both")
    both = np.concatenate([target, pool])
    offset = np.concatenate([np.broadcast_to(target_offsets, target.shape), np.broadcast_to(pool_offsets, pool.shape)])
    weight = np.concatenate([np.full(target.size, 0.5 / target.size), np.full(pool.size, 0.5 / pool.size)])
    truth = np.concatenate([np.ones(target.size), np.zeros(pool.size)])
    spread = float(np.sqrt((weight * (both - (weight * both).sum()) ** 2).sum()))
    if both.min() == both.max():
        return 0.0
    x = (both - (weight * both).sum()) / spread
    slope, constant = 0.0, 0.0
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(slope * x + constant + offset, -500, 500)))
        error, bend = weight * (truth - p), weight * np.maximum(p * (1 - p), 1e-12)
        gradient = np.array([(error * x).sum() - _RIDGE * slope, error.sum()])
        curve = np.array([[(bend * x * x).sum() + _RIDGE, (bend * x).sum()], [(bend * x).sum(), bend.sum()]])
        step = np.linalg.solve(curve, gradient)
        step *= min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))
        slope, constant = slope + step[0], constant + step[1]
        if np.abs(step).max() < 1e-10:
            break
    return max(0.0, slope / spread)

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
) -> NDArray[np.float64]:
    """The slopes by which scores become one log ratio of densities, float64[k] for scores [n, k] or [n]; none negative.

    Both sides weigh the same in the regression. The offsets are a log ratio known already (that of the cell, say): the
    slopes are then what the scores add to it. Newton's method with a small ridge on the standardised slopes; scores
    whose slope would be negative are left out.
    """
    target, pool = _columns(target_scores), _columns(pool_scores)
    if not len(target) or not len(pool):
        raise ValueError(f"{len(target)} target and {len(pool)} pool scores: expected some of both")
    both = np.concatenate([target, pool])
    offset = np.concatenate([np.broadcast_to(target_offsets, len(target)), np.broadcast_to(pool_offsets, len(pool))])
    weight = np.concatenate([np.full(len(target), 0.5 / len(target)), np.full(len(pool), 0.5 / len(pool))])
    truth = np.concatenate([np.ones(len(target)), np.zeros(len(pool))])
    mean = weight @ both
    spread = np.sqrt(weight @ (both - mean) ** 2)
    slopes, used = np.zeros(both.shape[1]), np.flatnonzero(both.min(0) < both.max(0))
    while used.size:
        found = _regress((both[:, used] - mean[used]) / spread[used], truth, weight, offset)
        if found.min() >= 0:
            slopes[used] = found / spread[used]
            break
        used = np.delete(used, found.argmin())
    return slopes


def _columns(scores: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(scores, np.float64)
    return values.reshape(len(values), -1)


def _regress(
    x: NDArray[np.float64], truth: NDArray[np.float64], weight: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Slopes of a logistic regression of truth[n] on x[n, k] and a constant, beside a known offset[n]."""
    design = np.column_stack([x, np.ones(len(x))])
    ridge = np.diag(np.append(np.full(x.shape[1], _RIDGE), 0.0))
    found = np.zeros(design.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ found + offset, -500, 500)))
        gradient = design.T @ (weight * (truth - p)) - ridge @ found
        bend = (design * (weight * np.maximum(p * (1 - p), 1e-12))[:, None]).T @ design + ridge
        step = np.linalg.solve(bend, gradient)
        step *= min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))
        found += step
        if np.abs(step).max() < 1e-10:
            break
    return found[:-1]

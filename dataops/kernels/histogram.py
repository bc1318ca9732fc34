"""From two histograms over cells to sampling weights (method section 3).

P(cell | target) / P(cell | generic) is the importance weight. The target is small, so its shares are smoothed towards
the generic ones by a Dirichlet prior whose strength alpha maximises the leave-one-out likelihood of the target;
tempered and mixed with the generic shares so that every cell stays alive; and capped so that no cell is repeated too
often, the rest poured into the other cells. All float64, one pass over cells except for two one-dimensional searches.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_NO_CAP = 1e12  # epochs
ALPHA_RANGE = 1e-3, 1e6  # times the number of target windows (at least 1): beyond lies no smoothing, or nothing else


@dataclass(frozen=True, eq=False)
class ImportanceWeights:
    """Sampling weights over cells and what they imply; float64[k] unless said otherwise.

    `generic` p_g and `target` p_s (smoothed) are shares; `sampling` q sums to 1; `ratio` is q / p_g (1 where p_g is
    0); `epochs` is how often each cell is seen within the budget. `capped` int64[...] lists the cells at the cap.
    `effective_sample_size` is 1 / sum q^2, over cells; `effective_tokens` is 1 / sum q^2 / size,
    the same over tokens. `over_cap` is true if the whole pool is too small for the cap: then every cell has the same
    epochs, budget / pool, and q is p_g.
    """

    generic: NDArray[np.float64]
    target: NDArray[np.float64]
    sampling: NDArray[np.float64]
    ratio: NDArray[np.float64]
    epochs: NDArray[np.float64]
    capped: NDArray[np.int64]
    effective_sample_size: float
    effective_tokens: float
    over_cap: bool


def token_histogram(cells: ArrayLike, tokens: ArrayLike, num_cells: int) -> NDArray[np.int64]:
    """Tokens in each cell, int64[num_cells], from the cell and token count of each window. Histograms add up.

    Raises ValueError if the lengths differ or a cell lies outside 0..num_cells-1.
    """
    cell, count = np.asarray(cells, np.int64), np.asarray(tokens, np.int64)
    if cell.shape != count.shape:
        raise ValueError(f"{cell.size} cells for {count.size} token counts")
    if cell.size and not 0 <= cell.min() <= cell.max() < num_cells:
        raise ValueError(f"cells {cell.min()}..{cell.max()} lie outside 0..{num_cells - 1}")
    histogram = np.zeros(num_cells, np.int64)
    np.add.at(histogram, cell, count)
    return histogram


def effective_cells(mass: ArrayLike) -> float:
    """exp(entropy) of a histogram [k]: how many equally full cells would be as spread out."""
    counts = np.asarray(mass, np.float64)
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def dirichlet_alpha(target_counts: ArrayLike, generic_share: ArrayLike) -> float:
    """The strength of smoothing towards `generic_share` that best predicts each target window from the others.

    Maximises sum_c n_c log((n_c - 1 + a p_g(c)) / (N - 1 + a)) over a in `ALPHA_RANGE` times N: a grid on log a, then
    golden section around its best point. `target_counts` are *windows* (tokens of one window are not independent).
    Windows in cells without generic text say nothing, as nothing can be drawn there. Of equal answers the strongest
    smoothing wins, so one window, or none, gives (almost) the generic shares.
    """
    counts, generic = _counts_and_shares(target_counts, generic_share)
    use = (counts > 0) & (generic > 0)
    n, p = counts[use], generic[use]
    total = float(n.sum())

    def misfit(log_alpha: float) -> float:
        alpha = math.exp(log_alpha)
        return -float((n * (np.log(n - 1 + alpha * p) - math.log(total - 1 + alpha))).sum())

    return best_alpha(misfit if total > 1 else None, total)


def best_alpha(misfit: Callable[[float], float] | None, total: float) -> float:
    """The strength, in `ALPHA_RANGE` times the mass `total`, whose logarithm has the least `misfit`; None: the largest.

    Of equal answers the strongest wins.
    """
    low, high = (math.log(bound * max(total, 1.0)) for bound in ALPHA_RANGE)
    if misfit is None:
        return math.exp(high)
    grid = np.linspace(low, high, 128)
    scores = np.array([misfit(x) for x in grid])
    best = len(grid) - 1 - int(scores[::-1].argmin())
    return math.exp(_golden_section(misfit, grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]))


def smoothed(target_counts: ArrayLike, generic_share: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """(n_c + alpha p_g(c)) / (N + alpha), the smoothed shares float64[k]; cells without generic text get none."""
    counts, generic = _counts_and_shares(target_counts, generic_share)
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}: smoothing needs a positive strength")
    counts = np.where(generic > 0, counts, 0.0)
    return (counts + alpha * generic) / (counts.sum() + alpha)


def importance_weights(
    target_share: ArrayLike,
    generic_tokens: ArrayLike,
    *,
    budget: float,
    temperature: float,
    defence: float,
    max_epochs: float,
) -> ImportanceWeights:
    """Sampling weights for a run of `budget` tokens: temper, defend, cap.

    `target_share` [k] are the target's shares p_s, smoothed, `generic_tokens` [k] tokens of the pool; the k are cells
    or windows. q = (1 - defence) p_s^temperature / Z + defence p_g; where that passes `max_epochs` the first term is
    cut and poured into the others in proportion to theirs (water-filling). Without a cap and at temperature 1,
    p_s / q <= 1 / (1 - defence). Tokens drawn from a cell never fall as the budget rises, so samples of growing
    budgets nest.

    Raises ValueError unless budget, temperature and max_epochs are positive, 0 <= defence <= 1, the pool has tokens and
    the target a share where it has.
    """
    size = np.asarray(generic_tokens, np.float64)
    pool = size.sum()
    settings = {"budget": budget, "temperature": temperature, "max_epochs": max_epochs}
    for name, value in {**settings, "tokens in the pool": pool}.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}: expected a positive number")
    if not 0 <= defence <= 1:
        raise ValueError(f"defence is {defence}: expected a share between 0 and 1")
    generic = size / pool
    target = np.where(size > 0, np.asarray(target_share, np.float64), 0.0)
    if not target.sum() > 0:
        raise ValueError("the target has no share in any cell where the pool has tokens: nothing can be drawn")
    target = target / target.sum()
    # Powers of shares relative to the largest: no underflow at any temperature.
    tempered = np.where(target > 0, target / target.max(), 0.0) ** temperature
    over_cap = bool(max_epochs * pool < budget)
    # The defended share stands aside: poured together, a few full cells would leave little but it for all the others.
    spared = np.maximum(size * (max_epochs / budget) - defence * generic, 0.0)
    sampling = generic if over_cap else defence * generic + _water_filled(tempered, spared, 1 - defence)
    alive = size > 0
    epochs = np.divide(budget * sampling, size, out=np.zeros_like(size), where=alive)
    return ImportanceWeights(
        generic=generic,
        target=target,
        sampling=sampling,
        ratio=np.divide(sampling, generic, out=np.ones_like(size), where=alive),
        epochs=epochs,
        capped=np.flatnonzero(alive & (epochs >= max_epochs * (1 - 1e-12))),
        effective_sample_size=float(1 / (sampling**2).sum()),
        effective_tokens=float(1 / (sampling[alive] ** 2 / size[alive]).sum()),
        over_cap=over_cap,
    )


def share_above_cap(
    target_share: ArrayLike,
    generic_tokens: ArrayLike,
    *,
    budget: float,
    temperature: float,
    defence: float,
    max_epochs: float,
) -> float:
    """The share of a stream of `budget` tokens that the cap takes from cells, were each weight drawn as wanted.

    Arguments are those of `importance_weights`.
    """
    free = importance_weights(
        target_share, generic_tokens, budget=budget, temperature=temperature, defence=defence, max_epochs=_NO_CAP
    )
    return float(np.maximum(free.sampling - max_epochs * np.asarray(generic_tokens, np.float64) / budget, 0).sum())


def bootstrap_intervals(
    documents: ArrayLike,
    cells: ArrayLike,
    mass: ArrayLike,
    generic_share: ArrayLike,
    *,
    estimate: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    draws: int,
    seed: int,
    coverage: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """An interval for each weight p_s(c) / p_g(c): (low, high) float64[k], by resampling the target's *documents*.

    Each target window has its document's number `documents` int64[w], its cell `cells` int64[w] and counts `mass`
    float64[w]; windows of one document come and go together, because they are alike. `estimate` makes smoothed shares
    of counts by cell. `coverage` (0.95, say) is the share of draws inside. Cells without generic text have weight 1.
    Cost: `draws` passes over the target's windows.
    """
    document, cell = np.asarray(documents, np.int64), np.asarray(cells, np.int64)
    generic, weight = np.asarray(generic_share, np.float64), np.asarray(mass, np.float64)
    if document.shape != cell.shape or document.size == 0:
        raise ValueError(f"{document.size} documents for {cell.size} cells: expected one each for every target window")
    _, document = np.unique(document, return_inverse=True)
    num_documents = int(document.max()) + 1
    draw = np.random.default_rng(seed)
    weights = np.ones((draws, generic.size))
    for row in range(draws):
        times = np.bincount(draw.integers(0, num_documents, num_documents), minlength=num_documents)
        counts = np.bincount(cell, times[document] * weight, generic.size).astype(np.float64)
        np.divide(estimate(counts), generic, out=weights[row], where=generic > 0)
    low, high = np.quantile(weights, [(1 - coverage) / 2, (1 + coverage) / 2], axis=0)
    return low, high


def _counts_and_shares(counts: ArrayLike, shares: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n, p = np.asarray(counts, np.float64), np.asarray(shares, np.float64)
    if n.shape != p.shape:
        raise ValueError(f"target counts of {n.size} cells, generic shares of {p.size}")
    if (n < 0).any() or (p < 0).any() or not math.isclose(p.sum(), 1, rel_tol=1e-6):
        raise ValueError(f"counts and shares must not be negative and shares must sum to 1, not {p.sum()}")
    return n, p


def _golden_section(function: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a function with one minimum in low..high, to 1e-9 of the argument; the higher end of a plateau."""
    golden = (math.sqrt(5) - 1) / 2
    a, b = high - golden * (high - low), low + golden * (high - low)
    at_a, at_b = function(a), function(b)
    while high - low > 1e-9:
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - golden * (high - low)
            at_a = function(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + golden * (high - low)
            at_b = function(b)
    return high


def _water_filled(wanted: NDArray[np.float64], ceiling: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """min(ceiling, s * wanted) with the s that makes it sum to `total`; `ceiling` sums to at least that.

    If the cells wanted are full before that (no smoothing, temperature so high that shares vanish), the rest goes to
    the others in proportion to their ceilings.
    """
    if total <= 0:
        return np.zeros_like(wanted)
    breaks = np.divide(ceiling, wanted, out=np.full_like(wanted, np.inf), where=wanted > 0)
    order = np.argsort(breaks, kind="stable")
    # With s between the breaks of cells j-1 and j, cells before j are full and the others hold s * wanted.
    full = np.cumsum(np.append(0.0, ceiling[order]))[:-1]
    open_ = np.cumsum(wanted[order][::-1])[::-1]
    scale = np.divide(total - full, open_, out=np.full_like(open_, np.inf), where=open_ > 0)
    fits = np.flatnonzero(scale <= breaks[order])
    if fits.size and np.isfinite(scale[fits[0]]):
        filled = np.minimum(ceiling, scale[fits[0]] * wanted)
    else:
        filled = np.where(wanted > 0, ceiling, 0.0)
        spare = np.where(wanted > 0, 0.0, ceiling)
        if spare.sum() > 0:
            filled = filled + spare * min(1.0, (total - filled.sum()) / spare.sum())
    return filled * (total / filled.sum())

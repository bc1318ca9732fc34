"""What `tamis drift` says when nothing has changed, and whether its intervals hold the truth.

    python benchmarks/drift.py [--trials 200]

Simulated documents of 1 to 12 windows over 64 cells, six of ten windows in a cell that the document prefers. No drift:
old and new documents prefer cells by the same shares; the usual rule is PSI >= 0.25, ours asks for p <= 0.01 and 0.1
above chance. Drift: the new ones leave a part of the cells; the true index is that of 20,000 documents of each kind.
"""

from __future__ import annotations

import argparse

import numpy as np

from dataops.kernels.drift import Windows, interval_of_psi, psi, shift_of_cells

CELLS, DRAWS, LEVEL, MODERATE = 64, 199, 0.01, 0.1
STEADY = np.linspace(3, 1, CELLS) / np.linspace(3, 1, CELLS).sum()


def sample(seed: int, *, old: int, new: int, shares: np.ndarray) -> Windows:
    """Old documents that prefer cells by STEADY and new ones by `shares`."""
    draw = np.random.default_rng(seed)
    document = np.repeat(np.arange(old + new), draw.integers(1, 13, old + new))
    home = np.concatenate([draw.choice(CELLS, old, p=STEADY), draw.choice(CELLS, new, p=shares)])
    stays = draw.random(len(document)) < 0.6
    cell = np.where(stays, home[document], draw.choice(CELLS, len(document), p=STEADY))
    one = np.ones(len(document))
    return Windows(document=document, cell=cell, mass=one, distance=one, old=old, new=new)


def true_index(shares: np.ndarray) -> float:
    """The index where chance plays no part."""
    large = sample(0, old=20_000, new=20_000, shares=shares)
    is_new = large.document >= large.old
    return psi(*(np.bincount(large.cell, side.astype(float), CELLS) for side in (is_new, ~is_new)))


def without(cells: int) -> np.ndarray:
    """STEADY without its first cells."""
    left = np.where(np.arange(CELLS) < cells, 0.0, STEADY)
    return left / left.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    print("no drift, 1,000 old documents\n  new   mean PSI  expected   PSI >= 0.25   p <= 0.01   ours")
    for new in (20, 100, 300):
        found = [
            shift_of_cells(sample(i, old=1000, new=new, shares=STEADY), CELLS, draws=DRAWS, level=LEVEL, seed=i)
            for i in range(trials)
        ]
        sure = [each.p <= LEVEL for each in found]
        ours = [each.p <= LEVEL and each.value - each.expected >= MODERATE for each in found]
        print(
            f"{new:>5} {np.mean([each.value for each in found]):>10.3f} {np.mean([e.expected for e in found]):>9.3f} "
            f"{np.mean([each.value >= 0.25 for each in found]):>13.1%} {np.mean(sure):>11.1%} {np.mean(ours):>6.1%}"
        )
    print(
        "\ndrift, 1,000 old documents\n  new  cells left out  true PSI   found by ours   in the 95% interval   above it"
    )
    for cells in (0, 4, 16, 48):
        shares, truth = without(cells), true_index(without(cells))
        for new in (20, 100, 300):
            windows = [sample(i, old=1000, new=new, shares=shares) for i in range(trials)]
            shifts = [shift_of_cells(each, CELLS, draws=DRAWS, level=LEVEL, seed=1) for each in windows]
            intervals = [
                interval_of_psi(each, CELLS, shift, draws=DRAWS, seed=1)
                for each, shift in zip(windows, shifts, strict=True)
            ]
            print(
                f"{new:>5} {cells:>15} {truth:>9.3f} "
                f"{np.mean([s.p <= LEVEL and s.value - s.expected >= MODERATE for s in shifts]):>15.1%} "
                f"{np.mean([low <= truth <= high for low, high in intervals]):>21.1%} "
                f"{np.mean([truth > high for _, high in intervals]):>10.1%}   "
                f"[{np.mean([low for low, _ in intervals]):.3f}, {np.mean([high for _, high in intervals]):.3f}]"
            )


if __name__ == "__main__":
    main()

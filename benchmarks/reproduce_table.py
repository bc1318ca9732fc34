"""The reproduction as tables and plots: bits a byte on test documents, macro over targets, with paired intervals.

A difference between two methods is taken document by document and seed by seed: all targets and seeds that both methods
have are averaged, each target with equal weight. Its interval is of the mean over seeds: documents of each target are
drawn with replacement, and the noise of the seeds is added, a Student's t whose freedom is Welch and Satterthwaite's.
Targets whose models are pretrained by themselves vary by themselves; those that share one, as all of a pool do in the
rows of `slm`, vary together and count as one. While any of them has one seed the interval is of the documents alone.
Seeds are those of training: a selector draws the same stream for all of them, from the same documents of the target.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from reproduce_records import AFTER, BEFORE, Records, Results
from reproduce_rows import GROWN, SELECTORS, SHARED, TUNED_OTHERWISE, Row
from reproduce_text import POOL_OF

DRAWS = 4000
T_DRAWS = 25  # times as many of the seeds' noise: with one degree of freedom its tails are long
SHARING = {*SHARED, *TUNED_OTHERWISE, *GROWN}  # one pretrained model, or trunk, for all targets of a pool


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Macro bits a byte of a method less those of another, with 95% interval.

    `pairs` of rows in `targets`; `seeds` is the standard error of the mean over seeds (NaN where there is one, and then
    the interval is of the documents alone).
    """

    centre: float
    low: float
    high: float
    targets: int
    pairs: int
    seeds: float

    def __str__(self) -> str:
        pairs = f"{self.targets}" if self.pairs == self.targets else f"{self.targets}, {self.pairs} pairs"
        return f"{self.centre:+.3f} [{self.low:+.3f}, {self.high:+.3f}] ({pairs})"


def difference(results: Results, one: str, other: str, *, size: str, when: str) -> Difference | None:
    """The first method less the second where both have rows of a target and seed; None where they share none."""
    gaps: dict[str, dict[int, np.ndarray]] = {}
    sizes: dict[str, np.ndarray] = {}
    for (row, at), scored in results.items():
        partner = replace(row, method=other), when
        if row.method == one and row.size == size and at == when and partner in results:
            gaps.setdefault(row.target, {})[row.seed] = scored.bits - results[partner].bits
            sizes[row.target] = scored.documents.num_bytes
    if not gaps:
        return None
    draws = np.zeros(DRAWS)
    for number, (target, each) in enumerate(sorted(gaps.items())):
        gap, size_of = np.mean(list(each.values()), axis=0), sizes[target]
        chosen = np.random.default_rng(number).integers(len(gap), size=(DRAWS, len(gap)))
        draws += gap[chosen].sum(1) / size_of[chosen].sum(1) / len(gaps)
    of_pairs = {
        target: {seed: float(gap.sum() / sizes[target].sum()) for seed, gap in each.items()}
        for target, each in gaps.items()
    }
    seeds, freedom = _noise_of_seeds(of_pairs, shared=bool({one, other} & SHARING))
    if freedom:
        noise = np.random.default_rng(len(gaps)).standard_t(freedom, T_DRAWS * DRAWS)
        draws = np.tile(draws, T_DRAWS) + noise * seeds
    low, high = np.quantile(draws, [0.025, 0.975])
    return Difference(
        centre=float(np.mean([np.mean(list(each.values())) for each in of_pairs.values()])),
        low=float(low),
        high=float(high),
        targets=len(gaps),
        pairs=sum(len(each) for each in gaps.values()),
        seeds=seeds,
    )


def _noise_of_seeds(of_pairs: Mapping[str, Mapping[int, float]], *, shared: bool) -> tuple[float, float]:
    """The standard error of the macro mean over seeds, and its degrees of freedom; (NaN, 0) without a second seed.

    `of_pairs`: bits a byte by target and seed. `shared`: the targets of a pool vary together.
    """
    units: dict[str, list[Mapping[int, float]]] = {}
    for target, each in of_pairs.items():
        units.setdefault(POOL_OF.get(target, target) if shared else target, []).append(each)
    total = squares = 0.0
    for members in units.values():
        seeds = sorted(set.intersection(*(set(each) for each in members)))
        if len(seeds) < 2:
            return np.nan, 0.0
        means = [np.mean([each[seed] for each in members]) for seed in seeds]
        part = (len(members) / len(of_pairs)) ** 2 * float(np.var(means, ddof=1)) / len(seeds)
        total, squares = total + part, squares + part**2 / (len(seeds) - 1)
    return float(np.sqrt(total)), total**2 / squares if squares else 1.0


def print_tables(records: Records, rows: Sequence[Row], *, baseline: str) -> None:
    """Everything that there is, in Markdown, each method beside the method `baseline`."""
    results = records.results(rows)
    there = list(dict.fromkeys(row for row, _ in results))
    targets = list(dict.fromkeys(row.target for row in rows))
    for size in dict.fromkeys(row.size for row in there):
        _print_size(results, size, targets, list(dict.fromkeys(row.method for row in rows)), baseline)
    _print_costs(records, there)
    _print_gains(records, there, targets)
    made = Counter(
        ", ".join(records.lines[row]["made"][key] for key in ("processor", "precision", "torch")) for row in there
    )
    print(f"\n{len(there)} of {len(rows)} rows, made on: {'; '.join(f'{n} {what}' for what, n in made.items())}")


def _print_costs(records: Records, there: Sequence[Row]) -> None:
    """TFLOP of training that the first row of each method took, and seconds of its other steps, on one thread."""
    print("\nCost at 1:1000, of one target and seed. TFLOP: of the tokens read until it stopped.\n")
    print("| method | TFLOP shared by a pool's targets | TFLOP of each target | seconds of selecting and packing |")
    print("| --- | ---: | ---: | ---: |")
    for method in dict.fromkeys(row.method for row in there if row.size == "1:1000"):
        row = next(each for each in there if each.method == method and each.size == "1:1000")
        cost = records.lines[row]["cost"]
        print(f"| {method} | {cost['shared']:,.0f} | {cost['own']:,.0f} | {cost['seconds']:,.0f} |")


def _print_gains(records: Records, there: Sequence[Row], targets: Sequence[str]) -> None:
    """What held-out target documents gain by each smoothed mixture over cells, at the level that it chose."""
    found = {}
    for row in there:
        if row.size == "1:1000" and row.seed == 0 and records.lines[row]["gain"] and _is_smoothed(row.method):
            found[row.method, row.target] = "{gain:.2f} ± {error:.2f} ({cells})".format(**records.lines[row]["gain"])
    if not found:
        return
    print("\nGain of held-out target documents over the pool, nats a window, 1:1000; in brackets the cells chosen.\n")
    print(f"| method | {' | '.join(target.replace('_', ' ') for target in targets)} |")
    print("| --- |" + " ---: |" * len(targets))
    for method in dict.fromkeys(method for method, _ in found):
        print(f"| {method} | {' | '.join(found.get((method, target), '') for target in targets)} |")


def _is_smoothed(method: str) -> bool:
    """Whether the weights are those of the tree, by which `weigh` judges levels whatever its settings."""
    return getattr(SELECTORS[method](1), "smoothing", None) == "tree"


def _print_size(results: Results, size: str, targets: Sequence[str], methods: Sequence[str], baseline: str) -> None:
    print(f"\nTarget to tokens of the full size {size}. Bits a byte before / after fine-tuning, mean over seeds.")
    print("Difference [95% interval] (targets, pairs of rows if more); no error of seeds: documents alone.\n")
    names = " | ".join(target.replace("_", " ") for target in targets)
    print(f"| method | {names} | rows | to {baseline}, before | to {baseline}, after | error of seeds, after |")
    print("| --- |" + " ---: |" * (len(targets) + 4))
    for method in methods:
        own = list(dict.fromkeys(row for row, _ in results if row.method == method and row.size == size))
        if not own:
            continue
        cells = " | ".join(_cell(results, own, target) for target in targets)
        before, after = (difference(results, method, baseline, size=size, when=when) for when in (BEFORE, AFTER))
        spread = f"{after.seeds:.3f}" if after and after.seeds > 0 else ""
        told = f"{before or ''} | {after or ''}" if method != baseline else " | "
        print(f"| {method} | {cells} | {len(own)} | {told} | {spread} |")


def _cell(results: Results, own: Sequence[Row], target: str) -> str:
    parts = []
    for when in (BEFORE, AFTER):
        scored = [results[row, when] for row in own if row.target == target and (row, when) in results]
        found = [each.bits_per_byte for each in scored]
        parts.append(f"{np.mean(found):.3f}" if found else "")
    return " / ".join(parts).strip(" /")


def write_plots(records: Records, rows: Sequence[Row], folder: Path, *, baseline: str) -> None:
    """`before-after.svg`: each method's difference to `baseline` before and after fine-tuning, one panel a size.

    Methods that lack a target that another one has are left out: differences over other targets are not comparable.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    results = records.results(rows)
    sizes = list(dict.fromkeys(row.size for row, _ in results))
    figure, axes = plt.subplots(1, len(sizes), figsize=(5 * len(sizes), 4), squeeze=False)
    for axis, size in zip(axes[0], sizes, strict=True):
        most = len({row.target for row, _ in results if row.size == size})
        for method in dict.fromkeys(row.method for row in rows):
            before, after = (difference(results, method, baseline, size=size, when=when) for when in (BEFORE, AFTER))
            if before and after and before.targets == after.targets == most:
                axis.errorbar(
                    before.centre,
                    after.centre,
                    xerr=[[before.centre - before.low], [before.high - before.centre]],
                    yerr=[[after.centre - after.low], [after.high - after.centre]],
                    fmt="o",
                    capsize=2,
                )
                axis.annotate(
                    method, (before.centre, after.centre), textcoords="offset points", xytext=(4, 4), fontsize=8
                )
        axis.set(title=f"target : pretraining {size}", xlabel=f"bits a byte to {baseline}, before", ylabel="after")
        axis.axhline(0, linewidth=0.5)
    folder.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(folder / "before-after.svg")

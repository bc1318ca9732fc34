"""The reproduction as tables and plots: bits a byte on test documents, macro over targets, with paired intervals.

A difference between two methods is taken document by document and seed by seed: all targets and seeds that both methods
have are averaged, each target with equal weight. Its interval is of the mean over seeds: documents of each target are
drawn with replacement, and the noise of the seeds is added, a Student's t with the deviation of the paired differences
around the mean of their target, all targets together. Where no target has two seeds there is no deviation, and the
interval holds the choice of test documents alone. Rows that share a pretrained model (those of `slm`) are not
independent between targets, as this takes them to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from reproduce_records import AFTER, BEFORE, Records, Results
from reproduce_rows import SELECTORS, Row

DRAWS = 4000


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Macro bits a byte of a method less those of another, with 95% interval.

    `pairs` of rows in `targets`; `deviation` of a pair around the mean of its target (NaN where no target has two
    seeds, and then the interval is of the documents alone).
    """

    centre: float
    low: float
    high: float
    targets: int
    pairs: int
    deviation: float

    def __str__(self) -> str:
        pairs = f"{self.targets}" if self.pairs == self.targets else f"{self.targets}, {self.pairs} pairs"
        return f"{self.centre:+.3f} [{self.low:+.3f}, {self.high:+.3f}] ({pairs})"


def difference(results: Results, one: str, other: str, *, size: str, when: str) -> Difference | None:
    """The first method less the second where both have rows of a target and seed; None where they share none."""
    gaps: dict[str, list[np.ndarray]] = {}
    sizes: dict[str, np.ndarray] = {}
    for (row, at), scored in results.items():
        partner = replace(row, method=other), when
        if row.method == one and row.size == size and at == when and partner in results:
            gaps.setdefault(row.target, []).append(scored.bits - results[partner].bits)
            sizes[row.target] = scored.documents.num_bytes
    if not gaps:
        return None
    of_pairs = {target: np.array([gap.sum() for gap in each]) / sizes[target].sum() for target, each in gaps.items()}
    freedom = sum(len(each) - 1 for each in of_pairs.values())
    spread = sum(((each - each.mean()) ** 2).sum() for each in of_pairs.values())
    deviation = float(np.sqrt(spread / freedom)) if freedom else np.nan
    draws = np.zeros(DRAWS)
    for number, (target, each) in enumerate(sorted(gaps.items())):
        gap, size_of = np.mean(each, axis=0), sizes[target]
        chosen = np.random.default_rng(number).integers(len(gap), size=(DRAWS, len(gap)))
        draws += gap[chosen].sum(1) / size_of[chosen].sum(1) / len(gaps)
    if freedom:
        error = deviation * np.sqrt(sum(1 / len(each) for each in gaps.values())) / len(gaps)
        draws += np.random.default_rng(len(gaps)).standard_t(freedom, DRAWS) * error
    low, high = np.quantile(draws, [0.025, 0.975])
    return Difference(
        centre=float(np.mean([each.mean() for each in of_pairs.values()])),
        low=float(low),
        high=float(high),
        targets=len(gaps),
        pairs=sum(len(each) for each in gaps.values()),
        deviation=deviation,
    )


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
    print("\nCost at 1:1000, of one target and seed. TFLOP: tokens up to the step kept.\n")
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
    print(f"\nTarget to pretraining tokens {size}. Bits a byte before / after fine-tuning, mean over seeds.")
    print("Difference [95% interval] (targets, pairs of rows if more); no deviation: one seed, documents alone.\n")
    names = " | ".join(target.replace("_", " ") for target in targets)
    print(f"| method | {names} | rows | to {baseline}, before | to {baseline}, after | deviation of a pair |")
    print("| --- |" + " ---: |" * (len(targets) + 4))
    for method in methods:
        own = list(dict.fromkeys(row for row, _ in results if row.method == method and row.size == size))
        if not own:
            continue
        cells = " | ".join(_cell(results, own, target) for target in targets)
        gaps = [difference(results, method, baseline, size=size, when=when) for when in (BEFORE, AFTER)]
        spread = f"{gaps[1].deviation:.3f}" if gaps[1] and gaps[1].deviation > 0 else ""
        told = " | ".join(str(gap or "") for gap in gaps) if method != baseline else " | "
        print(f"| {method} | {cells} | {len(own)} | {told} | {spread} |")


def _cell(results: Results, own: Sequence[Row], target: str) -> str:
    parts = []
    for when in (BEFORE, AFTER):
        scored = [results[row, when] for row in own if row.target == target and (row, when) in results]
        found = [each.bits_per_byte for each in scored]
        parts.append(f"{np.mean(found):.3f}" if found else "")
    return " / ".join(parts).strip(" /")


def write_plots(records: Records, rows: Sequence[Row], folder: Path, *, baseline: str) -> None:
    """`before-after.svg`: each method's macro bits a byte before and after fine-tuning, one panel a size."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    results = records.results(rows)
    sizes = list(dict.fromkeys(row.size for row, _ in results))
    figure, axes = plt.subplots(1, len(sizes), figsize=(5 * len(sizes), 4), squeeze=False)
    for axis, size in zip(axes[0], sizes, strict=True):
        for method in dict.fromkeys(row.method for row in rows):
            before, after = (difference(results, method, baseline, size=size, when=when) for when in (BEFORE, AFTER))
            if before and after:
                axis.errorbar(
                    before.centre,
                    after.centre,
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

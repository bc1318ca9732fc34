"""The reproduction as tables and plots: bits a byte on test documents, macro over targets, with paired intervals.

A difference between two methods is taken document by document: documents of each target are drawn with replacement, all
targets and seeds that both methods have are averaged, each target with equal weight. What the interval holds is the
choice of test documents; seeds are averaged over, not drawn, because there are three at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from reproduce_rows import Row

from catalog.catalog import Catalog
from catalog.lineage import ancestors
from catalog.tables import read_table

BEFORE, AFTER = "before", "after"
DRAWS = 2000


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """A model on test documents in the order of their ids: float64[n] each."""

    bits: np.ndarray
    num_bytes: np.ndarray
    num_tokens: np.ndarray

    @property
    def bits_per_byte(self) -> float:
        """Of all documents together."""
        return float(self.bits.sum() / self.num_bytes.sum())

    @property
    def perplexity(self) -> float:
        """Per token."""
        return float(2 ** (self.bits.sum() / self.num_tokens.sum()))


Results = Mapping[tuple[Row, str], Scored]  # (row, before or after)


def read_results(catalog: Catalog, rows: Iterable[Row]) -> Results:
    """The scores of all rows that are there."""
    found: dict[tuple[Row, str], Scored] = {}
    for row in rows:
        if row.scores not in catalog.snapshots:
            continue
        table = read_table(catalog.store, catalog.snapshot(row.scores).artifact("scores")).sort_by("id")
        for model in table["model"].unique().to_pylist():
            own = table.filter(np.array(table["model"].to_pylist()) == model)
            found[row, AFTER if model == row.name else BEFORE] = Scored(
                bits=own["nll_nats"].to_numpy() / np.log(2),
                num_bytes=own["n_bytes"].to_numpy().astype(float),
                num_tokens=own["n_tokens"].to_numpy().astype(float),
            )
    return found


def difference(results: Results, one: str, other: str, *, size: str, when: str) -> tuple[float, float, float, int]:
    """Macro bits a byte of a method less those of another, the 95% of the bootstrap, and the number of targets."""
    pairs: dict[str, list[tuple[Scored, Scored]]] = {}
    for (row, at), scored in results.items():
        partner = replace(row, method=other), when
        if row.method == one and row.size == size and at == when and partner in results:
            pairs.setdefault(row.target, []).append((scored, results[partner]))
    if not pairs:
        return (np.nan, np.nan, np.nan, 0)
    draws = np.zeros(DRAWS)
    centre = 0.0
    for number, (_, seeds) in enumerate(sorted(pairs.items())):
        gap = np.mean([a.bits - b.bits for a, b in seeds], axis=0)
        size_of = seeds[0][0].num_bytes
        chosen = np.random.default_rng(number).integers(len(gap), size=(DRAWS, len(gap)))
        draws += gap[chosen].sum(1) / size_of[chosen].sum(1) / len(pairs)
        centre += gap.sum() / size_of.sum() / len(pairs)
    low, high = np.quantile(draws, [0.025, 0.975])
    return (float(centre), float(low), float(high), len(pairs))


def print_tables(catalog: Catalog, rows: Sequence[Row], *, baseline: str) -> None:
    """Everything that there is, in Markdown, each method beside the method `baseline`."""
    results = read_results(catalog, rows)
    targets = list(dict.fromkeys(row.target for row in rows))
    for size in dict.fromkeys(row.size for row in rows):
        if any(row.size == size for row, _ in results):
            _print_size(results, size, targets, list(dict.fromkeys(row.method for row in rows)), baseline)
    _print_costs(catalog, [row for row in rows if row.scores in catalog.snapshots])
    _print_gains(catalog, rows, targets)
    seconds = [run.seconds for run in catalog.runs.values()]
    print(f"\n{len({row for row, _ in results})} of {len(rows)} rows; {sum(seconds) / 3600:.1f} hours of steps in all")


def _print_costs(catalog: Catalog, there: Sequence[Row]) -> None:
    """TFLOP of training that the first row of each method took, and seconds of its other steps, on one thread."""
    print("\nCost at 1:1000, of one target and seed. TFLOP: tokens up to the step kept.\n")
    print("| method | TFLOP shared by a pool's targets | TFLOP of each target | seconds of selecting and packing |")
    print("| --- | ---: | ---: | ---: |")
    for method in dict.fromkeys(row.method for row in there if row.size == "1:1000"):
        row = next(each for each in there if each.method == method and each.size == "1:1000")
        shared, own, seconds = 0.0, 0.0, 0.0
        for each in ancestors(catalog, catalog.snapshot(row.name)):
            run, summary = catalog.computed_by(each), each.contents.summary
            if run.step in ("pretrain", "finetune"):
                work = summary["tokens"] * summary["flops_per_token"] / 1e12
                shared, own = (shared, own + work) if each.name.startswith(row.target) else (shared + work, own)
            elif each.name.startswith(f"{replace(row, seed=0).name}-"):
                seconds += run.seconds
        print(f"| {method} | {shared:,.0f} | {own:,.0f} | {seconds:,.0f} |")


def _print_gains(catalog: Catalog, rows: Sequence[Row], targets: Sequence[str]) -> None:
    """What held-out target documents gain by each mixture over cells, at the level that it chose."""
    found = {}
    for row in rows:
        if row.size == "1:1000" and row.seed == 0 and row.mixture in catalog.snapshots:
            summary = catalog.snapshot(row.mixture).contents.summary
            for level in summary.get("levels", ()):
                if level["cells"] == summary["resolution"]:
                    found[row.method, row.target] = f"{level['gain']:.2f} ± {level['error']:.2f} ({level['cells']})"
    print("\nGain of held-out target documents over the pool, nats a window, 1:1000; in brackets the cells chosen.\n")
    print(f"| method | {' | '.join(target.replace('_', ' ') for target in targets)} |")
    print("| --- |" + " ---: |" * len(targets))
    for method in dict.fromkeys(method for method, _ in found):
        print(f"| {method} | {' | '.join(found.get((method, target), '') for target in targets)} |")


def _print_size(results: Results, size: str, targets: Sequence[str], methods: Sequence[str], baseline: str) -> None:
    print(f"\nTarget to pretraining tokens {size}. Bits a byte before / after fine-tuning; mean of the seeds given.\n")
    names = " | ".join(target.replace("_", " ") for target in targets)
    print(f"| method | {names} | seeds | to {baseline}, before | to {baseline}, after |")
    print("| --- |" + " ---: |" * (len(targets) + 3))
    for method in methods:
        own = [row for row, _ in results if row.method == method and row.size == size]
        if not own:
            continue
        cells = " | ".join(_cell(results, own, target) for target in targets)
        seeds = max(len({row.seed for row in own if row.target == target}) for target in targets)
        gaps = " | ".join(_gap(difference(results, method, baseline, size=size, when=when)) for when in (BEFORE, AFTER))
        print(f"| {method} | {cells} | {seeds} | {gaps} |")


def _cell(results: Results, own: Sequence[Row], target: str) -> str:
    parts = []
    for when in (BEFORE, AFTER):
        scored = [results[row, when] for row in dict.fromkeys(own) if row.target == target and (row, when) in results]
        found = [each.bits_per_byte for each in scored]
        parts.append(f"{np.mean(found):.3f}" if found else "")
    return " / ".join(parts).strip(" /")


def _gap(gap: tuple[float, float, float, int]) -> str:
    centre, low, high, count = gap
    return f"{centre:+.3f} [{low:+.3f}, {high:+.3f}] ({count})" if count else ""


def write_plots(catalog: Catalog, rows: Sequence[Row], folder: Path, *, baseline: str) -> None:
    """`before-after.svg`: each method's macro bits a byte before and after fine-tuning, one panel a size."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    results = read_results(catalog, rows)
    sizes = [size for size in dict.fromkeys(row.size for row in rows) if any(row.size == size for row, _ in results)]
    figure, axes = plt.subplots(1, len(sizes), figsize=(5 * len(sizes), 4), squeeze=False)
    for axis, size in zip(axes[0], sizes, strict=True):
        for method in dict.fromkeys(row.method for row in rows):
            gaps = [difference(results, method, baseline, size=size, when=when) for when in (BEFORE, AFTER)]
            if all(gap[3] for gap in gaps):
                (before, *_), (after, low, high, _) = gaps
                axis.errorbar(before, after, yerr=[[after - low], [high - after]], fmt="o", capsize=2)
                axis.annotate(method, (before, after), textcoords="offset points", xytext=(4, 4), fontsize=8)
        axis.set(title=f"target : pretraining {size}", xlabel=f"bits a byte to {baseline}, before", ylabel="after")
        axis.axhline(0, linewidth=0.5)
    folder.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(folder / "before-after.svg")

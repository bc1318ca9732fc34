"""Ways of selecting, and every default of `weigh`, by a proxy that trains no network: the tables of docs/selection.md.

    python benchmarks/selection.py --corpora ../shared/corpora [--folder FOLDER] [--documents 30,300] [--table methods]

What the proxy is, and is not: benchmarks/selection_pool.py. Lower bits a byte are better; the last column is the mean
over targets and sizes, with the standard error of its difference from the default over target x size.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.selection_pool import Bench, apply, make
from catalog.run import Step
from dataops.cells import FitCells
from dataops.importance import Weigh
from dataops.selectors import WeighClassifier, WeighCrossEntropy, WeighNgrams, WeighStacked, WeighTwoStage

BUDGET = 800_000
PLAIN = {"smoothing": "none", "defence": 0.0, "max_epochs": 1e9}
T = {"tokens": BUDGET}


def methods() -> dict[str, Step]:
    """The selectors, the default first."""
    plain = {f"plain, {k} cells": Weigh(**T, cells=k, **PLAIN) for k in (16, 64, 256, 1024)}
    return {
        "weigh (default)": Weigh(**T),
        "uniform": Weigh(**T, defence=1.0),
        **plain,
        "weigh-two-stage": WeighTwoStage(**T),
        "weigh-ngrams": WeighNgrams(**T),
        "weigh-cross-entropy": WeighCrossEntropy(**T),
        "weigh-stacked": WeighStacked(**T),
        "weigh-classifier": WeighClassifier(**T),
    }


def defaults() -> dict[str, Step]:
    """The default with one setting changed."""
    return {
        "default": Weigh(**T),
        **{f"cells {k}": Weigh(**T, cells=k) for k in (16, 256)},
        "smoothing flat": Weigh(**T, smoothing="flat"),
        "smoothing none": Weigh(**T, smoothing="none"),
        **{f"defence {e:g}": Weigh(**T, defence=e) for e in (0.0, 0.3)},
        **{f"max_epochs {n:g}": Weigh(**T, max_epochs=n) for n in (1.0, 2.0, 16.0)},
        **{f"temperature {t:g}": Weigh(**T, temperature=t) for t in (0.7, 1.4)},
    }


def scores() -> dict[str, Step]:
    """Temperatures of the selectors that score windows."""
    return {
        f"{kind.verb}, temperature {t:g}": kind(**T, temperature=t)
        for kind in (WeighTwoStage, WeighNgrams, WeighCrossEntropy)
        for t in (0.25, 0.5, 1.0, 2.0)
    }


TABLES = {"methods": methods, "defaults": defaults, "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=Path, default=Path("../shared/corpora"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "tamis-selection")
    parser.add_argument("--targets", default="biomedical_research,math_stacks,literature_novels")
    parser.add_argument("--documents", default="20,200")
    parser.add_argument("--megabytes", type=float, default=24)
    parser.add_argument("--table", default="methods,defaults,scores")
    given = parser.parse_args()
    settings = [(target, int(n)) for target in given.targets.split(",") for n in given.documents.split(",")]
    results: dict[str, dict[str, list[dict[str, float]]]] = {table: {} for table in given.table.split(",")}
    for target, documents in settings:
        bench = make(
            given.folder, given.corpora, megabytes=given.megabytes, target=target, documents=documents,
            fit=FitCells(cells=1024),
        )  # fmt: skip
        for table, rows in results.items():
            for name, step in TABLES[table]().items():
                rows.setdefault(name, []).append(measured(bench, step, target))
                print(table, target, documents, name, rows[name][-1], flush=True)
    for rows in results.values():
        show(rows, [f"{target[:12]}/{n}" for target, n in settings])


def measured(bench: Bench, step: Step, target: str) -> dict[str, float]:
    """What the judge says."""
    mixture = apply(bench, step, f"mixture-{target}")
    found = [bench.judge(mixture, BUDGET, seed=seed) for seed in (1,)]
    mean = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
    summary = mixture.contents.summary
    return mean | {"resolution": summary.get("resolution", 0), "auc_inside": summary.get("auc_inside_cells") or 0.0}


def show(rows: dict[str, list[dict[str, float]]], columns: list[str]) -> None:
    """A Markdown table of bits a byte."""
    print("\n| | " + " | ".join(columns) + " | near text | mean | difference |")
    print("| --- |" + " ---: |" * (len(columns) + 3))
    base = np.array([each["bits"] for each in next(iter(rows.values()))])
    for name, found in rows.items():
        bits = np.array([each["bits"] for each in found])
        near = np.mean([each["near"] for each in found])
        gap = bits - base
        error = gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else 0.0
        listed = " | ".join(f"{value:.3f}" for value in bits)
        print(f"| {name} | {listed} | {near:.3f} | {bits.mean():.4f} | {gap.mean():+.4f} ± {error:.4f} |")


if __name__ == "__main__":
    main()

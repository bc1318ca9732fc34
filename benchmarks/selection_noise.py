"""What noise in pool and target does to a selection, with and without the quality filter before it.

    python benchmarks/selection_noise.py --corpora ../shared/corpora [--folder FOLDER] [--noise 0.3]

Documents of noise join pool and target, each a share of the others (benchmarks/selection_pool.noise_like); the proxy of
benchmarks/selection_pool.py then says how much noise the stream has and how well it teaches clean held-out documents.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.selection_pool import apply, make
from catalog.run import Step
from dataops.cells import FitCells
from dataops.importance import Weigh
from dataops.selectors import WeighStacked

BUDGET = 800_000


def selectors() -> dict[str, Step]:
    """What no selection, cells and windows draw."""
    return {
        "uniform": Weigh(tokens=BUDGET, defence=1.0),
        "weigh": Weigh(tokens=BUDGET),
        "weigh-stacked": WeighStacked(tokens=BUDGET),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=Path, default=Path("../shared/corpora"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "tamis-noise")
    parser.add_argument("--targets", default="biomedical_research,literature_novels")
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--noise", type=float, default=0.3)
    given = parser.parse_args()
    cases = {"clean": (0.0, False), "noise": (given.noise, False), "noise, filtered": (given.noise, True)}
    print("| target | selector | " + " | ".join(f"{case}: noise, bits" for case in cases) + " |")
    print("| --- | --- |" + " ---: |" * len(cases))
    for target in given.targets.split(","):
        found: dict[str, list[str]] = {name: [] for name in selectors()}
        for noise, gate in cases.values():
            bench = make(
                given.folder, given.corpora, megabytes=given.megabytes, target=target, documents=given.documents,
                fit=FitCells(cells=1024), noise=noise, gate=gate,
            )  # fmt: skip
            for name, step in selectors().items():
                judged = bench.judge(apply(bench, step, f"mixture-{target}"), BUDGET, seed=1)
                found[name].append(f"{judged['noise']:.3f}, {judged['bits']:.3f}")
        for name, cells in found.items():
            print(f"| {target} | {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

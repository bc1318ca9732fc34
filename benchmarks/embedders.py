"""Embedders compared by what they select and what they cost: the first table of docs/selection.md.

    python benchmarks/embedders.py --corpora ../shared/corpora [--only tfidf-svd,fasttext] [--folder FOLDER]

The pool is 8 MB of generic text with 2% planted; the same weights of 256 cells are made from each embedding; streams
have equal tokens. Windows a second are for embedding on one thread, k-means left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from benchmarks.selection_pool import Bench, apply, make
from dataops.cells import FitCells, load_cells
from dataops.importance import Weigh

KINDS = ("tfidf-svd", "tfidf-random", "fasttext", "sentence-transformer")
BUDGET, DOCUMENTS = 400_000, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=Path, default=Path("../shared/corpora"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "tamis-embedders")
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--targets", default="biomedical_research,math_stacks,literature_novels")
    parser.add_argument("--megabytes", type=float, default=8)
    given = parser.parse_args()
    print(
        f"{'embedder':<22} {'target':<20} {'windows/s':>10} {'near text':>10} {'bits/byte':>10} {'gain held out':>14}"
    )
    for kind in given.only.split(","):
        for target in given.targets.split(","):
            show(kind, target, given)


def show(kind: str, target: str, given: argparse.Namespace) -> None:
    """One line of the table."""
    fit = FitCells(cells=256, embedder=kind)
    bench = make(given.folder, given.corpora, megabytes=given.megabytes, target=target, documents=DOCUMENTS, fit=fit)
    mixture = apply(bench, Weigh(tokens=BUDGET), f"mixture-{target}")
    found = bench.judge(mixture, BUDGET, seed=1)
    levels = mixture.contents.summary["levels"]
    gain = next(each["gain"] for each in levels if each["cells"] == mixture.contents.summary["resolution"])
    print(
        f"{kind:<22} {target:<20} {_rate(bench):>10,.0f} {found['near']:>10.3f} {found['bits']:>10.4f} {gain:>14.3f}",
        flush=True,
    )


def _rate(bench: Bench) -> float:
    """Windows of about 900 characters embedded a second, best of three."""
    texts = bench.tokens.documents(["text"]).to_arrow()["text"].to_pylist()
    embedder = load_cells(bench.catalog.store, bench.pool.artifact("cell-model")).embedder
    count = 128 if embedder.labels["embedder"] == "network" else 4000
    windows = pa.array([text[:900] for text in texts[:count]], pa.large_string())
    embedder.embed(windows[:8])
    best = 0.0
    for _ in range(3):
        started = time.perf_counter()
        embedder.embed(windows)
        best = max(best, len(windows) / (time.perf_counter() - started))
    return best


if __name__ == "__main__":
    main()

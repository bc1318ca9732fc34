"""What selection costs on one core: windows and MB of text a second of processor time, by part.

    python benchmarks/selection_speed.py --corpora ../shared/corpora

Processor time of the one thread, not the clock: neighbours on a shared machine cost it caches, not turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataops.embedders import fit_embedder
from dataops.kernels.bag import bag_counts, log_ratios, mean_ratios
from dataops.kernels.embed import document_frequency
from dataops.kernels.language_model import cross_entropy, fit_ngrams
from dataops.kernels.tree import assign, fit_tree
from dataops.scorers import ClassifierScorer, Sample

CHARACTERS, WINDOWS, TURNS = 900, 6000, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=Path, default=Path("../shared/corpora"))
    given = parser.parse_args()
    texts = pq.read_table(given.corpora / "encyclopedia_wikipedia.parquet", columns=["text"])["text"].slice(0, WINDOWS)
    windows = pa.array([text[:CHARACTERS] for text in texts.to_pylist()], pa.large_string())
    num_bytes = sum(len(text.encode()) for text in windows.to_pylist())
    print(f"{len(windows):,} windows of {num_bytes / len(windows):.0f} bytes\n{'':<44} {'windows/s':>12} {'MB/s':>8}")

    def show(name: str, function: Callable[[], Any]) -> Any:
        value = function()  # numba may compile
        seconds = []
        for _ in range(TURNS):
            started = time.thread_time()
            value = function()
            seconds.append(time.thread_time() - started)
        print(f"{name:<44} {len(windows) / min(seconds):>12,.0f} {num_bytes / 1e6 / min(seconds):>8.1f}", flush=True)
        return value

    frequency = show("document frequencies", lambda: document_frequency(windows, 1 << 16))
    points = np.empty(0)
    with TemporaryDirectory() as folder:
        for kind in ("tfidf-svd", "fasttext"):
            embedder = fit_embedder(
                kind, windows, frequency=frequency, num_windows=len(windows), dims=64, seed=1, folder=Path(folder),
                network="",
            )  # fmt: skip
            points = show(f"embed, {kind}", lambda embedder=embedder: embedder.embed(windows))
        for leaves in (64, 1024, 4096):
            tree = fit_tree(points, branching=64, leaves=leaves, seed=1, iterations=3)
            show(f"assign, {tree.num_cells[-1]} cells, 64 dimensions", lambda tree=tree: assign(tree, points))
        counts = bag_counts(windows, 1 << 16)
        ratios = log_ratios(counts, counts)
        show("score, words and word pairs", lambda: mean_ratios(windows, ratios))
        draw = np.random.default_rng(0)
        tokens = np.minimum(draw.zipf(1.3, len(windows) * 256), 4095).astype(np.uint16)
        offsets = np.arange(len(windows) + 1) * 256
        two = [(offsets, tokens)] * 2
        models = show("fit two trigram models", lambda: fit_ngrams(two, vocab_size=4096))
        show("score, two trigram models", lambda: cross_entropy(models, offsets, tokens))
        sample = Sample(texts=windows, offsets=offsets, tokens=tokens, vocab_size=4096)
        scorer = ClassifierScorer(dimension=24, epochs=1, buckets=400_000)
        path = Path(folder) / "classifier.bin"
        half = np.arange(len(windows)) % 2 == 0
        scorer.fit(sample.part(half), sample.part(~half), path)
        show("score, fastText classifier", lambda: scorer.score(path, sample))


if __name__ == "__main__":
    main()

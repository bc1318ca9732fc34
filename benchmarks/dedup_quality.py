"""Precision and recall of near-duplicate removal against every pair of documents, compared by brute force.

    python benchmarks/dedup_quality.py [PARQUET...] [--documents 20000]

Reads the column `text` (default: the corpora with natural near-duplicates in ../shared/corpora), removes exact repeats
and near-duplicates with the default settings, and computes the exact word-5-gram Jaccard similarity of all pairs from
Python strings and a sparse matrix product, which shares no code with ours. A pair is found when not both documents are
kept; a removal is right when the kept document that it names is as similar as the threshold.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from catalog.catalog import Catalog
from catalog.run import run
from catalog.tables import read_live, read_table
from dataops.exact import ExactDedup
from dataops.executors import LocalExecutor
from dataops.fuzzy import FuzzyDedup
from dataops.ingest import Ingest

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"
NATURAL = ("techdocs_versions", "medical_qa", "law_dc_code", "code_python_stdlib")
LEVELS = ((0.7, 0.75), (0.75, 0.8), (0.8, 0.85), (0.85, 0.9), (0.9, 0.95), (0.95, 1.01))
ROWS_AT_ONCE = 500


def main() -> None:
    """Print one block a file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, default=[CORPORA / f"{name}.parquet" for name in NATURAL])
    parser.add_argument("--documents", type=int, default=20_000, help="take the first N of each file")
    options = parser.parse_args()
    for path in options.files:
        if not path.is_file():
            sys.exit(f"{path} does not exist: give Parquet files with a column `text`")
        report(path, options.documents)


def report(path: Path, limit: int) -> None:
    """Deduplicate one file in a new store, compare all pairs, print."""
    with tempfile.TemporaryDirectory() as folder:
        texts = pq.read_table(path, columns=["text"])["text"][:limit]
        pq.write_table(pa.table({"text": texts}), f"{folder}/part.parquet", row_group_size=2000)
        catalog, executor = Catalog.open(f"{folder}/store", create=True), LocalExecutor(workers=2)
        made = run(Ingest(paths=(f"{folder}/part.parquet",)), into="pool", catalog=catalog, executor=executor)
        unique = run(ExactDedup(), made, into="unique", catalog=catalog, executor=executor)
        step, started = FuzzyDedup(max_drop_per_source=1.0), time.monotonic()
        fuzzy = run(step, unique, into="fuzzy", catalog=catalog, executor=executor)
        seconds = time.monotonic() - started
        layers, shards = unique.contents.layers, unique.contents.shards
        documents = pa.concat_tables([read_live(catalog.store, shard, layers, ["id", "text"]) for shard in shards])
        layer = fuzzy.contents.layers[-1]
        decided = pa.concat_tables([read_table(catalog.store, s.tables[layer]) for s in fuzzy.contents.shards])
    kept = dict(zip(decided["id"].to_pylist(), decided["kept"].to_pylist(), strict=True))
    ids = documents["id"].to_pylist()
    stays = np.array([kept[name] for name in ids])
    sets = shingle_matrix(documents["text"].to_pylist())
    left, right, similarity = similar_pairs(sets, LEVELS[0][0])
    position = {name: i for i, name in enumerate(ids)}
    gone = decided.filter(pa.compute.invert(decided["kept"]))
    a = np.array([position[name] for name in gone["id"].to_pylist()], np.int64)
    b = np.array([position[name] for name in gone["kept_id"].to_pylist()], np.int64)
    true = jaccard(sets, a, b)
    right_ones = int(((true >= step.threshold) & stays[b]).sum())
    print(f"\n{path.stem}: {len(ids):,} documents, {len(gone):,} removed in {seconds:.1f} s")
    print(f"  precision {right_ones / max(len(gone), 1):.4f} ({right_ones:,} of {len(gone):,} removals)")
    print(f"  largest error of a stored similarity {np.abs(true - gone['similarity'].to_numpy()).max(initial=0):.1e}")
    print("  Jaccard        pairs    not both kept")
    for low, high in LEVELS:
        some = (similarity >= low) & (similarity < high)
        found = int((~(stays[left[some]] & stays[right[some]])).sum())
        share = f"{found / some.sum():>9.4f}" if some.any() else "        -"
        print(f"  {low:.2f}-{min(high, 1):.2f} {int(some.sum()):>10,} {share}", flush=True)


def shingle_matrix(texts: list[str]) -> sparse.csr_matrix:
    """One row a text, one column a distinct run of five words (`\\w+` of NFKC, lower case)."""
    columns: dict[tuple[str, ...], int] = {}
    indices: list[int] = []
    bounds = [0]
    for text in texts:
        words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())
        grams = {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
        indices += sorted(columns.setdefault(gram, len(columns)) for gram in grams)
        bounds.append(len(indices))
    data = np.ones(len(indices), np.int32)
    return sparse.csr_matrix((data, indices, bounds), shape=(len(texts), max(len(columns), 1)))


def similar_pairs(sets: sparse.csr_matrix, at_least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs left < right with that Jaccard similarity or more."""
    sizes, transposed = np.diff(sets.indptr), sets.T.tocsr()
    found = []
    for start in range(0, sets.shape[0], ROWS_AT_ONCE):
        shared = (sets[start : start + ROWS_AT_ONCE] @ transposed).tocoo()
        left, right = shared.row + start, shared.col
        similarity = shared.data / (sizes[left] + sizes[right] - shared.data)
        some = (left < right) & (similarity >= at_least)
        found.append((left[some], right[some], similarity[some]))
    left, right, similarity = (np.concatenate(part) for part in zip(*found, strict=True))
    return left, right, similarity


def jaccard(sets: sparse.csr_matrix, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Similarity of given pairs."""
    sizes = np.diff(sets.indptr)
    shared = np.asarray(sets[left].multiply(sets[right]).sum(axis=1)).ravel()
    return shared / np.maximum(sizes[left] + sizes[right] - shared, 1)


if __name__ == "__main__":
    main()

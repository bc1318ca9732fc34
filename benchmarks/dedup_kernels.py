"""MB of text a second on one core: each kernel of near-duplicate removal, beside xxhash and a copy of the same bytes.

Each kernel is timed on what the one before it gave, best of three; MB are always those of the text. xxhash and the copy
are floors: reading every byte once.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataops.fuzzy import FuzzyDedup
from dataops.kernels.jaccard import pair_jaccard
from dataops.kernels.minhash import band_keys, minhash, minhash_texts, permutations
from dataops.kernels.ngrams import ngram_hashes, shingles, word_hashes
from dataops.kernels.ragged import text_bytes
from dataops.kernels.text import fold

TURNS, MEGABYTES = 3, 64


def print_kernels(files: Sequence[str]) -> None:
    """One line a kernel, on about MEGABYTES of text of the shards."""
    step = FuzzyDedup()
    few, texts = _some(files)
    data = text_bytes(texts)
    size = data.values.size
    print(f"{size / 1e6:.0f} MB, {len(texts):,} documents, one core, best of {TURNS}\n{'':<34} {'MB/s':>8}")

    def show(name: str, function: Callable[[], Any]) -> Any:
        value = function()  # numba may compile
        seconds = []
        for _ in range(TURNS):
            started = time.perf_counter()
            value = function()
            seconds.append(time.perf_counter() - started)
        print(f"{name:<34} {size / 1e6 / min(seconds):>8,.0f}", flush=True)
        return value

    show("copy (numpy)", lambda: data.values.copy())
    if importlib.util.find_spec("xxhash"):
        import xxhash

        show("xxh3_64 (xxhash)", lambda: xxhash.xxh3_64_intdigest(data.values))
    pa.set_cpu_count(1)
    show("Parquet decode", lambda: [pq.read_table(path, columns=["text"], use_threads=False) for path in few])
    show("fold", lambda: fold(data))
    show("fold + words", lambda: word_hashes(texts))
    show(f"fold + words + {step.shingle}-grams", lambda: ngram_hashes(texts, step.shingle))
    sets = show("fold + words + sorted shingle sets", lambda: shingles(texts, step.shingle))
    hashes = permutations(step.permutations, step.seed)
    signatures = show(f"minhash, {step.permutations} permutations", lambda: minhash(*sets, hashes))
    show("fold + words to signatures", lambda: minhash_texts(texts, step.shingle, hashes))
    show("band keys", lambda: band_keys(signatures, *step.bands_and_rows))
    left = np.arange(0, len(texts) - 1, 2)
    show("pair Jaccard, each document once", lambda: pair_jaccard(sets, sets, left, left + 1))


def _some(files: Sequence[str]) -> tuple[list[str], pa.LargeStringArray]:
    few: list[str] = []
    parts: list[pa.Array] = []
    for path in files:
        if sum(part.nbytes for part in parts) < MEGABYTES * 10**6:
            few.append(path)
            parts += pq.read_table(path, columns=["text"])["text"].chunks
    return few, pa.concat_arrays(parts)

"""MB/s a core of the BPE kernel against `tokenizers`, and whether their tokens are equal.

    python benchmarks/bpe.py PARQUET... [--documents 8000] [--vocabulary 4096]

One vocabulary is learned from the first file. Processor seconds of one thread each, in turns, file by file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import machine

from catalog.tokenizer import BpeTokenizer, train
from dataops.kernels.bpe import Encoder, merges_of


def main() -> None:
    """Print a line a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--documents", type=int, default=8000)
    parser.add_argument("--vocabulary", type=int, default=4096)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    print(machine("numpy", "numba", "pyarrow", "ray"))
    corpora = {path.stem: _texts(path, options.documents) for path in options.files}
    tokenizer = _learned(next(iter(corpora.values())), options.vocabulary)
    encode = Encoder(merges_of(tokenizer.byte_tokens, tokenizer.rules))
    encode(pa.array(["compile first"]))
    print(f"{'':<24} {'MB':>7} {'ours MB/s':>10} {'tokenizers':>10} {'times':>6}  tokens")
    for name, texts in corpora.items():
        size = texts.nbytes / 1e6
        started = time.process_time()
        found = encode(texts)
        ours = time.process_time() - started
        strings = texts.to_pylist()
        started = time.process_time()
        expected = tokenizer.encode(strings)
        theirs = time.process_time() - started
        equal = all(
            found.left[row] or np.array_equal(tokens, found.tokens[found.offsets[row] : found.offsets[row + 1]])
            for row, tokens in enumerate(expected)
        )
        print(
            f"{name:<24} {size:>7.1f} {size / ours:>10.1f} {size / theirs:>10.1f} {theirs / ours:>5.1f}x  "
            f"{'equal' if equal else 'DIFFERENT'}, {int(found.left.sum())} left to tokenizers",
            flush=True,
        )


def _texts(path: Path, documents: int) -> pa.Array:
    column = pq.read_table(path, columns=["text"])["text"].combine_chunks()
    return column.cast(pa.large_string())[:documents]


def _learned(texts: pa.Array, size: int) -> BpeTokenizer:
    sample = texts[:2000].to_pylist()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(train(sample, vocab_size=size, length=len(sample)))
        return BpeTokenizer(path)


if __name__ == "__main__":
    main()

"""Time against size: near-duplicate removal of made-up short documents, in ever larger stores.

    python benchmarks/dedup.py --growth DOCUMENTS...
    python benchmarks/dedup_growth.py STORE DOCUMENTS      makes such a store and leaves it, for kill.py

A document has 50 to 70 words drawn by Zipf's law from made-up ones; one in ten is a copy of a document of any shard
before without one of its words (Jaccard 0.82 to 0.89): they are shorter, so all of them go. Written as store shards of
the size that ingestion chooses, a pure function of the seed. Linear is what the first size took a document.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
from dedup_process import measured, ray_head
from numpy.typing import NDArray

from catalog import schema
from catalog.catalog import Catalog
from catalog.projection import publish
from catalog.snapshot import Contents, Run, Shard
from catalog.tables import write_table
from dataops.ingest import Ingest
from dataops.inputs import LEAST_SHARD, SHARDS
from dataops.kernels.hashing import content_hash, document_ids, h64, to_hex

WORDS, SHORTEST, LONGEST, COPIES, REMEMBERED = 50_000, 50, 70, 0.1, 1_000
WARM_UP = 20_000
BYTES = 400  # of text a document
OURS = Path(__file__).with_name("dedup_ours.py")


def print_growth(counts: Sequence[int], *, seed: int, workers: int, on_ray: bool) -> None:
    """One line a number of documents: ours in a fresh process on a fresh store."""
    print(f"{'documents':>12} {'MB':>7} {'s':>8} {'documents/s':>12} {'MB/s':>6}", end=" ")
    print(f"{'to linear':>10} {'peak GB':>8} {'dropped':>10}")
    first = 0.0
    with ray_head(workers) if on_ray else nullcontext() as head:
        for count in [WARM_UP, *counts]:  # the first compiles and is not shown
            with tempfile.TemporaryDirectory(prefix="tamis-growth-") as store:
                size = make_store(store, count, seed=seed)
                kind = "ray" if head else "local"
                outcome = measured([sys.executable, str(OURS), store, "OUT", kind, str(workers)], head=head)
            if count == WARM_UP:
                continue
            first = first or outcome.seconds / count
            print(
                f"{count:>12,} {size / 1e6:>7,.0f} {outcome.seconds:>8.1f} {count / outcome.seconds:>12,.0f} "
                f"{size / 1e6 / outcome.seconds:>6.0f} {outcome.seconds / count / first:>9.2f}x "
                f"{outcome.peak / 1e9:>8.2f} {len(outcome.dropped):>10,}",
                flush=True,
            )


def make_store(root: str, count: int, *, seed: int) -> int:
    """A new store whose snapshot `pool` has `count` documents; returns their bytes."""
    catalog = Catalog.open(root, create=True)
    shards, size = [], 0
    for number, texts in enumerate(_shards(count, seed)):
        table = _documents(number, texts)
        size += table["text"].nbytes
        shards.append(Shard(rows=table.num_rows, tables={"documents": write_table(catalog.store, table)}))
    made = Run(fingerprint="0", step="made-up", parameters={}, inputs=(), code="", started=time.time(), seconds=0.0)
    catalog.commit("pool", Contents(kind="documents", shards=tuple(shards)), made)
    publish(catalog)  # counts its figures, which ingestion would have done
    return size


def rows_per_shard(count: int) -> int:
    """Documents that ingestion would put into one shard of so many."""
    return max(LEAST_SHARD, min(Ingest.shard_bytes, count * BYTES // SHARDS)) // BYTES


def _shards(count: int, seed: int) -> Iterator[pa.LargeStringArray]:
    """Texts, shard by shard. Copies are of the first documents of each shard before, which are no copies themselves."""
    draw = np.random.default_rng(seed)
    letters = np.array(list("bcdfghklmnprstvwaeiou"))
    spellings = [" " + "".join(letters[draw.integers(0, letters.size, draw.integers(2, 10))]) for _ in range(WORDS)]
    blob = np.frombuffer("".join(spellings).encode(), np.uint8)
    bounds = np.concatenate([[0], np.cumsum([len(each) for each in spellings])])
    zipf = np.cumsum(1 / (np.arange(WORDS) + 2.7))
    remembered: list[NDArray[np.int32]] = []
    each = rows_per_shard(count)
    for start in range(0, count, each):
        rows = min(each, count - start)
        words = np.searchsorted(zipf, draw.random((rows, LONGEST)) * zipf[-1]).astype(np.int32)
        words[np.arange(LONGEST) >= draw.integers(SHORTEST, LONGEST + 1, rows)[:, None]] = -1
        remembered.append(words[:REMEMBERED].copy())
        if start:
            copies = REMEMBERED + np.flatnonzero(draw.random(max(0, rows - REMEMBERED)) < COPIES)
            earlier = np.concatenate(remembered[:-1])
            words[copies] = _shortened(earlier[draw.integers(0, len(earlier), copies.size)], draw)
        yield _spelled(words, blob, bounds)


def _shortened(words: NDArray[np.int32], draw: np.random.Generator) -> NDArray[np.int32]:
    """Each row without one word."""
    gone = draw.integers(0, SHORTEST, (len(words), 1))
    columns = np.arange(LONGEST)
    padded = np.concatenate([words, np.full((len(words), 1), -1, np.int32)], axis=1)
    return np.take_along_axis(padded, columns + (columns >= gone), axis=1)


def _spelled(words: NDArray[np.int32], blob: NDArray[np.uint8], bounds: NDArray[np.int64]) -> pa.LargeStringArray:
    """Each row's words, every one after a space, to the end of the row (-1)."""
    there = words >= 0
    flat = words[there]
    sizes = np.diff(bounds)[flat]
    ends = np.cumsum(sizes)
    place = np.arange(ends[-1]) + np.repeat(bounds[flat] - (ends - sizes), sizes)
    offsets = np.concatenate([[0], np.concatenate([[0], ends])[np.cumsum(there.sum(axis=1))]])
    buffers = [None, pa.py_buffer(offsets.astype(np.int64)), pa.py_buffer(blob[place])]
    return pa.Array.from_buffers(pa.large_string(), len(words), buffers)


def _documents(number: int, texts: pa.LargeStringArray) -> pa.Table:
    contents = content_hash(texts)
    ids = document_ids("", [f"{number}-{row}" for row in range(len(texts))], contents)
    size = np.diff(np.frombuffer(texts.buffers()[1], np.int64)).astype(np.int32)
    columns = {
        "row": pa.array(np.arange(len(texts), dtype=np.int32)),
        "id": to_hex(ids),
        "h64": pa.array(h64(ids)),
        "content": to_hex(contents),
        "source": pa.array(["made-up"] * len(texts)),
        "n_chars": pa.array(size),
        "n_bytes": pa.array(size),
        "text": texts,
    }
    nothing = pa.nulls(len(texts))
    return pa.table({name: columns.get(name, nothing) for name in schema.DOCUMENTS.names}).cast(schema.DOCUMENTS)


if __name__ == "__main__":
    make_store(sys.argv[1], int(sys.argv[2]), seed=1)

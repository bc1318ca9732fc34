"""Deciding again and adding to what was deduplicated: seconds of each command, against deduplicating at once.

    python benchmarks/dedup_again.py [--documents 1000000]

A made-up store (dedup_growth.py) has all documents but the last shard as `pool`, the last shard as `new`, and both as
`all`. Each line is a `tamis dedup` in a process of its own, from its start to the published catalog. The last two must
decide alike: in two parts, and at once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import pyarrow as pa
from dedup_growth import make_store
from machine import machine

from catalog.catalog import Catalog
from catalog.tables import read_table

COMMANDS = {
    "deduplicate": ["pool", "--into", "clean"],
    "threshold 0.9": ["clean", "--threshold", "0.9", "--into", "strict"],
    "shortest stays": ["clean", "--prefer", "n_chars", "--into", "short"],
    "add documents": ["new", "--against", "clean", "--into", "grown"],
    "add and replace": ["new", "--against", "clean", "--replace", "--into", "replaced"],
    "all at once": ["all", "--into", "once"],
}


def main() -> int:
    """Print a line a command; 1 if two parts decided otherwise than all at once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    options = parser.parse_args()
    print(machine("numpy", "numba", "pyarrow", "ray"))
    with tempfile.TemporaryDirectory(prefix="tamis-again-") as store:
        make_store(store, options.documents, seed=1)
        _part(Catalog.open(store))
        for name, words in COMMANDS.items():
            started = time.monotonic()
            command = [sys.executable, "-m", "clusters.cli", "dedup", *words, "--store", store, "--executor", "local"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            catalog = Catalog.open(store)
            kept = catalog.snapshot(words[-1]).contents.rows
            hashed = catalog.snapshot(words[-1]).contents.summary.get("documents_hashed", 0)
            print(
                f"{name:<16} {time.monotonic() - started:>7.1f} s  {hashed:>10,} documents hashed {kept:>10,} kept",
                flush=True,
            )
        equal = _decisions(catalog, "replaced").equals(_decisions(catalog, "once"))
    print("in two parts as at once:", "equal decisions" if equal else "DIFFERENT decisions")
    return 0 if equal else 1


def _part(catalog: Catalog) -> None:
    """From the snapshot `pool` of everything: `all`, `new`, and another `pool`."""
    whole = catalog.snapshot("pool")
    made, shards = catalog.runs[whole.run], whole.contents.shards
    for name, some in (("all", shards), ("new", shards[-1:]), ("pool", shards[:-1])):
        catalog.commit(name, replace(whole.contents, shards=some), made)


def _decisions(catalog: Catalog, name: str) -> pa.Table:
    contents = catalog.snapshot(name).contents
    columns = ["id", "kept", "kept_id", "similarity"]
    tables = [read_table(catalog.store, shard.tables[contents.layers[-1]], columns) for shard in contents.shards]
    return pa.concat_tables(tables).sort_by("id").combine_chunks()


if __name__ == "__main__":
    sys.exit(main())

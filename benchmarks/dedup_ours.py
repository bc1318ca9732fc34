"""What `FuzzyDedup` drops: the whole step on the snapshot `pool` of a store that has not seen it.

    python benchmarks/dedup_ours.py STORE OUT local|ray WORKERS

Decisions and verified pairs written, committed and published; then the ids to drop go to OUT, one a line.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pyarrow.compute as pc
from dedup_peers import answer

from catalog.catalog import Catalog
from catalog.run import run
from catalog.tables import read_table
from dataops.executors import EXECUTORS
from dataops.fuzzy import FuzzyDedup


def dropped(store: str, kind: str, workers: int) -> Iterator[str]:
    """Run the step and read its decisions."""
    catalog = Catalog.open(store)
    snapshot = run(
        FuzzyDedup(),
        catalog.snapshot("pool"),
        into="deduplicated",
        catalog=catalog,
        executor=EXECUTORS[kind](workers=workers),
    )
    for shard in snapshot.contents.shards:
        decisions = read_table(catalog.store, shard.tables[snapshot.contents.layers[-1]], ["id", "kept"])
        yield from decisions.filter(pc.invert(decisions["kept"]))["id"].to_pylist()


if __name__ == "__main__":
    store, out, kind, workers = sys.argv[1:]
    answer(out, dropped(store, kind, int(workers)))

"""Taking down a host among 10 million documents: the commit that suppresses it, and the rewriting that follows.

    python benchmarks/takedown.py --documents 10000000 --repeats 5

DuckDB generates the documents: random ids and hashes, short text, 10,000 hosts strewn over all shards. Suppression is
timed from opening the catalog to the commit; each repetition takes down another host. The rewriting is timed once, for
all of them, and touches every shard.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import duckdb

from catalog.catalog import Catalog
from catalog.counts import count_shards, store_counts
from catalog.gc import collect, delete
from catalog.projection import publish
from catalog.snapshot import Contents, Run, Shard
from catalog.store import Store
from catalog.suppression import select, suppress
from catalog.tables import ROW_GROUP
from clusters.console import Console
from clusters.takedown import finish
from dataops.executors import LocalExecutor

HOSTS = 10_000
ROWS = """SELECT (i - {first})::INTEGER AS row, md5('id ' || i) AS id, hash(i)::UBIGINT AS h64, md5('c ' || i)
    AS content, 'crawl' AS source, 'crawl-' || i AS source_id, 'https://' || host || '/' || i AS url, host,
    NULL::VARCHAR AS domain, 96::INTEGER AS n_chars, 96::INTEGER AS n_bytes,
    md5('1 ' || i) || md5('2 ' || i) || md5('3 ' || i) AS text
    FROM (SELECT i, 'h' || (hash(i * 7) % {hosts}) || '.example' AS host FROM range({first}, {after}) t(i))"""


def fill(store: Store, *, documents: int, rows_per_shard: int) -> Catalog:
    """A store with one snapshot of that many documents."""
    catalog, shards = Catalog(store), []
    with duckdb.connect() as connection:
        for first in range(0, documents, rows_per_shard):
            after = min(first + rows_per_shard, documents)
            query = ROWS.format(first=first, after=after, hosts=HOSTS)
            with store.writing(suffix="parquet") as (path, refs):
                options = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP}"
                connection.execute(f"COPY ({query}) TO '{path}' ({options})")
            shards.append(Shard(rows=after - first, tables={"documents": refs[0]}))
    counts = store_counts(store, count_shards(store, shards, ()))  # as the runner of steps does
    contents = Contents(kind="documents", shards=tuple(shards), counts=counts)
    run = Run(fingerprint="0" * 64, step="generate", parameters={}, inputs=(), code="", started=0.0, seconds=0.0)
    catalog.commit("crawl", contents, run)
    return catalog


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--rows-per-shard", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        clock = time.perf_counter()
        catalog = fill(store, documents=arguments.documents, rows_per_shard=arguments.rows_per_shard)
        publish(catalog)
        size = sum(ref.bytes for each in catalog.live() for ref in catalog.files_of(each))
        print(f"{arguments.documents:,} documents, {size / 1e9:.2f} GB, made in {time.perf_counter() - clock:.0f} s")
        times, rows = [], 0
        for number in range(arguments.repeats):
            clock = time.perf_counter()
            fresh = Catalog.open(store.root)
            chosen = select(fresh, ids=[], where=f"host = 'h{number * 37}.example'")
            selected = time.perf_counter() - clock
            made = suppress(fresh, chosen.named, reason="benchmark")
            times.append(time.perf_counter() - clock)
            rows += made.documents
            print(
                f"  h{number * 37}.example: {made.documents:,} documents, selected {selected:.2f} s, {times[-1]:.2f} s"
            )
        print(f"suppression: median {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f}")
        clock = time.perf_counter()
        done = finish(catalog, LocalExecutor(workers=arguments.workers), Console(quiet=True))
        assert done is not None
        print(
            f"rewriting {rows:,} documents in {len(catalog.live()[0].contents.shards)} shards: "
            f"{time.perf_counter() - clock:.1f} s, {arguments.workers} workers"
        )
        clock = time.perf_counter()
        gone = delete(catalog, collect(catalog, grace_seconds=0), grace_seconds=0)
        print(f"gc of {len(gone.known)} files, {gone.bytes / 1e9:.2f} GB: {time.perf_counter() - clock:.1f} s")


if __name__ == "__main__":
    main()

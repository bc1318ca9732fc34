"""The same near-duplicate decisions from every executor, number of workers, order of files and size of shards.

    python benchmarks/dedup_equal.py [PARQUET...]

Each setting ingests and deduplicates into a new store. Snapshot ids must be equal where the shards are; for another
order of files and another size of shards the decisions on each document must be. Exit status 1 when something differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from dedup_quality import CORPORA

from catalog.catalog import Catalog
from catalog.run import run
from catalog.tables import read_table
from dataops.exact import ExactDedup
from dataops.executors import EXECUTORS
from dataops.fuzzy import FuzzyDedup
from dataops.ingest import Ingest

DEFAULT = [CORPORA / f"{name}.parquet" for name in ("techdocs_versions", "medical_qa", "law_dc_code")]
SETTINGS = (  # executor, workers, order of the files, bytes of a shard
    ("local", 1, 1, 8 << 20),
    ("local", 2, 1, 8 << 20),
    ("ray", 1, 1, 8 << 20),
    ("ray", 2, 1, 8 << 20),
    ("ray", 3, 1, 8 << 20),
    ("local", 2, -1, 8 << 20),
    ("local", 2, -1, 3 << 20),
)


def main() -> int:
    """Print one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, default=DEFAULT)
    files = parser.parse_args().files
    reference: tuple[str, set[tuple]] | None = None
    equal = True
    with tempfile.TemporaryDirectory() as folder:
        parts = [_cut(path, Path(folder)) for path in files]
        for executor, workers, order, shard_bytes in SETTINGS:
            started = time.monotonic()
            found = _decided(parts[::order], executor, workers, shard_bytes)
            reference = reference or found
            same_id, same = found[0] == reference[0], found[1] == reference[1]
            equal = equal and same and (same_id or (order, shard_bytes) != SETTINGS[0][2:])
            print(
                f"{executor:<6} {workers} worker(s)  files {'as given' if order == 1 else 'reversed'}  shards of "
                f"{shard_bytes >> 20} MiB  {time.monotonic() - started:6.1f} s  {len(found[1]):,} decisions "
                f"{'equal' if same else 'DIFFERENT'}  snapshot id {'equal' if same_id else 'different'}",
                flush=True,
            )
    return 0 if equal else 1


def _cut(path: Path, folder: Path) -> str:
    """A copy in small row groups, so that it makes several shards."""
    out = folder / path.name
    pq.write_table(pa.table({"text": pq.read_table(path, columns=["text"])["text"]}), out, row_group_size=500)
    return str(out)


def _decided(paths: list[str], kind: str, workers: int, shard_bytes: int) -> tuple[str, set[tuple]]:
    """Id of the deduplicated snapshot, and every decision as (id, kept, kept id, similarity)."""
    with tempfile.TemporaryDirectory() as store:
        catalog, executor = Catalog.open(store, create=True), EXECUTORS[kind](workers=workers)
        step = Ingest(paths=tuple(paths), shard_bytes=shard_bytes)
        pool = run(step, into="pool", catalog=catalog, executor=executor)
        unique = run(ExactDedup(), pool, into="unique", catalog=catalog, executor=executor)
        dedup = run(FuzzyDedup(), unique, into="dedup", catalog=catalog, executor=executor)
        layer = dedup.contents.layers[-1]
        columns = ["id", "kept", "kept_id", "similarity"]
        tables = [read_table(catalog.store, shard.tables[layer], columns) for shard in dedup.contents.shards]
        rows = zip(*(column.to_pylist() for column in pa.concat_tables(tables).columns), strict=True)
        found = dedup.id, set(rows)
    if kind == "ray":
        import ray

        ray.shutdown()
    return found


if __name__ == "__main__":
    sys.exit(main())

"""What the catalog costs at size: the projection of a million shards, and questions to ten million documents.

    python benchmarks/catalog_size.py shards [--shards 1000000]
    python benchmarks/catalog_size.py questions [--documents 10000000] [--store DIR]

`shards` commits snapshots of made-up shard lists (20 snapshots, each with one more table than the one before; no data
files) and times the rebuild of the projection and a publish after one more small commit. `questions` generates a store
(shards of 50,000 documents with sources, domains, hosts, token counts, four layers of decisions and cells; written as
real Parquet files) and times what people ask. Medians of --repeat runs, their spread,
and the median of processor time.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from machine import machine

from catalog import schema
from catalog.catalog import Catalog
from catalog.counts import add_up_receipts, count_task, store_counts
from catalog.explain import explain
from catalog.manifest import Shard, file_ref
from catalog.places import places
from catalog.projection import FILENAME, publish
from catalog.query import Limits, session, sql
from catalog.snapshot import Contents, Run
from catalog.tables import write_table

SHARD_ROWS = 50_000
SNAPSHOTS = 20
SOURCES, HOSTS, CELLS = 20, 20_000, 1024
DOMAINS = [f"domain-{number:02}" for number in range(24)]
RULES = {
    "exact": (["exact"], 0.03),
    "near-duplicate": (["near-duplicate"], 0.08),
    "quality": ([f"quality:rule-{number}" for number in range(8)], 0.06),
    "contaminated": (["contaminated"], 0.001),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("shards", "questions"))
    parser.add_argument("--shards", type=int, default=1_000_000)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--store", type=Path, help="keep the generated documents here, or find them there")
    options = parser.parse_args()
    print(machine("duckdb"))
    with tempfile.TemporaryDirectory(prefix="tamis-catalog-") as scratch:
        folder = options.store or Path(scratch) / "store"
        if options.what == "shards":
            time_shards(Catalog.open(folder, create=True), options.shards, options.repeat)
        else:
            fresh = not folder.exists()
            catalog = Catalog.open(folder, create=True)
            if fresh:
                make_documents(catalog, options.documents)
            time_questions(catalog, options.repeat)
    return 0


def time_shards(catalog: Catalog, shards: int, repeat: int) -> None:
    """The projection of `shards` shards in SNAPSHOTS snapshots."""
    each = shards // SNAPSHOTS
    tables: dict[str, list[Any]] = {}
    started = time.perf_counter()
    for number in range(SNAPSHOTS):
        name = ("documents", "tokens", "domain", "cells", "statistics")[number] if number < 5 else f"quality#{number}"
        tables[name] = [
            file_ref(hashlib.sha256(b"%d %d" % (number, i)).hexdigest(), 1000, "parquet") for i in range(each)
        ]
        made = tuple(
            Shard(rows=SHARD_ROWS, tables=dict(zip(tables, refs, strict=True)))
            for refs in zip(*tables.values(), strict=True)
        )
        layers = tuple(name for name in tables if name.startswith("quality"))
        contents = Contents(kind="documents", shards=made, layers=layers, counts=_counts(catalog))
        catalog.commit("pool", contents, _run(number), inputs=catalog.history[-1:])
    log = sum(path.stat().st_size for path in (catalog.store.here / "_log").iterdir())
    print(
        f"{SNAPSHOTS} snapshots of {each:,} shards, one more table each: committed in "
        f"{time.perf_counter() - started:.0f} s, the log has {log / 1e6:.2f} MB"
    )
    path = catalog.store.here / FILENAME

    def rebuild() -> None:
        path.unlink(missing_ok=True)
        publish(Catalog(catalog.store))

    def publish_one() -> Callable[[], object]:
        ref = file_ref(hashlib.sha256(os.urandom(8)).hexdigest(), 1000, "parquet")
        contents = Contents(
            kind="documents", shards=(Shard(rows=1, tables={"documents": ref}),), counts=_counts(catalog)
        )
        catalog.commit("more", contents, _run(0))
        return lambda: publish(catalog)

    report("rebuild of the projection", [timed(rebuild) for _ in range(repeat)])
    print(f"  the published file has {path.stat().st_size / 1e6:.0f} MB")
    report("publish of one more commit", [timed(publish_one()) for _ in range(repeat)])
    report(
        "copy of the file alone",
        [timed(lambda: shutil.copyfile(path, path.with_suffix(".copy"))) for _ in range(repeat)],
    )
    report(
        "open and read its head", [timed(lambda: sql(catalog, "SELECT count(*) FROM snapshots")) for _ in range(repeat)]
    )


def _counts(catalog: Catalog) -> dict[str, Any]:
    figures = {
        "layer": [0],
        "rule": [None],
        "source": ["made-up"],
        "domain": [None],
        "documents": [1],
        "chars": [1],
        "bytes": [1],
        "tokens": [1],
    }
    return store_counts(catalog.store, add_up_receipts([{"counts": {"documents": figures}}]))


def make_documents(catalog: Catalog, documents: int) -> None:
    """A store whose snapshots `pool`, `clean` and `cells` are about `documents` generated documents."""
    started, draw = time.perf_counter(), np.random.default_rng(7)
    shards = [make_shard(catalog, number, draw) for number in range(documents // SHARD_ROWS)]
    names = ("documents",)
    layers: tuple[str, ...] = ()
    for number, (name, added) in enumerate(
        [("pool", ()), *((rule, (rule,)) for rule in RULES), ("cells", ("tokens", "cells"))]
    ):
        names += added
        layers += added if name in RULES else ()
        rows = [int(np.sum(live[len(layers)])) for _, live in shards]
        made = tuple(
            Shard(rows=count, tables={each: tables[each] for each in names})
            for count, (tables, _) in zip(rows, shards, strict=True)
        )
        began = time.perf_counter()
        receipts = [count_task(catalog.store, {"shard": shard, "layers": layers}) for shard in made]
        counts = store_counts(catalog.store, add_up_receipts(receipts))
        print(f"  {name}: {sum(rows):,} documents, figures counted in {time.perf_counter() - began:.1f} s", flush=True)
        contents = Contents(kind="documents", shards=made, layers=layers, counts=counts)
        catalog.commit(name, contents, _run(number), inputs=catalog.history[-1:])
    began = time.perf_counter()
    publish(catalog)
    print(
        f"{documents:,} documents in {len(shards)} shards: made in {began - started:.0f} s, published in "
        f"{time.perf_counter() - began:.2f} s"
    )


def make_shard(catalog: Catalog, number: int, draw: np.random.Generator) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The tables of one shard and, for each number of layers, which documents are live."""
    size = SHARD_ROWS
    identity = draw.integers(0, 2**63, (size, 4), np.int64).view(np.uint64)
    ids = pa.array([f"{high:016x}{low:016x}" for high, low in identity[:, :2].tolist()])
    contents = pa.array([f"{high:016x}{low:016x}" for high, low in identity[:, 2:].tolist()])
    row = pa.array(np.arange(size, dtype=np.int32))
    source = draw.choice(SOURCES, size, p=_zipf(SOURCES))
    host = draw.choice(HOSTS, size, p=_zipf(HOSTS))
    chars = np.exp(draw.normal(7.2, 1.0, size)).astype(np.int32) + 20
    hosts = pa.array([f"host-{each}.example" for each in range(HOSTS)])
    host_names = hosts.take(pa.array(host))
    columns = {
        "row": row, "id": ids, "h64": pa.array(identity[:, 0]), "content": contents,
        "source": pa.array([f"source-{each:02}" for each in range(SOURCES)]).take(pa.array(source)),
        "source_id": pa.array([f"{number}-{each}" for each in range(size)]),
        "url": pa.array([f"https://{name}/{each}" for each, name in enumerate(host_names.to_pylist())]),
        "host": host_names, "domain": pa.array(DOMAINS).take(pa.array(host % len(DOMAINS))),
        "n_chars": pa.array(chars), "n_bytes": pa.array(chars),
        "text": pa.array([f"text {each}" for each in range(size)]),
    }  # fmt: skip
    tables = {"documents": _write(catalog, columns, schema.DOCUMENTS)}
    live = [np.ones(size, bool)]
    for layer, (rules, share) in RULES.items():
        reached = np.flatnonzero(live[-1])
        kept = draw.random(len(reached)) >= share
        names = pa.array(rules).take(pa.array(draw.integers(0, len(rules), len(reached)), mask=kept))
        pairs = layer in ("exact", "near-duplicate")
        others = ids.take(pa.array(draw.integers(0, size, len(reached)), mask=kept | (not pairs)))
        similarity = pa.array(draw.uniform(0.8, 1.0, len(reached)), mask=kept | (not pairs))
        decided = {
            "row": pa.array(reached.astype(np.int32)), "id": ids.take(pa.array(reached)), "kept": pa.array(kept),
            "rule": names, "reason": names, "kept_id": others, "similarity": similarity,
        }  # fmt: skip
        tables[layer] = _write(catalog, decided, schema.DECISIONS)
        live.append(np.isin(np.arange(size), reached[kept]))
    tokens = chars // 4 + 1
    no_tokens = pa.LargeListArray.from_arrays(np.zeros(size + 1, np.int64), pa.array([], pa.uint16()))
    tables["tokens"] = _write(
        catalog, {"row": row, "id": ids, "n_tokens": pa.array(tokens), "tokens": no_tokens}, schema.TOKENS
    )
    left = np.flatnonzero(live[-1])
    cells = {
        "row": pa.array(left.astype(np.int32)), "id": ids.take(pa.array(left)),
        "window": pa.array(np.zeros(len(left), np.int32)),
        "start": pa.array(np.zeros(len(left), np.int32)), "n_tokens": pa.array(tokens[left]),
        "cell": pa.array(draw.choice(CELLS, len(left), p=_zipf(CELLS)).astype(np.int32)),
        "similarity": pa.array(draw.random(len(left), np.float32)),
    }  # fmt: skip
    tables["cells"] = _write(catalog, cells, schema.CELLS)
    return tables, live


def _write(catalog: Catalog, columns: dict[str, Any], wanted: pa.Schema) -> Any:
    return write_table(
        catalog.store, pa.table([columns[name] for name in wanted.names], names=wanted.names).cast(wanted)
    )


def _zipf(size: int) -> np.ndarray:
    weights = 1 / (np.arange(size) + 3)
    return weights / weights.sum()


QUESTIONS = {
    "count of a snapshot": "SELECT sum(documents) FROM document_totals WHERE snapshot = 'cells@1'",
    "  the same from rows": "SELECT count(*) FROM documents WHERE snapshot = 'cells@1'",
    "tokens by domain": "SELECT domain, sum(n_tokens) FROM document_totals WHERE snapshot = 'cells@1' GROUP BY domain",
    "  by domain from rows": "SELECT domain, sum(n_tokens) FROM documents WHERE snapshot = 'cells@1' GROUP BY domain",
    "tokens by cell": "SELECT cell, n_tokens FROM cell_totals WHERE snapshot = 'cells@1'",
    "  by cell from rows": "SELECT cell, sum(n_tokens) FROM cells WHERE snapshot = 'cells@1' GROUP BY cell",
    "decisions by source": "SELECT source, rule, sum(documents) FROM decision_totals GROUP BY ALL",
    "  decisions from rows": "SELECT source, rule, count(*) FROM decisions GROUP BY ALL",
    "document by h64": "SELECT * FROM documents_parquet WHERE h64 = {h64}",
}  # fmt: skip


def time_questions(catalog: Catalog, repeat: int) -> None:
    """What people ask, through one session of `sql`: that to open one is a line of its own."""
    document = sql(catalog, "SELECT id, h64 FROM documents_parquet WHERE file = 3 AND row = 4711").to_pylist()[0]
    report("a session opened and closed", [timed(lambda: sql(catalog, "SELECT 1")) for _ in range(repeat)])
    with session(catalog, limits=Limits(memory="6GB")) as ask:  # the rows of all decisions need it
        for name, query in QUESTIONS.items():
            filled = query.format(**document)
            report(name, [timed(lambda text=filled: ask(text)) for _ in range(repeat)])
    shutil.rmtree(catalog.store.here / "index", ignore_errors=True)
    report("explain, the first builds the index", [timed(lambda: explain(catalog, document["id"]))])
    report("explain one id", [timed(lambda: explain(catalog, document["id"])) for _ in range(repeat)])
    report("the place of an id", [timed(lambda: places(catalog, "documents", document["id"])) for _ in range(repeat)])


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds that it takes, by the clock and of the processor, which other work on the machine hurts less."""
    started, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - started, time.process_time() - processor


def report(name: str, times: list[tuple[float, float]]) -> None:
    """Median and spread by the clock, median of the processor."""
    seconds, processor = zip(*times, strict=True)
    low, middle, high = (1000 * each for each in (min(seconds), statistics.median(seconds), max(seconds)))
    print(
        f"{name:<36} {middle:>10,.1f} ms   {low:,.1f} to {high:,.1f}, {len(seconds)} runs; "
        f"{1000 * statistics.median(processor):,.1f} ms of processor, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def _run(number: int) -> Run:
    return Run(
        fingerprint=f"{number}", step="made-up", parameters={}, inputs=(), code="", started=time.time(), seconds=0.0
    )


if __name__ == "__main__":
    sys.exit(main())

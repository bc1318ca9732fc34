"""A small made-up corpus and a way to run one step on it, without Ray."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from catalog.run import Step, run
from catalog.snapshot import Snapshot
from catalog.tables import read_live, read_table
from dataops.executors import LocalExecutor
from dataops.ingest import Ingest

WORDS = [f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in ("", "n", "r", "st", "lk")]


def prose(seed: int, words: int = 120, *, vocabulary: Sequence[str] = WORDS) -> str:
    """Sentences of made-up words, the same for the same seed."""
    draw = random.Random(seed)
    chosen = [draw.choice(vocabulary) for _ in range(words)]
    return " ".join(word.capitalize() + "." if i % 12 == 11 else word for i, word in enumerate(chosen))


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """An empty store."""
    return Catalog.open(tmp_path / "store", create=True)


Make = Callable[..., Snapshot]


@pytest.fixture
def ingest(catalog: Catalog, tmp_path: Path) -> Make:
    """Ingest rows (dicts with `text` and more) as a snapshot of many small shards."""

    def make(rows: Sequence[dict], name: str = "pool", **settings: object) -> Snapshot:
        return ingest_rows(catalog, tmp_path / "input", rows, name, **settings)

    return make


def ingest_rows(
    catalog: Catalog, folder: Path, rows: Sequence[dict], name: str, *, shard_bytes: int = 20_000, **settings: object
) -> Snapshot:
    """Write rows to `folder`/`name`.jsonl and ingest that file."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    step = Ingest(paths=(str(path),), shard_bytes=shard_bytes, **settings)  # type: ignore[arg-type]
    return apply(catalog, step, into=name)


def apply(catalog: Catalog, step: Step, *inputs: Snapshot, into: str, workers: int = 1) -> Snapshot:
    """Run one step in this process."""
    return run(step, *inputs, into=into, catalog=catalog, executor=LocalExecutor(workers=workers))


def live(catalog: Catalog, snapshot: Snapshot, *columns: str, table: str = "documents") -> list[dict]:
    """Rows of the live documents of all shards."""
    contents = snapshot.contents
    tables = [read_live(catalog.store, shard, contents.layers, columns, table=table) for shard in contents.shards]
    return [row for each in tables for row in each.to_pylist()]


def decisions(catalog: Catalog, snapshot: Snapshot) -> list[dict]:
    """Rows of the newest decision layer."""
    return rows_of(catalog, snapshot, snapshot.contents.layers[-1])


def rows_of(catalog: Catalog, snapshot: Snapshot, table: str) -> list[dict]:
    """Rows of a table over all shards, whatever is live."""
    return [row for s in snapshot.contents.shards for row in read_table(catalog.store, s.tables[table]).to_pylist()]

"""A small made-up corpus and a way to run one step on it, without Ray."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from catalog.run import Step, run
from catalog.snapshot import Snapshot
from catalog.tables import read_live, read_table
from dataops.cells import AssignCells, FitCells
from dataops.executors import LocalExecutor
from dataops.ingest import Ingest
from dataops.tokenize import Tokenize, TrainTokenizer

WORDS = [f"{a}{b}{c}" for a in "bdfglmnprst" for b in "aeiou" for c in ("", "n", "r", "st", "lk")]


def prose(seed: float, words: int = 120, *, vocabulary: Sequence[str] = WORDS) -> str:
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


TOPICS = {f"topic-{i}": [f"{word}{end}" for word in WORDS[i::5]] for i, end in enumerate(("ak", "em", "iz", "up"))}
CONTEXT = 64


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A store with a pool of four topics and a target of mostly the first one, tokenized and put into cells."""

    catalog: Catalog
    pool: Snapshot
    target: Snapshot
    tokens: Snapshot  # the pool before it was put into cells

    def topics(self, snapshot: Snapshot) -> dict[str, str]:
        """The planted topic of each document."""
        return {row["id"]: row["source_id"] for row in live(self.catalog, snapshot, "id", "source_id")}


def topic_rows(counts: dict[str, int], *, seed: int) -> list[dict]:
    """Documents of about `CONTEXT` to ten times as many tokens, their topic as id, in a fixed shuffled order."""
    draw = random.Random(seed)
    rows = [
        {"id": topic, "text": prose(draw.random(), draw.randrange(20, 200), vocabulary=TOPICS[topic])}
        for topic, count in counts.items()
        for _ in range(count)
    ]
    draw.shuffle(rows)
    return rows


def select(folder: Path, *, workers: int = 2, shard_bytes: int = 20_000) -> Selection:
    """Everything up to cells, in a new store in `folder`."""
    catalog = Catalog.open(folder / "store", create=True)
    made: dict[str, Snapshot] = {}
    for name, counts in (("pool", dict.fromkeys(TOPICS, 40)), ("target", {"topic-0": 36, "topic-1": 4})):
        rows = topic_rows(counts, seed=len(name))
        made[name] = ingest_rows(catalog, folder / "input", rows, name, id_column="id", shard_bytes=shard_bytes)
    tokenizer = apply(catalog, TrainTokenizer(vocab_size=512), made["pool"], into="tokenizer", workers=workers)
    for name in ("pool", "target"):
        made[name] = apply(catalog, Tokenize(), made[name], tokenizer, into=f"{name}-tokens", workers=workers)
    fit = FitCells(context=CONTEXT, cells=8, dimension=16, buckets=1 << 12, sample_windows=300)
    pool = apply(catalog, fit, made["pool"], into="pool-cells", workers=workers)
    target = apply(catalog, AssignCells(), made["target"], pool, into="target-cells", workers=workers)
    return Selection(catalog=catalog, pool=pool, target=target, tokens=made["pool"])


@pytest.fixture(scope="session")
def selection(tmp_path_factory: pytest.TempPathFactory) -> Selection:
    """One store for all tests that only add to it."""
    return select(tmp_path_factory.mktemp("selection"))

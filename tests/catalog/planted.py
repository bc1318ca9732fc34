"""A tiny step, an executor without threads and document tables, for tests of the catalog alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

from catalog import schema
from catalog.catalog import Catalog
from catalog.counts import count_task
from catalog.run import Receipt, Task, TaskFunction, Work, as_json, file_ref
from catalog.snapshot import Contents, Run, Shard, Snapshot
from catalog.store import Store
from catalog.tables import write_table


def documents(start: int, rows: int) -> pa.Table:
    """Rows `start`, `start + 1`, ... of an endless corpus."""
    numbers = range(start, start + rows)
    columns = {
        "row": range(rows),
        "id": [f"{n:032x}" for n in numbers],
        "h64": list(numbers),
        "content": [f"{n % 7:032x}" for n in numbers],
        "text": [f"document {n}" for n in numbers],
        "n_chars": [10] * rows,
        "n_bytes": [10] * rows,
        **{name: ["planted"] * rows for name in ("source", "source_id", "url", "host", "domain")},
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in schema.DOCUMENTS], schema=schema.DOCUMENTS)


def decisions(start: int, kept: Sequence[int], rows: Sequence[int]) -> pa.Table:
    """A decision on each of `rows`: keep those in `kept`."""
    size = len(rows)
    columns = {
        "row": rows,
        "id": [f"{start + row:032x}" for row in rows],
        "kept": [row in kept for row in rows],
        "rule": ["quality:planted"] * size,
        "reason": ["planted"] * size,
        "kept_id": [None] * size,
        "similarity": [None] * size,
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in schema.DECISIONS], schema=schema.DECISIONS)


@dataclass(frozen=True, kw_only=True)
class Sprout:
    """Documents out of nothing: `shards` shards of `rows` rows."""

    verb: ClassVar[str] = "sprout"
    revision: ClassVar[int] = 1

    shards: int = 3
    rows: int = 5
    eagerness: int = field(default=1, compare=False)

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        assert not inputs
        tasks = [{"start": shard * self.rows, "rows": self.rows} for shard in range(self.shards)]
        receipts = work.stage("documents", sprout, tasks)
        shards = [Shard(rows=each["documents"], tables={"documents": file_ref(each["file"])}) for each in receipts]
        return Contents(kind="documents", shards=tuple(shards), summary={"documents": self.shards * self.rows})


def sprout(store: Store, task: Task) -> Receipt:
    ref = write_table(store, documents(task["start"], task["rows"]))
    return {"documents": task["rows"], "bytes": ref.bytes, "file": as_json(ref)}


@dataclass(frozen=True, kw_only=True)
class Thin:
    """Keep every `keep`-th document of each shard."""

    verb: ClassVar[str] = "thin"
    revision: ClassVar[int] = 1

    keep: int = 2

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        (before,) = inputs
        shards = []
        for number, shard in enumerate(before.contents.shards):
            rows = range(shard.rows)
            kept = [row for row in rows if row % self.keep == 0]
            ref = write_table(work.store, decisions(number * shard.rows, kept, rows))
            shards.append(Shard(rows=len(kept), tables={**shard.tables, "thin": ref}))
        return Contents(kind="documents", shards=tuple(shards), layers=("thin",))


@dataclass(kw_only=True)
class Inline:
    """Runs tasks here, `workers` of them shuffled at a time; counts those of steps, and may fail before one of them."""

    workers: int = 1
    fail_before: int | None = None
    ran: int = 0

    def map(self, function: TaskFunction, store: Store, tasks: Sequence[Task]) -> Iterator[tuple[int, Receipt]]:
        order = list(range(len(tasks)))
        for first in range(0, len(order), self.workers):
            wave = order[first : first + self.workers]
            random.Random(self.workers).shuffle(wave)
            for index in wave:
                if self.ran == self.fail_before:
                    raise RuntimeError("the power went out")
                self.ran += function is not count_task
                yield index, function(store, tasks[index])


def a_run(fingerprint: str = "f" * 64) -> Run:
    return Run(fingerprint=fingerprint, step="planted", parameters={}, inputs=(), code="0", started=0.0, seconds=0.0)


def commit_documents(catalog: Catalog, name: str, *, start: int = 0, rows: int = 3) -> Snapshot:
    """Commit one shard of documents as the next version of `name`."""
    ref = write_table(catalog.store, documents(start, rows))
    contents = Contents(kind="documents", shards=(Shard(rows=rows, tables={"documents": ref}),))
    return catalog.commit(name, contents, a_run(f"{name}-{start}-{rows}"))

"""How good a deduplication was on this very corpus: recall on planted copies, precision on its own removals.

Recall: a sample of documents that were kept, and of each one copy with words replaced at random, so that the copies
spread over all similarities. The same step with the same settings is run on them. A pair is found when not both stay.
Precision: a sample of the removals, each compared with the document that it was removed for.
Every similarity here is computed from sets of word tuples, not from hashes. Intervals are Wilson's (1927).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, run
from catalog.snapshot import Contents, Snapshot
from catalog.store import Store
from catalog.tables import read_live, read_table
from dataops.executors import LocalExecutor
from dataops.fuzzy import FuzzyDedup
from dataops.ingest import Ingest
from dataops.kernels.hashing import uniform
from dataops.kernels.text import matching_form, words
from dataops.step import shard_tasks

LEVELS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
NORMAL_95 = 1.959964


@dataclass(frozen=True, kw_only=True)
class AuditDedup:
    """Measure the fuzzy-dedup run that made the input, on `sample` planted copies and `sample` removals."""

    verb: ClassVar[str] = "audit-dedup"
    revision: ClassVar[int] = 1

    sample: int = 2000
    seed: int = 0

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """An audit snapshot: its summary is the whole answer."""
        (snapshot,) = inputs
        made_by = work.catalog.computed_by(snapshot)
        if made_by.step != FuzzyDedup.verb:
            raise UsageError(f"{snapshot.ref} was made by {made_by.step}: give a snapshot that fuzzy-dedup made")
        known = {each.name for each in fields(FuzzyDedup)}
        step = FuzzyDedup(**{name: value for name, value in made_by.parameters.items() if name in known})
        settings = {"folder": str(work.folder), "audit": self}
        drawn = work.stage("sample", _sample, shard_tasks(snapshot, layer=snapshot.contents.layers[-1], **settings))
        kept = _first(drawn, "kept", self.sample)
        removed = _first(drawn, "removed", self.sample)
        wanted = removed["kept_id"].unique().to_pylist()
        fetched = work.stage("fetch", _fetch, shard_tasks(snapshot, ids=wanted, **settings))
        of = {row["id"]: row["text"] for receipt in fetched for row in _read(receipt["path"]).to_pylist()}
        pairs = zip(removed["text"].to_pylist(), (of[name] for name in removed["kept_id"].to_pylist()), strict=True)
        # a kept text that was taken down since is empty, and tells nothing
        exact = [similarity(one, other, step.shingle) for one, other in pairs if other]
        return Contents(
            kind="audit",
            summary={
                "threshold": step.threshold,
                "levels": _recall(work.folder, step, kept, self.seed),
                "precision": proportion(sum(value >= step.threshold for value in exact), len(exact)),
                "removals": snapshot.contents.summary["dropped"],
            },
        )


def proportion(successes: int, trials: int) -> dict[str, Any]:
    """A share with its 95% Wilson interval; null where nothing was tried."""
    if not trials:
        return {"found": 0, "of": 0, "share": None, "low": None, "high": None}
    share, z2 = successes / trials, NORMAL_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return {"found": successes, "of": trials, "share": share, "low": max(0.0, centre - half), "high": centre + half}


def similarity(one: str, other: str, shingle: int) -> float:
    """Jaccard similarity of the two sets of runs of `shingle` words."""
    left, right = (
        {tuple(each[i : i + shingle]) for i in range(len(each) - shingle + 1)}
        for each in words(matching_form(pa.array([one, other])))
    )
    return len(left & right) / max(1, len(left | right))


def copy_at(text: str, level: float, shingle: int, others: Sequence[str], draw: np.random.Generator) -> str:
    """`text` with so many of its words replaced by `others` that about `level` of the shingles are shared.

    One replaced word takes `shingle` shingles with it, so m of them among N leave (N - m * shingle) of (N + m *
    shingle).
    """
    parts = text.split(" ")
    changes = round(len(parts) * (1 - level) / (1 + level) / shingle)
    for position in draw.choice(len(parts), min(changes, len(parts)), replace=False):
        parts[position] = others[int(draw.integers(len(others)))]
    return " ".join(parts)


def _recall(folder: Path, step: FuzzyDedup, kept: pa.Table, seed: int) -> list[dict[str, Any]]:
    """Plant a copy of each document, deduplicate them, and count by exact similarity."""
    texts = kept["text"].to_pylist()
    vocabulary: list[str] = sorted({word for text in texts for word in text.split()[:100]})
    copies = []
    for number, text in enumerate(texts):
        draw = np.random.default_rng([seed, number])
        copies.append(copy_at(text, draw.uniform(LEVELS[0], LEVELS[-1]), step.shingle, vocabulary, draw))
    exact = np.array([similarity(one, other, step.shingle) for one, other in zip(texts, copies, strict=True)])
    rows = [*enumerate(texts), *enumerate(copies)]
    path = folder / "planted.jsonl"
    path.write_text("".join(json.dumps({"id": str(number), "text": text}) + "\n" for number, text in rows))
    catalog, executor = Catalog.open(folder / "planted", create=True), LocalExecutor(workers=1)
    planted = run(Ingest(paths=(str(path),), id_column="id"), into="planted", catalog=catalog, executor=executor)
    step = replace(step, max_drop_per_source=1.0, prefer="n_chars DESC", first_come=False)
    found = run(step, planted, into="found", catalog=catalog, executor=executor).contents
    live = [read_live(catalog.store, shard, found.layers, ["source_id"]) for shard in found.shards]
    stays = np.bincount(np.array([int(each) for each in pa.concat_tables(live)["source_id"].to_pylist()], np.int64))
    stays = np.pad(stays, (0, len(texts) - len(stays)))
    levels = []
    for low, high in pairwise(LEVELS):
        some = (exact >= low) & (exact < high)
        levels.append({"from": low, "to": high, **proportion(int((stays[some] < 2).sum()), int(some.sum()))})
    return levels


def _sample(store: Store, task: Task) -> Receipt:
    """The documents of a shard with the smallest draws, of those that the newest decision kept and of those it took."""
    audit: AuditDedup = task["audit"]
    documents = read_table(store, task["shard"].tables["documents"], ["row", "id", "h64", "text"])
    decided = read_table(store, task["shard"].tables[task["layer"]], ["row", "kept", "kept_id"])
    table = documents.take(decided["row"].combine_chunks()).append_column("kept_id", decided["kept_id"])
    table = table.append_column("draw", pa.array(uniform(audit.seed, table["h64"].to_numpy())))
    paths = {}
    for name, some in (("kept", decided["kept"]), ("removed", pc.invert(decided["kept"]))):
        chosen = table.filter(some).sort_by([("draw", "ascending"), ("id", "ascending")])[: audit.sample]
        paths[name] = _write(Path(task["folder"]) / f"{name}-{task['number']}.arrow", chosen)
    return {**paths, "documents": table.num_rows, "bytes": documents["text"].nbytes}


def _fetch(store: Store, task: Task) -> Receipt:
    """id and text of the documents of a shard that are wanted."""
    table = read_table(store, task["shard"].tables["documents"], ["id", "text"])
    found = table.filter(pc.is_in(table["id"], value_set=pa.array(task["ids"], pa.string())))
    return {
        "path": _write(Path(task["folder"]) / f"fetched-{task['number']}.arrow", found),
        "documents": table.num_rows,
        "bytes": table["text"].nbytes,
    }


def _first(receipts: Sequence[Receipt], name: str, count: int) -> pa.Table:
    whole = pa.concat_tables([_read(receipt[name]) for receipt in receipts])
    return whole.sort_by([("draw", "ascending"), ("id", "ascending")])[:count]


def _write(path: Path, table: pa.Table) -> str:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return str(path)


def _read(path: str) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(path)).read_all()

"""Text that came later beside text that was there, each with all that is known of it.

    append(old, new) -> exact-dedup -> fuzzy-dedup -> newcomers -> quality, tokens, cells ... -> join(old, those)

`append` (dataops.append) puts new documents beside old ones to be deduplicated together. `newcomers` takes the new
ones out again, so that every later step reads only them, and `join` puts shards that went through the same steps into
one snapshot. Nothing is read but decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import Store
from catalog.tables import read_live
from dataops.step import decide, drops

OF_ALL = ("signatures", "edges")  # say something about pairs of all documents, not of some


@dataclass(frozen=True, kw_only=True)
class Newcomers:
    """The shards of the first snapshot that came after those of the second, to which they were appended."""

    verb: ClassVar[str] = "newcomers"
    revision: ClassVar[int] = 1

    def build(self, work: Work, *inputs: Snapshot) -> Contents:  # noqa: ARG002 (nothing is computed)
        """A documents snapshot with the decisions of the first; pairs with other documents are left behind."""
        every, old = inputs
        earlier = len(old.require("documents").contents.shards)
        texts = [shard.tables["documents"].sha256 for shard in every.require("documents").contents.shards]
        if texts[:earlier] != [shard.tables["documents"].sha256 for shard in old.contents.shards]:
            raise UsageError(f"{every.ref} does not begin with the documents of {old.ref}: expected `append` of them")
        shards = tuple(
            Shard(rows=shard.rows, tables={name: ref for name, ref in shard.tables.items() if name not in OF_ALL})
            for shard in list(every.contents.shards)[earlier:]
        )
        return Contents(
            kind="documents",
            shards=shards,
            layers=every.contents.layers,
            summary={"documents": sum(shard.rows for shard in shards)},
        )


@dataclass(frozen=True, kw_only=True)
class Join:
    """The shards of all inputs, one after another, with the tables and files that all have.

    All but `edges`, which number documents by their place in the one input: near-duplicates are looked for anew. Inputs
    went through the same deciding steps, of which one may have more than another: there the others keep all.
    """

    verb: ClassVar[str] = "join"
    revision: ClassVar[int] = 2

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A documents snapshot."""
        layers = joined_layers(inputs)
        own: list[tuple[str, ...]] = [each.require("documents").contents.layers for each in inputs]
        tables = set.intersection(
            *(
                set(shard.tables) - set(mine)
                for each, mine in zip(inputs, own, strict=True)
                for shard in each.contents.shards
            )
        )
        tasks = [
            {"shard": shard, "own": mine, "layers": layers, "tables": sorted(tables - {"edges"})}
            for each, mine in zip(inputs, own, strict=True)
            for shard in each.contents.shards
        ]
        _check_artifacts(inputs)
        receipts = work.stage("join", _join, tasks)
        shards = tuple(
            Shard(rows=receipt["documents"], tables={name: file_ref(ref) for name, ref in receipt["tables"].items()})
            for receipt in receipts
        )
        first, *others = [each.contents.artifacts for each in inputs]
        artifacts = {name: ref for name, ref in first.items() if all(each.get(name) == ref for each in others)}
        summary = {"documents": sum(receipt["documents"] for receipt in receipts)}
        return Contents(kind="documents", shards=shards, layers=layers, artifacts=artifacts, summary=summary)


def joined_layers(inputs: Sequence[Snapshot]) -> tuple[str, ...]:
    """The longest list of decisions among the inputs. Raises UsageError where another is not part of it, in order."""
    longest = max(inputs, key=lambda each: len(each.contents.layers))
    for each in inputs:
        left = iter(longest.contents.layers)
        if not all(layer in left for layer in each.contents.layers):
            raise UsageError(
                f"{each.ref} was decided by {_list(each)}, {longest.ref} by {_list(longest)}: expected the same steps "
                "in the same order, of which one may lack some"
            )
    return longest.contents.layers


def _list(snapshot: Snapshot) -> str:
    return ", ".join(snapshot.contents.layers) or "nothing"


def _check_artifacts(inputs: Sequence[Snapshot]) -> None:
    """Raise UsageError where the inputs were tokenized or put into cells by different fits."""
    for name in ("tokenizer", "cell-model"):
        having = [each for each in inputs if name in each.contents.artifacts]
        for other in having[1:]:
            if other.artifact(name) != having[0].artifact(name):
                raise UsageError(
                    f"{having[0].ref} and {other.ref} have different files {name!r} where one was expected"
                )


def _join(store: Store, task: Task) -> Receipt:
    """The shard with `tables`, its own decisions, and one that keeps all for each that it lacks."""
    shard: Shard = task["shard"]
    kept = {name: as_json(shard.tables[name]) for name in (*task["tables"], *task["own"])}
    before: list[str] = []
    for layer in task["layers"]:
        if layer not in task["own"]:
            now = Shard(rows=0, tables={name: file_ref(ref) for name, ref in kept.items()})
            live = read_live(store, now, before, ["row", "id"])
            none = drops(np.zeros(0, np.int32), "none", "nothing was decided")
            kept |= decide(store, live, none, layer=layer)["tables"]
        before.append(layer)
    return {"tables": kept, "documents": shard.rows}

"""Documents that come later beside those that were there, ready to be deduplicated together.

    append(old, new) -> exact-dedup -> fuzzy-dedup

The shards of the old snapshot bring their stored signatures and verified pairs with them, so fuzzy-dedup hashes and
reads only the new text. The old snapshot stays as it is. With `first_come` in both steps the old documents stay and the
newcomers must differ from them; without, the policy decides between old and new, and the decisions are those of
deduplicating everything at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq

from catalog.errors import UsageError
from catalog.run import Work
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import Store
from catalog.tables import live_rows, read_table, write_table
from catalog.takedown import RULE, decided

TAKEN_AGAIN = ("exact", "near-duplicate")  # decisions that depend on the other documents
KEPT_TABLES = ("documents", "quarantine", "signatures")


@dataclass(frozen=True, kw_only=True)
class Append:
    """The shards of the first snapshot, which fuzzy-dedup made, and those of the second.

    The duplicate decisions that both end with are left behind, to be taken again; decisions before them stay and must
    be of the same steps. Attributes (tokens, cells, ...) are left behind too.
    """

    verb: ClassVar[str] = "append"
    revision: ClassVar[int] = 1

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A documents snapshot of all shards, old ones first."""
        old, new = inputs
        old.require("documents", "signatures", "edges")
        new.require("documents")
        layers = _lasting(old)
        if _decided(_lasting(new)) != _decided(layers):
            raise UsageError(
                f"{old.ref} was {_list(layers)} before deduplication, {new.ref} {_list(_lasting(new))}: expected the "
                "same steps in both"
            )
        if RULE in _lasting(old) + _lasting(new):
            layers = (RULE, *_decided(layers))
        earlier = [_only(work.store, shard, ("edges",), layers) for shard in old.contents.shards]
        later = [_only(work.store, shard, (), layers) for shard in new.contents.shards]
        return Contents(kind="documents", shards=(*earlier, *later), layers=layers)


def num_earlier(snapshot: Snapshot) -> int:
    """How many shards, from the first on, went through fuzzy-dedup before."""
    return max((n + 1 for n, shard in enumerate(snapshot.contents.shards) if "edges" in shard.tables), default=0)


def _lasting(snapshot: Snapshot) -> tuple[str, ...]:
    """The decisions before the duplicate decisions that the snapshot ends with."""
    layers = list(snapshot.contents.layers)
    while layers and layers[-1].split("#")[0] in TAKEN_AGAIN:
        layers.pop()
    return tuple(layers)


def _decided(layers: Sequence[str]) -> tuple[str, ...]:
    """Without the layer that says what was taken down: steps of a recipe took the others."""
    return tuple(layer for layer in layers if layer != RULE)


def _list(layers: tuple[str, ...]) -> str:
    return f"decided by {', '.join(layers)}" if layers else "decided by nothing"


def _only(store: Store, shard: Shard, tables: Sequence[str], layers: Sequence[str]) -> Shard:
    """The shard with what lasts and `tables`, and what is live by `layers`; nothing was taken down unless it says."""
    kept = {name: ref for name, ref in shard.tables.items() if name in (*KEPT_TABLES, *tables, *layers)}
    if RULE in layers and RULE not in kept:
        documents = read_table(store, shard.tables["documents"], ["row", "id"])
        kept[RULE] = write_table(store, decided(documents, np.zeros(documents.num_rows, np.int32)))
    live = live_rows(store, Shard(rows=0, tables=kept), layers)
    rows = pq.read_metadata(store.local(shard.tables["documents"])).num_rows if live is None else len(live)
    return Shard(rows=rows, tables=kept)

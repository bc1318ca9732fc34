"""What the log remembers of takedowns: which texts must not be seen again, what replaced the snapshots that held them.

A takedown is two commits. The first, `takedown`, suppresses: it names documents by id and by the hash of their normal
form, so that the same text is recognised wherever it comes from and whenever it comes again. The second, `rewrite`,
says that nothing live holds them any more: which versions replaced which, which versions expired with that, and which
models had learned from them. Neither holds any of the text, nor the condition that found it, which may quote it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog import schema
from catalog.snapshot import Contents
from catalog.store import FileRef, Store
from catalog.tables import read_table

RULE = "takedown"

# The documents that a takedown named, and all that a rewrite found to have the same text.
NAMED = pa.schema([("id", pa.string()), ("content", pa.string())])
FOUND = pa.schema([("takedown", pa.int32()), ("id", pa.string()), ("content", pa.string())])


@dataclass(frozen=True, kw_only=True)
class Takedown:
    """Takedown `number` of a store, counted from 1. `named` is a table of NAMED, `documents` its rows."""

    number: int
    reason: str
    documents: int
    named: FileRef
    time: float


@dataclass(frozen=True, kw_only=True)
class Exposure:
    """What a model saw of documents that were taken down: `rows` of its packs held one, `samples` of its training did.

    `samples` is 0 where the order of its training never came to such a row; `first` is the first sample, or -1.
    """

    model: str
    packs: str
    rows: int
    samples: int
    first: int


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """`replaced`: old reference -> new; `expired`: every version that held a document; `found` is a table of FOUND."""

    takedowns: tuple[int, ...]
    replaced: Mapping[str, str]
    expired: tuple[str, ...]
    exposures: tuple[Exposure, ...]
    found: FileRef
    time: float


def takedown_action(takedown: Takedown) -> dict[str, Any]:
    """The log's form of a takedown; its time is the commit's."""
    return {"takedown": {name: value for name, value in asdict(takedown).items() if name != "time"}}


def takedown_from_action(body: Mapping[str, Any], *, time: float) -> Takedown:
    """Inverse of `takedown_action`."""
    return Takedown(**{**body, "named": FileRef(**body["named"])}, time=time)


def rewrite_action(rewrite: Rewrite) -> dict[str, Any]:
    """The log's form of a rewrite; its time is the commit's."""
    return {"rewrite": {name: value for name, value in asdict(rewrite).items() if name != "time"}}


def rewrite_from_action(body: Mapping[str, Any], *, time: float) -> Rewrite:
    """Inverse of `rewrite_action`."""
    return Rewrite(
        takedowns=tuple(body["takedowns"]),
        replaced=body["replaced"],
        expired=tuple(body["expired"]),
        exposures=tuple(Exposure(**each) for each in body["exposures"]),
        found=FileRef(**body["found"]),
        time=time,
    )


@lru_cache(maxsize=4)
def suppressed_texts(store: Store, suppressed: tuple[FileRef, ...]) -> tuple[pa.Array, np.ndarray]:
    """Content hashes of all texts in tables of NAMED (of takedowns 1, 2, ...), and the first takedown of each."""
    tables = [read_table(store, ref, ["content"])["content"].unique() for ref in suppressed]
    contents = pa.concat_arrays([pa.array([], pa.string()), *tables])
    numbers = np.repeat(np.arange(1, len(tables) + 1, dtype=np.int32), [len(each) for each in tables])
    first = np.unique(pc.index_in(contents, value_set=contents.unique()).to_numpy(), return_index=True)[1]
    return contents.take(pa.array(first)), numbers[first]


def suppressed_by(store: Store, documents: pa.Table, suppressed: Sequence[FileRef]) -> np.ndarray:
    """The takedown of each of these documents (content, n_chars) that still has its text, 0: none. int32, one a row."""
    contents, numbers = suppressed_texts(store, tuple(suppressed))
    at = pc.index_in(documents["content"], value_set=contents)
    there = pc.and_(pc.is_valid(at), pc.greater(documents["n_chars"], 0)).to_numpy()
    return np.where(there, np.append(numbers, 0)[pc.fill_null(at, -1).to_numpy()], 0).astype(np.int32)


def holds_suppressed(store: Store, contents: Contents, suppressed: Sequence[FileRef]) -> bool:
    """Whether a document of these contents has a text that was taken down."""
    if not suppressed or contents.kind != "documents":
        return False
    tables = (read_table(store, shard.tables["documents"], ["content", "n_chars"]) for shard in contents.shards)
    return any(suppressed_by(store, table, suppressed).any() for table in tables)


def blanked(documents: pa.Table, positions: np.ndarray) -> pa.Table:
    """`documents` without what is in and about those at `positions`: id, hashes and source stay, text is ''."""
    gone = np.zeros(documents.num_rows, bool)
    gone[positions] = True
    mask = pa.array(gone)
    empty = {"text": "", "n_chars": 0, "n_bytes": 0}
    for name in ("source_id", "url", "host", "domain", "text", "n_chars", "n_bytes"):
        field = documents.schema.field(name)
        value = pa.scalar(empty.get(name), field.type)
        column = pc.if_else(mask, value, documents[name]).cast(field.type)
        documents = documents.set_column(documents.schema.get_field_index(name), field, column)
    return documents


def decided(rows: pa.Table, gone: np.ndarray) -> pa.Table:
    """DECISIONS on documents (row, id): those whose row is in `gone` (takedown by row, 0 for none) go, others stay.

    gone: int32, one entry for each row number of the shard.
    """
    number = gone[rows["row"].to_numpy()]
    taken = pa.array(number > 0)
    reason = pc.binary_join_element_wise("takedown", pa.array(number).cast(pa.string()), " ")
    nothing = pa.scalar(None, pa.string())
    return pa.table(
        {
            "row": rows["row"],
            "id": rows["id"],
            "kept": pc.invert(taken),
            "rule": pc.if_else(taken, RULE, nothing),
            "reason": pc.if_else(taken, reason, nothing),
            "kept_id": pa.nulls(rows.num_rows, pa.string()),
            "similarity": pa.nulls(rows.num_rows, pa.float64()),
        }
    ).cast(schema.DECISIONS)

"""Ingestion: files of any supported format become document shards; what can't be used is quarantined with its reason.

A record's text is stored in normal form (dataops.normal_form), which is what everything later sees. `id` names the
occurrence: it hashes source, place of the record among the inputs, and content, so a re-run gives the same ids wherever
the files lie. `content` hashes the normal form. One slice of input is one shard, cut by size alone.

A text that was taken down is not stored again: its row is empty and a decision layer `takedown` drops it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from catalog import schema
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import Store
from catalog.tables import read_table, write_table
from catalog.takedown import RULE, blanked, decided, suppressed_by
from dataops.input_check import check
from dataops.inputs import Input, digests, discover, shard_size, slices
from dataops.kernels.hashing import content_hash, document_ids, h64, to_hex
from dataops.normal_form import normal_form
from dataops.readers import read
from dataops.records import Quarantined, ReadOptions, Record


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """Documents from files, folders and globs. Where the files lie bears no identity; their bytes and names do.

    A shard holds a 32nd of the text, but 8 MiB at least, and `shard_bytes` at most.
    """

    verb: ClassVar[str] = "ingest"
    revision: ClassVar[int] = 2

    paths: tuple[str, ...] = field(compare=False)
    source: str | None = None
    text_column: str = "text"
    id_column: str | None = None
    source_column: str | None = None
    domain_column: str | None = None
    url_column: str | None = None
    shard_bytes: int = 64 << 20

    @property
    def options(self) -> ReadOptions:
        """The columns to read."""
        return ReadOptions(
            text_column=self.text_column,
            id_column=self.id_column,
            source_column=self.source_column,
            domain_column=self.domain_column,
            url_column=self.url_column,
        )

    def inputs(self) -> list[Input]:
        """The files behind `paths`. Raises BadInput for what can't be read at all."""
        found = discover(self.paths, source=self.source)
        check(found, self.options)
        return found

    def evidence(self, *_: Snapshot) -> Any:
        """Name, source and digest of every input file."""
        return digests(self.inputs())

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """One shard a slice, with the tables `documents` and `quarantine`."""
        assert not inputs
        return ingested(work, self.inputs(), self.options, shard_bytes=self.shard_bytes)


def ingested(work: Work, found: Sequence[Input], options: ReadOptions, *, shard_bytes: int) -> Contents:
    """The documents of input files, a shard for each slice of at most `shard_bytes`."""
    settings = {"options": options, "suppressed": work.catalog.suppressed}
    pieces = slices(found, target_bytes=shard_size(found, at_most=shard_bytes))
    receipts = work.stage("read", _read, [{"slice": each, **settings} for each in pieces])
    taken = sum(len(receipt["taken_down"]) for receipt in receipts)
    if taken:  # then every shard says so
        tasks = [{"tables": receipt["tables"], "taken_down": receipt["taken_down"]} for receipt in receipts]
        receipts = [{**one, **more} for one, more in zip(receipts, work.stage("decide", _decide, tasks), strict=True)]
    shards = tuple(
        Shard(
            rows=receipt["documents"] - len(receipt["taken_down"]),
            tables={name: file_ref(ref) for name, ref in receipt["tables"].items()},
        )
        for receipt in receipts
    )
    quarantined: dict[str, int] = {}
    for receipt in receipts:
        for reason, count in receipt["quarantined"].items():
            quarantined[reason] = quarantined.get(reason, 0) + count
    summary = {
        "documents": sum(receipt["documents"] for receipt in receipts),
        "bytes": sum(receipt["bytes"] for receipt in receipts),
        "changed_by_normalization": sum(receipt["changed"] for receipt in receipts),
        "quarantined": dict(sorted(quarantined.items())),
        **({"taken_down": taken} if taken else {}),
    }
    layers = (RULE,) if taken else ()
    return Contents(kind="documents", shards=shards, layers=layers, summary=summary)


def _read(store: Store, task: Task) -> Receipt:
    records: list[Record] = []
    texts: list[str] = []
    refused: list[Quarantined] = []
    changed = 0
    for item in read(task["slice"], task["options"]):
        if isinstance(item, Quarantined):
            refused.append(item)
            continue
        text = normal_form(item.text)
        if not text:
            name, _, position = item.key.rpartition("#")
            refused.append(Quarantined(path=name, position=position, reason="empty-text", excerpt=""))
            continue
        changed += text != item.text
        records.append(item)
        texts.append(text)
    documents = documents_table(records, texts)
    taken = suppressed_by(store, documents, task["suppressed"])
    documents = blanked(documents, np.flatnonzero(taken)) if taken.any() else documents
    quarantine = pa.table(
        {name: [getattr(each, name) for each in refused] for name in schema.QUARANTINE.names}, schema=schema.QUARANTINE
    )
    tables = {"documents": write_table(store, documents), "quarantine": write_table(store, quarantine)}
    reasons = [each.reason for each in refused]
    return {
        "tables": {name: as_json(ref) for name, ref in tables.items()},
        "documents": len(records),
        "taken_down": [[row, int(taken[row])] for row in np.flatnonzero(taken).tolist()],
        "bytes": sum(documents["n_bytes"].to_pylist()),
        "changed": changed,
        "quarantined": {reason: reasons.count(reason) for reason in set(reasons)},
    }


def _decide(store: Store, task: Task) -> Receipt:
    """The shard's tables with the decisions on what was taken down."""
    documents = read_table(store, file_ref(task["tables"]["documents"]), ["row", "id"])
    taken = np.zeros(documents.num_rows, np.int32)
    for row, number in task["taken_down"]:
        taken[row] = number
    layer = write_table(store, decided(documents, taken))
    return {"tables": {**task["tables"], RULE: as_json(layer)}, "documents": documents.num_rows}


def documents_table(records: list[Record], texts: list[str]) -> pa.Table:
    """The `documents` table of one shard."""
    text = pa.array(texts, pa.large_string())
    contents = content_hash(text)
    ids = document_ids("", [f"{each.source}\n{each.key}" for each in records], contents)
    columns = {
        "row": range(len(records)),
        "id": to_hex(ids),
        "h64": h64(ids),
        "content": to_hex(contents),
        "source": [each.source for each in records],
        "source_id": [each.source_id for each in records],
        "url": [each.url for each in records],
        "host": [_host(each.url) for each in records],
        "domain": [each.domain for each in records],
        "n_chars": [len(each) for each in texts],
        "n_bytes": [len(each.encode()) for each in texts],
        "text": text,
    }
    arrays = [_typed(columns[field.name], field.type) for field in schema.DOCUMENTS]
    return pa.Table.from_arrays(arrays, schema=schema.DOCUMENTS)


def _typed(values: Any, kind: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, kind)


def _host(url: str | None) -> str | None:
    try:
        return urlsplit(url).hostname if url else None
    except ValueError:  # a malformed address has no host; the address itself is kept
        return None

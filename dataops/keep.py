"""Who stays among near-duplicates: an ordered policy, no chains, and a ceiling for what a source may lose.

Input are verified edges (dataops.fuzzy), so no text is read: another threshold or policy is a matter of seconds. The
edges are ordered by preference in DuckDB, which spills to the run's folder, and stream through a kernel that holds 12
bytes for each document that has an edge.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.errors import TamisError, UsageError
from catalog.run import Receipt, Task, Work
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import FileRef, Store
from catalog.tables import read_live
from dataops.exchange import gather, scatter
from dataops.kernels.components import Edges, keep_decisions
from dataops.step import counts, decide, drops, extend, layer_name, shard_tasks

RULE = "near-duplicate"
SETTINGS = b"tamis.settings"  # key of a stored table's metadata
NO_EDGES: dict[str, Any] = {"shingle": 0, "verify_from": 0.0}  # of a snapshot without shards
MEMORY_LIMIT = "1GB"
EDGE_BATCH = 1 << 18
CEILING_FROM = 100  # documents: below that a share says little about a source
LISTED = 10

# What a policy may speak of beside the columns of `documents`, where the snapshot has it.
ATTRIBUTES = {
    "statistics": "* EXCLUDE (id, n_chars, n_bytes)",
    "domain": "row, domain AS predicted_domain, probability AS domain_probability",
    "tokens": "row, n_tokens",
}


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """Settings of every step that decides among near-duplicates.

    threshold: a document goes if a kept one has at least this exact Jaccard similarity with it.
    prefer: who is kept, the terms of an SQL ORDER BY over the columns of `documents` and the attributes of the
        snapshot; ties go to the smallest id.
    max_drop_per_source, allow: a source of 100 documents or more that would lose a larger share stops the run, unless
        it is named in `allow`. They change no answer, only whether there is one.
    """

    threshold: float = 0.8
    prefer: str = "n_chars DESC"
    max_drop_per_source: float = field(default=0.5, compare=False)
    allow: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(f"threshold {self.threshold}: expected a Jaccard similarity above 0 and up to 1")
        if not 0 < self.max_drop_per_source <= 1:
            raise UsageError(f"max_drop_per_source {self.max_drop_per_source}: expected a share above 0 and up to 1")


@dataclass(frozen=True, kw_only=True)
class Redecide(Keeping):
    """Decide again, by another threshold or policy, from the edges that a fuzzy-dedup snapshot stored.

    Input: a snapshot whose newest decision is `near-duplicate`. What it dropped comes back unless dropped again. Below
    the threshold that the pairs were looked for with, fewer of them are known the further down one goes.
    """

    verb: ClassVar[str] = "redecide"
    revision: ClassVar[int] = 1

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """The input with its newest decision taken again."""
        (snapshot,) = inputs
        snapshot.require("documents", "edges")
        contents = snapshot.contents
        if not contents.layers or not contents.layers[-1].startswith(RULE):
            raise UsageError(
                f"the newest decision of {snapshot.ref} is {contents.layers[-1] if contents.layers else 'none'}, not "
                f"{RULE}: give the snapshot that fuzzy-dedup made"
            )
        edges = [shard.tables["edges"] for shard in contents.shards]
        base = replace(snapshot, contents=replace(contents, layers=contents.layers[:-1]))
        made_with = settings_of(work.store, edges[0]) if edges else NO_EDGES
        if self.threshold < made_with["verify_from"]:
            raise UsageError(
                f"threshold {self.threshold}: {snapshot.ref} stored pairs from {made_with['verify_from']} on; "
                f"for less give what it was made from: {', '.join(snapshot.inputs)}"
            )
        return keep(work, base, edges, self, offsets=row_offsets(work.store, snapshot), shingle=made_with["shingle"])


def row_offsets(store: Store, snapshot: Snapshot) -> list[int]:
    """Documents are numbered through all shards, dropped ones too: document = offsets[shard] + row."""
    paths = [store.local(shard.tables["documents"]) for shard in snapshot.contents.shards]
    return [0, *np.cumsum([pq.read_metadata(path).num_rows for path in paths]).tolist()]


def with_settings(table: pa.Table, settings: Mapping[str, Any]) -> pa.Table:
    """`table` carrying the settings that made it, so that a later run can tell whether it may use it."""
    return table.replace_schema_metadata({SETTINGS: json.dumps(settings, sort_keys=True)})


def settings_of(store: Store, ref: FileRef) -> dict[str, Any]:
    """What `with_settings` recorded in a stored table."""
    return dict(json.loads(pq.read_schema(store.local(ref)).metadata[SETTINGS]))


def keep(
    work: Work,
    snapshot: Snapshot,
    edges: Sequence[FileRef],
    step: Keeping,
    *,
    offsets: Sequence[int],
    shingle: int,
    first_come: int = 0,
    tables: Sequence[Mapping[str, Any]] = (),
    summary: Mapping[str, Any] | None = None,
) -> Contents:
    """`snapshot` with a decision layer from `edges` (one table a shard, documents numbered by `offsets`).

    The first `first_come` documents are preferred to all others whatever the policy says. `tables` (a shard's receipt
    form) and `summary` are added to the result. Raises TamisError when a source would lose too much.
    """
    contents, layer = snapshot.contents, layer_name(snapshot, RULE)
    task = {"step": step, "shards": contents.shards, "layers": contents.layers, "edges": edges, "offsets": offsets}
    (resolved,) = work.stage(
        "resolve", _resolve, [{**task, "folder": str(work.folder), "first_come": first_come}], unit="edges"
    )
    reason = f"word {shingle}-gram Jaccard >= {step.threshold}"
    receipts = work.stage(
        "decide", _decide, shard_tasks(snapshot, resolved=resolved["path"], layer=layer, reason=reason)
    )
    for receipt, more in zip(receipts, tables, strict=False):
        receipt["tables"] |= more
    figures = {**counts(receipts), **(summary or {}), "verified_pairs": resolved["edges"]}
    return extend(snapshot, receipts, layer=layer, summary=figures)


def _resolve(store: Store, task: Task) -> Receipt:
    """Write (row, kept_id, similarity) of what goes, by shard."""
    step: Keeping = task["step"]
    with duckdb.connect(config={"memory_limit": MEMORY_LIMIT, "temp_directory": f"{task['folder']}/spill"}) as database:
        _load(database, store, task)
        _rank(database, step.prefer, task["first_come"])
        (documents, edges) = database.execute(
            "SELECT (SELECT count(*) FROM ranked), (SELECT count(*) FROM edges)"
        ).fetchall()[0]
        kept_by, similarity = keep_decisions(documents, _ordered_edges(database))
        gone = np.flatnonzero(kept_by >= 0)
        database.register(
            "decided", pa.table({"rank": gone, "kept_rank": kept_by[gone], "similarity": similarity[gone]})
        )
        _check_ceiling(database, step)
        dropped = database.sql(
            """SELECT d.document, k.id AS kept_id, similarity FROM decided JOIN ranked d USING (rank)
            JOIN ranked k ON k.rank = kept_rank ORDER BY d.document"""
        ).to_arrow_table()
    offsets, document = np.asarray(task["offsets"]), dropped["document"].to_numpy()
    shard = np.searchsorted(offsets, document, side="right") - 1
    rows = pa.array((document - offsets[shard]).astype(np.int32))
    table = dropped.set_column(0, "row", rows)
    path = scatter(Path(task["folder"]) / "resolve.arrow", table, shard, len(offsets) - 1)
    return {"path": path, "edges": edges, "documents": documents}


def check_prefer(store: Store, snapshot: Snapshot, prefer: str, *, offsets: Sequence[int]) -> None:
    """Raise UsageError, before anything is computed, for a policy that is no ORDER BY over the snapshot's columns."""
    contents = snapshot.contents
    if not contents.shards:
        return
    with duckdb.connect() as database:
        _load_documents(database, store, contents.shards, contents.layers, offsets)
        with _told(database, prefer):
            database.execute(f"EXPLAIN SELECT id FROM attributes ORDER BY {prefer}, id")


@contextmanager
def _told(database: duckdb.DuckDBPyConnection, prefer: str) -> Iterator[None]:
    """Raises UsageError where DuckDB can't order by the policy: no ORDER BY, no such column, a cast that fails."""
    try:
        yield
    except duckdb.Error as error:
        columns = [row[0] for row in database.execute("DESCRIBE attributes").fetchall()]
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"prefer {prefer!r} is not the terms of an ORDER BY ({reason}); columns: {', '.join(columns)}"
        ) from error


def _load(database: duckdb.DuckDBPyConnection, store: Store, task: Task) -> None:
    """The table of edges at the threshold, and views of the documents."""
    edges = [str(store.local(ref)) for ref in task["edges"]]
    database.execute(
        """CREATE TABLE edges AS SELECT "left", "right", similarity FROM read_parquet($files)
        WHERE similarity >= $threshold""",
        {"files": edges, "threshold": task["step"].threshold},
    )
    _load_documents(database, store, task["shards"], task["layers"], task["offsets"])


def _load_documents(
    database: duckdb.DuckDBPyConnection,
    store: Store,
    shards: Sequence[Shard],
    layers: Sequence[str],
    offsets: Sequence[int],
) -> None:
    """Views: attributes and live of all documents, which are numbered."""

    def files(name: str) -> list[str]:
        return [str(store.local(shard.tables[name])) for shard in shards]

    def numbered(name: str, columns: str) -> str:
        """The rows of one table of all shards, `row` replaced by `document`."""
        database.register(f"of_{name}", pa.table({"filename": files(name), "first": offsets[:-1]}))
        paths = ", ".join("'" + path.replace("'", "''") + "'" for path in files(name))
        return f"""SELECT first + row AS document, t.* EXCLUDE (row)
            FROM (SELECT filename, {columns} FROM read_parquet([{paths}], filename = true)) t
            JOIN "of_{name}" USING (filename)"""

    attributes = f"({numbered('documents', '* EXCLUDE (text, filename)')}) d"
    for name, columns in ATTRIBUTES.items():
        if shards and all(name in shard.tables for shard in shards):
            attributes += f" LEFT JOIN ({numbered(name, columns)}) {name} USING (document)"
    database.execute(f"CREATE VIEW attributes AS SELECT * EXCLUDE (filename) FROM {attributes}")
    live = numbered(layers[-1], "row, kept") + " WHERE kept" if layers else "SELECT document FROM attributes"
    database.execute(f"CREATE VIEW live AS {live}")


def _rank(database: duckdb.DuckDBPyConnection, prefer: str, first_come: int) -> None:
    """A table of the documents with edges: document, id, source and rank, 0 the most preferred."""
    with _told(database, prefer):
        database.execute(
            f"""CREATE TABLE ranked AS
            SELECT document, id, source, row_number() OVER (ORDER BY document >= {first_come}, {prefer}, id) - 1 AS rank
            FROM attributes
            WHERE document IN (SELECT "left" FROM edges UNION ALL SELECT "right" FROM edges)"""
        )


def _ordered_edges(database: duckdb.DuckDBPyConnection) -> Iterator[Edges]:
    reader = database.sql(
        """SELECT least(a.rank, b.rank) AS preferred, greatest(a.rank, b.rank) AS other, similarity
        FROM edges JOIN ranked a ON a.document = "left" JOIN ranked b ON b.document = "right"
        ORDER BY other, similarity DESC, preferred"""
    ).to_arrow_reader(EDGE_BATCH)
    for batch in reader:
        yield batch["preferred"].to_numpy(), batch["other"].to_numpy(), batch["similarity"].to_numpy()


def _check_ceiling(database: duckdb.DuckDBPyConnection, step: Keeping) -> None:
    """Raise TamisError with a table when a source would lose more than it may."""
    losses = database.execute(
        """WITH lost AS (SELECT source, count(*) AS dropped FROM decided JOIN ranked USING (rank) GROUP BY source),
        had AS (SELECT source, count(*) AS documents FROM attributes SEMI JOIN live USING (document)
                WHERE source IN (SELECT source FROM lost) GROUP BY source)
        SELECT source, documents, dropped FROM lost JOIN had USING (source) ORDER BY dropped / documents DESC, source"""
    ).fetchall()
    over = [
        (source, documents, dropped)
        for source, documents, dropped in losses
        if documents >= CEILING_FROM and dropped > step.max_drop_per_source * documents and source not in step.allow
    ]
    if not over:
        return
    groups = database.execute(
        f"""SELECT k.id, k.source, count(*) AS dropped FROM decided JOIN ranked k ON k.rank = kept_rank
        GROUP BY ALL ORDER BY dropped DESC, k.id LIMIT {LISTED}"""
    ).fetchall()
    lines = [
        f"{len(over)} source{'s' * (len(over) > 1)} would lose more than {step.max_drop_per_source:.0%} of the "
        "documents to near-duplicates; nothing was committed. Look at the groups, then --allow SOURCE or raise "
        "--max-drop-per-source",
        f"  {'source':<40} {'documents':>10} {'dropped':>10} {'share':>7}",
        *(
            f"  {source:<40} {documents:>10,} {dropped:>10,} {dropped / documents:>7.1%}"
            for source, documents, dropped in over[:LISTED]
        ),
        f"  {'kept document of the largest groups':<40} {'dropped':>10}  source",
        *(f"  {name:<40} {dropped:>10,}  {source}" for name, source, dropped in groups),
    ]
    raise TamisError("\n".join(lines))


def _decide(store: Store, task: Task) -> Receipt:
    live = read_live(store, task["shard"], task["layers"], ["row", "id"])
    gone = gather([task["resolved"]], task["number"])
    dropped = drops(
        gone["row"].to_numpy(),
        RULE,
        task["reason"],
        kept_id=gone["kept_id"],
        similarity=gone["similarity"].to_numpy(),
    )
    return decide(store, live, dropped, layer=task["layer"])

"""The tables of the projection, and their rows for what was committed since it was written.

All that grows with shards is moved as Arrow tables and joined by DuckDB; Python sees snapshots and lists only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from catalog.catalog import Catalog
from catalog.counts import ATTRIBUTES, DOCUMENTS, WINDOWS, count_shards
from catalog.lists import Lists
from catalog.manifest import files_table
from catalog.snapshot import Run, Snapshot
from catalog.tables import read_table


def _schema(**types: pa.DataType) -> pa.Schema:
    return pa.schema(list(types.items()))


TEXT, INT, LONG = pa.string(), pa.int32(), pa.int64()

TABLES = {
    "published_state": _schema(root=TEXT, sequence=LONG, head=TEXT, definitions=TEXT),
    # documents, live: the lists of these tables; depth: number of layers; counted: whose figures answer for this one
    "snapshot_rows": _schema(
        number=INT, snapshot=TEXT, name=TEXT, version=INT, kind=TEXT, id=TEXT, run=TEXT, step=TEXT, shards=INT,
        rows=LONG, bytes=LONG, layers=pa.list_(TEXT), summary=TEXT, documents=INT, live=INT, depth=INT, counted=INT,
        is_live=pa.bool_(),
    ),
    "run_rows": _schema(
        run=TEXT, step=TEXT, parameters=TEXT, code=TEXT, started=pa.timestamp("ms", tz="UTC"), seconds=pa.float64()
    ),
    "stage_rows": _schema(run=TEXT, stage=TEXT, tasks=INT, rows=LONG, unit=TEXT, bytes=LONG, seconds=pa.float64()),
    "lineage_rows": _schema(snapshot=TEXT, input=TEXT, position=INT, step=TEXT),
    # of a layer also its position, and the snapshot whose step decided; both null for other tables
    "column_rows": _schema(snapshot=INT, tbl=TEXT, position=INT, list=INT, decided=INT),
    "lists": _schema(list=INT, kind=TEXT, digest=TEXT, manifest=TEXT),
    "list_rows": _schema(list=INT, shard=INT, file=LONG),
    "file_rows": _schema(kind=TEXT, file=LONG, sha256=pa.binary(), suffix=TEXT, bytes=LONG),
    "attribute_rows": _schema(attribute=TEXT, documents=LONG, file=LONG),
    # list: of the table of the documents that it names
    "takedown_rows": _schema(
        takedown=INT, time=pa.timestamp("ms", tz="UTC"), reason=TEXT, documents=LONG, list=INT,
        finished=pa.timestamp("ms", tz="UTC"), replaced=pa.list_(TEXT), expired=pa.list_(TEXT),
    ),
    "exposure_rows": _schema(takedown=INT, model=TEXT, packs=TEXT, rows=LONG, samples=LONG, first=LONG),
    "total_rows": pa.schema([("snapshot", INT), *DOCUMENTS]),
    "window_rows": pa.schema([("list", INT), *WINDOWS]),
}  # fmt: skip
DECIDES_AGAIN = "redecide"  # the last decision is its own also where it is equal to that of its input


class Projected:
    """Rows to add to the tables of an open projection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, catalog: Catalog):
        self._connection = connection
        self._catalog = catalog
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        self._lists = Lists(connection)
        self._windows = {number for (number,) in self._select("DISTINCT list", "window_rows")}
        self._numbers = {snapshot.ref: number for number, snapshot in enumerate(catalog.history, 1)}
        self._columns: dict[int, dict[str, int]] = {}
        self._decided: dict[tuple[int, str], int] = {}  # snapshot, layer -> the snapshot whose step decided
        for snapshot, tbl, number, decided in self._select("snapshot, tbl, list, decided", "column_rows"):
            self._columns.setdefault(snapshot, {})[tbl] = number
            if decided is not None:
                self._decided[snapshot, tbl] = decided

    def extend(self) -> set[str]:
        """Write the rows of the snapshots and runs that are missing; the kinds of files of which there are new ones."""
        catalog = self._catalog
        ((known,),) = self._select("count(*)", "snapshot_rows")
        runs = {run for (run,) in self._select("run", "run_rows")}
        for run in (each for each in catalog.runs.values() if each.fingerprint not in runs):
            self._rows["run_rows"].append(_run_row(run))
            self._rows["stage_rows"] += [{"run": run.fingerprint, **stage} for stage in run.stages]
        new = list(enumerate(catalog.history, 1))[known:]
        for number, snapshot in new:
            self._add(number, snapshot)
        if not known:  # a takedown or an expiry makes everything be written anew
            self._add_takedowns()
        kinds = self._lists.write()
        for name, rows in {**self._rows, "lists": self._lists.new}.items():
            self._insert(name, pa.Table.from_pylist(rows, schema=TABLES[name]))
        self._write_sizes([number for number, _ in new])
        self._write_attributes([number for number, _ in new])
        self._choose_counts()
        return kinds

    def _add(self, number: int, snapshot: Snapshot) -> None:
        contents, step = snapshot.contents, self._catalog.runs[snapshot.run].step
        is_live = self._catalog.is_live(snapshot)
        mine = self._columns[number] = self._lists.of(snapshot.contents) if is_live else {}
        layers = {layer: position for position, layer in enumerate(contents.layers if is_live else ())}
        self._decided |= {(number, layer): self._decider(number, layer) for layer in layers}
        if layers and step == DECIDES_AGAIN:
            self._decided[number, contents.layers[-1]] = number
        self._rows["column_rows"] += [
            {
                "snapshot": number,
                "tbl": tbl,
                "position": layers.get(tbl),
                "list": each,
                "decided": self._decided.get((number, tbl)),
            }
            for tbl, each in mine.items()
        ]
        self._rows["snapshot_rows"].append(
            {
                "number": number,
                "snapshot": snapshot.ref,
                **{name: getattr(snapshot, name) for name in ("name", "version", "id", "run")},
                "kind": contents.kind,
                "step": step,
                "shards": len(contents.shards),
                "rows": contents.rows,
                "bytes": 0,
                "layers": list(contents.layers),
                "summary": json.dumps(contents.summary, sort_keys=True),
                "documents": mine.get("documents"),
                "live": mine[contents.layers[-1]] if layers else None,
                "depth": len(contents.layers),
                "counted": None,
                "is_live": is_live,
            }
        )
        self._rows["lineage_rows"] += [
            {"snapshot": snapshot.ref, "input": needed, "position": position, "step": step}
            for position, needed in enumerate(snapshot.inputs)
        ]
        self._count(number, snapshot, mine)

    def _decider(self, number: int, layer: str) -> int:
        """The snapshot whose step took the decisions of a layer: itself, unless it was made from one that has them.

        Behind an input that expired stand its own inputs.
        """
        history, mine = self._catalog.history, self._columns[number]
        waiting = [self._numbers[ref] for ref in history[number - 1].inputs]
        seen = set(waiting)
        for before in waiting:
            theirs = self._columns.get(before, {})
            if all(theirs.get(table) == mine[table] for table in ("documents", layer)):
                return self._decided[before, layer]
            if not self._catalog.is_live(history[before - 1]):
                behind = {self._numbers[ref] for ref in history[before - 1].inputs} - seen
                waiting += sorted(behind)
                seen |= behind
        return number

    def _add_takedowns(self) -> None:
        catalog = self._catalog
        rewrites = {number: rewrite for rewrite in catalog.rewrites for number in rewrite.takedowns}
        for each in catalog.takedowns:
            done = rewrites.get(each.number)
            self._rows["takedown_rows"].append(
                {
                    "takedown": each.number,
                    "time": int(each.time * 1000),
                    "reason": each.reason,
                    "documents": each.documents,
                    "list": self._lists.number("taken_down", files_table([each.named])),
                    "finished": int(done.time * 1000) if done else None,
                    "replaced": list(done.replaced.values()) if done else [],
                    "expired": list(done.expired) if done else [],
                }
            )
        self._rows["exposure_rows"] += [
            {"takedown": number, **asdict(each)}
            for rewrite in catalog.rewrites
            for number in rewrite.takedowns
            for each in rewrite.exposures
        ]

    def _count(self, number: int, snapshot: Snapshot, mine: dict[str, int]) -> None:
        """The figures of a snapshot: as they were stored with it, else counted now."""
        contents = snapshot.contents
        if "documents" not in mine:
            return
        if contents.counts:
            counted = {name: read_table(self._catalog.store, ref) for name, ref in contents.counts.items()}
        else:
            counted = count_shards(self._catalog.store, contents.shards, contents.layers)
        rows = counted["documents"]
        self._insert("total_rows", rows.add_column(0, "snapshot", pa.array(np.full(len(rows), number, np.int32))))
        cells = mine.get("cells")
        if cells is not None and cells not in self._windows and "windows" in counted:
            self._windows.add(cells)
            rows = counted["windows"]
            self._insert("window_rows", rows.add_column(0, "list", pa.array(np.full(len(rows), cells, np.int32))))

    def _write_sizes(self, new: Sequence[int]) -> None:
        """The bytes of the files of each snapshot, every file once: steps that drop nothing write equal files.

        What is held is a table first, so that its size is known: else the plan may hash all files for one more.
        """
        self._connection.execute(
            """CREATE TEMP TABLE held AS SELECT DISTINCT c.snapshot, l.kind, r.file
            FROM column_rows c JOIN lists l USING (list) JOIN list_rows r USING (list) WHERE c.snapshot >= ?""",
            [min(new, default=0)],
        )
        self._connection.execute(
            """UPDATE snapshot_rows s SET bytes = b.bytes FROM (
                SELECT snapshot, sum(bytes)::BIGINT AS bytes
                FROM held JOIN file_rows USING (kind, file) GROUP BY snapshot
            ) b WHERE b.snapshot = s.number"""
        )
        self._connection.execute("DROP TABLE held")

    def _write_attributes(self, new: Sequence[int]) -> None:
        """Token counts and domains by documents file, the newest: found later, they serve older snapshots too."""
        for attribute in ATTRIBUTES:
            pairs: dict[int, int] = {}  # list of documents -> list of the attribute
            for mine in (self._columns[number] for number in new):
                if "documents" in mine and attribute in mine:
                    pairs.pop(mine["documents"], None)
                    pairs[mine["documents"]] = mine[attribute]
            for documents, values in pairs.items():
                self._connection.execute(
                    "DELETE FROM attribute_rows WHERE attribute = ? AND documents IN "
                    "(SELECT file FROM list_rows WHERE list = ?)",
                    [attribute, documents],
                )
                self._connection.execute(
                    """INSERT INTO attribute_rows SELECT DISTINCT ON (d.file) ?, d.file, v.file
                    FROM list_rows d JOIN list_rows v USING (shard) WHERE d.list = ? AND v.list = ?
                    ORDER BY d.file, d.shard DESC""",
                    [attribute, documents, values],
                )

    def _choose_counts(self) -> None:
        """For each snapshot the newest that was counted on the same shards and went through the same layers first."""
        stacks = {
            number: (documents, tuple(self._columns[number][layer] for layer in layers))
            for number, documents, layers in self._select("number, documents, layers", "snapshot_rows")
            if documents is not None
        }
        newest: dict[tuple[int, tuple[int, ...]], int] = {}
        for number, (documents, layers) in sorted(stacks.items()):
            for depth in range(len(layers) + 1):
                newest[documents, layers[:depth]] = number
        chosen = [{"number": number, "counted": newest[stack]} for number, stack in stacks.items()]
        self._connection.register("rows", pa.Table.from_pylist(chosen, schema=_schema(number=INT, counted=INT)))
        self._connection.execute(
            "UPDATE snapshot_rows s SET counted = r.counted FROM rows r "
            "WHERE s.number = r.number AND s.counted IS DISTINCT FROM r.counted"
        )
        self._connection.unregister("rows")

    def _select(self, what: str, table: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(f"SELECT {what} FROM {table}").fetchall()

    def _insert(self, name: str, rows: pa.Table) -> None:
        if rows.num_rows:
            self._connection.register("rows", rows)
            self._connection.execute(f"INSERT INTO {name} SELECT * FROM rows")
            self._connection.unregister("rows")


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "run": run.fingerprint,
        "step": run.step,
        "parameters": json.dumps(run.parameters, sort_keys=True),
        "code": run.code,
        "started": int(run.started * 1000),
        "seconds": run.seconds,
    }

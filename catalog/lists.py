"""Lists of files in the projection: which lists there are, which files they have, and by which numbers.

A *list* is the files of one table of a snapshot in shard order; equal lists are stored once, however many snapshots
share them, and are told by the digest of their digests. Files are numbered by kind in the order in which they came.
"""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from catalog.manifest import LIVE, Filed, columns, digest, files_table
from catalog.snapshot import Contents


class Lists:
    """The lists of an open projection, and those to add to it: `new` has the rows of the table `lists`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection):
        self._connection = connection
        known = connection.execute("SELECT list, kind, digest, manifest FROM lists").fetchall()
        self._numbers = {(kind, identity): number for number, kind, identity, _ in known}
        self._manifests = {manifest: number for number, _, _, manifest in known if manifest}
        self._staged: list[pa.Table] = []
        self.new: list[dict[str, Any]] = []

    def of(self, contents: Contents) -> dict[str, int]:
        """Table -> number of its list, for the tables of the shards and the artifacts."""
        kinds = dict.fromkeys(contents.layers, "decisions")
        found = {name: self.number(name, files_table([ref])) for name, ref in contents.artifacts.items()}
        if "given" in contents.counts:
            found["given"] = self.number("given", files_table([contents.counts["given"]]))
        if isinstance(contents.shards, Filed):
            for name, ref in contents.shards.files.items():
                if name != LIVE:
                    number = self._manifests.get(ref.sha256)
                    if number is None:
                        rows = contents.shards.table(name)
                        number = self.number(kinds.get(name, name), rows, manifest=ref.sha256)
                    found[name] = number
            return found
        return found | {
            name: self.number(kinds.get(name, name), files) for name, files in columns(contents.shards).items()
        }

    def number(self, kind: str, files: pa.Table, *, manifest: str = "") -> int:
        """The number of a list, with its rows staged when it is new."""
        identity = digest(files)
        number = self._numbers.get((kind, identity))
        if number is None:
            number = self._numbers[kind, identity] = len(self._numbers) + 1
            row = {"list": number, "kind": kind, "digest": identity, "manifest": manifest or None}
            self.new.append(row)
            size = files.num_rows
            staged = files.append_column("kind", pa.repeat(pa.scalar(kind), size))
            staged = staged.append_column("list", pa.array(np.full(size, number, np.int32)))
            self._staged.append(staged.append_column("shard", pa.array(np.arange(size, dtype=np.int32))))
        if manifest:
            self._manifests[manifest] = number
        return number

    def write(self) -> set[str]:
        """Number the files of the new lists; the kinds of those that no list had before.

        The semi join comes first: with all known files on the build side of a join one more file took 0.2 s.
        """
        if not self._staged:
            return set()
        connection = self._connection
        connection.register("staged", pa.concat_tables(self._staged))
        connection.execute(
            "CREATE TEMP TABLE numbered AS SELECT f.* FROM file_rows f SEMI JOIN staged s "
            "ON s.kind = f.kind AND s.sha256 = f.sha256"
        )
        connection.execute(
            """CREATE TEMP TABLE fresh AS
            WITH first AS (
                SELECT DISTINCT ON (kind, sha256) * FROM staged s ANTI JOIN numbered n USING (kind, sha256)
                WHERE sha256 IS NOT NULL ORDER BY kind, sha256, list, shard
            ), known AS (SELECT kind, count(*) AS files FROM file_rows GROUP BY kind)
            SELECT kind, coalesce(files, 0) + row_number() OVER (PARTITION BY kind ORDER BY list, shard) - 1 AS file,
                   sha256, suffix, bytes
            FROM first LEFT JOIN known USING (kind) ORDER BY kind, file"""
        )
        connection.execute("INSERT INTO file_rows SELECT * FROM fresh")
        connection.execute("INSERT INTO numbered SELECT * FROM fresh")
        connection.execute(
            """INSERT INTO list_rows SELECT s.list, s.shard, n.file
            FROM staged s JOIN numbered n USING (kind, sha256) ORDER BY s.list, s.shard"""
        )
        kinds = {kind for (kind,) in connection.execute("SELECT DISTINCT kind FROM fresh").fetchall()}
        connection.unregister("staged")
        connection.execute("DROP TABLE fresh")
        connection.execute("DROP TABLE numbered")
        return kinds

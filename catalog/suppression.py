"""Taking documents down: which ones a condition means, and the commit from which no new snapshot holds them.

The condition is SQL over the columns of `documents`, which DuckDB reads without the text. What is taken down is a
text: every document with the same normal form goes with it, whatever its id, now and when it is ingested again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from catalog.catalog import HOLD_TEXT, Catalog
from catalog.errors import QueryError, UnknownReference, UsageError
from catalog.log import Action, new_token
from catalog.manifest import filed
from catalog.query import sql
from catalog.snapshot import Contents, Run, Snapshot, run_action, snapshot_action
from catalog.store import FileRef
from catalog.tables import write_table
from catalog.takedown import (
    NAMED,
    Exposure,
    Rewrite,
    Takedown,
    rewrite_action,
    rewrite_from_action,
    suppressed_texts,
    takedown_action,
    takedown_from_action,
)

ID = re.compile(r"[0-9a-f]{32}")
# A condition on these columns alone reads the files as they are; any other goes through the view `documents`.
STORED = "SELECT * EXCLUDE (file, row, domain) FROM documents_parquet WHERE n_chars > 0"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a request means: `named` is a table of NAMED without what was taken down before, `before` its rows."""

    named: pa.Table
    before: int


def select(catalog: Catalog, *, ids: Sequence[str], where: str) -> Selection:
    """The documents with these ids and those that meet the condition ('' for none). Raises UsageError, QueryError."""
    wrong = [each for each in ids if not ID.fullmatch(each)]
    if wrong:
        raise UsageError(f"{wrong[0]!r} is not a document id: expected 32 hexadecimal digits")
    if not ids and not where.strip():
        raise UsageError("nothing to take down: name documents with --id or --where")
    parts = [_where(catalog, where)] if where.strip() else []
    parts += [_with_ids(catalog, ids)] if ids else []
    found = pa.concat_tables(parts).group_by(["id", "content"]).aggregate([]).select(NAMED.names)
    if not found.num_rows:
        raise UnknownReference(f"no document meets {where!r}: `tamis sql` shows what there is in `documents`")
    known = pc.is_in(found["content"], value_set=suppressed_texts(catalog.store, catalog.suppressed)[0])
    named = found.filter(pc.invert(known)).sort_by([("id", "ascending")]).cast(NAMED)
    return Selection(named=named, before=found.num_rows - named.num_rows)


def suppress(catalog: Catalog, named: pa.Table, *, reason: str) -> Takedown:
    """Commit that these documents (NAMED) are taken down. Raises UsageError without a reason."""
    if not reason.strip():
        raise UsageError("a takedown needs its reason on record: give one with --reason, without quoting the text")
    ref = write_table(catalog.store, named)

    def build() -> list[Action]:
        number = len(catalog.takedowns) + 1
        takedown = Takedown(number=number, reason=reason, documents=named.num_rows, named=ref, time=0.0)
        return [takedown_action(takedown)]

    written = catalog.append(build, token=new_token())
    return takedown_from_action(written.actions[0]["takedown"], time=written.time)


def _where(catalog: Catalog, where: str) -> pa.Table:
    try:
        return sql(catalog, f"SELECT DISTINCT id, content FROM ({STORED}) AS documents WHERE ({where}\n)")
    except QueryError as error:
        if "Binder Error" not in str(error):
            raise
    return sql(catalog, f"SELECT DISTINCT id, content FROM documents WHERE ({where}\n)")


def _with_ids(catalog: Catalog, ids: Sequence[str]) -> pa.Table:
    listed = ", ".join(f"'{each}'" for each in ids)
    found = sql(catalog, f"SELECT DISTINCT id, content FROM documents_parquet WHERE id IN ({listed})")
    missing = sorted(set(ids) - set(found["id"].to_pylist()))
    if missing:
        raise UnknownReference(f"no document with the id {missing[0]} in {catalog.store.root}")
    return found


def commit_rewrite(
    catalog: Catalog,
    contents: Mapping[str, Contents],
    *,
    run: Run,
    takedowns: Sequence[int],
    expired: Sequence[str],
    exposures: Sequence[Exposure],
    found: FileRef,
    considered: Set[str],
) -> Rewrite | None:
    """Commit, all or nothing, what replaces the snapshots named in `contents`, and that those in `expired` expire.

    None, and no commit, when there is a live snapshot that may hold text and is not in `considered`, or a new takedown.
    """
    order = in_order(catalog, contents)
    listed = {ref: replace(each, shards=filed(catalog.store, each.shards)) for ref, each in contents.items()}

    def build() -> list[Action]:
        now = {each.ref for each in catalog.live() if each.contents.kind in HOLD_TEXT}
        if not now <= considered or len(catalog.takedowns) != max(takedowns):
            raise _Outrun
        replaced: dict[str, str] = {}
        snapshots = []
        for old in order:
            inputs = (old.ref, *(replaced[each] for each in old.inputs if each in replaced))
            version = catalog.next_version(old.name)
            new = Snapshot(
                name=old.name,
                version=version,
                id=contents[old.ref].id,
                run=run.fingerprint,
                inputs=inputs,
                contents=listed[old.ref],
                store=catalog.store,
            )
            replaced[old.ref] = new.ref
            snapshots.append(snapshot_action(new))
        rewrite = Rewrite(
            takedowns=tuple(takedowns),
            replaced=replaced,
            expired=tuple(expired),
            exposures=tuple(exposures),
            found=found,
            time=0.0,
        )
        return [*([run_action(run)] if snapshots else []), *snapshots, rewrite_action(rewrite)]

    try:
        written = catalog.append(build, token=new_token())
    except _Outrun:
        return None
    return rewrite_from_action(written.actions[-1]["rewrite"], time=written.time)


class _Outrun(Exception):
    """Another commit came first that the rewrite must see."""


def in_order(catalog: Catalog, references: Collection[str]) -> list[Snapshot]:
    """The snapshots with these references, each after those of them that it was made from."""
    out: dict[str, Snapshot] = {}

    def visit(snapshot: Snapshot) -> None:
        if snapshot.ref in seen:
            return
        seen.add(snapshot.ref)
        for each in catalog.inputs(snapshot):
            visit(each)
        if snapshot.ref in references:
            out[snapshot.ref] = snapshot

    seen: set[str] = set()
    for reference in sorted(references):
        visit(catalog.snapshot(reference))
    return list(out.values())

"""Why a document was kept or dropped: the decisions on it, the document kept instead, and the difference in words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from catalog.catalog import Catalog
from catalog.errors import UnknownReference, UsageError
from catalog.places import Place, places
from catalog.query import sql
from catalog.snapshot import Snapshot
from catalog.store import FileRef
from catalog.tables import read_row, read_rows_of

WORDS_SHOWN = 400
CONTEXT_WORDS = 6
LISTED = 10
CANDIDATES = 1000
READ = ("decisions", "domain", "cells", "matches")
DOCUMENT = ("id", "content", "source", "url", "n_chars", "n_bytes", "domain")


@dataclass(frozen=True, kw_only=True)
class _Document:
    """A document: its row of `documents`, and the tables of its shard."""

    place: Place
    columns: dict[str, Any]
    tables: list[_Table]


@dataclass(frozen=True, kw_only=True)
class _Table:
    """What a shard has about its documents, with the first snapshot that has it."""

    name: str
    kind: str
    ref: FileRef
    snapshot: Snapshot


def explain(catalog: Catalog, document: str) -> str:
    """A readable account of the document whose id begins with `document`. Raises UnknownReference or UsageError."""
    found = _find(catalog, document)
    name, row = found.columns["id"], found.columns
    domain = _attribute(catalog, found, "domain", "domain") or row["domain"]
    lines = [
        f"document {name}",
        f"  source {row['source']}" + (f", {row['url']}" if row["url"] else ""),
        f"  {row['n_chars']:,} characters, {row['n_bytes']:,} bytes, domain {domain or 'unknown'}",
        "decisions, in order",
    ]
    decisions = _decisions(catalog, found)
    lines += [f"  {each['snapshot']:<22} " + _verdict(each) for each in decisions] or ["  none was taken"]
    for each in decisions:
        if each["kept_id"]:
            lines += ["", f"kept instead: {each['kept_id']}", *_difference(catalog, name, each["kept_id"])]
    lines += _taken_down(catalog, row["content"])
    lines += _contamination(catalog, found)
    lines += _in_favour(catalog, name)
    lines += _placed(catalog, found)
    lines += _packed(catalog, name)
    return "\n".join(lines)


def _find(catalog: Catalog, document: str) -> _Document:
    if not re.fullmatch(r"[0-9a-f]{4,32}", document):
        raise UsageError(f"{document!r} is not a document id: expected 4 to 32 hexadecimal digits")
    found: dict[str, tuple[Place, dict[str, Any]]] = {}
    for place in places(catalog, "documents", document)[:CANDIDATES]:
        columns = read_row(catalog.store, place.file, place.row, DOCUMENT)
        if columns["id"].startswith(document):
            found.setdefault(columns["id"], (place, columns))
    if not found:
        raise UnknownReference(f"no document whose id begins with {document}; ids are in `select id from documents`")
    if len(found) > 1:
        first, second, *_ = sorted(found)
        raise UsageError(f"{document} begins more than one id ({first}, {second}): give more digits")
    ((place, columns),) = found.values()
    return _Document(place=place, columns=columns, tables=_tables(catalog, place.file))


def _tables(catalog: Catalog, documents: FileRef) -> list[_Table]:
    """Every table that a live snapshot has about the shard of a documents file, each once, as they were committed."""
    found: dict[tuple[str, FileRef], _Table] = {}
    for snapshot in filter(catalog.is_live, catalog.history):
        kinds = dict.fromkeys(snapshot.contents.layers, "decisions")
        for shard in snapshot.contents.shards:
            if shard.tables.get("documents") == documents:
                for name, ref in sorted(shard.tables.items()):
                    table = _Table(name=name, kind=kinds.get(name, name), ref=ref, snapshot=snapshot)
                    found.setdefault((name, ref), table)
    return [table for table in found.values() if table.kind in READ]


def _read(catalog: Catalog, document: _Document, table: _Table, columns: Sequence[str]) -> list[dict[str, Any]]:
    return read_rows_of(catalog.store, table.ref, document.place.row, columns)


def _attribute(catalog: Catalog, document: _Document, table: str, column: str) -> Any:
    rows = [row for each in document.tables if each.name == table for row in _read(catalog, document, each, [column])]
    return rows[-1][column] if rows else None


def _decisions(catalog: Catalog, document: _Document) -> list[dict[str, Any]]:
    """The decisions on a document, each once, in the order in which they were committed."""
    columns = ["kept", "rule", "reason", "kept_id", "similarity"]
    return [
        {"snapshot": each.snapshot.ref, **row}
        for each in document.tables
        if each.kind == "decisions"
        for row in _read(catalog, document, each, columns)
    ]


def _verdict(decision: dict[str, Any]) -> str:
    if decision["kept"]:
        return "kept"
    text = f"dropped by {decision['rule']}: {decision['reason']}"
    if decision["rule"] == "near-duplicate":
        text += f"; exact Jaccard {decision['similarity']:.4f}"
    return text


def _text(catalog: Catalog, document: str) -> str:
    rows = (
        read_row(catalog.store, each.file, each.row, ["id", "text"]) for each in places(catalog, "documents", document)
    )
    return next(row["text"] for row in rows if row["id"] == document)


def _difference(catalog: Catalog, dropped: str, kept: str) -> list[str]:
    """What differs, word by word: [-only in the dropped-] {+only in the kept+}, with some words around."""
    old = _text(catalog, dropped).split()[:5000]
    new = _text(catalog, kept).split()[:5000]
    if not old or not new:
        return ["  the text of one of them was taken down"]
    if old == new:
        return ["  word for word the same"]
    parts: list[str] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            same = old[a:b]
            if len(same) > 2 * CONTEXT_WORDS:
                same = [
                    *same[:CONTEXT_WORDS],
                    f"… {len(same) - 2 * CONTEXT_WORDS} equal words …",
                    *same[-CONTEXT_WORDS:],
                ]
            parts += same
        else:
            parts += [f"[-{' '.join(old[a:b])}-]"] * (b > a) + [f"{{+{' '.join(new[c:d])}+}}"] * (d > c)
    shown = parts[:WORDS_SHOWN]
    return [
        "  difference, [-only here-] {+only in the kept one+}:",
        "  " + " ".join(shown) + (" …" if len(parts) > len(shown) else ""),
    ]


def _taken_down(catalog: Catalog, content: str) -> list[str]:
    """The takedown of its text, whichever document was named."""
    if not catalog.takedowns:
        return []
    found = sql(
        catalog,
        """SELECT DISTINCT t.takedown, t.time, t.reason, t.models FROM takedowns t
        JOIN taken_down n ON n.takedown = t.takedown WHERE n.content = ? ORDER BY t.takedown""",
        [content],
    ).to_pylist()
    return [
        line
        for row in found
        for line in (
            "",
            f"taken down by takedown {row['takedown']} on {row['time']:%Y-%m-%d}: {row['reason']}",
            f"  models that may have seen it: {', '.join(row['models']) or 'none'}",
        )
    ]


def _contamination(catalog: Catalog, document: _Document) -> list[str]:
    """What it shares with evaluation sets."""
    lines = []
    for each in (table for table in document.tables if table.name == "matches"):
        inputs = _compared_with(catalog, each.snapshot)
        for row in _read(catalog, document, each, ["evaluation", "ngrams", "passage"]):
            shared = f"shares {row['ngrams']} n-grams with {inputs[row['evaluation'] + 1]}, the longest passage:"
            lines += ["", shared, row["passage"]]
    return lines


def _compared_with(catalog: Catalog, snapshot: Snapshot) -> tuple[str, ...]:
    """The inputs of the run that made the snapshot's matches: a takedown, or a later step, carries them on."""
    while catalog.runs[snapshot.run].step != "decontaminate":
        snapshot = catalog.snapshot(snapshot.inputs[0])
    return snapshot.inputs


def _in_favour(catalog: Catalog, name: str) -> list[str]:
    found = places(catalog, "decisions", name)[:CANDIDATES]
    rows = [
        {
            **read_row(catalog.store, each.file, each.row, ["id", "rule", "similarity", "kept_id"]),
            "file": each.file,
        }
        for each in found
    ]
    rows = sorted((row for row in rows if row["kept_id"] == name), key=lambda row: (-row["similarity"], row["id"]))
    if not rows:
        return []
    taken = {file: _taken_in(catalog, file) for file in {row["file"] for row in rows[:LISTED]}}
    lines = ["", "dropped in favour of this document"]
    lines += [
        f"  {row['id']}  {row['rule']}  Jaccard {row['similarity']:.4f}  {taken[row['file']]}" for row in rows[:LISTED]
    ]
    return lines + (["  …"] if len(rows) > LISTED else [])


def _taken_in(catalog: Catalog, decisions: FileRef) -> str:
    """The first live snapshot with these decisions."""
    return next(
        snapshot.ref
        for snapshot in filter(catalog.is_live, catalog.history)
        for shard in snapshot.contents.shards
        if any(shard.tables.get(layer) == decisions for layer in snapshot.contents.layers)
    )


def _placed(catalog: Catalog, document: _Document) -> list[str]:
    columns = ["window", "cell", "n_tokens", "similarity"]
    rows = [
        (each.snapshot.ref, row)
        for each in document.tables
        if each.name == "cells"
        for row in _read(catalog, document, each, columns)
    ]
    if not rows:
        return []
    return ["", "windows"] + [
        f"  {fitted:<22} {row['window']:>3}  {row['n_tokens']:>5} tokens in cell {row['cell']}, "
        f"cosine to its centroid {row['similarity']:.3f}"
        for fitted, row in rows[:LISTED]
    ]


def _packed(catalog: Catalog, name: str) -> list[str]:
    """The packs that hold the document, and the models trained from them."""
    segments: dict[str, int] = {}
    for place in places(catalog, "pack", name):
        segments[place.file.sha256] = segments.get(place.file.sha256, 0) + 1
    lines = []
    for snapshot in (each for each in catalog.live() if each.contents.kind == "packs"):
        rows = sum(segments.get(shard.tables["pack"].sha256, 0) for shard in snapshot.contents.shards)
        if rows:
            models = [
                each.ref
                for each in catalog.all_snapshots()
                if each.contents.kind == "model" and snapshot.ref in each.inputs
            ]
            trained = f"; trained from it: {', '.join(models)}" if models else ""
            lines.append(f"  {snapshot.ref}: {rows} segments{trained}")
    return ["", "packs", *lines] if lines else []

"""Why a document was kept or dropped: the decisions on it, the document kept instead, and the difference in words."""

from __future__ import annotations

import difflib
import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from catalog.catalog import Catalog
from catalog.errors import UnknownReference, UsageError
from catalog.query import sql

WORDS_SHOWN = 400
CONTEXT_WORDS = 6
LISTED = 10


def explain(catalog: Catalog, document: str) -> str:
    """A readable account of the document whose id begins with `document`. Raises UnknownReference or UsageError."""
    row = _find(catalog, document)
    name = row["id"]
    lines = [
        f"document {name}",
        f"  source {row['source']}" + (f", {row['url']}" if row["url"] else ""),
        f"  {row['n_chars']:,} characters, {row['n_bytes']:,} bytes, domain {row['domain'] or 'unknown'}",
        "decisions, in order",
    ]
    decisions = sql(
        catalog,
        f"""SELECT d.snapshot, d.kept, d.rule, d.reason, d.kept_id, d.similarity
        FROM decisions d JOIN snapshots s USING (snapshot) WHERE d.id = '{name}' ORDER BY s.started, d.snapshot""",
    ).to_pylist()
    for each in decisions:
        lines.append(f"  {each['snapshot']:<22} " + _verdict(each))
    if not decisions:
        lines.append("  none was taken")
    for each in decisions:
        if each["kept_id"]:
            lines += ["", f"kept instead: {each['kept_id']}", *_difference(catalog, name, each["kept_id"])]
    lines += _taken_down(catalog, name)
    lines += _contamination(catalog, name)
    lines += _in_favour(catalog, name)
    lines += _placed(catalog, name)
    lines += _packed(catalog, name)
    return "\n".join(lines)


def _find(catalog: Catalog, document: str) -> dict[str, Any]:
    if not re.fullmatch(r"[0-9a-f]{4,32}", document):
        raise UsageError(f"{document!r} is not a document id: expected 4 to 32 hexadecimal digits")
    rows = sql(
        catalog,
        f"""SELECT id, any_value(source) AS source, any_value(url) AS url, any_value(n_chars) AS n_chars,
        any_value(n_bytes) AS n_bytes, any_value(domain) AS domain
        FROM documents_parquet WHERE starts_with(id, '{document}') GROUP BY id ORDER BY id LIMIT 2""",
    ).to_pylist()
    if not rows:
        raise UnknownReference(f"no document whose id begins with {document}; ids are in `select id from documents`")
    if len(rows) > 1:
        raise UsageError(f"{document} begins more than one id ({rows[0]['id']}, {rows[1]['id']}): give more digits")
    return dict(rows[0])


def _verdict(decision: dict[str, Any]) -> str:
    if decision["kept"]:
        return "kept"
    text = f"dropped by {decision['rule']}: {decision['reason']}"
    if decision["rule"] == "near-duplicate":
        text += f"; exact Jaccard {decision['similarity']:.4f}"
    return text


def _text(catalog: Catalog, document: str) -> str:
    return str(sql(catalog, f"SELECT text FROM texts WHERE id = '{document}' LIMIT 1")["text"][0].as_py())


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


def _taken_down(catalog: Catalog, name: str) -> list[str]:
    """The takedown of its text, whichever document was named."""
    found = sql(
        catalog,
        f"""SELECT DISTINCT t.takedown, t.time, t.reason, t.models FROM takedowns t
        JOIN taken_down n ON n.takedown = t.takedown JOIN documents_parquet d ON d.content = n.content
        WHERE d.id = '{name}' ORDER BY t.takedown""",
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


def _contamination(catalog: Catalog, name: str) -> list[str]:
    """What it shares with evaluation sets."""
    found = sql(catalog, f"SELECT * FROM matches WHERE id = '{name}' ORDER BY snapshot, evaluation").to_pylist()
    return [
        line
        for row in found
        for line in (
            "",
            f"shares {row['ngrams']} n-grams with {row['evaluation']}, the longest passage:",
            row["passage"],
        )
    ]


def _in_favour(catalog: Catalog, name: str) -> list[str]:
    rows = sql(
        catalog,
        f"""SELECT id, rule, similarity, snapshot FROM decisions WHERE kept_id = '{name}'
        ORDER BY similarity DESC, id LIMIT {LISTED + 1}""",
    ).to_pylist()
    if not rows:
        return []
    lines = ["", "dropped in favour of this document"]
    lines += [
        f"  {row['id']}  {row['rule']}  Jaccard {row['similarity']:.4f}  {row['snapshot']}" for row in rows[:LISTED]
    ]
    return lines + (["  …"] if len(rows) > LISTED else [])


def _placed(catalog: Catalog, name: str) -> list[str]:
    rows = sql(
        catalog,
        f"""SELECT arg_min(snapshot, started) AS fitted, c."window", c.cell, c.n_tokens, c.similarity
        FROM cells c JOIN snapshots USING (snapshot) WHERE c.id = '{name}'
        GROUP BY ALL ORDER BY min(started), c."window" LIMIT {LISTED}""",
    ).to_pylist()
    if not rows:
        return []
    return ["", "windows"] + [
        f"  {row['fitted']:<22} {row['window']:>3}  {row['n_tokens']:>5} tokens in cell {row['cell']}, "
        f"cosine to its centroid {row['similarity']:.3f}"
        for row in rows
    ]


def _packed(catalog: Catalog, name: str) -> list[str]:
    """The packs that hold the document, and the models trained from them."""
    wanted = pa.scalar(bytes.fromhex(name), pa.binary(16))
    lines = []
    for snapshot in catalog.live():
        if snapshot.contents.kind != "packs":
            continue
        rows = 0
        for shard in snapshot.contents.shards:
            with pa.memory_map(str(catalog.store.local(shard.tables["pack"]))) as source:
                documents = pa.ipc.open_file(source).read_all()["documents"]
                found = pc.equal(pc.list_flatten(documents).cast(pa.binary(16)), wanted)
                rows += pc.sum(found).as_py() or 0
        if rows:
            models = [
                each.ref
                for each in catalog.all_snapshots()
                if each.contents.kind == "model" and snapshot.ref in each.inputs
            ]
            trained = f"; trained from it: {', '.join(models)}" if models else ""
            lines.append(f"  {snapshot.ref}: {rows} segments{trained}")
    return ["", "packs", *lines] if lines else []

"""Where a snapshot comes from: the tree of runs behind it, and the waterfall of what each rule removed."""

from __future__ import annotations

from dataclasses import dataclass

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.query import sql
from catalog.snapshot import Run, Snapshot

INGESTS = ("ingest", "ingest-feedback")  # steps whose evidence is the files that they read


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What one rule took: documents and tokens before it, and what it dropped. Tokens are None when never counted."""

    snapshot: str
    rule: str
    documents: int
    tokens: int | None
    dropped_documents: int
    dropped_tokens: int | None


def tree(catalog: Catalog, snapshot: Snapshot) -> list[str]:
    """Lines of the tree from `snapshot` down to source files; a snapshot met before is not drawn twice."""
    lines: list[str] = []
    seen: set[str] = set()

    def draw(node: Snapshot, lead: str, branch: str) -> None:
        run = catalog.runs[node.run]
        again = node.ref in seen
        facts = f"{run.step}  {_facts(node)}  {run.seconds:.1f} s  {node.id[:12]}  tamis {run.code}"
        lines.append(f"{lead}{branch}{node.ref}  " + ("see above" if again else facts))
        if again:
            return
        seen.add(node.ref)
        below = lead if not branch else lead + ("   " if branch.startswith("└") else "│  ")
        inputs, files = catalog.inputs(node), sources(run)
        note = "│  " if inputs or files else "   "
        settings = _settings(run)
        if settings:
            lines.append(f"{below}{note}{settings}")
        for number, each in enumerate(inputs):
            draw(each, below, "└─ " if number == len(inputs) - 1 and not files else "├─ ")
        for number, (name, sha256) in enumerate(files):
            lines.append(f"{below}{'└─ ' if number == len(files) - 1 else '├─ '}{name}  {sha256[:12]}")

    draw(snapshot, "", "")
    return lines


def sources(run: Run) -> list[tuple[str, str]]:
    """Name and sha256 of the files that an ingestion read from outside the store."""
    return [(name, sha256) for name, _, sha256 in run.evidence] if run.step in INGESTS else []


def _settings(run: Run) -> str:
    """Settings in one line, without the marks of identity; long ones are cut."""
    plain = {name: value for name, value in run.settings.items() if name != "paths"}
    text = ", ".join(f"{name} {value}" for name, value in plain.items() if isinstance(value, (int, float, str)))
    return text if len(text) <= 160 else text[:159] + "…"


def ancestors(catalog: Catalog, snapshot: Snapshot) -> list[Snapshot]:
    """Every snapshot that led to this one, itself last, each once."""
    found: dict[str, Snapshot] = {}

    def visit(node: Snapshot) -> None:
        if node.ref in found:  # there are more paths than snapshots
            return
        for each in catalog.inputs(node):
            visit(each)
        found[node.ref] = node

    visit(snapshot)
    return list(found.values())


def waterfall(catalog: Catalog, snapshot: Snapshot) -> list[Loss]:
    """The rules that led from ingestion to `snapshot`, in order, with what each dropped."""
    if not snapshot.contents.layers:
        raise UsageError(f"{snapshot.ref} went through no deciding step, so there is nothing to show")
    rows = sql(catalog, "FROM waterfall(?)", [snapshot.ref]).to_pylist()
    return [
        Loss(
            snapshot=row["snapshot"],
            rule=row["rule"],
            documents=row["documents"],
            tokens=row["n_tokens"],
            dropped_documents=row["dropped_documents"],
            dropped_tokens=row["dropped_tokens"],
        )
        for row in rows
    ]


def documents_behind(catalog: Catalog, packs: Snapshot) -> list[Snapshot | None]:
    """The documents that packs were cut from, of a blend all, as a takedown has left them; None for what expired."""
    found: list[Snapshot | None] = []
    for each in catalog.inputs(packs):
        if each.contents.kind == "documents":
            found.append(catalog.successor(each))
        elif each.contents.kind == "packs":
            found += documents_behind(catalog, each)
    return [each for position, each in enumerate(found) if each not in found[:position]]


def _facts(snapshot: Snapshot) -> str:
    summary = snapshot.contents.summary
    parts = []
    if snapshot.contents.kind == "documents":
        parts.append(f"{snapshot.contents.rows:,} documents")
    for key, unit in (("tokens", "tokens"), ("parameters", "parameters"), ("cells", "cells"), ("accuracy", "accuracy")):
        value = summary.get(key)
        if isinstance(value, float):
            parts.append(f"{value:.3f} {unit}")
        elif isinstance(value, int):
            parts.append(f"{value:,} {unit}")
    return ", ".join(parts) or snapshot.contents.kind

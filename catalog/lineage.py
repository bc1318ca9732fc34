"""Where a snapshot comes from: the tree of runs behind it, and the waterfall of what each rule removed."""

from __future__ import annotations

from dataclasses import dataclass

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.query import sql
from catalog.snapshot import Snapshot


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
    """Lines of the tree from `snapshot` down to what was ingested; a snapshot met before is not drawn twice."""
    lines: list[str] = []
    seen: set[str] = set()

    def draw(node: Snapshot, lead: str, branch: str) -> None:
        run = catalog.runs[node.run]
        again = node.ref in seen
        facts = "see above" if again else f"{run.step}  {_facts(node)}  {run.seconds:.1f} s  {node.id[:12]}"
        lines.append(f"{lead}{branch}{node.ref}  {facts}")
        if again:
            return
        seen.add(node.ref)
        below = lead if not branch else lead + ("   " if branch.startswith("└") else "│  ")
        inputs = catalog.inputs(node)
        for number, each in enumerate(inputs):
            draw(each, below, "└─ " if number == len(inputs) - 1 else "├─ ")

    draw(snapshot, "", "")
    return lines


def ancestors(catalog: Catalog, snapshot: Snapshot) -> list[Snapshot]:
    """Every snapshot that led to this one, itself last, each once."""
    found: dict[str, Snapshot] = {}

    def visit(node: Snapshot) -> None:
        for each in catalog.inputs(node):
            visit(each)
        found.setdefault(node.ref, node)

    visit(snapshot)
    return list(found.values())


def waterfall(catalog: Catalog, snapshot: Snapshot) -> list[Loss]:
    """The rules that led from ingestion to `snapshot`, in order, with what each dropped."""
    layers = snapshot.contents.layers
    if not layers:
        raise UsageError(f"{snapshot.ref} went through no deciding step, so there is nothing to show")
    refs = [each.ref for each in ancestors(catalog, snapshot) if each.contents.texts == snapshot.contents.texts]
    names = ", ".join(f"'{ref}'" for ref in refs)
    rows = sql(
        catalog,
        f"""SELECT snapshot, coalesce(rule, '') AS rule, count(*) AS documents, sum(n_tokens) AS tokens
        FROM decisions WHERE snapshot IN ({names}) GROUP BY ALL ORDER BY ALL""",
    ).to_pylist()
    losses = []
    for ref in dict.fromkeys(ref for ref in refs if any(row["snapshot"] == ref for row in rows)):
        mine = [row for row in rows if row["snapshot"] == ref]
        documents = sum(row["documents"] for row in mine)
        tokens = None if any(row["tokens"] is None for row in mine) else sum(row["tokens"] for row in mine)
        for row in sorted(mine, key=lambda row: (-row["documents"], row["rule"])):
            if row["rule"]:
                losses.append(
                    Loss(
                        snapshot=ref,
                        rule=row["rule"],
                        documents=documents,
                        tokens=None if tokens is None else int(tokens),
                        dropped_documents=row["documents"],
                        dropped_tokens=None if row["tokens"] is None else int(row["tokens"]),
                    )
                )
                documents -= row["documents"]
                tokens = None if tokens is None or row["tokens"] is None else tokens - row["tokens"]
    return losses


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

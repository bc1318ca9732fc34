"""Text that commands print about snapshots and models."""

from __future__ import annotations

import json

from catalog.catalog import Catalog
from catalog.lineage import Loss, waterfall
from catalog.snapshot import Snapshot


def facts(snapshot: Snapshot) -> str:
    """One line about a snapshot: what a reader wants to know first."""
    contents, summary = snapshot.contents, snapshot.contents.summary
    if contents.kind == "documents":
        text = f"{contents.rows:,} documents"
        if summary.get("dropped") is not None:
            text += f", {summary['dropped']:,} dropped"
        if summary.get("quarantined"):
            text += f", {sum(summary['quarantined'].values()):,} quarantined"
        if summary.get("windows"):
            text += f", {summary['windows']:,} windows"
        if summary.get("cells"):
            text += f" in {summary['cells']} cells"
        if summary.get("tokens"):
            text += f", {summary['tokens']:,} tokens"
        return text
    wanted = {
        "tokenizer": "{vocab_size:,} tokens learned from {documents:,} documents",
        "classifier": "accuracy {accuracy:.3f}, macro F1 {macro_f1:.3f} on {held_out_documents:,} held-out documents",
        "mixture": "{cells} cells, effective sample {effective_sample_size:.1f} cells, target coverage {coverage:.3f}",
        "packs": "{rows:,} rows of {context} tokens",
        "model": "{parameters:,} parameters, {tokens:,} tokens, loss {loss:.3f}",
    }
    return wanted[contents.kind].format(**summary) if contents.kind in wanted else contents.kind


def show_screen(catalog: Catalog, reference: str) -> str:
    """Everything the log knows about one snapshot."""
    snapshot = catalog.snapshot(reference)
    run = catalog.runs[snapshot.run]
    lines = [
        f"{snapshot.ref}  {snapshot.contents.kind}  {snapshot.id}",
        f"  made by {run.step} in {run.seconds:.1f} s (tamis {run.code}) from "
        + (", ".join(each.ref for each in catalog.inputs(snapshot)) or "files"),
        f"  settings {json.dumps({k: v for k, v in run.parameters.items() if k not in ('is', 'revision')})}",
        "figures",
    ]
    lines += [f"  {key:<28} {value}" for key, value in snapshot.contents.summary.items()]
    if run.stages:
        lines.append("stages")
        lines += [
            f"  {s['stage']:<20} {s['tasks']:>4} tasks  {s['documents']:>10,} docs  {s['bytes'] / 1e6:>8.1f} MB  "
            f"{s['seconds']:>7.2f} s"
            for s in run.stages
        ]
    if snapshot.contents.layers:
        lines += ["waterfall", waterfall_table(waterfall(catalog, snapshot))]
    lines += ["files", *(f"  {name:<20} {ref.path}" for name, ref in snapshot.contents.artifacts.items())]
    return "\n".join(lines)


def waterfall_table(losses: list[Loss]) -> str:
    """Documents and tokens that each rule removed, in order."""

    def line(rule: str, documents: int, tokens: int | None, sign: str) -> str:
        counted = "" if tokens is None else f"{sign}{tokens:,}"
        return f"  {rule:<28} {sign + format(documents, ','):>12} documents {counted:>16} tokens"

    if not losses:
        return "  nothing was dropped"
    rows = [line("ingested", losses[0].documents, losses[0].tokens, "")]
    for loss in losses:
        rows.append(line(loss.rule, loss.dropped_documents, loss.dropped_tokens, "-"))
    last = losses[-1]
    left = None if last.tokens is None or last.dropped_tokens is None else last.tokens - last.dropped_tokens
    rows.append(line("left", last.documents - last.dropped_documents, left, ""))
    return "\n".join(rows)

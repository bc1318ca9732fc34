"""Text that commands print about snapshots and models."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from catalog.catalog import Catalog
from catalog.counterfactual import Alone
from catalog.errors import UsageError
from catalog.lineage import Loss, waterfall
from catalog.query import render, sql
from catalog.snapshot import Contents, Snapshot
from clusters.advice import FEWEST_HELD_OUT, MOST_OUTSIDE

BEFORE = ("specialized", "generic")
AFTER = ("specialized-tuned", "generic-tuned")
POOL_RULES = ("pool-unique", "pool-dedup", "pool-quality", "clean")  # what takes documents from the pool for good


def facts(snapshot: Snapshot) -> str:
    """One line about a snapshot: what a reader wants to know first."""
    tell = FACTS.get(snapshot.contents.kind)
    return tell(snapshot.contents, snapshot.contents.summary) if tell else snapshot.contents.kind


def _of_documents(contents: Contents, summary: Mapping[str, Any]) -> str:
    text = f"{contents.rows:,} documents"
    if summary.get("dropped") is not None:
        text += f", {summary['dropped']:,} dropped"
    if summary.get("quarantined"):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary["quarantined"].items())
        text += f", {sum(summary['quarantined'].values()):,} quarantined ({reasons})"
    if summary.get("windows"):
        text += f", {summary['windows']:,} windows"
    if summary.get("cells"):
        text += f" in {summary['cells']} cells"
    if summary.get("tokens"):
        text += f", {summary['tokens']:,} tokens"
    return text


def _of_mixture(_: Contents, summary: Mapping[str, Any]) -> str:
    text = f"{summary['cells']} cells, effective sample {summary['effective_sample_size']:.1f} cells"
    if "coverage" in summary:
        text += f", target coverage {summary['coverage']:.3f}"
    return text + "".join(_warnings(summary))


def _of_model(_: Contents, summary: Mapping[str, Any]) -> str:
    text = f"{summary['parameters']:,} parameters"
    return text + (f", {summary['tokens']:,} tokens, loss {summary['loss']:.3f}" if "loss" in summary else "")


def _of_audit(_: Contents, summary: Mapping[str, Any]) -> str:
    found, planted = (
        sum(row[name] for row in summary["levels"] if row["from"] >= summary["threshold"]) for name in ("found", "of")
    )
    return f"{found:,} of {planted:,} planted copies found"


def _of_evaluation(_: Contents, summary: Mapping[str, Any]) -> str:
    results = summary["results"]
    if "task" in results[0]:
        return ", ".join(f"{row['model']} {row['accuracy']:.3f} on {row['task']}" for row in results)
    return ", ".join(f"{row['model']} {row['bits_per_byte']:.3f}" for row in results) + " bits/byte"


def _of_forecast(_: Contents, summary: Mapping[str, Any]) -> str:
    stages = (f"{summary[name]['gain']:+.3f} {name}" for name in ("before", "after"))
    return f"gain {', '.join(stages)} fine-tuning, from {summary['documents']:,} documents"


def _of_verdict(_: Contents, summary: Mapping[str, Any]) -> str:
    return f"winner {summary['winner']}" if "winner" in summary else f"{summary['model']}: {summary['verdict']}"


def _filled(template: str) -> Callable[[Contents, Mapping[str, Any]], str]:
    return lambda _, summary: template.format(**summary)


FACTS: dict[str, Callable[[Contents, Mapping[str, Any]], str]] = {
    "documents": _of_documents,
    "tokenizer": _filled("{vocab_size:,} tokens learned from {documents:,} documents"),
    "classifier": _filled(
        "accuracy {accuracy:.3f}, macro F1 {macro_f1:.3f} on {held_out_documents:,} held-out documents"
    ),
    "mixture": _of_mixture,
    "packs": _filled("{rows:,} rows of {context} tokens"),
    "model": _of_model,
    "audit": _of_audit,
    "evaluation": _of_evaluation,
    "forecast": _of_forecast,
    "verdict": _of_verdict,
    "export": _filled("{model}, {bits_per_byte:.4f} bits/byte on validation"),
}


def _warnings(summary: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a mixture."""
    if summary.get("pool_too_small"):
        yield ", THE POOL AS IT IS: too small for this stream and its cap"
    if "slopes" in summary and not any(summary["slopes"]):
        yield ", THE POOL AS IT IS: the scores do not tell the target from it"
    if summary.get("held_out") is False:
        yield ", CALIBRATED ON WHAT IT LEARNED: the target has one document"
    if summary.get("coverage", 1.0) < 1 - MOST_OUTSIDE:
        yield ", THE POOL CAN HARDLY HELP: most of the target lies further from its cells than 99% of the pool"


def show_screen(catalog: Catalog, reference: str) -> str:
    """Everything the log knows about one snapshot."""
    snapshot = catalog.snapshot(reference)
    run = catalog.runs[snapshot.run]
    lines = [
        f"{snapshot.ref}  {snapshot.contents.kind}  {snapshot.id}",
        f"  made by {run.step} in {run.seconds:.1f} s (tamis {run.code}) from "
        + (", ".join(each.ref for each in catalog.inputs(snapshot)) or "files"),
    ]
    for title, values in (("settings", run.settings), ("figures", snapshot.contents.summary)):
        lines += [title, *_aligned(values)] if values else []
    if run.stages:
        lines.append("stages")
        lines += [
            f"  {s['stage']:<20} {s['tasks']:>4} tasks  {s['rows']:>10,} {s['unit']:<9}  {s['bytes'] / 1e6:>8.1f} MB  "
            f"{s['seconds']:>7.2f} s"
            for s in run.stages
        ]
    if not catalog.is_live(snapshot):
        lines.append("expired: this is its record, its files are kept no longer")
    elif snapshot.contents.layers:
        lines += ["waterfall", waterfall_table(waterfall(catalog, snapshot))]
    if snapshot.contents.artifacts:
        lines += ["files", *_aligned({name: ref.path for name, ref in snapshot.contents.artifacts.items()})]
    return "\n".join(lines)


def _aligned(values: Mapping[str, Any], margin: str = "  ") -> list[str]:
    """A line for each value; what is nested stands below its name, several of a kind as a table."""
    lines = []
    for name, value in values.items():
        below = margin + "  "
        if isinstance(value, Mapping) and value and all(isinstance(each, Mapping) for each in value.values()):
            value = [{"": key, **each} for key, each in value.items()]
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            table = render(pa.Table.from_pylist(value)).splitlines()
            lines += [margin + name, *(below + row for row in table)]
        elif isinstance(value, Mapping) and value:
            lines += [margin + name, *_aligned(value, below)]
        else:
            lines.append(f"{margin}{name:<{30 - len(margin)}} {_readable(value)}")
    return lines


def _readable(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_readable, value)) or "none"
    return "none" if value is None or value == {} else str(value)


def waterfall_table(losses: list[Loss]) -> str:
    """Documents and tokens that each rule removed, in order."""

    def line(rule: str, documents: int, tokens: int | None, sign: str) -> str:
        counted = "" if tokens is None else f" {sign + format(tokens, ','):>16} tokens"
        return f"  {rule:<28} {sign + format(documents, ','):>12} documents{counted}"

    if not losses:
        return "  nothing was dropped"
    rows = [line("ingested", losses[0].documents, losses[0].tokens, "")]
    for loss in losses:
        rows.append(line(loss.rule, loss.dropped_documents, loss.dropped_tokens, "-"))
    last = losses[-1]
    left = None if last.tokens is None or last.dropped_tokens is None else last.tokens - last.dropped_tokens
    rows.append(line("left", last.documents - last.dropped_documents, left, ""))
    return "\n".join(rows)


def alone_table(rows: list[Alone]) -> str:
    """What would have become of the documents of each rule without it."""
    lines = [f"  {'rule':<28} {'dropped':>10} {'taken anyway':>13} {'left':>10} {'unknown':>10}"]
    lines += [
        f"  {row.rule:<28} {row.dropped:>10,} {row.taken_anyway:>13,} {row.left:>10,} {row.unknown:>10,}"
        for row in rows
    ]
    return "\n".join(lines)


def last_screen(catalog: Catalog, made: Mapping[str, Snapshot], model: Path, *, store: str) -> str:
    """What the main job ends with: where text went, how good the models are, and where to look next."""
    test, exported = made["test-scores"].contents.summary, made["export"].contents.summary
    best = exported["model"]
    drawn = made["resampled"].contents.summary
    lines = ["", "Where the text went", waterfall_table(waterfall(catalog, made["resampled"]))]
    lines += [f"  of these, {drawn['windows']:,} windows with {drawn['tokens']:,} tokens were drawn"]
    lines += ["", f"Results on {test['results'][0]['documents']:,} test documents of the target", results_table(test)]
    lines += ["", *forgetting(made["pool-scores"].contents.summary)]
    lines += ["", f"Best on validation: {best}, exported to {model}"]
    prompt = _prompt(catalog, made["test"])
    lines += [
        "",
        "A sample, after the prompt in brackets",
        f"  [{prompt}] " + _indent(continue_text(store, made[best].ref, prompt)),
    ]
    further = suggestions(catalog, made, store=store, prompt=prompt)
    lines += ["", "To look further", *(f"  {command}" for command in further)]
    return "\n".join(lines)


def results_table(summary: Mapping[str, Any]) -> str:
    """Bits per byte and perplexity of each model, and the paired differences that matter."""
    lines = ["  model                bits/byte   perplexity"]
    for row in summary["results"]:
        lines.append(f"  {row['model']:<18} {row['bits_per_byte']:>11.4f} {row['perplexity']:>12.2f}")
    pairs = {(row["model"], row["baseline"]): row for row in summary["comparisons"]}
    for title, pair in (("before fine-tuning", BEFORE), ("after fine-tuning", AFTER)):
        row = pairs.get(pair)
        if row is not None:
            lines.append(
                f"  {title}: {pair[0]} - {pair[1]} = {row['difference']:+.4f} bits/byte, "
                f"95% interval [{row['low']:+.4f}, {row['high']:+.4f}]: "
                f"{verdict(row, documents=summary['results'][0]['documents'])}"
            )
    return "\n".join(lines)


def forgetting(summary: Mapping[str, Any]) -> list[str]:
    """What fine-tuning cost on the pool: bits per byte of each model before and after."""
    bits = {row["model"]: row["bits_per_byte"] for row in summary["results"]}
    pairs = {(row["model"], row["baseline"]): row for row in summary["comparisons"]}
    lines = [f"What fine-tuning forgot, on {summary['results'][0]['documents']:,} documents of the pool"]
    for tuned in (f"{name}-tuned" for name in bits if f"{name}-tuned" in bits):
        before, row = tuned.removesuffix("-tuned"), pairs[tuned, tuned.removesuffix("-tuned")]
        lines.append(
            f"  {before:<18} {bits[before]:>11.4f} -> {bits[tuned]:.4f} bits/byte, "
            f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
        )
    return lines


def verdict(row: Mapping[str, Any], *, documents: int) -> str:
    """What the interval allows to say; over few documents a bootstrap is too sure of itself."""
    if documents < FEWEST_HELD_OUT:
        return f"too few documents to tell ({documents})"
    if row["high"] < 0:
        return "importance resampling is better"
    return "importance resampling is worse" if row["low"] > 0 else "no difference can be told"


def suggestions(catalog: Catalog, made: Mapping[str, Snapshot], *, store: str, prompt: str) -> list[str]:
    """Shell commands that work where this one was given."""
    tamis, at = program(), f"--store {shlex.quote(store)}"
    model = made[made["export"].contents.summary["model"]].ref
    rules = ", ".join(f"'{made[name].ref}'" for name in POOL_RULES)
    dropped = sql(
        catalog,
        "SELECT id FROM decisions WHERE snapshot = ? AND rule = 'near-duplicate' ORDER BY similarity, id LIMIT 1",
        [made["pool-dedup"].ref],
    )
    explained = [f"{tamis} explain {at} {document}" for document in dropped["id"].to_pylist()]
    return [
        f'{tamis} sql {at} "select rule, count(*) docs, sum(n_tokens) tokens from decisions '
        f'where not kept and snapshot in ({rules}) group by all order by docs desc"',
        *explained,
        f"{tamis} show {at} {made['resampled'].ref}",
        f"{tamis} log {at} {model}",
        f"{tamis} generate {at} {model} -- {shlex.quote(prompt)}",
    ]


def program() -> str:
    """What a shell calls this program: its name, or its path where the environment is not activated."""
    if shutil.which("tamis"):
        return "tamis"
    path, here = Path(sys.executable).with_name("tamis"), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def continue_text(
    store: str, model: str, prompt: str, *, tokens: int = 60, temperature: float = 0.8, seed: int = 1
) -> str:
    """Text after `prompt` from a model snapshot of the store or from an exported folder. Raises UsageError."""
    folder = Path(model)
    if (folder / "tokenizer.json").is_file():
        return _continued(folder, folder / "tokenizer.json", prompt, tokens=tokens, temperature=temperature, seed=seed)
    if "/" in model:
        raise UsageError(f"{model}: no exported model there: expected a folder with tokenizer.json, or a snapshot")
    catalog = Catalog.open(store)
    snapshot = catalog.snapshot(model).require("model")

    from training.inputs import model_folder  # torch takes seconds to load: only once there is a model

    with tempfile.TemporaryDirectory() as scratch:
        files = model_folder(catalog.store, snapshot, Path(scratch))
        tokenizer = catalog.store.local(snapshot.artifact("tokenizer"))
        return _continued(files, tokenizer, prompt, tokens=tokens, temperature=temperature, seed=seed)


def _continued(folder: Path, tokenizer_json: Path, prompt: str, *, tokens: int, temperature: float, seed: int) -> str:
    """On one thread: two that wait for each other took 15 s where one took 0.2 s, on two cores that others use too."""
    from training.context import LocalContext
    from training.generate import Sampling, generate

    sampling = Sampling(max_tokens=tokens, temperature=temperature, seed=seed)
    context = LocalContext(num_threads=1)
    return generate(folder, prompt, tokenizer_json=tokenizer_json, sampling=sampling, context=context)


def _prompt(catalog: Catalog, documents: Snapshot) -> str:
    """The first words of a test document."""
    found = sql(catalog, f"SELECT min(id) AS id FROM documents WHERE snapshot = '{documents.ref}'")["id"][0].as_py()
    text = sql(catalog, f"SELECT text FROM texts WHERE id = '{found}' LIMIT 1")["text"][0].as_py()
    return " ".join(text.split()[:8])


def _indent(text: str) -> str:
    return text.strip().replace("\n", "\n  ")

"""The model card of an export: what it is, how good it is, and which text it learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from catalog.catalog import Catalog
from catalog.lineage import ancestors
from catalog.snapshot import Snapshot


def model_card(
    catalog: Catalog, model: Snapshot, *, validation: Snapshot, tests: Sequence[Snapshot], licence: str
) -> str:
    """Markdown with a YAML header, as model hubs read it. Same inputs, same text: no dates, timings or versions.

    `validation` is the evaluation that chose the model, `tests` are on other documents. `licence` is what the user says
    of the text, "" when nothing.
    """
    summary = model.contents.summary
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [tamis, small-language-model]",
        *([f"license: {licence}"] if licence else []),
        "---",
        "",
        f"# {model.name}",
        "",
        f"A `{summary['architecture']}` of {summary['parameters']:,} parameters, trained with tamis.",
        "",
        "## Evaluation",
        "",
        f"It was chosen by its bits per byte on {_documents(catalog, validation)}; lower is better:",
        "",
        *_table(validation.contents.summary),
        "",
    ]
    for test in tests:
        lines += [
            f"The same models on {_documents(catalog, test)}, after the choice:",
            "",
            *_table(test.contents.summary),
            "",
        ]
    lines += [
        "## Lineage",
        "",
        "| snapshot | step | id |",
        "| --- | --- | --- |",
    ]
    for each in ancestors(catalog, model):
        lines.append(f"| {each.name} | {catalog.runs[each.run].step} | `{each.id[:16]}` |")
    lines += [
        "",
        "## Data and licence",
        "",
        "The weights were learned from the text of the snapshots above. "
        + (f"Its licence, as whoever exported says: {licence}." if licence else "Nobody stated its licence."),
        "Whoever publishes this model answers for the right to do so.",
        "",
        "## Intended use",
        "",
        "Text of the specialty that it was trained for. It is small: it completes and scores text, it does not know",
        "facts reliably and follows no instructions.",
        "",
    ]
    return "\n".join(lines)


def _documents(catalog: Catalog, evaluation: Snapshot) -> str:
    documents = catalog.inputs(evaluation)[0]
    return f"the {evaluation.contents.summary['results'][0]['documents']:,} documents of `{documents.name}`"


def _table(summary: Mapping[str, Any]) -> list[str]:
    """Bits per byte of every model, and its paired difference to the first one with a 95% interval."""
    first = summary["results"][0]["model"]
    pairs = {row["model"]: row for row in summary["comparisons"] if row["baseline"] == first}
    lines = [
        f"| model | bits per byte | token perplexity | minus {first} [95% interval] |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in summary["results"]:
        pair = pairs.get(row["model"])
        difference = f"{pair['difference']:+.4f} [{pair['low']:+.4f}, {pair['high']:+.4f}]" if pair else ""
        lines.append(f"| {row['model']} | {row['bits_per_byte']:.4f} | {row['perplexity']:.2f} | {difference} |")
    return lines

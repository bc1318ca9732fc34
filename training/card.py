"""The model card of an export: what it is, how good it is, and which text it learned from."""

from __future__ import annotations

from catalog.catalog import Catalog
from catalog.lineage import ancestors
from catalog.snapshot import Snapshot


def model_card(catalog: Catalog, model: Snapshot, evaluation: Snapshot) -> str:
    """Markdown with a YAML header, as model hubs read it. Same inputs, same text: no dates, timings or versions."""
    summary, results = model.contents.summary, evaluation.contents.summary["results"]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [tamis, small-language-model]",
        "---",
        "",
        f"# {model.name}",
        "",
        f"A Llama-architecture model of {summary['parameters']:,} parameters, trained with tamis.",
        "",
        "## Evaluation",
        "",
        f"On the {results[0]['documents']:,} documents of `{evaluation.name}`, lower is better:",
        "",
        "| model | bits per byte | token perplexity |",
        "| --- | ---: | ---: |",
        *(f"| {row['model']} | {row['bits_per_byte']:.4f} | {row['perplexity']:.2f} |" for row in results),
        "",
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
        "The weights were learned from the text of the snapshots above. tamis does not know its licence: whoever",
        "publishes this model answers for the right to do so.",
        "",
        "## Intended use",
        "",
        "Text of the specialty that it was trained for. It is small: it completes and scores text, it does not know",
        "facts reliably and follows no instructions.",
        "",
    ]
    return "\n".join(lines)

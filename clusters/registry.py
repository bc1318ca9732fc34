"""The steps by their verbs, imported only when used: the command line must answer without loading ray or torch."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from catalog.errors import UsageError

STEPS = {
    "ingest": "dataops.ingest:Ingest",
    "ingest-feedback": "dataops.feedback:IngestFeedback",
    "append": "dataops.append:Append",
    "newcomers": "dataops.join:Newcomers",
    "join": "dataops.join:Join",
    "exact-dedup": "dataops.exact:ExactDedup",
    "fuzzy-dedup": "dataops.fuzzy:FuzzyDedup",
    "redecide": "dataops.keep:Redecide",
    "audit-dedup": "dataops.audit:AuditDedup",
    "quality-filter": "dataops.quality:QualityFilter",
    "train-classifier": "dataops.domain:TrainClassifier",
    "classify": "dataops.domain:Classify",
    "split": "dataops.split:Split",
    "decontaminate": "dataops.contamination:Decontaminate",
    "train-tokenizer": "dataops.tokenize:TrainTokenizer",
    "tokenize": "dataops.tokenize:Tokenize",
    "fit-cells": "dataops.cells:FitCells",
    "assign-cells": "dataops.cells:AssignCells",
    "weigh": "dataops.importance:Weigh",
    "weigh-two-stage": "dataops.selectors:WeighTwoStage",
    "weigh-stacked": "dataops.selectors:WeighStacked",
    "weigh-ngrams": "dataops.selectors:WeighNgrams",
    "weigh-cross-entropy": "dataops.selectors:WeighCrossEntropy",
    "weigh-classifier": "dataops.selectors:WeighClassifier",
    "measure-drift": "dataops.drift:MeasureDrift",
    "combine": "dataops.combine:Combine",
    "resample": "dataops.resample:Resample",
    "remix": "dataops.combine:Remix",
    "pack": "dataops.pack:Pack",
    "blend": "dataops.blend:Blend",
    "warm-start": "training.warm_start:WarmStart",
    "pretrain": "training.steps:Pretrain",
    "project": "training.expert:Project",
    "teach": "training.distill:Teach",
    "finetune": "training.steps:Finetune",
    "evaluate": "training.compare:Evaluate",
    "forecast": "training.forecast:Forecast",
    "evaluate-choices": "training.choices:EvaluateChoices",
    "gate": "training.gate:Gate",
    "export": "training.compare:Export",
    "export-gguf": "training.gguf_file:ExportGguf",
}

# What a step reads, in this order: `[name]` may be left out, `name...` is one or more.
INPUTS = {
    "ingest": "",
    "ingest-feedback": "",
    "append": "old-documents new-documents",
    "newcomers": "documents old-documents",
    "join": "documents...",
    "exact-dedup": "documents",
    "fuzzy-dedup": "documents",
    "redecide": "documents",
    "audit-dedup": "documents",
    "quality-filter": "documents",
    "train-classifier": "documents...",
    "classify": "documents classifier",
    "split": "documents",
    "decontaminate": "pool evaluation...",
    "train-tokenizer": "documents...",
    "tokenize": "documents tokenizer",
    "fit-cells": "documents [fitted]",
    "assign-cells": "documents fitted",
    "weigh": "pool target [feedback]",
    "weigh-two-stage": "pool target [feedback]",
    "weigh-stacked": "pool target [feedback]",
    "weigh-ngrams": "pool target [feedback]",
    "weigh-cross-entropy": "pool target [feedback]",
    "weigh-classifier": "pool target [feedback]",
    "measure-drift": "new target fitted new-scores held-out-scores",
    "combine": "mixture...",
    "resample": "pool mixture",
    "remix": "packs mixture",
    "pack": "documents",
    "blend": "packs...",
    "warm-start": "packs",
    "pretrain": "packs [model]",
    "project": "model packs",
    "teach": "packs model",
    "finetune": "packs validation [model] [teacher]",
    "evaluate": "documents model...",
    "forecast": "evaluation documents model...",
    "evaluate-choices": "model...",
    "gate": "old-evaluation new-evaluation",
    "export": "evaluation [test] model...",
    "export-gguf": "export",
}
SELECTOR = "weigh-stacked"  # what a pool is drawn by unless told: docs/reproduction.md


def step_class(verb: str) -> type[Any]:
    """The dataclass behind a verb. Raises UsageError with the nearest verbs, or all and what they read."""
    if verb not in STEPS:
        close = difflib.get_close_matches(verb, STEPS, n=2)
        if close:
            raise UsageError(f"no step {verb!r}; did you mean {' or '.join(close)}?")
        listed = "\n".join(f"  {each:<20} {names or 'files'}" for each, names in INPUTS.items())
        raise UsageError(f"no step {verb!r}; the steps and what they read:\n{listed}")
    module, _, name = STEPS[verb].partition(":")
    cls: type[Any] = getattr(import_module(module), name)
    return cls


def check_inputs(verb: str, given: int) -> None:
    """Raise UsageError unless the step reads that many snapshots."""
    step_class(verb)
    names = INPUTS[verb].split()
    fewest = sum(not name.startswith("[") for name in names)
    if given < fewest or (given > len(names) and not INPUTS[verb].endswith("...")):
        raise UsageError(f"{verb} reads {' '.join(names) or 'no snapshot'}; it was given {given}")

"""`tamis metrics`: what a training run wrote down about itself, a row a step."""

from __future__ import annotations

import pyarrow as pa

from catalog.catalog import Catalog
from catalog.errors import UsageError
from training.telemetry import read_metrics

COLUMNS = (
    "loss",  # nats a token
    "mean_loss",  # of the last 32 steps
    "validation_bits_per_byte",
    "learning_rate",
    "gradient_norm",
    "tokens",
    "tokens_per_second",
    "mfu",
    "stall",
    "cost",
    "seconds",
)


def metrics_of(catalog: Catalog, reference: str) -> pa.Table:
    """The numbers of the run behind a model, by step; null where a step has none. Raises UsageError without any."""
    model = catalog.snapshot(reference).require("model")
    run = catalog.runs[model.run]
    if "metrics" not in run.attachments:
        raise UsageError(
            f"{model.ref} has no metrics, {run.step} made it: expected a model that pretrain or finetune made in one "
            "run, not in several like a mixture"
        )
    steps: dict[int, dict[str, float]] = {}
    for line in read_metrics(catalog.store.local(run.attachments["metrics"])):
        steps.setdefault(line["step"], {}).update({name: line[name] for name in COLUMNS if name in line})
    rows = [{"step": step, **dict.fromkeys(COLUMNS), **numbers} for step, numbers in sorted(steps.items())]
    kinds = [("step", pa.int64()), *((name, pa.float64()) for name in COLUMNS)]
    return pa.Table.from_pylist(rows, schema=pa.schema(kinds))

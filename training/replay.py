"""The documents of one training step with their loss: which text made the loss jump?

The order is a pure function, so a step's rows are computed, not looked up. A row of the answer is a segment: a piece of
one document in one row of the batch. Its loss is taken with the finished model (`weights="now"`), or with the weights
that the step began with (`"then"`), which are found by training the steps before it again: the same bytes, at the cost
of those steps; then the losses add up to what the run recorded.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.lineage import documents_behind
from catalog.pack import PADDING, Packs
from catalog.run import Receipt, Task, TaskFunction, Work
from catalog.snapshot import Snapshot
from catalog.store import Store
from training.checkpoint import latest
from training.context import LocalContext, dtype_of
from training.exposure import reads_in_this_order
from training.folder import read_model, read_network
from training.inputs import model_folder
from training.lora import merged
from training.methods import Lora
from training.model import IGNORED, Llama, layout, targets
from training.order import Samples
from training.pretrain import begun
from training.steps import Finetune, Pretrain
from training.telemetry import Progress
from training.worker import Job, PretrainJob

Weights = Literal["now", "then"]

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("sample", pa.int64()),
        ("cell", pa.int32()),
        ("epoch", pa.int64()),
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("start", pa.int32()),
        ("n_tokens", pa.int32()),
        ("loss_nats", pa.float64()),
        ("pack", pa.int32()),
        ("pack_row", pa.int64()),
        ("pack_start", pa.int32()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The segments of a step, by loss per token, worst first, and what the run recorded: nats per token, NaN if not.

    `shard` and `start` say where the segment lies in its document snapshot (`documents`): the shard, and the token of
    the document at which it begins; `n_tokens` counts the tokens that carry loss.
    """

    segments: pa.Table
    recorded_loss: float
    documents: str


def replay(catalog: Catalog, model: Snapshot, step: int, *, weights: str = "now") -> Replay:
    """Replay optimiser step `step` (1-based, as in the metrics) of a pretrained or fine-tuned model.

    Raises UsageError for another snapshot and for a step that the run did not have.
    """
    if weights not in get_args(Weights):
        raise UsageError(f"weights {weights!r}: expected now or then")
    step_class = {"pretrain": Pretrain, "finetune": Finetune}.get(catalog.runs[model.require("model").run].step)
    if step_class is None:
        raise UsageError(f"{model.ref} was not made by pretrain or finetune: only their steps can be replayed")
    steps = model.contents.summary["steps"]
    if not 1 <= step <= steps:
        raise UsageError(f"{model.ref} was trained in {steps} steps, so it has no step {step}")
    inputs = [catalog.current(each) for each in catalog.inputs(model)]
    if weights == "then" and inputs != catalog.inputs(model):
        raise UsageError(
            f"a takedown rewrote what {model.ref} was trained on, so no step can be trained again: try now"
        )
    behind = [each for each in documents_behind(catalog, inputs[0]) if each]
    with tempfile.TemporaryDirectory() as scratch:
        job = _job(catalog, model, inputs, step_class, Path(scratch))
        packs = Packs(job.packs)
        batch = job.train.batch_rows
        samples = job.order(packs).samples((step - 1) * batch, step * batch)
        if weights == "then":
            context = LocalContext(device_name=job.device, num_threads=job.threads)
            network, dtype = _as_step_began(job, step, context), dtype_of(model.contents.summary["precision"])
        else:
            finished = model_folder(catalog.store, model, Path(scratch) / "now")
            device = LocalContext(device_name="cpu", num_threads=1).device  # asked for, it sets the threads
            network, dtype = read_network(finished, device=device), torch.float32
        rows = list(_segments(packs, samples, network, dtype, micro=job.train.micro_batch_rows))
    places = _places(catalog.store, behind, {row["id"] for row in rows})
    for row in rows:
        tokens = row.pop("tokens")
        row["shard"], whole = places[row["id"]]
        row["start"] = _find(whole, tokens, packs.format.end_of_text)
        row["step"], row["sample"] = step, row["sample"] + (step - 1) * batch
    rows.sort(key=lambda row: (-row["loss_nats"] / max(row["n_tokens"], 1), row["sample"], row["pack_start"]))
    return Replay(
        segments=pa.Table.from_pylist(rows, schema=SCHEMA),
        recorded_loss=_recorded(catalog, model, step),
        documents=" or ".join(each.ref for each in behind),
    )


@dataclass(kw_only=True)
class _ScratchWork(Work):
    """Work whose files are thrown away."""

    scratch: Path

    @property
    def folder(self) -> Path:
        return self.scratch


@dataclass(frozen=True, kw_only=True)
class _Nowhere:
    """The executor of work that maps nothing."""

    workers = 1
    on_ray = False

    def map(self, function: TaskFunction, store: Store, tasks: Sequence[Task]) -> Iterator[tuple[int, Receipt]]:
        raise AssertionError(f"a replay maps no tasks, got {len(tasks)} for {function} on {store}")


def _job(
    catalog: Catalog,
    model: Snapshot,
    inputs: Sequence[Snapshot],
    step_class: type[Pretrain | Finetune],
    scratch: Path,
) -> Job:
    """What the model's run computed, in a folder of its own."""
    run = catalog.runs[model.run]
    settings = run.settings
    if not reads_in_this_order(run):
        raise UsageError(
            f"{model.ref} was made by revision {run.parameters['revision']} of {run.step}, which read the rows of a "
            f"{settings['family']} model in another order than this tamis: its steps can't be replayed"
        )
    work = _ScratchWork(
        name=model.name,
        step=run.step,
        fingerprint=run.fingerprint,
        evidence=None,
        catalog=catalog,
        executor=_Nowhere(),
        scratch=scratch,
    )
    jobs = step_class(**settings).jobs(work, *inputs).jobs
    if len(jobs) > 1:
        raise UsageError(f"{model.ref} was made by {len(jobs)} runs: a step is one of a single run")
    return jobs[0]


def _as_step_began(job: Job, step: int, context: LocalContext) -> Llama:
    if step == 1:
        if isinstance(job, PretrainJob):
            return begun(job.model, job.start, seed=job.train.seed).to(context.device)
        return read_model(job.model_dir, device=context.device)

    def stop(progress: Progress) -> None:
        if progress.step >= step:
            raise _Reached

    train = replace(job.train, checkpoint_every=step - 1, trackers=())
    with suppress(_Reached):
        replace(job, train=train).run(context, stop)
    found = latest(job.run_dir / "checkpoints", at_most=step - 1)
    assert found is not None, "a checkpoint was due at the step before"
    if isinstance(job, PretrainJob):
        network = Llama(job.model)
    else:
        network = read_model(job.model_dir, device=torch.device("cpu"))
        if isinstance(job.method, Lora):  # the checkpoint has its products beside the matrices
            job.method.prepare(network, seed=job.train.seed)
    network.load_state_dict(found.model())
    return merged(network).to(context.device)


class _Reached(Exception):
    """Training came to the step that is replayed."""


def _segments(
    packs: Packs, samples: Samples, network: Llama, dtype: torch.dtype, *, micro: int
) -> Iterator[dict[str, Any]]:
    rows, device = packs.rows(samples.cells, samples.rows), network.head.device
    tokens, numbers = packs.tokens(rows), packs.segments(rows)
    for first in range(0, len(rows), micro):
        at = slice(first, min(first + micro, len(rows)))
        tokens_BT, segments_BT = torch.from_numpy(tokens[at]), torch.from_numpy(numbers[at])
        wanted_BT = targets(tokens_BT, segments_BT)
        where = layout(segments_BT, device, samples.cells[at])
        nll_BT = network.nll(tokens_BT.to(device), wanted_BT.to(device), where, dtype).double().cpu().numpy()
        counted_BT = (wanted_BT != IGNORED).numpy()
        for place in range(at.stop - at.start):
            number = first + place
            file, row, starts, names = packs.place(int(rows[number]))
            for begin, end, name in zip(starts, [*starts[1:], packs.format.context], names, strict=True):
                if name == PADDING:
                    continue
                yield {
                    "sample": number,
                    "cell": int(samples.cells[number]),
                    "epoch": int(samples.epochs[number]),
                    "id": name.hex(),
                    "n_tokens": int(counted_BT[place, begin:end].sum()),
                    "loss_nats": float(nll_BT[place, begin:end].sum()),
                    "pack": file,
                    "pack_row": row,
                    "pack_start": begin,
                    "tokens": tokens[number, begin:end],
                }


def _places(store: Store, behind: Sequence[Snapshot], ids: set[str]) -> dict[str, tuple[int, np.ndarray]]:
    """Shard, in the one of these documents snapshots that has it, and token ids of documents."""
    found: dict[str, tuple[int, np.ndarray]] = {}
    for number, shard in [pair for documents in behind for pair in enumerate(documents.contents.shards)]:
        path = store.local(shard.tables["tokens"])
        table = pq.read_table(path, columns=["id", "tokens"], filters=[("id", "in", sorted(ids))], partitioning=None)
        for name, tokens in zip(table["id"].to_pylist(), table["tokens"], strict=True):
            values = tokens.values
            found[name] = number, values.to_numpy() if values is not None else np.zeros(0, np.uint16)
    return found


def _find(document: np.ndarray, segment: np.ndarray, end_of_text: int) -> int:
    """The token of the document at which the segment begins, its end-of-text marks left out: the first place."""
    inner = segment[segment != end_of_text]
    if not len(inner) or len(inner) > len(document):
        return 0 if len(segment) and segment[0] == end_of_text else len(document)
    width = len(inner)
    for begin in np.flatnonzero(document[: len(document) - width + 1] == inner[0]).tolist():
        if (document[begin : begin + width] == inner).all():
            return begin
    return 0


def _recorded(catalog: Catalog, model: Snapshot, step: int) -> float:
    metrics = catalog.runs[model.run].attachments.get("metrics")
    if metrics is None:
        return float("nan")
    lines = map(json.loads, catalog.store.local(metrics).read_text().splitlines())
    return next((line["loss"] for line in lines if line["step"] == step and "loss" in line), float("nan"))

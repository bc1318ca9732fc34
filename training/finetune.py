"""Fine-tuning: the pretraining loop from a model folder on the specialist's packs, with early stopping.

The method fine-tunes on little text at a third of the pretraining rate (ours is that of AdamW, docs/decisions.md) and
keeps the weights that are best on held-out documents (arXiv 2402.01093 section 4): every `evaluate_every` steps, and
before the first, the validation documents are scored, and after `patience` scores without a new best the run ends. The
model folder always holds the best so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from catalog.pack import Packs
from training.config import EarlyStopping, TrainConfig
from training.context import LocalContext, RunContext, dtype_of
from training.evaluate import score, summarise
from training.folder import model_config, read_model, write_model
from training.loop import train as run_loop
from training.lora import merged
from training.methods import Full, Method
from training.model import Llama
from training.pretrain import check_fit, ordered
from training.run_folder import TrainResult, close_run, compared, open_run
from training.telemetry import OnProgress, silent


@dataclass(kw_only=True)
class BestOnValidation:
    """A judge that keeps the weights with the lowest validation bits per byte in `model_dir`."""

    validation: pa.Table
    model_dir: Path
    end_of_text: int
    stopping: EarlyStopping
    dtype: torch.dtype
    best: float = float("inf")
    waited: int = 0

    @property
    def every(self) -> int:
        return self.stopping.evaluate_every

    def judge(self, model: Llama) -> tuple[float, bool]:
        found = summarise(score(model, self.validation, end_of_text=self.end_of_text, dtype=self.dtype)).bits_per_byte
        if found < self.best:
            self.best, self.waited = found, 0
            write_model(merged(model), self.model_dir, end_of_text=self.end_of_text)
        else:
            self.waited += 1
        return found, self.waited >= self.stopping.patience

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]


def finetune(
    packs: Sequence[Path],
    *,
    model_dir: Path,
    train: TrainConfig,
    validation: pa.Table,
    stopping: EarlyStopping,
    run_dir: Path,
    context: RunContext = LocalContext(),  # noqa: B008, a frozen value
    on_progress: OnProgress = silent,
    method: Method = Full(),  # noqa: B008, a frozen value
    weights: Sequence[float] | None = None,
) -> TrainResult:
    """Continue training `model_dir` on packs for at most `train.tokens`; the result is the best on `validation`.

    Cells are drawn by `weights`, None: in proportion to their rows. `validation` has the columns of `evaluate`.
    Resumes and raises as `pretrain` does.
    """
    reader, shape = Packs(packs), model_config(model_dir)
    check_fit(reader, shape)
    order = ordered(reader, weights, train=train)
    start = (model_dir / "model.safetensors").read_bytes()
    identity = {
        "kind": "finetune",
        "packs": [[path.name, path.stat().st_size] for path in reader.paths],
        "weights": order.weights.tolist(),
        "method": method.identity(),
        "model": asdict(shape),
        "train": compared(train),
        "stopping": compared(stopping),
        "start": hashlib.sha256(start).hexdigest(),
        "validation": _digest(validation),
    }
    finished, precision = open_run(run_dir, identity, train=train, context=context)
    if finished:
        return finished
    judge = BestOnValidation(
        validation=validation,
        model_dir=run_dir / "model",
        end_of_text=reader.format.end_of_text,
        stopping=stopping,
        dtype=dtype_of(precision),
    )
    network = read_model(model_dir, device=context.device)
    outcome = run_loop(
        network,
        packs=reader,
        order=order,
        config=train,
        dtype=dtype_of(precision),
        run_dir=run_dir,
        context=context,
        judge=judge,
        on_progress=on_progress,
        objective=method.prepare(network, seed=train.seed),
    )
    return close_run(run_dir, outcome, precision=precision, context=context)


def _digest(documents: pa.Table) -> str:
    """sha256 of the scored content, whatever the chunks."""
    digest = hashlib.sha256()
    for name in ("id", "tokens", "n_bytes"):
        digest.update(repr(documents.column(name).to_pylist()).encode())
    return digest.hexdigest()

"""The one training loop: pretraining, fine-tuning, one process or many.

Step s trains on samples s*B .. (s+1)*B of the order, and rank r of w on its slice of them, so any world size sees the
same batches. Gradients are sums of token losses over the *global* count of tokens that carry loss, whatever the
micro-batches (never a mean of means). State is (weights, moments, step): nothing is random after initialisation, so a
resumed run equals an uninterrupted one to the byte.

The loss of a step is read after the next one is queued, so a GPU never waits for the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from catalog.errors import TamisError
from catalog.pack import Packs
from training.checkpoint import Checkpoint, latest, remove_leftovers, save_checkpoint
from training.config import TrainConfig
from training.context import RunContext
from training.model import IGNORED, Llama, layout, targets
from training.optim import adamw, learning_rate, optimizer_tensors, restore_optimizer
from training.order import Order
from training.telemetry import OnProgress, Telemetry

_NAMED_DOCUMENTS = 8


class Diverged(TamisError):
    """The loss is no longer a number."""


class Judge(Protocol):
    """Looks at the model every `every` steps, and before the first; called on rank 0 only."""

    @property
    def every(self) -> int: ...

    def judge(self, model: Llama) -> tuple[float, bool]:
        """Validation loss (for the metrics) and whether to stop."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold to judge on."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """`final_loss` is nats per token over the last 32 steps; `seconds` leaves out work lost to crashes."""

    steps: int
    tokens: int
    seconds: float
    final_loss: float


@dataclass(frozen=True, kw_only=True)
class _Losses:
    """A step whose loss is still on the device."""

    step: int
    rows: Any
    loss: Tensor
    gradient_norm: Tensor
    learning_rate: float


def train(
    model: Llama,
    *,
    packs: Packs,
    order: Order,
    config: TrainConfig,
    dtype: torch.dtype,
    run_dir: Path,
    context: RunContext,
    judge: Judge | None,
    on_progress: OnProgress,
) -> LoopResult:
    """Train `model` in place to the end of `config`, or until `judge` says stop.

    Continues from the newest intact checkpoint of `run_dir`.
    Raises Diverged, which names the step and the documents of its rows.
    """
    steps, tokens_per_step = config.steps(packs.format.context), config.batch_rows * packs.format.context
    optimizer = adamw(model, config)
    found = latest(run_dir / "checkpoints")
    begin, stopped = _resume(found, model, optimizer, judge) if found else (0, False)
    lead = context.rank == 0
    if lead:
        remove_leftovers(run_dir / "checkpoints")
    telemetry = Telemetry(
        run_dir if lead else None, begin=begin, steps=steps, tokens_per_step=tokens_per_step, on_progress=on_progress
    )
    with closing(telemetry):
        if judge and begin == 0:
            stopped = _judged(judge, model, 0, context, telemetry)
        pending: _Losses | None = None
        step = begin
        while step < steps and not stopped:
            current = _step(model, optimizer, packs, order, config, dtype, context, step=step, steps=steps)
            step += 1
            if pending:
                _settle(pending, packs, telemetry)
            pending = current
            judging = judge is not None and (step % judge.every == 0 or step == steps)
            saving = step % config.checkpoint_every == 0 or step == steps
            if judging or saving:
                _settle(pending, packs, telemetry)
                pending = None
            if judge and judging:
                stopped = _judged(judge, model, step, context, telemetry)
            if lead and (saving or stopped):
                save_checkpoint(
                    run_dir / "checkpoints",
                    step=step,
                    model=model.state_dict(),
                    optimizer=optimizer_tensors(model, optimizer),
                    state={"judge": judge.state() if judge else None, "stopped": stopped},
                )
        return LoopResult(
            steps=step, tokens=step * tokens_per_step, seconds=telemetry.seconds, final_loss=telemetry.loss
        )


def _step(
    model: Llama,
    optimizer: torch.optim.AdamW,
    packs: Packs,
    order: Order,
    config: TrainConfig,
    dtype: torch.dtype,
    context: RunContext,
    *,
    step: int,
    steps: int,
) -> _Losses:
    device, size = context.device, config.batch_rows
    first, last = (size * rank // context.world_size for rank in (context.rank, context.rank + 1))
    samples = order.samples(step * size + first, step * size + last)
    rows = packs.rows(samples.cells, samples.rows)
    tokens, segments = torch.from_numpy(packs.tokens(rows)), torch.from_numpy(packs.segments(rows))
    wanted = targets(tokens, segments)
    count = (wanted != IGNORED).sum().to(device, torch.float64)
    context.all_reduce(count)
    scale = 1.0 / count.clamp_min(1.0).float()
    loss = torch.zeros((), device=device)
    for at in _slices(len(rows), config.micro_batch_rows):
        tokens_BT, wanted_BT = (each[at].to(device, non_blocking=True) for each in (tokens, wanted))
        micro = model.loss(tokens_BT, wanted_BT, layout(segments[at], device), dtype) * scale
        micro.backward()
        loss += micro.detach()
    context.all_reduce(loss)
    _reduce_gradients(model, context)
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    rate = learning_rate(config, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return _Losses(step=step + 1, rows=rows, loss=loss, gradient_norm=norm, learning_rate=rate)


def _reduce_gradients(model: Llama, context: RunContext) -> None:
    if context.world_size == 1:
        return
    # a rank whose slice is empty has no gradients yet
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    context.all_reduce(flat)
    for parameter, piece in zip(model.parameters(), flat.split([g.numel() for g in gradients]), strict=True):
        parameter.grad = piece.view_as(parameter)


def _settle(pending: _Losses, packs: Packs, telemetry: Telemetry) -> None:
    """Read and record a step's loss, or stop the run where it is not a number."""
    loss, norm = pending.loss.item(), pending.gradient_norm.item()
    if not math.isfinite(loss) or not math.isfinite(norm):
        documents = list(dict.fromkeys(name for row in pending.rows for name in packs.documents(int(row))))
        named = ", ".join(documents[:_NAMED_DOCUMENTS]) + (", ..." if len(documents) > _NAMED_DOCUMENTS else "")
        raise Diverged(
            f"step {pending.step}: the loss is {loss} and the gradient norm {norm}, with documents {named}.\n"
            f"Lower learning_rate (now {pending.learning_rate:.2g}) or remove these documents"
        )
    telemetry.step(pending.step, loss=loss, learning_rate=pending.learning_rate, gradient_norm=norm)


def _judged(judge: Judge, model: Llama, step: int, context: RunContext, telemetry: Telemetry) -> bool:
    verdict = torch.zeros((), device=context.device)
    if context.rank == 0:
        loss, stop = judge.judge(model)
        telemetry.validation(step, loss)
        verdict += float(stop)
    context.all_reduce(verdict)
    return bool(verdict.item() > 0)


def _resume(found: Checkpoint, model: Llama, optimizer: torch.optim.AdamW, judge: Judge | None) -> tuple[int, bool]:
    model.load_state_dict(found.model())
    restore_optimizer(model, optimizer, found.optimizer(), step=found.step)
    state = found.state()
    if judge:
        judge.restore(state["judge"])
    return found.step, bool(state["stopped"])


def _slices(rows: int, size: int) -> Iterator[slice]:
    return (slice(begin, min(begin + size, rows)) for begin in range(0, rows, size))

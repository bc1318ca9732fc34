"""The one training loop: pretraining, fine-tuning, one process or many.

Step s trains on samples s*B .. (s+1)*B of the order, and each rank on its piece of them, so any world size sees the
same batches (`batches`). Gradients are sums of token losses over the *global* count of tokens that carry loss, whatever
the micro-batches (never a mean of means); `gradients` says in which order they are added. State is (weights, moments,
step, stages of the mixture): nothing is random after initialisation, so a resumed run equals an uninterrupted one to
the byte.

The loss of a step is read after the next one is queued, so a GPU never waits for the host; checkpoints are written
while training goes on (`checkpoint.Saver`).
"""

from __future__ import annotations

import math
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from catalog.errors import TamisError, UsageError
from catalog.pack import Packs
from training.batches import Batch, Batches, check_cut
from training.blocks import is_sharded, prepare, whole
from training.checkpoint import Checkpoint, Saver, latest
from training.config import TrainConfig
from training.context import RunContext
from training.gradients import Combine, add_in_a_tree, add_up, collect_shards
from training.memory import keep_freed_memory
from training.model import IGNORED, Llama, layout
from training.objective import MicroBatch, Objective, next_token
from training.optim import Optimizer, build_optimizer, learning_rate, optimizer_tensors, restore_optimizer, set_rate
from training.order import Order
from training.peak import matmul_peak
from training.telemetry import OnProgress, Telemetry, Yardstick

_NAMED_DOCUMENTS = 8
_LONG_RUN_FLOPS = 1e13  # below it, about a minute on two cores, measuring the peak would not pay


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
    waited: float


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
    objective: Objective = next_token,
) -> LoopResult:
    """Train `model` in place to the end of `config`, or until `judge` says stop.

    Continues from the newest intact checkpoint of `run_dir`.
    Raises Diverged, which names the step and the documents of its rows.
    """
    if judge and is_sharded(config, context):
        raise UsageError("a model that is judged while it trains must be whole on rank 0: sharding must be replicated")
    check_cut(config, family=model.config.family.kind, world_size=context.world_size)
    if context.device.type == "cpu":
        keep_freed_memory()
    steps, tokens_per_step = config.steps(packs.format.context), config.batch_rows * packs.format.context
    found = latest(run_dir / "checkpoints")
    if found:
        model.load_state_dict(found.model())
    flops = float(model.config.flops_per_token) * steps * tokens_per_step
    prepare(model, config, context, flops=flops)
    run = _Run(
        model=model,
        optimizer=build_optimizer(model, config, width_scale=model.config.width_scale, dtype=dtype),
        config=config,
        dtype=dtype,
        context=context,
        objective=objective,
        steps=steps,
    )
    begin, stopped = _resume(found, run, judge) if found else (0, False)
    lead = context.rank == 0
    yardstick = _yardstick(run, tokens_per_step=tokens_per_step, flops=flops)
    with ExitStack() as open_now:
        written = Telemetry(
            run_dir if lead else None,
            begin=begin,
            yardstick=yardstick,
            trackers=config.trackers,
            tracking_dir=config.tracking_dir,
            on_progress=on_progress,
        )
        telemetry = open_now.enter_context(closing(written))
        batches = open_now.enter_context(closing(Batches(packs, order, config, context, begin=begin, steps=steps)))
        saving = _Saving(run, order, judge, telemetry)
        if lead:
            saving.saver = open_now.enter_context(closing(Saver(run_dir / "checkpoints")))
        step = _to_the_end(run, packs, batches, saving, begin=begin, stopped=stopped)
        return LoopResult(
            steps=step, tokens=step * tokens_per_step, seconds=telemetry.seconds, final_loss=telemetry.loss
        )


@dataclass(kw_only=True)
class _Run:
    """What every step of a run works with."""

    model: Llama
    optimizer: Optimizer
    config: TrainConfig
    dtype: torch.dtype
    context: RunContext
    objective: Objective
    steps: int
    best: float = math.inf


def _yardstick(run: _Run, *, tokens_per_step: int, flops: float) -> Yardstick:
    """What the run's speed is measured against; a run of few `flops` in all does without the machine's peak."""
    device, world_size = run.context.device, run.context.world_size
    return Yardstick(
        steps=run.steps,
        tokens_per_step=tokens_per_step,
        flops_per_token=run.model.config.flops_per_token,
        peak_flops=matmul_peak(device, run.dtype) * world_size if flops > _LONG_RUN_FLOPS else 0.0,
        price_per_hour=run.config.price_per_hour,
    )


def _to_the_end(run: _Run, packs: Packs, batches: Batches, saving: _Saving, *, begin: int, stopped: bool) -> int:
    """Take the steps after `begin` to the end of the run or until the judge says stop; the last one taken."""
    judge, telemetry = saving.judge, saving.telemetry
    if judge and begin == 0:
        stopped = _judged(judge, run, 0, telemetry)[0]
    step, pending = begin, None
    while step < run.steps and not stopped:
        current = _step(run, next(batches), waited=batches.waited)
        step += 1
        if pending:
            _settle(pending, packs, telemetry)
        pending = current
        saving.notice()
        judging = judge is not None and (step % judge.every == 0 or step == run.steps)
        due = saving.due(step)
        if judging or due:
            _settle(pending, packs, telemetry)
            pending = None
        is_best = False
        if judge and judging:
            stopped, is_best = _judged(judge, run, step, telemetry)
        if due or stopped:
            saving.save(step, stopped=stopped, is_best=is_best)
    return step


def _step(run: _Run, batch: Batch, *, waited: float) -> _Losses:
    device, config = run.context.device, run.config
    # filled there: a copy would wait for the step before
    count = torch.full((), float((batch.targets_BT != IGNORED).sum()), dtype=torch.float64, device=device)
    run.context.all_reduce(count)
    scale = 1.0 / count.clamp_min(1.0).float()

    def backward(number: int) -> Tensor:
        at = batch.cuts[number]
        tokens_BT, wanted_BT = (each[at].to(device, non_blocking=True) for each in (batch.tokens_BT, batch.targets_BT))
        where = layout(batch.segments_BT[at], device, batch.cells[at])
        micro = MicroBatch(tokens_BT=tokens_BT, targets_BT=wanted_BT, where=where, rows_B=batch.rows[at])
        loss = run.objective(run.model, micro, run.dtype) * scale
        loss.backward()
        return loss.detach()

    if is_sharded(config, run.context):
        combine: Combine = collect_shards
    else:
        combine = add_in_a_tree if config.determinism == "bitwise" else add_up
    loss = combine(run.model, len(batch.cuts), backward, run.context)
    norm = whole(nn.utils.clip_grad_norm_(run.model.parameters(), config.clip))
    rate = learning_rate(config, batch.step, run.steps)
    set_rate(run.optimizer, rate)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return _Losses(
        step=batch.step + 1, rows=batch.rows, loss=loss, gradient_norm=norm, learning_rate=rate, waited=waited
    )


@dataclass
class _Saving:
    """When a checkpoint is due, and what goes into it. Without a `saver`, a follower rank, it only gathers."""

    run: _Run
    order: Order
    judge: Judge | None
    telemetry: Telemetry
    saver: Saver | None = None

    def due(self, step: int) -> bool:
        return step % self.run.config.checkpoint_every == 0 or step == self.run.steps or bool(self._tags(step))

    def save(self, step: int, *, stopped: bool, is_best: bool) -> None:
        run = self.run
        if self.saver is None and not is_sharded(run.config, run.context):
            return
        model = {name: whole(tensor) for name, tensor in run.model.state_dict().items()}
        optimizer = optimizer_tensors(run.model, run.optimizer)
        state = {
            "judge": self.judge.state() if self.judge else None,
            "stopped": stopped,
            "best": run.best,
            "stages": [asdict(stage) for stage in self.order.stages],
        }
        tags = [*self._tags(step), *(["best"] if is_best else [])]
        if self.saver is not None:
            self.saver.save(step=step, model=model, optimizer=optimizer, state=state, tags=tags)

    def notice(self) -> None:
        """Tell of the checkpoint that was sealed meanwhile."""
        newest = self.saver.newest if self.saver else None
        if newest:
            self.telemetry.sealed(newest.step, newest.parameter_hash)

    def _tags(self, step: int) -> list[str]:
        config = self.run.config
        tags = ["every"] if config.keep_every and step % config.keep_every == 0 else []
        is_branch = 0 < step == config.branch_step(self.run.steps) < self.run.steps
        return [*tags, "branch"] if is_branch else tags


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
    telemetry.step(
        pending.step, loss=loss, learning_rate=pending.learning_rate, gradient_norm=norm, waited=pending.waited
    )


def _judged(judge: Judge, run: _Run, step: int, telemetry: Telemetry) -> tuple[bool, bool]:
    """Whether the judge says stop, and whether this is the best so far (rank 0 knows)."""
    verdict, is_best = torch.zeros((), device=run.context.device), False
    if run.context.rank == 0:
        loss, stop = judge.judge(run.model)
        telemetry.validation(step, loss)
        is_best = loss < run.best
        run.best = min(run.best, loss)
        verdict += float(stop)
    run.context.all_reduce(verdict)
    return bool(verdict.item() > 0), is_best


def _resume(found: Checkpoint, run: _Run, judge: Judge | None) -> tuple[int, bool]:
    restore_optimizer(run.model, run.optimizer, found.optimizer(), step=found.step)
    state = found.state()
    run.best = state["best"]
    if judge:
        judge.restore(state["judge"])
    return found.step, bool(state["stopped"])

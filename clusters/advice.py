"""Which route the budgets and the evidence call for, and when the honest answer is none.

The rule of 2402.01093, section 1: a large inference budget wants a large model; a small one with a large budget for
specialization wants a small model pretrained for each task on the resampled pool; with little of both, one shared
pretraining run whose result adapts cheaply. What was measured on this pool and this target stands above the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.forecast import Prediction
    from training.routes import Route

FEWEST_HELD_OUT = 8  # documents: below, an interval over documents says little
MOST_OUTSIDE = 0.5  # share of target windows beyond the pool's 99th percentile; 0.01 is no difference
WIDE = 0.25  # of the pool's effective cells: experts did not beat the plain model on targets spread over 0.3 and 0.5
LARGER = 2  # times the parameters of the small model: less is no other model
# Of each expert. The paper's mixtures lost to the plain model at 22 and won at 90 (from its GPU hours); below 0.3, ours
# lose, and projected networks are no better than the plain model (docs/reproduction.md).
TOKENS_PER_PARAMETER = 50


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What may be spent: the largest model that may be served, tasks, and seconds of training for all of them."""

    max_params: int
    tasks: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the pool showed: predicted gains, effective cells of the target per those of the pool, tokens an expert."""

    before: Prediction
    after: Prediction
    spread: float
    tokens_per_expert: float


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A route and why."""

    route: str
    reason: str


def too_small(documents: int, held_out: int) -> str:
    """Why a target with so many validation documents can't be planned for; "" when it can."""
    if held_out >= FEWEST_HELD_OUT:
        return ""
    return (
        f"the target is too small to tell a gain: of its {documents} clean documents {held_out} are for validation "
        f"where at least {FEWEST_HELD_OUT} are needed; give more documents, or move the bounds of the splits by --set"
    )


def uncovered(outside: float) -> str:
    """Why a pool that lies so far from the target can't help; "" when it may."""
    if outside <= MOST_OUTSIDE:
        return ""
    return (
        f"the pool can't help: {outside:.0%} of the target's windows lie further from their cell than 99% of the "
        "pool's; add text near the target to --pool, or learn from the target alone (`finetune` without a model)"
    )


def too_short(tokens: int, pool_tokens: int) -> str:
    """Why no selection is left in a stream that reads the whole pool as often as windows may come."""
    return (
        f"the pool is too small: a stream of {tokens:,} tokens reads its {pool_tokens:,} more often than a window may "
        "come, so nothing is left to select; plan fewer --tokens, add text to --pool, or raise the cap by "
        "--set mixture.max_epochs=N"
    )


def without_gain(before: Prediction, after: Prediction) -> str:
    """Why resampling is not worth it; "" when one of the predicted gains lies above 0."""
    if before.is_positive or after.is_positive:
        return ""
    return (
        f"no gain of resampling can be told: {interval(before)} bits/byte before fine-tuning, {interval(after)} after; "
        "add text near the target to --pool, or use the pool as it is: `pretrain` on generic-packs, then `finetune`"
    )


def recommend(routes: Mapping[str, Route], evidence: Evidence, budget: Budget) -> Advice:
    """The route to take."""

    def fits(name: str) -> bool:
        return routes[name].seconds.total(budget.tasks) <= budget.seconds

    tasks = f"{budget.tasks} task{'s' * (budget.tasks > 1)}"
    large = routes["llm-lora"].served
    if LARGER * routes["slm"].served <= large <= budget.max_params and fits("llm-lora"):
        reason = f"{large:,} parameters may be served, and one large model tuned for {tasks} fits the budget"
        return Advice(route="llm-lora", reason=f"{reason}: of 2402.01093 only slm-is beat it, on the smallest target")
    if not fits("slm"):
        share = routes["slm"].seconds.total(budget.tasks) / budget.seconds
        reason = f"no route fits the budget: this, the cheapest, costs {share:.2g} times as much; plan less --tokens"
        return Advice(route="slm", reason=reason)
    gain = f"resampling gains {interval(evidence.after)} bits/byte after fine-tuning"
    if evidence.after.is_positive and fits("slm-is"):
        reason = f"{gain}, and a pretraining run for each of {tasks} fits the budget"
        share = routes["slm-is"].seconds.total(budget.tasks) / routes["slm"].seconds.total(budget.tasks)
        return Advice(route="slm-is", reason=reason + f", at {share:.1f} times the cost of a shared one" * (share > 1))
    if evidence.after.is_positive and fits("slm-is-trunk"):
        half = "half of each run can be read once for all of them"
        return Advice(route="slm-is-trunk", reason=f"{_dear(routes, budget, gain)}, and {half}")
    if not evidence.after.is_positive:
        return _unsure(
            evidence,
            for_nothing=routes["slm-is"].seconds.total(budget.tasks) <= routes["slm"].seconds.total(budget.tasks),
        )
    shared = [name for name in ("slm-pn", "slm-mix") if fits(name)]
    return _shared(routes, evidence, fitting=shared, lead=_dear(routes, budget, gain))


def _unsure(evidence: Evidence, *, for_nothing: bool) -> Advice:
    """Where the interval of the gain after fine-tuning holds 0, or lies below it."""
    gain = f"the gain is {interval(evidence.before)} bits/byte before fine-tuning, {interval(evidence.after)} after it"
    if evidence.after.gain > 0 and for_nothing:
        return Advice(route="slm-is", reason=f"{gain}: not sure, but resampling costs no more than the plain model")
    more = "; larger --proxy-tokens tell more" if evidence.after.high > 0 else ""
    return Advice(route="slm", reason=f"{gain}: not enough to pay a pretraining run for each task{more}")


def _dear(routes: Mapping[str, Route], budget: Budget, gain: str) -> str:
    share = routes["slm-is"].seconds.total(budget.tasks) / budget.seconds
    return f"{gain}, but a pretraining run for each of {budget.tasks} tasks costs {share:.2g} times the budget"


def _shared(routes: Mapping[str, Route], evidence: Evidence, *, fitting: Sequence[str], lead: str) -> Advice:
    """Of the routes with one pretraining run for all tasks, which the budget has room for."""
    if evidence.spread > WIDE:
        reason = f"the target is spread over {evidence.spread:.0%} of the pool's effective cells, too wide for experts"
        return Advice(route="slm", reason=f"{lead}, and {reason}")
    if evidence.tokens_per_expert < TOKENS_PER_PARAMETER * routes["slm-mix"].served:
        reason = f"an expert would learn from {evidence.tokens_per_expert:,.0f} tokens, too few to beat the plain model"
        return Advice(route="slm", reason=f"{lead}, and {reason}")
    if "slm-pn" in fitting:
        return Advice(route="slm-pn", reason=f"{lead}: one projected network serves all tasks, each takes an expert")
    if not fitting:
        return Advice(route="slm", reason=f"{lead}, and so do all families with experts")
    return Advice(route="slm-mix", reason=f"{lead}, as does a projected network; a mixture has tokens enough")


def interval(prediction: Prediction) -> str:
    """`+0.120 [+0.050, +0.190]`."""
    return with_bounds(prediction.gain, prediction.low, prediction.high)


def with_bounds(gain: float, low: float, high: float) -> str:
    """A gain in bits/byte with its interval, as `interval`."""
    return f"{gain:+.3f} [{low:+.3f}, {high:+.3f}]"

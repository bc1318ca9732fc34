"""The decision rule, case by case, and what the pool must show first."""

from __future__ import annotations

import pytest

from clusters.advice import Budget, Evidence, recommend, too_short, too_small, uncovered, without_gain
from training.forecast import Prediction
from training.routes import Cost, Route


def route(name: str, *, served: int, generic: float, task: float) -> Route:
    """A route whose FLOPs say nothing: the rule is about time."""
    return Route(name=name, served=served, flops=Cost(generic=1.0, task=1.0), seconds=Cost(generic=generic, task=task))


ROUTES = {
    "slm": route("slm", served=100, generic=100.0, task=10.0),
    "slm-is": route("slm-is", served=100, generic=0.0, task=110.0),
    "slm-is-trunk": route("slm-is-trunk", served=100, generic=50.0, task=60.0),
    "slm-pn": route("slm-pn", served=100, generic=160.0, task=10.0),
    "slm-mix": route("slm-mix", served=100, generic=110.0, task=10.0),
    "llm-lora": route("llm-lora", served=600, generic=600.0, task=40.0),
}


def gain(value: float, error: float = 0.02) -> Prediction:
    low, high = value - error, value + error
    return Prediction(gain=value, low=low, high=high, slope=0.0, documents=error, seeds=0.0, curve=0.0)


NARROW = {"spread": 0.1, "tokens_per_expert": 10_000.0}
SURE = Evidence(before=gain(0.2), after=gain(0.1), **NARROW)
LOST = Evidence(before=gain(0.2), after=gain(0.01), **NARROW)
WORSE = Evidence(before=gain(0.2), after=gain(-0.1), **NARROW)
WIDE = Evidence(before=gain(0.2), after=gain(0.1), spread=0.5, tokens_per_expert=10_000.0)
THIN = Evidence(before=gain(0.2), after=gain(0.1), spread=0.1, tokens_per_expert=500.0)
ENDLESS = float("inf")


@pytest.mark.parametrize(
    ("evidence", "max_params", "tasks", "seconds", "route", "reason"),
    [
        (SURE, 600, 5, ENDLESS, "llm-lora", "600 parameters may be served"),
        (SURE, 600, 5, 700.0, "slm-is", "for each of 5 tasks fits the budget, at 3.7 times the cost of a shared one"),
        (SURE, 100, 1, ENDLESS, "slm-is", "+0.100 [+0.080, +0.120] bits/byte after fine-tuning, and"),
        (SURE, 100, 50, ENDLESS, "slm-is", "for each of 50 tasks fits"),
        (SURE, 100, 10, 660.0, "slm-is-trunk", "10 tasks costs 1.7 times the budget, and half of each run can be read"),
        (SURE, 100, 10, 300.0, "slm-pn", "for each of 10 tasks costs 3.7 times the budget: one projected network"),
        (SURE, 100, 10, 220.0, "slm-mix", "a mixture has tokens enough"),
        (SURE, 100, 10, 205.0, "slm", "times the budget, and so do all families with experts"),
        (THIN, 100, 10, 220.0, "slm", "an expert would learn from 500 tokens, too few"),
        (THIN, 100, 10, 300.0, "slm", "an expert would learn from 500 tokens, too few"),
        (WIDE, 100, 10, 300.0, "slm", "spread over 50% of the pool's effective cells"),
        (SURE, 100, 10, 150.0, "slm", "no route fits the budget: this, the cheapest, costs"),
        (LOST, 100, 1, 1.0, "slm", "no route fits the budget"),
        (LOST, 100, 1, ENDLESS, "slm-is", "+0.010 [-0.010, +0.030] after it: not sure, but resampling costs no more"),
        (LOST, 100, 10, 300.0, "slm", "not enough to pay a pretraining run for each task; larger --proxy-tokens"),
        (WORSE, 100, 1, ENDLESS, "slm", "-0.100 [-0.120, -0.080] after it: not enough to pay"),
    ],
)
def test_the_route_follows_from_budgets_and_evidence(
    evidence: Evidence, max_params: int, tasks: int, seconds: float, route: str, reason: str
) -> None:
    advice = recommend(ROUTES, evidence, Budget(max_params=max_params, tasks=tasks, seconds=seconds))
    assert advice.route == route
    assert reason in advice.reason


def test_a_model_that_is_hardly_larger_is_no_other_route() -> None:
    routes = {**ROUTES, "llm-lora": route("llm-lora", served=101, generic=101.0, task=11.0)}
    assert recommend(routes, SURE, Budget(max_params=101, tasks=1, seconds=ENDLESS)).route == "slm-is"


def test_a_plan_is_refused_without_documents_coverage_room_or_gain() -> None:
    assert "a stream of 900 tokens reads its 200 more often than a window may come" in too_short(900, 200)
    assert too_small(200, 8) == ""
    assert "of its 20 clean documents 1 are for validation where at least 8 are needed; give more" in too_small(20, 1)
    assert uncovered(0.4) == ""
    assert "97% of the target's windows lie further from their cell" in uncovered(0.97)
    assert without_gain(gain(0.1), gain(0.0)) == without_gain(gain(0.0), gain(0.1)) == ""
    assert "no gain of resampling can be told: +0.010 [-0.010, +0.030] bits/byte" in without_gain(
        gain(0.01), gain(-0.1)
    )

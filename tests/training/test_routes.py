"""Costs of routes are those that the families count."""

from __future__ import annotations

import pytest

from training.config import sized
from training.family import Mixture, Projected
from training.model import Llama
from training.routes import Cost, Rates, Routes, lora_parameters

SMALL, LARGE = (sized(size, vocab_size=512, context=64) for size in (200_000, 1_200_000))
SETTINGS = {"tokens": 64_000, "tuning_tokens": 16_000, "experts": 32, "cells": 8, "banks": 4}
RATES = Rates(small=4e6, mixture=3e6, projected=2e6, large=8e6)
ROUTES = {
    route.name: route
    for route in Routes(small=SMALL, large=LARGE, lora_rank=64, **SETTINGS).all(RATES)  # type: ignore[arg-type]
}


def test_pretraining_is_paid_once_or_by_each_task_and_tuning_by_each() -> None:
    plain, tuning = 64_000 * SMALL.flops_per_token, 16_000 * SMALL.flops_per_token
    assert (ROUTES["slm"].flops.generic, ROUTES["slm"].flops.task) == (plain, tuning)
    assert (ROUTES["slm-is"].flops.generic, ROUTES["slm-is"].flops.task) == (0, plain + tuning)
    assert (ROUTES["slm-is-trunk"].flops.generic, ROUTES["slm-is-trunk"].flops.task) == (plain / 2, plain / 2 + tuning)
    assert ROUTES["slm"].flops.total(3) == plain + 3 * tuning
    assert ROUTES["slm-is"].flops.total(1) == ROUTES["slm"].flops.total(1)


def test_families_with_experts_cost_what_they_count() -> None:
    projected, mixture = Projected(experts=8, banks=4, cells=8), Mixture(experts=8, cells=8)
    rows = 64_000 / 64
    wanted = 64_000 * projected.flops_per_token(SMALL) + rows * projected.flops_per_projection(SMALL)
    assert ROUTES["slm-pn"].flops.generic == wanted > ROUTES["slm"].flops.generic
    assert ROUTES["slm-mix"].flops.generic == 64_000 * mixture.flops_per_token(SMALL)
    assert {ROUTES[name].served for name in ("slm", "slm-is", "slm-pn", "slm-mix", "slm-d")} == {SMALL.num_parameters}


def test_a_teacher_is_trained_tuned_and_read_before_it_teaches() -> None:
    tuning = 16_000 * LARGE.flops_per_token
    assert ROUTES["slm-d"].flops.generic == ROUTES["slm"].flops.generic + ROUTES["llm-lora"].flops.generic
    assert ROUTES["slm-d"].flops.task == pytest.approx(ROUTES["slm"].flops.task + tuning * 4 / 3)
    assert tuning * 2 / 3 < ROUTES["llm-lora"].flops.task < tuning * 2


def test_low_rank_parameters_stand_beside_every_matrix_of_the_blocks() -> None:
    matrices = [each for name, each in Llama(SMALL).named_parameters() if "layers" in name and each.ndim == 2]
    assert lora_parameters(SMALL, 4) == 4 * sum(sum(each.shape) for each in matrices)


def test_seconds_are_flops_at_the_speed_of_what_is_trained() -> None:
    speeds = {"slm": 4e6, "slm-pn": 2e6, "slm-mix": 3e6, "llm-lora": 8e6}
    for name, speed in speeds.items():
        assert ROUTES[name].seconds.generic == pytest.approx(ROUTES[name].flops.generic / speed)
    taught = ROUTES["slm-d"].seconds
    assert taught.generic == ROUTES["slm"].seconds.generic + ROUTES["llm-lora"].seconds.generic
    assert taught.task == pytest.approx(ROUTES["slm"].seconds.task + 16_000 * LARGE.flops_per_token * 4 / 3 / 8e6)


def test_a_total_grows_with_the_tasks() -> None:
    assert Cost(generic=10.0, task=3.0).total(4) == 22.0

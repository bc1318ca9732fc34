import pytest

from training.config import TrainConfig
from training.model import Llama
from training.optim import adamw, learning_rate


def rates(schedule, **settings):
    config = TrainConfig(tokens=1, schedule=schedule, learning_rate=1.0, **settings)
    return [learning_rate(config, step, 100) for step in range(100)]


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_the_rate_rises_to_its_peak_and_falls_to_its_floor(schedule):
    found = rates(schedule, warmup_share=0.1, decay_share=0.3, min_learning_rate_ratio=0.1)
    assert found[:11] == sorted(found[:11])
    assert max(found) == 1.0
    assert found[10:] == sorted(found[10:], reverse=True)
    assert 0.1 <= found[-1] < 0.14


def test_wsd_is_stable_until_its_decay():
    found = rates("wsd", warmup_share=0.1, decay_share=0.3)
    assert set(found[10:70]) == {1.0}
    assert found[71] < 1.0


def test_decay_touches_matrices_only(shape):
    groups = adamw(Llama(shape), TrainConfig(tokens=1, weight_decay=0.3)).param_groups
    assert {(p.ndim, group["weight_decay"]) for group in groups for p in group["params"]} == {(2, 0.3), (1, 0.0)}

import pytest
import torch

from training.config import TrainConfig, batch_rows_for, fitting, rate_for, sized
from training.model import Llama


@pytest.mark.parametrize(
    ("wanted", "vocabulary"),
    [(1_500_000, 4096), (3_000_000, 4096), (6_000_000, 4096), (30_000_000, 16384), (124_000_000, 32768)],
)
def test_sized_hits_the_wanted_parameter_count_within_a_tenth(wanted, vocabulary):
    shape = sized(wanted, vocab_size=vocabulary, context=256)
    assert abs(shape.num_parameters / wanted - 1) < 0.1


def test_the_parameter_count_is_the_count_of_the_module(shape):
    assert shape.num_parameters == sum(p.numel() for p in Llama(shape).parameters())


def test_a_vocabulary_larger_than_the_model_is_refused():
    with pytest.raises(ValueError, match="too few for a vocabulary"):
        sized(100_000, vocab_size=4096, context=256)


def test_what_only_affects_speed_does_not_change_equality():
    assert TrainConfig(tokens=5, checkpoint_every=1) == TrainConfig(tokens=5, checkpoint_every=2)


def test_initialisation_depends_on_the_seed_alone(shape):
    first, again, other = Llama(shape), Llama(shape), Llama(shape)
    for network, seed in ((first, 1), (again, 1), (other, 2)):
        network.initialise(seed)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


@pytest.mark.parametrize("wrong", [{"determinism": "bitwise", "optimizer": "adamw"}, {"optimizer": "muon"}])
def test_what_needs_whole_tensors_is_refused_with_sharding(wrong):
    with pytest.raises(ValueError, match="sharding must be replicated"):
        TrainConfig(tokens=1, sharding="sharded", **wrong)


def test_the_branch_is_the_last_step_at_the_full_rate():
    from training.optim import learning_rate

    config = TrainConfig(tokens=1, warmup_share=0.1, decay_share=0.3)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    branch = config.branch_step(100)
    assert rates[branch - 1] == config.learning_rate > rates[branch + 1]
    assert TrainConfig(tokens=1, schedule="cosine").branch_step(100) == 0


@pytest.mark.parametrize(
    ("tokens", "rows"), [(1, 1), (250_000, 2), (384_000, 4), (800_000, 8), (1_600_000, 16), (10**10, 16)]
)
def test_a_batch_leaves_enough_steps(tokens: int, rows: int) -> None:
    assert batch_rows_for(tokens, context=256) == rows
    assert batch_rows_for(4 * tokens, context=1024) == rows


def test_the_rate_follows_the_root_of_the_batch() -> None:
    assert [rate_for(rows) for rows in (64, 16, 8, 4, 1)] == [0.02, 0.01, 0.00707, 0.005, 0.0025]


@pytest.mark.parametrize("most", [1_000_000, 2_000_000, 8_000_000, 30_000_000, 50_000_000])
def test_a_shape_that_fits_is_the_nearest_that_is_not_larger(most):
    shape = fitting(most, vocab_size=4096, context=256)
    assert 0.85 * most < shape.num_parameters <= most

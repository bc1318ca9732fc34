import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from catalog.errors import BadInput
from tests.training.conftest import CONTEXT, END
from training.evaluate import Scores, evaluate, paired_bootstrap, summarise
from training.folder import write_model
from training.model import Llama


@pytest.fixture(scope="module")
def network(shape):
    network = Llama(shape)
    network.initialise(5)
    return network


@pytest.fixture(scope="module")
def scores(network, documents, local, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    write_model(network, folder, end_of_text=END)
    return evaluate(folder, documents, context=local)


def test_every_token_is_scored_once_given_the_window_before_it(network, documents, scores):
    for row, document in enumerate(documents.to_pylist()):
        sequence = torch.tensor([END, *document["tokens"], END])
        nats = 0.0
        for begin in range(0, len(sequence) - 1, CONTEXT):
            window = sequence[begin : begin + CONTEXT + 1]
            inputs = window[None, :-1]
            logits = network(inputs, torch.zeros_like(inputs))
            nats += float(F.cross_entropy(logits[0], window[1:], reduction="sum").detach())
        assert scores.nll_nats[row] == pytest.approx(nats, abs=2e-4)
        assert scores.tokens[row] == len(document["tokens"]) + 1
        assert scores.bytes[row] == document["n_bytes"]


def test_the_summary_is_a_ratio_of_sums(scores):
    found = summarise(scores)
    assert found.bits_per_byte == pytest.approx(scores.nll_nats.sum() / math.log(2) / scores.bytes.sum())
    assert found.perplexity == pytest.approx(math.exp(scores.nll_nats.sum() / scores.tokens.sum()))


def test_scoring_refuses_tokens_outside_the_vocabulary(network, documents):
    from training.evaluate import score

    with pytest.raises(BadInput, match="vocabulary is 96"):
        score(
            network,
            documents.set_column(1, "tokens", [[[4000]] * len(documents)]),
            end_of_text=END,
            dtype=torch.float32,
        )


def made(random, shift):
    size = random.integers(100, 2000, 300)
    return Scores(ids=[str(i) for i in range(300)], nll_nats=size * (1.0 + shift), tokens=size // 3, bytes=size)


def test_the_bootstrap_equals_a_plain_loop_over_draws():
    random = np.random.default_rng(0)
    a, b = made(np.random.default_rng(1), random.normal(0, 0.1, 300)), made(np.random.default_rng(1), 0.0)
    found = paired_bootstrap(a, b, seed=3, draws=500)
    draws = np.random.Generator(np.random.Philox(3)).integers(300, size=(500, 300))
    truth = [
        (a.nll_nats[d].sum() / a.bytes[d].sum() - b.nll_nats[d].sum() / b.bytes[d].sum()) / math.log(2) for d in draws
    ]
    assert found.low == pytest.approx(np.quantile(truth, 0.025))
    assert found.high == pytest.approx(np.quantile(truth, 0.975))
    assert found.win_probability == pytest.approx(np.mean(np.array(truth) < 0))
    assert found.low < found.difference < found.high


def test_a_planted_difference_is_found_and_equal_models_tie():
    a, b = made(np.random.default_rng(1), -0.05), made(np.random.default_rng(1), 0.0)
    better = paired_bootstrap(a, b, seed=0)
    assert better.win_probability == 1.0
    assert better.high < 0
    assert paired_bootstrap(b, b, seed=0).win_probability == 0.5


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random, covered = np.random.default_rng(0), 0
    for seed in range(200):
        size = random.integers(100, 2000, 80).astype(float)
        gap = size * (0.1 + random.normal(0, 0.3, 80))
        ids = [str(i) for i in range(80)]
        a = Scores(ids=ids, nll_nats=gap, tokens=size, bytes=size)
        b = Scores(ids=ids, nll_nats=np.zeros(80), tokens=size, bytes=size)
        found = paired_bootstrap(a, b, seed=seed, draws=500)
        covered += found.low <= 0.1 / math.log(2) <= found.high
    assert 176 <= covered <= 200


def test_different_documents_are_not_compared():
    a = made(np.random.default_rng(1), 0.0)
    b = Scores(ids=a.ids[::-1], nll_nats=a.nll_nats, tokens=a.tokens, bytes=a.bytes)
    with pytest.raises(ValueError, match="same documents"):
        paired_bootstrap(a, b, seed=0)

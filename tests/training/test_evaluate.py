import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from catalog.errors import BadInput
from tests.training.conftest import CONTEXT, END
from training.evaluate import (
    Parts,
    Scores,
    Windows,
    by_cell,
    by_domain,
    evaluate,
    paired_bootstrap,
    score,
    summarise,
)
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


def scores_of(ids, nll_nats, tokens, size):
    none = np.zeros(0, np.int64)
    parts = Parts(document=none, cell=none, nll_nats=np.zeros(0), tokens=none, correct=none)
    return Scores(ids=ids, nll_nats=nll_nats, tokens=tokens, bytes=size, correct=tokens // 2, parts=parts)


def made(random, shift):
    size = random.integers(100, 2000, 300)
    return scores_of([str(i) for i in range(300)], size * (1.0 + shift), size // 3, size)


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
        a = scores_of(ids, gap, size, size)
        b = scores_of(ids, np.zeros(80), size, size)
        found = paired_bootstrap(a, b, seed=seed, draws=500)
        covered += found.low <= 0.1 / math.log(2) <= found.high
    assert 176 <= covered <= 200


def test_different_documents_are_not_compared():
    a = made(np.random.default_rng(1), 0.0)
    b = scores_of(a.ids[::-1], a.nll_nats, a.tokens, a.bytes)
    with pytest.raises(ValueError, match="same documents"):
        paired_bootstrap(a, b, seed=0)


def test_scores_by_window_and_domain_equal_a_plain_loop_over_tokens(shape, documents):
    model = Llama(shape)
    model.initialise(3)
    rows = documents.to_pylist()
    starts = [(i, start) for i, row in enumerate(rows) for start in range(0, max(len(row["tokens"]), 1), 20)]
    document, start = (np.array(column, np.int64) for column in zip(*starts, strict=True))
    windows = Windows(document=document, start=start, cell=(document + start // 20) % 3)
    found = score(model, documents, end_of_text=END, dtype=torch.float32, windows=windows)
    nats, tokens, hits = (np.zeros(len(start)) for _ in range(3))
    for i, row in enumerate(rows):
        text = torch.tensor([END, *row["tokens"], END])
        for begin in range(0, len(text) - 1, CONTEXT):
            piece = text[begin : begin + CONTEXT + 1]
            logits = model(piece[None, :-1], torch.zeros(1, len(piece) - 1, dtype=torch.int64))[0].log_softmax(-1)
            for place, after in enumerate(piece[1:].tolist()):
                mine = np.flatnonzero((document == i) & (start <= begin + place))[-1]
                nats[mine] -= logits[place, after].item()
                tokens[mine] += 1
                hits[mine] += logits[place].argmax().item() == after
    np.testing.assert_allclose(found.parts.nll_nats, nats, rtol=1e-4, atol=1e-4)
    assert found.parts.tokens.tolist() == tokens.tolist()
    assert found.parts.correct.tolist() == hits.tolist()
    assert found.correct.sum() == hits.sum()
    cells = by_cell(found, seed=0, draws=50)
    assert sum(each.tokens for each in cells) == found.tokens.sum()
    for each in cells:
        chosen = windows.cell == int(each.group)
        assert each.nats_per_token == pytest.approx(nats[chosen].sum() / tokens[chosen].sum(), rel=1e-4)
        assert each.low <= each.nats_per_token <= each.high
        assert each.documents == len(set(document[chosen].tolist()))
    domains = by_domain(found, ["a", "b"] * 4 + ["a"], seed=0, draws=50)
    assert [each.group for each in domains] == ["a", "b"]
    assert domains[1].nats_per_token == pytest.approx(found.nll_nats[1:8:2].sum() / found.tokens[1:8:2].sum())


def test_the_interval_of_the_bits_per_byte_holds_them_and_narrows_with_documents():
    few, many = (made(np.random.default_rng(1), np.random.default_rng(2).normal(0, 0.3, 300)) for _ in range(2))
    few = scores_of(few.ids[:20], few.nll_nats[:20], few.tokens[:20], few.bytes[:20])
    wide, narrow = summarise(few, draws=400), summarise(many, draws=400)
    for each in (wide, narrow):
        assert each.low < each.bits_per_byte < each.high
    assert narrow.high - narrow.low < (wide.high - wide.low) / 2

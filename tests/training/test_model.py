"""The fast paths against slower truths: transformers, full softmax, separate documents."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.conftest import CONTEXT, VOCABULARY
from training import kernels, model
from training.folder import hf_config
from training.model import IGNORED, Llama, layout, targets


@pytest.fixture(scope="module")
def network(shape):
    network = Llama(shape)
    network.initialise(3)
    return network


def plain_loss(network, tokens, segments):
    logits = network(tokens, segments)
    wanted = targets(tokens, segments)
    return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum")


def some_rows(seed, rows=5):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (rows, CONTEXT), generator=generator)
    segments = (torch.rand(rows, CONTEXT, generator=generator) < 0.1).long().cumsum(1)
    segments[0, CONTEXT // 2 :] = -1
    return tokens, segments


def test_state_dict_names_and_logits_are_those_of_hf_llama(network, shape):
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaForCausalLM(LlamaConfig(**hf_config(shape, end_of_text=0))).eval()
    missing = theirs.load_state_dict(network.state_dict(), strict=False)
    assert missing.missing_keys == ["lm_head.weight"]
    assert missing.unexpected_keys == []
    theirs.tie_weights()
    tokens, _ = some_rows(0)
    ours = network(tokens, torch.zeros_like(tokens))
    torch.testing.assert_close(ours, theirs(tokens).logits, atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(cuts=st.sets(st.integers(1, CONTEXT - 1), max_size=6), seed=st.integers(0, 99))
def test_packed_logits_equal_separate_documents_logits(network, cuts, seed):
    tokens, _ = some_rows(seed, rows=1)
    edges = [0, *sorted(cuts), CONTEXT]
    segments = torch.cat([torch.full((end - begin,), i) for i, (begin, end) in enumerate(itertools.pairwise(edges))])[
        None
    ]
    together = network(tokens, segments)
    for begin, end in itertools.pairwise(edges):
        alone = network(tokens[:, begin:end], torch.zeros(1, end - begin, dtype=torch.long))
        torch.testing.assert_close(together[:, begin:end], alone, atol=1e-5, rtol=0)


def test_head_loss_and_gradients_equal_plain_cross_entropy(network):
    tokens, segments = some_rows(1)
    network.zero_grad()
    plain = plain_loss(network, tokens, segments)
    plain.backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters()}
    network.zero_grad()
    fast = network.loss(tokens, targets(tokens, segments), layout(segments), torch.float32)
    fast.backward()
    torch.testing.assert_close(fast, plain)
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kv_heads", [3, 1])
def test_block_attention_equals_torch_attention_over_several_blocks(monkeypatch, kv_heads):
    monkeypatch.setattr(kernels, "_QUERY_BLOCK", 8)
    joined = torch.randn(2, 29, 3 + 2 * kv_heads, 8, requires_grad=True)
    where = layout((torch.arange(29) // 11).expand(2, -1).contiguous())
    bias = torch.zeros(where.mask_BTT.shape).masked_fill_(~where.mask_BTT, float("-inf"))[:, None]
    angles = torch.randn(1, 29, 4)
    weight = torch.randn(2, 29, 24)
    ours = kernels.causal_attention(joined, (angles.cos(), angles.sin()), bias, heads=3, kv_heads=kv_heads)
    theirs = model._sdpa(joined, (angles.cos(), angles.sin()), bias, heads=3, kv_heads=kv_heads)
    torch.testing.assert_close(ours, theirs)
    mine, other = (torch.autograd.grad((each * weight).sum(), joined)[0] for each in (ours, theirs))
    torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("chunk_rows", [4, 64])
def test_the_kernels_and_their_gradients_equal_torch_operators(monkeypatch, chunk_rows):
    monkeypatch.setattr(kernels, "_PRODUCT_ROWS", chunk_rows)
    x, weight = torch.randn(3, 5, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    joined = torch.randn(3, 5, 12, requires_grad=True)
    hidden, head = torch.randn(150, 8, requires_grad=True), torch.randn(1 << 13, 8, requires_grad=True)
    wanted = torch.where(torch.arange(150) % 7 == 0, IGNORED, torch.arange(150) * 31)
    gate, up = joined.chunk(2, -1)
    pairs = (
        (kernels.rms_norm(x, weight, 1e-5, torch.float32), F.rms_norm(x, (8,), weight, 1e-5), (x, weight)),
        (kernels.swiglu(joined), F.silu(gate) * up, (joined,)),
        (
            kernels.head_loss(hidden, head, wanted),
            F.cross_entropy(hidden @ head.t(), wanted, ignore_index=IGNORED, reduction="sum"),
            (hidden, head),
        ),
    )
    for ours, theirs, leaves in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        turn = torch.randn(ours.shape)
        for mine, other in zip(*(torch.autograd.grad(each, leaves, turn) for each in (ours, theirs)), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_gradients_do_not_depend_on_the_micro_batch(network, size):
    tokens, segments = some_rows(2)
    wanted = targets(tokens, segments)

    def gradient(step):
        network.zero_grad()
        for i in range(0, len(tokens), step):
            at = slice(i, i + step)
            network.loss(tokens[at], wanted[at], layout(segments[at]), torch.float32).backward()
        return torch.cat([p.grad.flatten() for p in network.parameters()])

    torch.testing.assert_close(gradient(size), gradient(3), atol=1e-4, rtol=1e-4)


def test_targets_stop_at_segment_ends_and_padding():
    tokens = torch.tensor([[5, 6, 7, 8, 9, 9]])
    segments = torch.tensor([[0, 0, 1, 1, -1, -1]])
    assert targets(tokens, segments).tolist() == [[6, IGNORED, 8, IGNORED, IGNORED, IGNORED]]


def test_bf16_loss_is_near_the_fp32_loss(network):
    tokens, segments = some_rows(4)
    wanted, where = targets(tokens, segments), layout(segments)
    exact, fast = (network.loss(tokens, wanted, where, dtype).item() for dtype in (torch.float32, torch.bfloat16))
    assert abs(fast / exact - 1) < 0.01


def test_token_losses_sum_to_the_loss(network):
    tokens, segments = some_rows(5)
    wanted, where = targets(tokens, segments), layout(segments)
    each = network.nll(tokens, wanted, where, torch.float32)
    torch.testing.assert_close(each.sum(), network.loss(tokens, wanted, where, torch.float32))
    assert (each[wanted == IGNORED] == 0).all()

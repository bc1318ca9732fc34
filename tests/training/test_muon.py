"""Muon: equal to PyTorch's, which is slower; matrices of all shapes and stacks go through it alike."""

from __future__ import annotations

import pytest
import torch

from training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (8, 24), (24, 8), (1, 8)])
def test_five_steps_equal_those_of_pytorch_in_bf16(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.randn(shape, generator=generator)) for _ in range(2))
    theirs.data.copy_(ours.data)
    start = ours.detach().clone()
    one = Muon([{"params": [ours], "weight_decay": 0.1}], learning_rate=0.01, dtype=torch.bfloat16)
    other = torch.optim.Muon([theirs], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        gradient = torch.randn(shape, generator=generator)
        for parameter, optimizer in ((ours, one), (theirs, other)):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (start - ours).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # bf16 rounds the products of a batch otherwise


def test_singular_values_end_near_one_in_fp32() -> None:
    matrices = torch.randn(5, 16, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices, torch.float32))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_a_stack_moves_as_its_matrices_do_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    stack = torch.randn(3, 24, 8, generator=generator)
    gradient = torch.randn(3, 24, 8, generator=generator)
    whole = torch.nn.Parameter(stack.clone())
    alone = [torch.nn.Parameter(each.clone()) for each in stack]
    whole.grad = gradient.clone()
    for parameter, each in zip(alone, gradient, strict=True):
        parameter.grad = each.clone()
    for parameters in ([whole], alone):
        Muon([{"params": parameters}], learning_rate=0.1, dtype=torch.float32).step()
    assert torch.allclose(whole, torch.stack([each.data for each in alone]), atol=1e-6)
    assert not torch.allclose(whole, stack, atol=1e-2)


def test_what_has_no_gradient_stays() -> None:
    still, moved = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    moved.grad = torch.eye(4)
    Muon([{"params": [still, moved]}], learning_rate=0.1, dtype=torch.float32).step()
    assert torch.equal(still.data, torch.ones(4, 4))
    assert not torch.equal(moved.data, torch.ones(4, 4))

"""How the gradients of micro-batches become the gradient of a step.

`add_up` lets each parameter's gradient grow over the micro-batches of a rank and then sums over ranks: the fastest,
with bytes that depend on how many ranks there are, because sums of floats do. `add_in_a_tree` adds along a binary tree
over the micro-batches of the *batch*: (0+1)+(2+3) .... A rank that has 2^-k of them computes one subtree, so any number
of ranks gives the same bytes; cost: a copy of the gradient per level of the tree. `collect_shards` is for FSDP2, which
has summed already.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.context import RunContext

_AT_ONCE = 1 << 24  # elements of a gradient that are gathered from all ranks at a time

Backward = Callable[[int], Tensor]  # runs a micro-batch, adds to the parameters' gradients, returns its loss
Combine = Callable[[nn.Module, int, Backward, RunContext], Tensor]


def add_up(model: nn.Module, number: int, backward: Backward, context: RunContext) -> Tensor:
    """Leave the sum over all micro-batches of all ranks in `.grad`; the summed loss."""
    loss = torch.zeros((), device=context.device)
    for each in range(number):
        loss += backward(each)
    if context.world_size > 1:
        flat = _taken(model, loss)
        context.all_reduce(flat)
        loss = _put_back(model, flat)
    return loss


def add_in_a_tree(model: nn.Module, number: int, backward: Backward, context: RunContext) -> Tensor:
    """`add_up` with the same bytes for any number of ranks that divides the tree (`check_cut`)."""

    def subtree(first: int, last: int) -> Tensor:
        if last - first == 1:
            return _taken(model, backward(first))
        middle = (first + last) // 2
        return subtree(first, middle).add_(subtree(middle, last))

    flat = subtree(0, number)
    if context.world_size > 1:
        flat = torch.cat([_tree_sum(context.all_gather(piece)) for piece in flat.split(_AT_ONCE)])
    return _put_back(model, flat)


def collect_shards(_model: nn.Module, number: int, backward: Backward, context: RunContext) -> Tensor:
    """`add_up` where FSDP2 sums gradients over ranks during the backward: only the loss is left to sum."""
    loss = torch.zeros((), device=context.device)
    for each in range(number):
        loss += backward(each)
    context.all_reduce(loss)
    return loss


def _tree_sum(parts: list[Tensor]) -> Tensor:
    while len(parts) > 1:
        parts = [left + right for left, right in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _taken(model: nn.Module, loss: Tensor) -> Tensor:
    """The gradients, end to end with the loss last, taken off the parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    # a rank whose slice is empty has no gradients yet
    pieces = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return torch.cat([*pieces, loss.reshape(1)])


def _put_back(model: nn.Module, flat: Tensor) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    *pieces, loss = flat.split([*(p.numel() for p in parameters), 1])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)
    return loss[0]

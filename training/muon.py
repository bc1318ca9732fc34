"""Muon: the momentum of each matrix, made orthogonal, is its update (Jordan 2024; arXiv 2502.16982).

Five Newton-Schulz steps bring all singular values of the momentum near 1, so directions that gradients rarely take
learn as fast as the others. Matrices of one shape go through the products together, in the precision of training, at
the price of their copies in memory: PyTorch's own Muon takes them one by one and always in bf16, and on a processor
without bf16 a step of a million parameters took 1.65 times as long with it (docs/decisions.md). Updates have the size
of AdamW's (0.2 sqrt(larger side) once orthogonal), so both share rates and decay.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan 2024: steep at 0, so that singular values end in 0.7 to 1.2
_LIKE_ADAMW = 0.2


class Muon(torch.optim.Optimizer):
    """For parameters of shape [..., A, B]: matrices, or stacks of them. State: `momentum`, one a parameter."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, learning_rate: float, dtype: torch.dtype):
        super().__init__(groups, {"lr": learning_rate, "weight_decay": 0.0})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if "momentum" not in self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
                momentum = self.state[parameter]["momentum"]
                momentum.lerp_(parameter.grad, 1 - MOMENTUM)
                update = parameter.grad.lerp(momentum, MOMENTUM)  # Nesterov's look ahead
                rows, columns = update.shape[-2:]
                update = update if rows <= columns else update.mT
                alike.setdefault((min(rows, columns), max(rows, columns)), []).append((parameter, update))
            for (_, larger), pairs in alike.items():
                self._move(pairs, rate=group["lr"], decay=group["weight_decay"], size=_LIKE_ADAMW * larger**0.5)

    def _move(self, pairs: list[tuple[Tensor, Tensor]], *, rate: float, decay: float, size: float) -> None:
        updates = [update.reshape(-1, *update.shape[-2:]) for _, update in pairs]
        turned = orthogonal(torch.cat(updates), self._dtype).split([len(each) for each in updates])
        for (parameter, update), each in zip(pairs, turned, strict=True):
            step = each.view(update.shape)
            parameter.mul_(1 - rate * decay)
            parameter.add_(step if step.shape == parameter.shape else step.mT, alpha=-rate * size)


def orthogonal(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """The orthogonal factor of each matrix [N, A, B], A <= B, singular values in 0.6 to 1.3; products in `dtype`."""
    a, b, c = _COEFFICIENTS
    x = (matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)).to(dtype)
    for _ in range(_STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)

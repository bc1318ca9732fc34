"""Feed-forward matrices that are sums of banks: the projected block of SLM-pn and Soup-of-Experts.

    W(p)[a, b] = sum_r c[r] T[r, a, b]     with     c = (p E) M

p is a histogram over experts (one expert is a histogram of one), E [experts, m] is shared by all blocks, M [m, banks]
is one per matrix, T holds almost all parameters (2402.01093 section 3.2, 2502.01804). We take m = experts. A sum costs
one pass over the banks a micro-batch, and its gradient another; the micro-batch itself then runs as a plain block.

At the beginning E = I and M = 1/banks plus a small identity, so that experts are alike and not equal; T is drawn so
that a sum has the variance of a plain matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.kernels import swiglu

if TYPE_CHECKING:
    from training.config import ModelConfig
    from training.family import Projected
    from training.model import Pass

_IDENTITY = 0.1


def weight_of(linear: nn.Module) -> Tensor:
    """The matrix that a linear layer applies, its low-rank addition included when peft has given it one."""
    if isinstance(linear, nn.Linear):
        return linear.weight
    layer: Any = linear
    return layer.base_layer.weight + layer.get_delta_weight("default")


def gated(x_BTD: Tensor, gate_and_up: Tensor, down: Tensor) -> Tensor:
    """SwiGLU with the gate's matrix above the other's."""
    return F.linear(swiglu(F.linear(x_BTD, gate_and_up.to(x_BTD.dtype))), down.to(x_BTD.dtype))


class ProjectedMLP(nn.Module):
    """Banks and the mixing matrices of one block; `mixing` is [3, m, banks] for gate, up and down."""

    def __init__(self, config: ModelConfig, family: Projected):
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.mixing = nn.Parameter(torch.empty(3, family.experts, family.banks))
        self.gate_banks = nn.Parameter(torch.empty(family.banks, inner, width))
        self.up_banks = nn.Parameter(torch.empty(family.banks, inner, width))
        self.down_banks = nn.Parameter(torch.empty(family.banks, width, inner))

    @property
    def bank_scale(self) -> float:
        """By what a bank's deviation must exceed a plain matrix' for a sum to have the latter."""
        return float(1 / self.mixing[0, 0].norm())

    def set_mixing(self) -> None:
        """The same for the three matrices; bank r is a little more of expert r's, r + banks', and so on."""
        experts, banks = self.mixing.shape[1:]
        identity = torch.eye(banks).repeat(-(-experts // banks), 1)[:experts]
        self.mixing.copy_((1 / banks + _IDENTITY * identity).expand_as(self.mixing))

    def matrices(self, shares_K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gate, up and down under the shares, each fp32 [out, in]."""
        all_banks = (self.gate_banks, self.up_banks, self.down_banks)
        gate, up, down = (_Sum.apply(shares_K @ self.mixing[i], banks) for i, banks in enumerate(all_banks))
        return gate, up, down

    def forward(self, x_BTD: Tensor, given: Pass) -> Tensor:
        gate, up, down = self.matrices(given.shares_K)
        return gated(x_BTD, torch.cat([gate, up]), down)


class _Sum(torch.autograd.Function):
    """sum_r c[r] T[r]; its backward is one product and one outer product, without a copy of the banks."""

    @staticmethod
    def forward(ctx: Any, coefficients_R: Tensor, banks_RAB: Tensor) -> Tensor:
        ctx.save_for_backward(coefficients_R, banks_RAB)
        return (coefficients_R @ banks_RAB.flatten(1)).view(banks_RAB.shape[1:])

    @staticmethod
    def backward(ctx: Any, grad_AB: Tensor) -> tuple[Tensor, Tensor]:
        coefficients_R, banks_RAB = ctx.saved_tensors
        flat = grad_AB.reshape(-1)
        return banks_RAB.flatten(1) @ flat, (coefficients_R[:, None] * flat).view_as(banks_RAB)

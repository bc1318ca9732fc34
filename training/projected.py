"""Feed-forward matrices that are sums of banks: the projected block of SLM-pn and Soup-of-Experts.

    W(p)[a, b] = sum_r c[r] T[r, a, b]     with     c = (p E) M

p is a histogram over experts (one expert is a histogram of one), E [experts, m] is shared by all blocks, M [m, banks]
is one per matrix, T holds almost all parameters (2402.01093 section 3.2, 2502.01804). We take m = experts. Every row of
a micro-batch has its own p and so its own matrices: otherwise a step would hold few cells, which costs loss
(docs/decisions.md). A row's sum takes the FLOPs of `banks` tokens, and a micro-batch holds a copy of the matrices for
each of its rows until the backward pass.

At the beginning E = I, the banks of a matrix are equal and every expert's coefficients sum to 1, so each expert is the
plain decoder of that seed, and banks part as their experts' gradients do: with banks drawn apart an expert had to
unlearn the noise of its own (docs/decisions.md).
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

_OWN = 0.1  # of an expert's coefficients lie on one bank at the beginning, the rest evenly on all


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

    def set_mixing(self) -> None:
        """The same for the three matrices; bank r is more of expert r's, r + banks', and so on."""
        experts, banks = self.mixing.shape[1:]
        own = torch.eye(banks).repeat(-(-experts // banks), 1)[:experts]
        self.mixing.copy_(((1 - _OWN) / banks + _OWN * own).expand_as(self.mixing))

    def matrices(self, shares_GK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gate, up and down under each row of shares, each fp32 [G, out, in]."""
        all_banks = (self.gate_banks, self.up_banks, self.down_banks)
        gate, up, down = (
            (shares_GK @ self.mixing[i] @ banks.flatten(1)).unflatten(-1, banks.shape[1:])
            for i, banks in enumerate(all_banks)
        )
        return gate, up, down

    def forward(self, x_BTD: Tensor, given: Pass) -> Tensor:
        gate, up, down = (each.to(x_BTD.dtype) for each in self.matrices(given.shares_GK))
        hidden = swiglu(torch.matmul(x_BTD, torch.cat([gate, up], 1).mT))
        return torch.matmul(hidden, down.mT)

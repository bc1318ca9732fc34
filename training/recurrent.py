"""minGRU (arXiv 2410.01201): a recurrence whose gates do not look at the state, so that training is a parallel scan.

    h[t] = (1 - z[t]) h[t-1] + z[t] v[t]     with     z = sigmoid(W_z x),  v = W_v x

The scan doubles its stride: log2(T) passes over [B, T, D]; its gradient is the same scan backwards. A segment begins
with an empty state, so packed documents do not see each other. A generated token costs a block three products and one
vector of state, however long the text is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from training.model import Llama, Pass


class MinGRU(nn.Module):
    """Takes the place of attention in a block; the scan is fp32."""

    def __init__(self, width: int):
        super().__init__()
        self.z_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def gates(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept of the state, and what is added to it; fp32."""
        joined = torch.cat([self.z_proj.weight, self.v_proj.weight]).to(x_BTD.dtype)
        gate, value = F.linear(x_BTD, joined).float().chunk(2, -1)
        opened = torch.sigmoid(gate)
        return 1 - opened, opened * value

    def forward(self, x_BTD: Tensor, given: Pass) -> Tensor:
        keep, add = self.gates(x_BTD)
        state = _Scan.apply(keep.masked_fill(given.starts_BT1, 0.0), add)
        return F.linear(state.to(x_BTD.dtype), self.o_proj.weight.to(x_BTD.dtype))

    def step(self, x_BD: Tensor, state_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Output and next state of one token."""
        keep, add = self.gates(x_BD)
        state_BD = keep * state_BD + add
        return F.linear(state_BD.to(x_BD.dtype), self.o_proj.weight.to(x_BD.dtype)), state_BD


def no_state(model: Llama, rows: int) -> list[Tensor]:
    """The state before the first token, one [rows, D] a block."""
    like = model.model.embed_tokens.weight
    return [like.new_zeros(rows, model.config.hidden_size) for _ in model.model.layers]


@torch.no_grad()
def step(model: Llama, tokens_B: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Logits [B, V] after one more token, and the states then; in fp32."""
    x_BD, after = model.model.embed_tokens(tokens_B), []
    blocks: list[Any] = list(model.model.layers)
    for block, state in zip(blocks, states, strict=True):
        mixed, next_state = block.self_attn.step(block.input_layernorm(x_BD, torch.float32), state)
        x_BD = x_BD + mixed
        x_BD = x_BD + block.mlp(block.post_attention_layernorm(x_BD, torch.float32), None)
        after.append(next_state)
    return F.linear(model.model.norm(x_BD, torch.float32), model.head), after


class _Scan(torch.autograd.Function):
    """h[t] = keep[t] h[t-1] + add[t] along dimension 1, from h[-1] = 0."""

    @staticmethod
    def forward(ctx: Any, keep_BTD: Tensor, add_BTD: Tensor) -> Tensor:
        state_BTD = scan(keep_BTD, add_BTD)
        ctx.save_for_backward(keep_BTD, state_BTD)
        return state_BTD

    @staticmethod
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor, Tensor]:
        keep_BTD, state_BTD = ctx.saved_tensors
        after = torch.cat([keep_BTD[:, 1:], torch.zeros_like(keep_BTD[:, :1])], 1)
        add_grad = scan(after.flip(1), grad_BTD.flip(1)).flip(1)
        before = torch.cat([torch.zeros_like(state_BTD[:, :1]), state_BTD[:, :-1]], 1)
        return add_grad * before, add_grad


def scan(keep_BTD: Tensor, add_BTD: Tensor) -> Tensor:
    """The recurrence in log2(T) passes: after a pass of stride s, a place holds what its last 2s inputs make of it."""
    keep, state, stride = keep_BTD, add_BTD, 1
    while stride < keep_BTD.shape[1]:
        state = torch.cat([state[:, :stride], state[:, stride:] + keep[:, stride:] * state[:, :-stride]], 1)
        keep = torch.cat([keep[:, :stride], keep[:, stride:] * keep[:, :-stride]], 1)
        stride *= 2
    return state

"""A lean Llama decoder whose state-dict names are Hugging Face's, so that every model exports as it is.

RMSNorm, RoPE, SwiGLU, grouped-query attention and tied embeddings (arXiv 2302.13971, 2305.13245); with `qk_norm` it is
Qwen3. Families put other layers into its blocks (`projected`, `recurrent`). Query, key and value are one product, gate
and up another: their weights are joined per call, which costs nothing beside the product. The rest of the arithmetic is
in `training/kernels.py`; CUDA keeps scaled_dot_product_attention.

Shape suffixes: B rows, T tokens, H heads, K key-value heads, E head size, D width, N = B*T, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ModelConfig
from training.family import Projected
from training.kernels import IGNORED, Rotation, causal_attention, chunks, head_loss, rms_norm
from training.projected import ProjectedMLP, gated, weight_of
from training.recurrent import MinGRU


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a network needs to know about a micro-batch beside its tokens.

    `positions_BT` restart at each segment. `mask_BTT` (bool, True = may attend) is None when every row is one
    segment, which lets attention use its faster causal path. `cells_B` are the cells of the rows, in host memory;
    only families with experts look at them.
    """

    positions_BT: Tensor
    mask_BTT: Tensor | None
    cells_B: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one forward pass gives to every block: computed once, in the dtype of its matrix products.

    `starts_BT1` is True where a segment begins; `shares_GK` what experts are summed by, in rows for each row or one row
    for all of them, and empty without experts.
    """

    rotation: Rotation
    bias: Tensor | None
    starts_BT1: Tensor
    shares_GK: Tensor
    dtype: torch.dtype


NO_CELLS = np.zeros(0, np.int64)


def layout(segments_BT: Tensor, device: torch.device | str = "cpu", cells_B: np.ndarray = NO_CELLS) -> Layout:
    """The layout on `device` of segment numbers, int64[B, T] in host memory, so that no GPU waits for the answer.

    A run of equal numbers is one segment, padding (-1) included.
    """
    single = bool((segments_BT[:, 1:] == segments_BT[:, :-1]).all())
    segments_BT = segments_BT.to(device, non_blocking=True)
    index_T = torch.arange(segments_BT.shape[1], device=device)
    starts_BT = torch.zeros_like(segments_BT)
    changed = segments_BT[:, 1:] != segments_BT[:, :-1]
    starts_BT[:, 1:] = torch.where(changed, index_T[1:], 0)
    positions_BT = index_T - starts_BT.cummax(1).values
    if single:
        return Layout(positions_BT=positions_BT, mask_BTT=None, cells_B=cells_B)
    same_BTT = segments_BT[:, :, None] == segments_BT[:, None, :]
    mask_BTT = same_BTT & (index_T[:, None] >= index_T)
    return Layout(positions_BT=positions_BT, mask_BTT=mask_BTT, cells_B=cells_B)


def targets(tokens_BT: Tensor, segments_BT: Tensor) -> Tensor:
    """The next token of each position, int64[B, T]; IGNORED at the end of a segment and in padding."""
    out_BT = torch.full_like(tokens_BT, IGNORED)
    counted = (segments_BT[:, 1:] == segments_BT[:, :-1]) & (segments_BT[:, 1:] >= 0)
    out_BT[:, :-1] = torch.where(counted, tokens_BT[:, 1:], IGNORED)
    return out_BT


class RMSNorm(nn.Module):
    """x / rms(x) * weight, computed in fp32 whatever x is, in the dtype asked for."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return rms_norm(x, self.weight, self.eps, dtype)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        width, size = config.hidden_size, config.head_size
        self.q_proj = nn.Linear(width, config.num_heads * size, bias=False)
        self.k_proj = nn.Linear(width, config.num_kv_heads * size, bias=False)
        self.v_proj = nn.Linear(width, config.num_kv_heads * size, bias=False)
        self.o_proj = nn.Linear(config.num_heads * size, width, bias=False)
        if config.qk_norm:
            self.q_norm = RMSNorm(size, config.norm_eps)
            self.k_norm = RMSNorm(size, config.norm_eps)

    def forward(self, x_BTD: Tensor, given: Pass) -> Tensor:
        heads, kv_heads, size = self.config.num_heads, self.config.num_kv_heads, self.config.head_size
        weight = torch.cat([weight_of(each) for each in (self.q_proj, self.k_proj, self.v_proj)])
        joined = F.linear(x_BTD, weight.to(x_BTD.dtype)).unflatten(-1, (heads + 2 * kv_heads, size))
        if self.config.qk_norm:
            query, key, value = joined.split([heads, kv_heads, kv_heads], 2)
            joined = torch.cat([self.q_norm(query, x_BTD.dtype), self.k_norm(key, x_BTD.dtype), value], 2)
        if x_BTD.device.type == "cpu":
            out_BTD = causal_attention(joined, given.rotation, _needed(given.bias), heads=heads, kv_heads=kv_heads)
        else:
            out_BTD = _sdpa(joined, given.rotation, given.bias, heads=heads, kv_heads=kv_heads)
        return F.linear(out_BTD, weight_of(self.o_proj).to(x_BTD.dtype))


class MLP(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, given: Pass) -> Tensor:
        joined = torch.cat([weight_of(self.gate_proj), weight_of(self.up_proj)])
        return gated(x_BTD, joined, weight_of(self.down_proj))


class Block(nn.Module):
    def __init__(self, config: ModelConfig, number: int):
        super().__init__()
        family = config.family
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = MinGRU(config.hidden_size) if family.kind == "recurrent" else Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        if isinstance(family, Projected) and number in family.blocks(config.num_layers):
            self.mlp: nn.Module = ProjectedMLP(config, family)
        else:
            self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor, given: Pass) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD, given.dtype), given)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD, given.dtype), given)


class Trunk(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, number) for number in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        if isinstance(config.family, Projected):
            self.experts = nn.Parameter(torch.eye(config.family.experts))


class Llama(nn.Module):
    """Weights are fp32; matrix products run in the dtype each call names; the residual stream stays fp32."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        assert config.family.kind != "mixture", "a mixture is several networks"
        self.model = Trunk(config)
        if not config.tied:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        exponents = torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size
        angles = torch.outer(torch.arange(config.context, dtype=torch.float32), config.rope_theta**-exponents)
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)

    cosines: Tensor
    sines: Tensor

    @property
    def head(self) -> Tensor:
        """The matrix of the output, [V, D]: the embedding when it is tied."""
        return self.model.embed_tokens.weight if self.config.tied else self.lm_head.weight

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Normal weights: deviation 0.02 for embeddings, 1/sqrt(fan-in) for matrices, those that write to the
        residual stream divided by sqrt(2 layers). At width 128, 0.02 everywhere cost 0.4 nats after 400k tokens.

        muP's output multiplier lies in the last norm, so the exported model is a plain one. The banks of a matrix are
        equal, so that every expert begins as the decoder of that seed. Drawn on the CPU: the same on every device.
        """
        generator = torch.Generator().manual_seed(seed)
        residual = 1 / math.sqrt(2 * self.config.num_layers)
        self.set_mixing()
        for name, parameter in self.named_parameters():
            if name.endswith(("experts", "mixing")):
                continue
            if parameter.ndim == 1:
                nn.init.ones_(parameter)
                continue
            deviation = (
                0.02 if name.endswith(("embed_tokens.weight", "lm_head.weight")) else parameter.shape[-1] ** -0.5
            )
            if name.endswith(("o_proj.weight", "down_proj.weight", "down_banks")):
                deviation *= residual
            shape = parameter.shape[1:] if name.endswith("_banks") else parameter.shape
            parameter.copy_(torch.empty(shape).normal_(0.0, deviation, generator=generator).expand_as(parameter))
        self.model.norm.weight.mul_(self.config.width_scale)

    @torch.no_grad()
    def set_mixing(self) -> None:
        """Give the experts of a family that has them the coefficients that they begin with."""
        for module in self.modules():
            if isinstance(module, ProjectedMLP):
                module.set_mixing()

    def hidden(self, tokens_BT: Tensor, where: Layout, dtype: torch.dtype) -> Tensor:
        """The final normalised hidden states, [B, T, D] in `dtype`."""
        family = self.config.family
        histograms_GK = family.histograms(where.cells_B) if isinstance(family, Projected) else np.zeros((1, 0))
        return self.hidden_under(histograms_GK, tokens_BT, where, dtype)

    def hidden_under(self, histograms_GK: np.ndarray, tokens_BT: Tensor, where: Layout, dtype: torch.dtype) -> Tensor:
        """`hidden` under histograms over experts, float[1 or B, experts]: one for all rows, or each row's own."""
        given = Pass(
            rotation=(self.cosines[where.positions_BT].to(dtype), self.sines[where.positions_BT].to(dtype)),
            bias=_bias(where, tokens_BT, dtype),
            starts_BT1=(where.positions_BT == 0)[..., None],
            shares_GK=self.shares(histograms_GK),
            dtype=dtype,
        )
        x_BTD = self.model.embed_tokens(tokens_BT)
        for block in self.model.layers:
            x_BTD = block(x_BTD, given)
        return self.model.norm(x_BTD, dtype)

    def shares(self, histograms_GK: np.ndarray) -> Tensor:
        """Histograms in the space of the projection, fp32[G, m]: shares of experts times their embeddings."""
        if not histograms_GK.size:
            return torch.empty(0)
        experts = self.model.experts
        given_GK = torch.from_numpy(histograms_GK.astype(np.float32))
        if experts.is_cuda:
            given_GK = given_GK.pin_memory()  # else every micro-batch would wait for the one before
        return given_GK.to(experts, non_blocking=True) @ experts

    def forward(
        self,
        tokens_BT: Tensor,
        segments_BT: Tensor,
        dtype: torch.dtype = torch.float32,
        cells_B: np.ndarray = NO_CELLS,
    ) -> Tensor:
        """Logits, [B, T, V]."""
        hidden_BTD = self.hidden(tokens_BT, layout(segments_BT.cpu(), tokens_BT.device, cells_B), dtype)
        return F.linear(hidden_BTD, self.head.to(dtype))

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor, where: Layout, dtype: torch.dtype) -> Tensor:
        """The sum of negative log-likelihoods (nats) over counted targets; divide by the *global* count."""
        hidden_ND = self.hidden(tokens_BT, where, dtype).flatten(0, 1)
        return head_loss(hidden_ND, self.head, targets_BT.flatten())

    def nll(self, tokens_BT: Tensor, targets_BT: Tensor, where: Layout, dtype: torch.dtype) -> Tensor:
        """Negative log-likelihood (nats) of each target, fp32[B, T]; 0 where IGNORED."""
        return self.predict(tokens_BT, targets_BT, where, dtype)[0]

    @torch.no_grad()
    def predict(
        self, tokens_BT: Tensor, targets_BT: Tensor, where: Layout, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """`nll` of each target, and whether it is the likeliest token, bool[B, T]; False where IGNORED."""
        hidden_ND = self.hidden(tokens_BT, where, dtype).flatten(0, 1)
        weight = self.head.to(dtype)
        flat_N = targets_BT.flatten()
        nll, hits = [], []
        for at in chunks(len(flat_N), weight):
            logits = F.linear(hidden_ND[at], weight).float()
            nll.append(F.cross_entropy(logits, flat_N[at], ignore_index=IGNORED, reduction="none"))
            hits.append(logits.argmax(-1) == flat_N[at])
        return torch.cat(nll).view_as(targets_BT), torch.cat(hits).view_as(targets_BT)


def _bias(where: Layout, tokens_BT: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Additive mask [B or 1, 1, T, T]; None lets a GPU take its causal path."""
    if where.mask_BTT is not None:
        mask_BTT = where.mask_BTT
        return torch.zeros(mask_BTT.shape, dtype=dtype, device=mask_BTT.device).masked_fill_(~mask_BTT, float("-inf"))[
            :, None
        ]
    if tokens_BT.device.type != "cpu":
        return None
    size = tokens_BT.shape[1]
    return torch.full((1, 1, size, size), float("-inf"), dtype=dtype).triu_(1)


def _needed(bias: Tensor | None) -> Tensor:
    assert bias is not None, "on a CPU every layout has a bias"
    return bias


def _sdpa(
    joined_BTHE: Tensor, rotation: tuple[Tensor, Tensor], bias: Tensor | None, *, heads: int, kv_heads: int
) -> Tensor:
    """What `causal_attention` computes, by PyTorch's own kernel."""
    cosines, sines = (table[:, :, None] for table in rotation)
    first, second = joined_BTHE[:, :, : heads + kv_heads].chunk(2, -1)
    turned = torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1)
    q, k, v = turned[:, :, :heads], turned[:, :, heads:], joined_BTHE[:, :, heads + kv_heads :]
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    grouped = heads != kv_heads
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None, enable_gqa=grouped)
    return out.transpose(1, 2).flatten(2)

"""The arithmetic of the decoder where PyTorch's own operators leave time behind; each has a hand-written backward.

At 1M to 30M parameters on a CPU the matrix products of a step run at their peak, and half of the time goes into what
lies between them: copies that views force, gradients of slices and joins, passes over memory. So:

- `causal_attention` takes query, key and value as one product left them, turns and transposes them in one pass into the
  layout that products want, works on causal blocks of queries, and writes one gradient. PyTorch's CPU kernel was slower
  in bf16 than in fp32 (41 against 31 ms for 16 rows of 256, width 128).
- `head_loss` computes loss and gradient chunk by chunk, so that logits never leave the cache (the idea of Liger kernel,
  arXiv 2410.10989), in buffers that are used again: a fresh 4 MB block costs eight times the softmax in page faults.
- `rms_norm` and `swiglu` make as few passes as they can, and hand on the dtype of the products.

`causal_attention` is for the CPU; a GPU has scaled_dot_product_attention.

Shape suffixes as in `training/model.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -1  # a target that carries no loss
_QUERY_BLOCK = 128
_CHUNK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 27}  # logits held at once
_PRODUCT_ROWS = 1024  # rows of logit gradients that enter a product together

Rotation = tuple[Tensor, Tensor]


def rms_norm(x: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / rms(x) * weight, computed in fp32, in `dtype`."""
    if x.device.type != "cpu":  # PyTorch has a kernel of its own there
        return F.rms_norm(x, weight_D.shape, weight_D, eps).to(dtype)
    return _RmsNorm.apply(x, weight_D, eps, dtype)


def swiglu(joined: Tensor) -> Tensor:
    """silu(gate) * up of [..., gate then up]."""
    if joined.device.type != "cpu":  # compiled, it is one kernel
        gate, up = joined.chunk(2, -1)
        return F.silu(gate) * up
    return _SwiGlu.apply(joined)


def causal_attention(joined_BTHE: Tensor, rotation: Rotation, bias: Tensor, *, heads: int, kv_heads: int) -> Tensor:
    """Attention of heads + 2 kv_heads joined query, key and value heads, [B, T, heads * E].

    `rotation` cosines and sines [B or 1, T, E / 2]; `bias` is additive, [B or 1, 1, T, T]. Memory: half of the T x T
    probabilities, kept for the backward.
    """
    return _Attention.apply(joined_BTHE, *rotation, bias, heads, kv_heads)


def head_loss(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Sum of cross-entropies (nats) of hidden states against the rows of a matrix; targets IGNORED do not count."""
    return _HeadLoss.apply(hidden_ND, weight_VD, targets_N)


def chunks(rows: int, weight_VD: Tensor) -> list[slice]:
    """Rows whose logits are held at once."""
    size = max(64, _CHUNK_ELEMENTS.get(weight_VD.device.type, 1 << 27) // weight_VD.shape[0])
    return [slice(i, min(i + size, rows)) for i in range(0, rows, size)]


def rotate(x: Tensor, cosines: Tensor, sines: Tensor, out: Tensor) -> Tensor:
    """Rotary embedding in the half-split layout; with negative sines the rotation back."""
    first, second = x.chunk(2, -1)
    out_first, out_second = out.chunk(2, -1)
    torch.mul(first, cosines, out=out_first).addcmul_(second, sines, value=-1)
    torch.mul(second, cosines, out=out_second).addcmul_(first, sines)
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = (norm.square_() / x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight_D, scale)
        return (x * scale).mul_(weight_D).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight_D, scale = ctx.saved_tensors
        grad = grad.to(torch.float32)
        unit = x * scale
        product = (grad * unit).flatten(0, -2)
        weight_grad = product.sum(0)
        mean = (product @ weight_D).view_as(scale) / x.shape[-1]
        x_grad = (grad * weight_D).addcmul_(unit, mean, value=-1).mul_(scale)
        return x_grad.to(x.dtype), weight_grad, None, None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, joined: Tensor) -> Tensor:
        gate, up = joined.chunk(2, -1)
        opened = F.silu(gate)
        ctx.save_for_backward(joined, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        joined, opened = ctx.saved_tensors
        gate, up = joined.chunk(2, -1)
        out = torch.empty_like(joined)
        gate_grad, up_grad = out.chunk(2, -1)
        torch.mul(grad, opened, out=up_grad)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=gate_grad)
        return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, joined_BTHE: Tensor, cosines: Tensor, sines: Tensor, bias: Tensor, heads: int, kv_heads: int
    ) -> Tensor:
        rows, length, _, size = joined_BTHE.shape
        cosines, sines = cosines[:, None], sines[:, None]
        joined_BHTE = joined_BTHE.transpose(1, 2)
        scale = size**-0.5

        def turned(first: int, last: int, factor: float) -> Tensor:
            part = joined_BHTE[:, first:last]
            out = torch.empty(part.shape, dtype=part.dtype, device=part.device)
            return rotate(part, cosines * factor, sines * factor, out)

        q = turned(0, heads, scale).flatten(0, 1)
        k = _repeated(turned(heads, heads + kv_heads, 1.0), heads).flatten(0, 1)
        v = _repeated(joined_BHTE[:, heads + kv_heads :], heads).contiguous().flatten(0, 1)
        out_BTHE = torch.empty(rows, length, heads, size, dtype=q.dtype, device=q.device)
        kept = []
        for begin, end in _blocks(length):
            scores = torch.bmm(q[:, begin:end], k[:, :end].transpose(1, 2)).view(rows, heads, end - begin, end)
            shares = torch.softmax(scores.add_(bias[:, :, begin:end, :end]), -1).flatten(0, 1)
            mixed = torch.bmm(shares, v[:, :end]).view(rows, heads, end - begin, size)
            out_BTHE[:, begin:end] = mixed.transpose(1, 2)
            kept.append(shares)
        ctx.save_for_backward(q, k, v, out_BTHE, cosines, sines, *kept)
        ctx.heads, ctx.kv_heads = heads, kv_heads
        return out_BTHE.flatten(2)

    @staticmethod
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out_BTHE, cosines, sines, *kept = ctx.saved_tensors
        rows, length, heads, size = out_BTHE.shape
        kv_heads, scale = ctx.kv_heads, size**-0.5
        grad_BTHE = grad_BTD.view_as(out_BTHE)
        mean = (grad_BTHE * out_BTHE).sum(-1).transpose(1, 2).flatten(0, 1)[:, :, None]
        grad = grad_BTHE.transpose(1, 2).contiguous().flatten(0, 1)
        q_grad, k_grad, v_grad = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (begin, end), shares in zip(_blocks(length), kept, strict=True):
            part = grad[:, begin:end]
            v_grad[:, :end] += torch.bmm(shares.transpose(1, 2), part)
            scores = torch.bmm(part, v[:, :end].transpose(1, 2)).sub_(mean[:, begin:end]).mul_(shares)
            q_grad[:, begin:end] = torch.bmm(scores, k[:, :end])
            k_grad[:, :end] += torch.bmm(scores.transpose(1, 2), q[:, begin:end])
        joined = torch.empty(rows, length, heads + 2 * kv_heads, size, dtype=q.dtype, device=q.device)
        out = joined.transpose(1, 2)
        rotate(q_grad.view(rows, heads, length, size), cosines * scale, sines * -scale, out[:, :heads])
        rotate(_summed(k_grad, rows, kv_heads), cosines, -sines, out[:, heads : heads + kv_heads])
        out[:, heads + kv_heads :] = _summed(v_grad, rows, kv_heads)
        return joined, None, None, None, None, None


def _repeated(x_BKTE: Tensor, heads: int) -> Tensor:
    """Key or value heads once for each query head."""
    return x_BKTE if x_BKTE.shape[1] == heads else x_BKTE.repeat_interleave(heads // x_BKTE.shape[1], 1)


def _summed(grad: Tensor, rows: int, kv_heads: int) -> Tensor:
    """The gradient of `_repeated`, [B, K, T, E]."""
    parts = grad.view(rows, kv_heads, -1, *grad.shape[1:])
    return parts[:, :, 0] if parts.shape[2] == 1 else parts.sum(2)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + _QUERY_BLOCK, length)) for begin in range(0, length, _QUERY_BLOCK)]


class _HeadLoss(torch.autograd.Function):
    """Both gradients are made on the way."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        weight, device = weight_VD.to(hidden_ND.dtype), hidden_ND.device
        total = torch.zeros((), dtype=torch.float32, device=device)
        hidden_grad = torch.empty_like(hidden_ND)
        weight_grad = torch.zeros(weight_VD.shape, dtype=torch.float32, device=device)
        inner = chunks(len(targets_N), weight)
        many = max(1, _PRODUCT_ROWS // max(inner[0].stop, 1)) if inner else 1
        width = (inner[0].stop, weight.shape[0]) if inner else (0, 0)
        shares_CV = torch.empty(width, dtype=torch.float32, device=device)
        logits_CV = torch.empty(width, dtype=weight.dtype, device=device)
        grads_PV = torch.empty((many * width[0], width[1]), dtype=weight.dtype, device=device)
        for group in (inner[i : i + many] for i in range(0, len(inner), many)):
            begin, end = group[0].start, group[-1].stop
            for at in group:
                rows = at.stop - at.start
                logits = torch.mm(hidden_ND[at], weight.t(), out=logits_CV[:rows])
                shares = torch.softmax(logits, -1, dtype=torch.float32, out=shares_CV[:rows])
                total += _turned_into_gradient(shares, targets_N[at])
                grads_PV[at.start - begin : at.stop - begin].copy_(shares)
            grads = grads_PV[: end - begin]
            hidden_grad[begin:end] = grads @ weight
            weight_grad += grads.t() @ hidden_ND[begin:end]
        ctx.save_for_backward(hidden_grad, weight_grad)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * grad.to(hidden_grad.dtype), weight_grad * grad, None


def _turned_into_gradient(shares_CV: Tensor, targets_C: Tensor) -> Tensor:
    """The chunk's loss; its probabilities become the gradient of the logits, in place."""
    counted = (targets_C != IGNORED).float()[:, None]
    index = targets_C.clamp_min(0)[:, None]
    # a share below 1e-37 reads as 85 nats; NaN stays NaN
    loss = -(shares_CV.gather(1, index).clamp_min(1e-37).log_() * counted).sum()
    shares_CV.scatter_add_(1, index, torch.full_like(counted, -1.0))
    shares_CV.mul_(counted)
    return loss

"""AdamW and the learning rate as a pure function of the step.

WSD (warm-up, stable, decay: arXiv 2404.06395) holds the rate and falls linearly over the last `decay_share` of the
run; cosine (arXiv 1608.03983) falls all along.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from training.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The rate of optimiser step `step` of `steps` (0-based)."""
    peak, floor = config.learning_rate, config.learning_rate * config.min_learning_rate_ratio
    warmup = round(config.warmup_share * steps)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if config.schedule == "cosine":
        progress = (step - warmup) / max(steps - warmup, 1)
        return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
    decay = round(config.decay_share * steps)
    remaining = (steps - step) / (decay + 1)
    return peak if remaining >= 1 else floor + (peak - floor) * remaining


def adamw(model: nn.Module, config: TrainConfig, *, width_scale: float = 1.0) -> torch.optim.AdamW:
    """Fused AdamW (half the time of the foreach version here); each group has a `scale` for the rate.

    Decay touches matrices and embeddings, not norms and not what mixes experts. With muP (`width_scale` below or
    above 1) the rates of matrices and of the last norm follow the width; a decay is rate times `weight_decay` whatever
    the scale. Parameters that take no gradient are left out.
    """
    roles: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay, scale = _role(name, parameter, width_scale)
            roles.setdefault((decay * config.weight_decay / scale, scale), []).append(parameter)
    groups = [{"params": each, "weight_decay": decay, "scale": scale} for (decay, scale), each in roles.items()]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its part of the rate of this step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def _role(name: str, parameter: nn.Parameter, width_scale: float) -> tuple[float, float]:
    """Decay (0 or 1) and scale of the rate, from what the parameter is."""
    if name.endswith(("experts", "mixing")):
        return 0.0, 1.0
    if parameter.ndim == 1:
        return 0.0, width_scale if name == "model.norm.weight" else 1.0
    outer = name.endswith(("embed_tokens.weight", "lm_head.weight"))
    return 1.0, 1.0 if outer else width_scale


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """Both moments of every parameter, named `<parameter>.exp_avg` and `.exp_avg_sq`; empty before the first step."""
    return {
        f"{name}.{moment}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        for moment in ("exp_avg", "exp_avg_sq")
        if parameter in optimizer.state
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.AdamW, tensors: dict[str, torch.Tensor], *, step: int
) -> None:
    """Put back what `optimizer_tensors` gave after `step` optimiser steps."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step), device=parameter.device),
            "exp_avg": tensors[f"{name}.exp_avg"].to(parameter.device),
            "exp_avg_sq": tensors[f"{name}.exp_avg_sq"].to(parameter.device),
        }

"""AdamW and the learning rate as a pure function of the step.

WSD (warm-up, stable, decay: arXiv 2404.06395) holds the rate and falls linearly over the last `decay_share` of the
run; cosine (arXiv 1608.03983) falls all along. Decay touches matrices only, embeddings included, never norms.
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


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW (half the time of the foreach version here) with decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


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
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step), device=parameter.device),
            "exp_avg": tensors[f"{name}.exp_avg"].to(parameter.device),
            "exp_avg_sq": tensors[f"{name}.exp_avg_sq"].to(parameter.device),
        }

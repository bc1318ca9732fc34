"""AdamW, Muon, and the learning rate as a pure function of the step.

WSD (warm-up, stable, decay: arXiv 2404.06395) holds the rate and falls linearly over the last `decay_share` of the
run; cosine (arXiv 1608.03983) falls all along.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from training.blocks import cut_like, whole
from training.config import TrainConfig
from training.muon import Muon


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


def build_optimizer(
    model: nn.Module, config: TrainConfig, *, width_scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> Optimizer:
    """What `config.optimizer` names; `dtype` is that of the products of training."""
    if config.optimizer == "muon":
        return MuonWithAdamW(model, config, width_scale=width_scale, dtype=dtype)
    return adamw(model, config, width_scale=width_scale)


class MuonWithAdamW:
    """Muon for the matrices inside blocks, banks of them too, and AdamW for everything else.

    One learning rate and one decay serve both. Moments: one a matrix where AdamW has two.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, *, width_scale: float, dtype: torch.dtype):
        rest = adamw(model, config, width_scale=width_scale)
        inner = {
            parameter
            for name, parameter in model.named_parameters()
            if parameter.ndim >= 2 and ".layers." in name and not name.endswith(("experts", "mixing"))
        }
        groups = []
        for group in rest.param_groups:
            mine = [parameter for parameter in group["params"] if parameter in inner]
            group["params"] = [parameter for parameter in group["params"] if parameter not in inner]
            if mine:
                groups.append({"params": mine, "weight_decay": group["weight_decay"], "scale": group["scale"]})
        muon = Muon(groups, learning_rate=config.learning_rate, dtype=dtype)
        self._parts: tuple[torch.optim.Optimizer, ...] = (muon, rest)
        self._owner = {p: part for part in self._parts for group in part.param_groups for p in group["params"]}
        self.state = _JoinedState(self._owner)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self._parts for group in part.param_groups]

    def step(self) -> None:
        for part in self._parts:
            part.step()

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        for part in self._parts:
            part.zero_grad(set_to_none=set_to_none)


class _JoinedState:
    """The states of two optimisers as one mapping from parameter to moments."""

    def __init__(self, owner: Mapping[nn.Parameter, torch.optim.Optimizer]):
        self._owner = owner

    def __contains__(self, parameter: nn.Parameter) -> bool:
        return parameter in self._owner and parameter in self._owner[parameter].state

    def __getitem__(self, parameter: nn.Parameter) -> dict[str, Any]:
        return self._owner[parameter].state[parameter]


Optimizer = torch.optim.AdamW | MuonWithAdamW


def set_rate(optimizer: Optimizer, rate: float) -> None:
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


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """The moments of every parameter, named `<parameter>.exp_avg` and the like; empty before the first step.

    Gathered from all ranks where they are cut over them.
    """
    return {
        f"{name}.{key}": whole(tensor)
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for key, tensor in optimizer.state[parameter].items()
        if key != "step"
    }


def restore_optimizer(model: nn.Module, optimizer: Optimizer, tensors: dict[str, torch.Tensor], *, step: int) -> None:
    """Put back what `optimizer_tensors` gave after `step` optimiser steps."""
    parameters = dict(model.named_parameters())
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition(".")
        parameter = parameters[name]
        state = optimizer.state[parameter]
        state[key] = cut_like(tensor.to(parameter.device), parameter)
        if key == "exp_avg":
            state["step"] = torch.tensor(float(step), device=parameter.device)

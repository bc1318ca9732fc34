"""What the ways to a specialized model cost: a part that all tasks share, and a part that each task pays.

C_generic + N * C_specialization (2402.01093 section 1). FLOPs are those of the families (training/family.py), seconds
are FLOPs at the speed of the shape that takes them. Not counted is what takes no matrix products: curation and
selection.

    slm      one model of the pool for all tasks, fine-tuned on each
    slm-is   a model of the resampled pool for each task, fine-tuned
    slm-pn   one projected network for all tasks; each takes an expert and fine-tunes it
    slm-mix  a model for each part of the pool, for all tasks; each task fine-tunes one of them
    llm-lora one larger model for all tasks, low-rank fine-tuning on each; the larger model is what is served
    slm-d    a larger model tuned on each task teaches the small one
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from training.config import ModelConfig
from training.family import Mixture, Projected

FROZEN_SHARE = 2 / 3  # of the FLOPs of a token: forward and the gradient of activations, none of weights
FORWARD_SHARE = 1 / 3
_SMALL, _PROJECTED, _LARGE = np.eye(3)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What is paid once (`generic`) and for each task (`task`)."""

    generic: float
    task: float

    def total(self, tasks: int) -> float:
        """Of all tasks together."""
        return self.generic + tasks * self.task


@dataclass(frozen=True, kw_only=True)
class Route:
    """A way to a model of `served` parameters."""

    name: str
    served: int
    flops: Cost
    seconds: Cost


@dataclass(frozen=True, kw_only=True)
class Rates:
    """FLOPs a second of training the small model, the projected network and the larger model."""

    small: float
    projected: float
    large: float


@dataclass(frozen=True, kw_only=True)
class Routes:
    """What the routes have in common: shapes of the model served and of the larger one, tokens, and sizes of parts."""

    small: ModelConfig
    large: ModelConfig
    tokens: int
    tuning_tokens: int
    experts: int
    cells: int
    banks: int
    lora_rank: int

    @property
    def projected(self) -> ModelConfig:
        """The network of experts of the small model's shape."""
        family = Projected(experts=min(self.experts, self.cells), banks=self.banks, cells=self.cells)
        return replace(self.small, family=family)

    def all(self, rates: Rates) -> tuple[Route, ...]:
        """Every route, the plain one first."""
        mixture = replace(self.small, family=Mixture(experts=min(self.experts, self.cells), cells=self.cells))
        plain, larger = self._pretraining(self.small) * _SMALL, self._pretraining(self.large) * _LARGE
        tuning = self.tuning_tokens * float(self.small.flops_per_token) * _SMALL
        tuning_large = self.tuning_tokens * float(self.large.flops_per_token) * _LARGE
        adapters = self.tuning_tokens * 6.0 * lora_parameters(self.large, self.lora_rank) * _LARGE
        lessons = tuning_large * FORWARD_SHARE
        speeds = np.array([rates.small, rates.projected, rates.large])

        def route(name: str, served: ModelConfig, *, generic: np.ndarray, task: np.ndarray) -> Route:
            flops = Cost(generic=float(generic.sum()), task=float(task.sum()))
            seconds = Cost(generic=float((generic / speeds).sum()), task=float((task / speeds).sum()))
            return Route(name=name, served=served.num_parameters, flops=flops, seconds=seconds)

        small, large = self.small, self.large
        return (
            route("slm", small, generic=plain, task=tuning),
            route("slm-is", small, generic=np.zeros(3), task=plain + tuning),
            route("slm-pn", small, generic=self._pretraining(self.projected) * _PROJECTED, task=tuning),
            route("slm-mix", small, generic=self._pretraining(mixture) * _SMALL, task=tuning),
            route("llm-lora", large, generic=larger, task=tuning_large * FROZEN_SHARE + adapters),
            route("slm-d", small, generic=plain + larger, task=tuning_large + lessons + tuning),
        )

    def _pretraining(self, shape: ModelConfig) -> float:
        rows = self.tokens / shape.context
        return float(self.tokens) * shape.flops_per_token + rows * shape.flops_per_projection


def lora_parameters(shape: ModelConfig, rank: int) -> int:
    """Parameters of low-rank products beside the seven matrices of every block."""
    width, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
    return shape.num_layers * rank * (2 * (width + queries) + 2 * (width + keys) + 3 * (width + inner))

"""What the ways to a specialized model cost: a part that all tasks share, and a part that each task pays.

C_generic + N * C_specialization (2402.01093 section 1). FLOPs are those of the families (training/family.py), seconds
are FLOPs at the speed of the shape that takes them. Not counted is what takes no matrix products: curation and
selection.

    slm          one model of the pool for all tasks, fine-tuned on each
    slm-is       a model of the resampled pool for each task, fine-tuned
    slm-is-trunk the same, but half of its tokens are the pool's and are read once for all tasks
    slm-pn       one projected network for all tasks; each takes an expert and fine-tunes it
    slm-mix      a model for each part of the pool, for all tasks; each task fine-tunes one of them
    llm-lora     one larger model for all tasks, low-rank fine-tuning on each; the larger model is what is served
    slm-d        a larger model tuned on each task teaches the small one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from training.config import ModelConfig
from training.family import Projected

FROZEN_SHARE = 2 / 3  # of the FLOPs of a token: forward and the gradient of activations, none of weights
FORWARD_SHARE = 1 / 3
TRUNK_SHARE = 0.5  # of the tokens; what that costs in quality is in docs/reproduction.md


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
    """FLOPs a second of training the small model, one expert of a mixture, the projected network, the larger model."""

    small: float
    mixture: float
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
        small, large = self.small, self.large
        plain, larger = _Part(self._pretraining(small), rates.small), _Part(self._pretraining(large), rates.large)
        half = _Part(plain.flops * TRUNK_SHARE, plain.rate)
        tuning = _Part(self.tuning_tokens * float(small.flops_per_token), rates.small)
        tuning_large = _Part(self.tuning_tokens * float(large.flops_per_token), rates.large)
        adapters = self.tuning_tokens * 6.0 * lora_parameters(large, self.lora_rank)
        lora = _Part(tuning_large.flops * FROZEN_SHARE + adapters, rates.large)
        lessons = _Part(tuning_large.flops * FORWARD_SHARE, rates.large)
        network = _Part(self._pretraining(self.projected), rates.projected)
        experts = _Part(self._pretraining(small), rates.mixture)
        return (
            _route("slm", small, generic=(plain,), task=(tuning,)),
            _route("slm-is", small, generic=(), task=(plain, tuning)),
            _route("slm-is-trunk", small, generic=(half,), task=(half, tuning)),
            _route("slm-pn", small, generic=(network,), task=(tuning,)),
            _route("slm-mix", small, generic=(experts,), task=(tuning,)),
            _route("llm-lora", large, generic=(larger,), task=(lora,)),
            _route("slm-d", small, generic=(plain, larger), task=(tuning_large, lessons, tuning)),
        )

    def _pretraining(self, shape: ModelConfig) -> float:
        rows = self.tokens / shape.context
        return float(self.tokens) * shape.flops_per_token + rows * shape.flops_per_projection


class _Part(NamedTuple):
    """FLOPs, and FLOPs a second of what takes them."""

    flops: float
    rate: float


def _route(name: str, served: ModelConfig, *, generic: Sequence[_Part], task: Sequence[_Part]) -> Route:
    flops = Cost(generic=sum(part.flops for part in generic), task=sum(part.flops for part in task))
    seconds = Cost(
        generic=sum(part.flops / part.rate for part in generic), task=sum(part.flops / part.rate for part in task)
    )
    return Route(name=name, served=served.num_parameters, flops=flops, seconds=seconds)


def lora_parameters(shape: ModelConfig, rank: int) -> int:
    """Parameters of low-rank products beside the seven matrices of every block."""
    width, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
    return shape.num_layers * rank * (2 * (width + queries) + 2 * (width + keys) + 3 * (width + inner))

"""What the ways to a specialized model cost in FLOPs: a part that all tasks share, and a part that each task pays.

C_generic + N * C_specialization (2402.01093 section 1). Counts are those of the families (training/family.py). Not
counted is what takes no matrix products: curation and selection.

    slm      one model of the pool for all tasks, fine-tuned on each
    slm-is   a model of the resampled pool for each task, fine-tuned
    slm-pn   one projected network for all tasks; each takes an expert and fine-tunes it
    slm-mix  a model for each part of the pool, for all tasks; each task fine-tunes one of them
    llm-lora one larger model for all tasks, low-rank fine-tuning on each; the larger model is what is served
    slm-d    a larger model tuned on each task teaches the small one
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from training.config import ModelConfig
from training.family import Mixture, Projected

FROZEN_SHARE = 2 / 3  # of the FLOPs of a token: forward and the gradient of activations, none of weights
FORWARD_SHARE = 1 / 3


@dataclass(frozen=True, kw_only=True)
class Route:
    """FLOPs that are paid once (`generic`) and for each task (`task`), and the parameters of what is served."""

    name: str
    served: int
    generic: float
    task: float

    def total(self, tasks: int) -> float:
        """FLOPs of all tasks together."""
        return self.generic + tasks * self.task


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

    def all(self) -> tuple[Route, ...]:
        """Every route, the plain one first."""
        experts = min(self.experts, self.cells)
        projected = replace(self.small, family=Projected(experts=experts, banks=self.banks, cells=self.cells))
        mixture = replace(self.small, family=Mixture(experts=experts, cells=self.cells))
        small, large = self.small.num_parameters, self.large.num_parameters
        plain, larger = self._pretraining(self.small), self._pretraining(self.large)
        tuning, tuning_large = (self.tuning_tokens * float(each.flops_per_token) for each in (self.small, self.large))
        lora = tuning_large * FROZEN_SHARE + self.tuning_tokens * 6.0 * lora_parameters(self.large, self.lora_rank)
        lessons = tuning_large * FORWARD_SHARE
        return (
            Route(name="slm", served=small, generic=plain, task=tuning),
            Route(name="slm-is", served=small, generic=0.0, task=plain + tuning),
            Route(name="slm-pn", served=small, generic=self._pretraining(projected), task=tuning),
            Route(name="slm-mix", served=small, generic=self._pretraining(mixture), task=tuning),
            Route(name="llm-lora", served=large, generic=larger, task=lora),
            Route(name="slm-d", served=small, generic=plain + larger, task=tuning_large + lessons + tuning),
        )

    def _pretraining(self, shape: ModelConfig) -> float:
        rows = self.tokens / shape.context
        return float(self.tokens) * shape.flops_per_token + rows * shape.flops_per_projection


def lora_parameters(shape: ModelConfig, rank: int) -> int:
    """Parameters of low-rank products beside the seven matrices of every block."""
    width, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
    return shape.num_layers * rank * (2 * (width + queries) + 2 * (width + keys) + 3 * (width + inner))

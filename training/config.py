"""What a model is and how it is trained, as frozen values: equal values train to equal bytes on one machine.

`sized` turns a parameter budget into a shape. Small models are wide and shallow: on a CPU the matrix products run at
their speed limit while attention and the element-wise work cost per layer, and the method's own models are shallower
still (7 layers at 1,024: arXiv 2402.01093 section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

Precision = Literal["auto", "bf16", "fp32"]
Schedule = Literal["wsd", "cosine"]
Determinism = Literal["run", "bitwise"]
OptimizerName = Literal["adamw", "muon"]
Sharding = Literal["replicated", "sharded"]
Compile = Literal["auto", "on", "off"]

_ASPECT = 40  # hidden size per layer that `sized` aims at


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a Llama decoder with tied embeddings."""

    vocab_size: int
    context: int
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.head_size % 2:
            raise ValueError(f"hidden_size {self.hidden_size} must be num_heads {self.num_heads} times an even number")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def num_parameters(self) -> int:
        """All parameters; the tied embedding counts once."""
        norms = (2 * self.num_layers + 1) * self.hidden_size
        return self.vocab_size * self.hidden_size + self.num_layers * self._layer_matrices + norms

    @property
    def flops_per_token(self) -> int:
        """Forward and backward: 6 per matrix parameter, the head included, and causal attention (PaLM, appendix B)."""
        matrices = self.vocab_size * self.hidden_size + self.num_layers * self._layer_matrices
        return 6 * matrices + 6 * self.num_layers * self.hidden_size * self.context

    @property
    def _layer_matrices(self) -> int:
        kv_size = self.num_kv_heads * self.head_size
        attention = 2 * self.hidden_size * (self.hidden_size + kv_size)
        return attention + 3 * self.hidden_size * self.intermediate_size


def sized(num_parameters: int, *, vocab_size: int, context: int) -> ModelConfig:
    """The shape whose total parameter count is nearest to `num_parameters` at a sane ratio of width to depth.

    Heads are 64 wide, the feed-forward is 8/3 of the width. Raises ValueError when the vocabulary alone is larger.
    """
    best: tuple[float, ModelConfig] | None = None
    for hidden in range(64, 8193, 64):
        intermediate = round(hidden * 8 / 3 / 32) * 32
        one = ModelConfig(
            vocab_size=vocab_size,
            context=context,
            num_layers=1,
            hidden_size=hidden,
            num_heads=hidden // 64,
            num_kv_heads=hidden // 64,
            intermediate_size=intermediate,
        )
        layers = round((num_parameters - vocab_size * hidden) / (one._layer_matrices + 2 * hidden))
        if layers < 2:
            break
        shape = ModelConfig(**{**_fields(one), "num_layers": layers})
        miss = abs(math.log(shape.num_parameters / num_parameters))
        # a doubling of the ratio of width to depth is as bad as missing the size by 7%
        badness = miss + 0.1 * abs(math.log(hidden / layers / _ASPECT))
        if best is None or badness < best[0]:
            best = (badness, shape)
    if best is None:
        raise ValueError(
            f"{num_parameters:,} parameters are too few for a vocabulary of {vocab_size:,}: two layers of width 64 "
            "with its embeddings need more; use a smaller vocabulary or a larger model"
        )
    return best[1]


def _fields(config: ModelConfig) -> dict:
    return {name: getattr(config, name) for name in ModelConfig.__dataclass_fields__}


_CHOICES = {
    "schedule": Schedule,
    "precision": Precision,
    "determinism": Determinism,
    "optimizer": OptimizerName,
    "sharding": Sharding,
    "compile": Compile,
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. Tokens are input positions: rows x context, padding included.

    `determinism` "run": equal bytes on the same number of ranks and threads, after any kill too; "bitwise": equal
    bytes on any number of ranks that is a power of two and divides the micro-batches. `sharding` "sharded" is FSDP2.
    `compile` "auto" follows the rule of `training/blocks.py`. `gradient_checkpointing` recomputes blocks instead of
    keeping their activations. Beside the last two checkpoints stay one every `keep_every` steps and the last before
    the rate falls.
    """

    tokens: int
    batch_rows: int = 16
    micro_batch_rows: int = 8
    learning_rate: float = 4e-3
    min_learning_rate_ratio: float = 0.0
    warmup_share: float = 0.05
    decay_share: float = 0.4
    schedule: Schedule = "wsd"
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    precision: Precision = "auto"
    determinism: Determinism = "run"
    optimizer: OptimizerName = "adamw"
    sharding: Sharding = "replicated"
    compile: Compile = "auto"
    gradient_checkpointing: bool = field(default=False, compare=False)
    checkpoint_every: int = field(default=250, compare=False)
    keep_every: int = field(default=0, compare=False)
    trackers: tuple[str, ...] = field(default=("tensorboard",), compare=False)
    price_per_hour: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_rows", "micro_batch_rows", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in get_args(allowed):
                choices = ", ".join(get_args(allowed))
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.determinism == "bitwise" and self.sharding == "sharded":
            raise ValueError("determinism bitwise needs whole gradients on every rank: sharding must be replicated")
        if self.optimizer == "muon" and self.sharding == "sharded":
            raise ValueError("optimizer muon needs whole matrices on every rank: sharding must be replicated")
        if not 0 <= self.warmup_share <= 1 - self.decay_share:
            raise ValueError(
                f"warmup_share {self.warmup_share} and decay_share {self.decay_share} exceed the whole run"
            )

    def steps(self, context: int) -> int:
        """Optimiser steps: enough whole batches to see at least `tokens`."""
        return -(-self.tokens // (self.batch_rows * context))

    def branch_step(self, steps: int) -> int:
        """The last step before the rate falls: from its checkpoint a longer run or another decay can begin; 0: none."""
        return steps - round(self.decay_share * steps) if self.schedule == "wsd" else 0


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Fine-tuning ends when validation bits per byte have not improved for `patience` evaluations in a row."""

    evaluate_every: int = 50
    patience: int = 3

    def __post_init__(self) -> None:
        if self.evaluate_every < 1 or self.patience < 1:
            raise ValueError(f"evaluate_every and patience must be at least 1, got {self}")

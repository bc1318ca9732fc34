"""What a model is and how it is trained, as frozen values: equal values train to equal bytes on one machine.

`sized` turns a parameter budget into a shape. Small models are wide and shallow: on a CPU the matrix products run at
their speed limit while attention and the element-wise work cost per layer, and the method's own models are shallower
still (7 layers at 1,024: arXiv 2402.01093 section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from training.family import SOUP_ROWS, Decoder, Family

Precision = Literal["auto", "bf16", "fp32"]
Schedule = Literal["wsd", "cosine"]
Determinism = Literal["run", "bitwise"]
Device = Literal["cpu", "cuda"]
OptimizerName = Literal["adamw", "muon"]
Sharding = Literal["replicated", "sharded"]
Compile = Literal["auto", "always", "never"]

_ASPECT = 40  # hidden size per layer that `sized` aims at
_FEWEST_STEPS = 375


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a trunk (a Llama decoder; with `qk_norm` a Qwen3 one) and the family that is built on it.

    `head_width` 0 is hidden_size / num_heads. `tied`: the embedding is the head too. `mup_width` is the width at which
    the learning rate was found; above 0 the rates and the output scale follow the width so that the rate stays good at
    any other (muP, arXiv 2203.03466).
    """

    vocab_size: int
    context: int
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    head_width: int = 0
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    qk_norm: bool = False
    tied: bool = True
    mup_width: int = 0
    family: Family = Decoder()  # noqa: RUF009, a frozen value

    def __post_init__(self) -> None:
        if not self.head_width and self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}")
        if self.head_size % 2:
            raise ValueError(f"heads must have an even size, got {self.head_size}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")
        if self.family.kind == "recurrent" and self.qk_norm:
            raise ValueError("qk_norm is about attention, which the recurrent family does not have")

    @property
    def head_size(self) -> int:
        return self.head_width or self.hidden_size // self.num_heads

    @property
    def num_parameters(self) -> int:
        """All parameters; a tied embedding counts once."""
        return self.family.num_parameters(self)

    @property
    def flops_per_token(self) -> int:
        """Forward and backward of one token."""
        return self.family.flops_per_token(self)

    @property
    def flops_per_projection(self) -> int:
        """Forward and backward of what a row costs beside its tokens."""
        return self.family.flops_per_projection(self)

    @property
    def plain(self) -> ModelConfig:
        """The decoder that one expert of the family is."""
        return self if self.family.kind == "recurrent" else replace(self, family=Decoder())

    @property
    def width_scale(self) -> float:
        """By what muP scales the rates of matrices and the output: 1 without it."""
        return self.mup_width / self.hidden_size if self.mup_width else 1.0

    @property
    def head_parameters(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def outer_parameters(self) -> int:
        """Embeddings, head and the norms of the stream."""
        return (1 if self.tied else 2) * self.head_parameters + (2 * self.num_layers + 1) * self.hidden_size

    @property
    def attention_matrices(self) -> int:
        return 2 * self.hidden_size * (self.num_heads + self.num_kv_heads) * self.head_size

    @property
    def attention_parameters(self) -> int:
        return self.attention_matrices + (2 * self.head_size if self.qk_norm else 0)

    @property
    def mlp_parameters(self) -> int:
        return 3 * self.hidden_size * self.intermediate_size


def sized(num_parameters: int, *, vocab_size: int, context: int) -> ModelConfig:
    """The shape whose total parameter count is nearest to `num_parameters` at a sane ratio of width to depth.

    Heads are 64 wide, the feed-forward is 8/3 of the width. Raises ValueError when the vocabulary alone is larger.
    """
    best: tuple[float, ModelConfig] | None = None
    for hidden in range(64, 8193, 64):
        one = _of_width(hidden, vocab_size=vocab_size, context=context)
        block = one.attention_matrices + one.mlp_parameters + 2 * hidden
        layers = round((num_parameters - vocab_size * hidden) / block)
        if layers < 2:
            break
        shape = replace(one, num_layers=layers)
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


def fitting(most: int, *, vocab_size: int, context: int) -> ModelConfig:
    """The shape that `sized` gives for as much as leaves it at most `most` parameters. Raises ValueError like it."""
    wanted = float(most)
    while (shape := sized(round(wanted), vocab_size=vocab_size, context=context)).num_parameters > most:
        wanted *= 0.98
    return shape


def smallest(*, vocab_size: int, context: int) -> ModelConfig:
    """The smallest shape that `sized` gives: two layers of width 64."""
    return replace(_of_width(64, vocab_size=vocab_size, context=context), num_layers=2)


def _of_width(hidden: int, *, vocab_size: int, context: int) -> ModelConfig:
    """One layer with heads 64 wide and a feed-forward of 8/3 of the width."""
    return ModelConfig(
        vocab_size=vocab_size,
        context=context,
        num_layers=1,
        hidden_size=hidden,
        num_heads=hidden // 64,
        num_kv_heads=hidden // 64,
        intermediate_size=round(hidden * 8 / 3 / 32) * 32,
    )


_CHOICES = {
    "schedule": Schedule,
    "precision": Precision,
    "determinism": Determinism,
    "optimizer": OptimizerName,
    "sharding": Sharding,
    "compile": Compile,
}


def batch_rows_for(tokens: int, *, context: int) -> int:
    """Rows of an optimiser step in a run of so many tokens: the usual number, or less to leave `_FEWEST_STEPS` steps.

    A power of two. With fewer steps a model may not come far enough for what it reads to matter: docs/decisions.md has
    the batches that were tried. Where tokens are plenty a larger batch may be worth its speed (2410.21676).
    """
    most = min(TrainConfig.batch_rows, tokens // (_FEWEST_STEPS * context))
    return 1 << max(0, most.bit_length() - 1)


def family_rows_for(tokens: int, *, context: int, family: str, experts: int) -> int:
    """`batch_rows_for` a model of a family.

    Experts of a mixture share the tokens; a step of a soup has the rows of a histogram at least.
    """
    if family == "mixture":
        return batch_rows_for(max(1, tokens // experts), context=context)
    return max(batch_rows_for(tokens, context=context), SOUP_ROWS if family == "soup" else 1)


def rate_for(batch_rows: int) -> float:
    """The learning rate of pretraining with a batch of so many rows: that of the usual batch by the root of the rows.

    The square-root rule for Adam of 2205.10287; docs/decisions.md has the rates that were tried.
    """
    return scaled_rate(TrainConfig.learning_rate, batch_rows / TrainConfig.batch_rows)


def scaled_rate(rate: float, share: float) -> float:
    """A rate for that share of the rows it was found for, to three digits."""
    return float(f"{rate * math.sqrt(share):.3g}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. Tokens are input positions: rows x context, padding included.

    `determinism` "run": equal bytes on the same number of ranks and threads, after any kill too; "bitwise": equal
    bytes on any number of ranks that is a power of two and divides the micro-batches. `sharding` "sharded" is FSDP2.
    `compile` "auto" follows the rule of `training/blocks.py`. `gradient_checkpointing` recomputes blocks instead of
    keeping their activations. `trackers` without a server of theirs write to `tracking_dir`, by default the run's
    folder, in which beside the last two checkpoints stay one every `keep_every` steps and the last before the rate
    falls.
    """

    tokens: int
    batch_rows: int = 16
    micro_batch_rows: int = 8
    learning_rate: float = 1e-2
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
    optimizer: OptimizerName = "muon"
    sharding: Sharding = "replicated"
    compile: Compile = "auto"
    gradient_checkpointing: bool = field(default=False, compare=False)
    checkpoint_every: int = field(default=250, compare=False)
    keep_every: int = field(default=0, compare=False)
    trackers: tuple[str, ...] = field(default=(), compare=False)
    tracking_dir: str = field(default="", compare=False)
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
            raise ValueError(
                "optimizer muon needs whole matrices on every rank: sharding must be replicated, or optimizer adamw"
            )
        if not 0 <= self.warmup_share <= 1 - self.decay_share:
            raise ValueError(
                f"warmup_share {self.warmup_share} and decay_share {self.decay_share} exceed the whole run"
            )

    def steps(self, context: int) -> int:
        """Optimiser steps: enough whole batches to see at least `tokens`."""
        return -(-self.tokens // (self.batch_rows * context))

    def tracked_as(self, name: str) -> TrainConfig:
        """The same with a folder of this name for its trackers, where they were given one."""
        return replace(self, tracking_dir=f"{self.tracking_dir}/{name}") if self.tracking_dir else self

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

"""What a step of training makes smaller: the next token's loss, or what a teacher adds to it.

An objective returns a sum over counted targets (nats); the loop divides it by the global count, so it may not depend on
how a batch is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from training.model import Layout, Llama


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Rows that go through the network at once. `rows_B` are their numbers in the packs."""

    tokens_BT: Tensor
    targets_BT: Tensor
    where: Layout
    rows_B: np.ndarray


class Objective(Protocol):
    """A summed loss with a gradient, fp32 scalar."""

    def __call__(self, model: Llama, batch: MicroBatch, dtype: torch.dtype) -> Tensor: ...


def next_token(model: Llama, batch: MicroBatch, dtype: torch.dtype) -> Tensor:
    """The sum of negative log-likelihoods of the targets."""
    return model.loss(batch.tokens_BT, batch.targets_BT, batch.where, dtype)

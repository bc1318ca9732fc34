"""Where a run runs: which rank of how many, on which device, and how gradients meet.

The loop knows only this protocol. `LocalContext` is one process; Ray Train's lives in `worker`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from training.config import Precision


class RunContext(Protocol):
    """One process of a run."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Replace `tensor` by its sum over all ranks, in place."""


@dataclass(frozen=True, kw_only=True)
class LocalContext:
    """This process alone. `num_threads` 0 leaves PyTorch's setting; results are byte-equal for equal thread counts."""

    device_name: Literal["auto", "cpu", "cuda"] = "auto"
    num_threads: int = 0

    rank = 0
    world_size = 1

    @property
    def device(self) -> torch.device:
        if self.num_threads:
            torch.set_num_threads(self.num_threads)
        if self.device_name == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device_name)

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """A sum over one."""


def resolved(precision: Precision, device: torch.device) -> Precision:
    """What `auto` means on this device: bf16 where the hardware multiplies it, else fp32.

    Measured at 1.5M parameters on one AVX-512-BF16 core: bf16 11,000 tokens/s, fp32 6,000.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"

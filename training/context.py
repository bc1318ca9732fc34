"""Where a run runs: which rank of how many, on which device, and how gradients meet.

The loop knows only this protocol. `LocalContext` is one process; `GroupContext` is a rank among several, whoever
started them: torchrun (`launched`) or Ray Train (`worker`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.distributed as dist

from catalog.errors import UsageError
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
        """Replace `tensor` by its sum over all ranks, in place; the order of the sum is the backend's."""

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensor of every rank, in order of rank."""


def check_gpu() -> None:
    """Raise UsageError where PyTorch finds no GPU."""
    if not torch.cuda.is_available():
        raise UsageError(
            f"device cuda: PyTorch {torch.__version__} finds no GPU here; leave `device` out to train on the CPU, or "
            "install a PyTorch for your GPU"
        )


@dataclass(frozen=True, kw_only=True)
class LocalContext:
    """This process alone. `num_threads` 0 leaves PyTorch's setting; results are byte-equal for equal thread counts.

    `device` raises UsageError where `cuda` is asked for and not there.
    """

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
        if self.device_name == "cuda":
            check_gpu()
        return torch.device(self.device_name)

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """A sum over one."""

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return [tensor]


@dataclass(frozen=True, kw_only=True)
class GroupContext:
    """One rank of a torch.distributed process group; `group` None is the group of all processes."""

    rank: int
    world_size: int
    device: torch.device
    group: dist.ProcessGroup | None = None

    def all_reduce(self, tensor: torch.Tensor) -> None:
        if self.world_size > 1:
            dist.all_reduce(tensor, group=self.group)

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        if self.world_size == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor, group=self.group)
        return parts


@contextmanager
def launched(*, num_threads: int = 1) -> Iterator[GroupContext]:
    """The context of a process that torchrun started: one GPU each where there are GPUs, else gloo on the CPU."""
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    torch.set_num_threads(num_threads)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield GroupContext(rank=rank, world_size=dist.get_world_size(), device=device)
    finally:
        dist.destroy_process_group()


def resolved(precision: Precision, device: torch.device) -> Precision:
    """What `auto` means on this device: bf16 where the hardware multiplies it, else fp32.

    Measured at 1.5M parameters on one AVX-512-BF16 core: bf16 11,000 tokens/s, fp32 6,000.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def dtype_of(precision: str) -> torch.dtype:
    """What a run of this precision multiplies in."""
    return torch.bfloat16 if precision == "bf16" else torch.float32

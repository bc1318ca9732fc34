"""Ranks of one run as threads of this process: sums and gathers meet at a barrier."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class FakeRank:
    """Rank `rank` of `world_size` in lock-step threads that share `parts`."""

    rank: int
    world_size: int
    parts: list[Any]
    barrier: threading.Barrier
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def all_gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        self.parts[self.rank] = tensor.clone()
        self.barrier.wait()
        found = [part.clone() for part in self.parts]
        self.barrier.wait()
        return found

    def all_reduce(self, tensor: torch.Tensor) -> None:
        tensor.copy_(torch.stack(self.all_gather(tensor)).sum(0))


def on_ranks(world_size: int, work: Callable[[FakeRank], Any]) -> list[Any]:
    """What `work` gives on every rank; raises what a rank raised."""
    parts: list[Any] = [None] * world_size
    barrier = threading.Barrier(world_size, timeout=60)
    found: list[Any] = [None] * world_size
    failures: list[BaseException] = []

    def one(rank: int) -> None:
        try:
            found[rank] = work(FakeRank(rank, world_size, parts, barrier))
        except BaseException as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    real = [each for each in failures if not isinstance(each, threading.BrokenBarrierError)]
    if failures:
        raise (real or failures)[0]
    return found

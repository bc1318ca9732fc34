"""The batches of a run, read ahead: which rows this rank has of each step, and how they are cut.

Step s has the samples s*B .. (s+1)*B of the order. Ranks take equal, contiguous pieces in turn, so any world size reads
the same global order; micro-batches end at multiples of their size within the *batch*, whatever the rank. One thread
reads the next batch while the step computes; what the step still waits is counted (`waited`, seconds).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from catalog.errors import UsageError
from catalog.pack import Packs
from training.config import TrainConfig
from training.context import RunContext
from training.family import SOUP_ROWS
from training.model import targets
from training.order import Order


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's rows of one step, on the host. `rows` are their numbers in the packs, `cuts` its micro-batches."""

    step: int
    rows: np.ndarray
    cells: np.ndarray
    tokens_BT: Tensor
    targets_BT: Tensor
    segments_BT: Tensor
    cuts: tuple[slice, ...]


class Batches:
    """An iterator over the batches of steps `begin` to `steps`. Close it: it owns a thread."""

    def __init__(self, packs: Packs, order: Order, config: TrainConfig, context: RunContext, *, begin: int, steps: int):
        self._packs, self._order, self._config = packs, order, config
        self._first, self._last = share(config.batch_rows, rank=context.rank, world_size=context.world_size)
        self._pinned = context.device.type == "cuda"
        self._steps = steps
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: Future[Batch] | None = self._ask(begin)
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._next is None:
            raise StopIteration
        begun = time.perf_counter()
        batch = self._next.result()
        self.waited += time.perf_counter() - begun
        self._next = self._ask(batch.step + 1)
        return batch

    def close(self) -> None:
        self._reader.shutdown(cancel_futures=True)

    def _ask(self, step: int) -> Future[Batch] | None:
        return self._reader.submit(self._read, step) if step < self._steps else None

    def _read(self, step: int) -> Batch:
        begin = step * self._config.batch_rows
        samples = self._order.samples(begin + self._first, begin + self._last)
        rows = self._packs.rows(samples.cells, samples.rows)
        tokens, segments = torch.from_numpy(self._packs.tokens(rows)), torch.from_numpy(self._packs.segments(rows))
        wanted = targets(tokens, segments)
        if self._pinned:
            tokens, wanted, segments = tokens.pin_memory(), wanted.pin_memory(), segments.pin_memory()
        return Batch(
            step=step,
            rows=rows,
            cells=samples.cells,
            tokens_BT=tokens,
            targets_BT=wanted,
            segments_BT=segments,
            cuts=tuple(micro_batches(self._first, self._last, self._config.micro_batch_rows)),
        )


def share(batch_rows: int, *, rank: int, world_size: int) -> tuple[int, int]:
    """First and last row of a batch that a rank computes."""
    return batch_rows * rank // world_size, batch_rows * (rank + 1) // world_size


def micro_batches(first: int, last: int, size: int) -> Iterator[slice]:
    """A rank's rows, first to last of the batch, cut where the batch's micro-batches end."""
    cuts = [first, *range((first // size + 1) * size, last, size), last]
    return (slice(begin - first, end - first) for begin, end in pairwise(cuts) if begin < end)


def check_cut(config: TrainConfig, *, family: str, world_size: int) -> None:
    """Raise UsageError where ranks or micro-batches would cut what must stay whole."""
    given = f"{config.batch_rows} rows a batch, {config.micro_batch_rows} a micro-batch and {world_size} ranks"
    if family == "soup" and (config.batch_rows % (SOUP_ROWS * world_size) or config.micro_batch_rows % SOUP_ROWS):
        raise UsageError(
            f"{given}: every {SOUP_ROWS} rows of a soup share a histogram, so expected multiples of {SOUP_ROWS} rows "
            "in a micro-batch and of each rank"
        )
    is_sharded = config.sharding == "sharded" and world_size > 1  # ranks gather together once a micro-batch
    if config.determinism != "bitwise" and not is_sharded:
        return
    count, rest = divmod(config.batch_rows, config.micro_batch_rows)
    if rest or count % world_size:
        raise UsageError(f"{given}: micro-batches stay whole here, so expected a multiple of ranks x micro-batch rows")
    if config.determinism == "bitwise" and world_size & (world_size - 1):
        raise UsageError(f"{given}: determinism bitwise adds gradients in a binary tree; expected 1, 2, 4, 8 ... ranks")

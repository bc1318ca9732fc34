"""Where tasks run: in this process, or on Ray. Both give the same receipts.

`LocalExecutor` maps over threads: the kernels release the GIL and nothing has to start. `RayExecutor` hands Ray pickled
shard references, never shards, so Ray moves kilobytes however large the corpus is, places tasks, retries them on lost
nodes and scales out. A stage of many tasks is a Ray Dataset with a row per task, which asks for nodes as they are
needed; planning it costs 0.3 s, and importing Ray Data 0.7 s in each process, so a stage of few tasks goes to Ray's
workers directly. Ray itself needs some ten seconds to start on a laptop, which is why small inputs that train nothing
run locally under `auto`. A Ray task costs some 20 ms of two cores, so many short tasks go a few together; their
receipts arrive together too.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from catalog.errors import TamisError, UsageError
from catalog.run import Executor, Receipt, Task, TaskFunction
from catalog.store import Store

RAY_FROM_BYTES = 512 << 20
TURNS, MOST_TOGETHER = 32, 4  # Ray tasks a worker gets in a stage, and how many of ours one holds to come down to it
DATASET_FROM_GROUPS = 64  # Ray tasks from which a stage is a Ray Dataset
OBJECT_STORE_BYTES = 256 << 20  # it holds shard references and receipts, never shards


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """Threads of this process."""

    on_ray: ClassVar[bool] = False
    workers: int = 2

    def map(self, function: TaskFunction, store: Store, tasks: Sequence[Task]) -> Iterator[tuple[int, Receipt]]:
        """Yield (index, receipt) as tasks finish. The first failure cancels what has not started and is raised."""
        if self.workers == 1:
            for index, task in enumerate(tasks):
                yield index, function(store, task)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            futures = {pool.submit(function, store, task): index for index, task in enumerate(tasks)}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """The Ray cluster this process is connected to, or a Ray started here with `workers` CPUs."""

    on_ray: ClassVar[bool] = True
    workers: int = 2

    def map(self, function: TaskFunction, store: Store, tasks: Sequence[Task]) -> Iterator[tuple[int, Receipt]]:
        """Yield (index, receipt) as tasks finish. The first failure ends the stage and is raised."""
        if not tasks:
            return
        start_ray(self.workers)
        items = [(index, pickle.dumps(task)) for index, task in enumerate(tasks)]
        together = min(MOST_TOGETHER, -(-len(items) // (TURNS * self.workers)))
        groups = [items[begin : begin + together] for begin in range(0, len(items), together)]
        answer = _dataset_answers if len(groups) >= DATASET_FROM_GROUPS else _task_answers
        for index, receipt, error in answer(_Bound(function, store.root), groups, self.workers):
            if error:
                raise pickle.loads(error)
            yield index, json.loads(receipt)


Item = tuple[int, bytes]  # number of a task, and the task pickled
Answer = tuple[int, str, bytes]  # number of a task, its receipt as JSON, or its error pickled


@dataclass(frozen=True)
class _Bound:
    """A task function with its store, as a worker of Ray calls it.

    An error for the user travels as an answer: Ray would wrap it and add its own advice to the message.
    """

    function: TaskFunction
    root: str

    def __call__(self, item: Item) -> Answer:
        index, task = item
        store = Store(self.root)
        try:
            with store.room():
                return index, json.dumps(self.function(store, pickle.loads(task))), b""
        except TamisError as error:
            return index, "", pickle.dumps(error)

    def of_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """The same for a row of a Ray Dataset."""
        return dict(zip(("index", "receipt", "error"), self((row["index"], row["task"])), strict=True))


def _task_answers(bound: _Bound, groups: Sequence[Sequence[Item]], workers: int) -> Iterator[Answer]:
    """One Ray task a group, as many at a time as there are workers; cancelled when the caller stops."""
    import ray

    submit = ray.remote(num_cpus=1)(_answers).remote
    held = ray.put(bound)
    waiting = iter(groups)
    running = [submit(held, group) for group in islice(waiting, workers)]
    try:
        while running:
            done, running = ray.wait(running)
            running += [submit(held, group) for group in islice(waiting, 1)]
            yield from ray.get(done[0])
    finally:
        for each in running:
            ray.cancel(each)


def _answers(bound: _Bound, group: Sequence[Item]) -> list[Answer]:
    return [bound(item) for item in group]


def _dataset_answers(bound: _Bound, groups: Sequence[Sequence[Item]], workers: int) -> Iterator[Answer]:
    """A row a task, a block a group."""
    import ray.data

    _quiet_ray_data()
    items = [{"index": index, "task": task} for group in groups for index, task in group]
    dataset = ray.data.from_items(items, override_num_blocks=len(groups))
    pool = ray.data.TaskPoolStrategy(size=workers)
    results = dataset.map(bound.of_row, num_cpus=1, compute=pool).iter_batches(
        batch_size=1, prefetch_batches=0, batch_format="pyarrow"
    )
    for batch in results:
        yield tuple(batch[name][0].as_py() for name in ("index", "receipt", "error"))


def _quiet_ray_data() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # only now: the context sets up that logger


def start_ray(workers: int) -> None:
    """Connect to the Ray that RAY_ADDRESS names, or start one here; nothing if this process has one."""
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # under `uv run` Ray would ship the working tree
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    else:
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )


def executor(kind: str, *, workers: int, num_bytes: int, trains: bool = False) -> Executor:
    """The executor called `kind`: 'local', 'ray' or 'auto'. Raises UsageError for another name.

    'auto' takes Ray where its start pays: from 512 MB of input on, for training, or when RAY_ADDRESS names a cluster.
    """
    if kind == "auto":
        kind = "ray" if num_bytes >= RAY_FROM_BYTES or trains or os.environ.get("RAY_ADDRESS") else "local"
    if kind not in EXECUTORS:
        raise UsageError(f"no executor {kind!r}: expected local, ray or auto")
    return EXECUTORS[kind](workers=workers)


EXECUTORS: dict[str, type[LocalExecutor] | type[RayExecutor]] = {"local": LocalExecutor, "ray": RayExecutor}

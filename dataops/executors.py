"""Where tasks run: in this process, or on Ray. Both give the same receipts.

`LocalExecutor` maps over threads: the kernels release the GIL and nothing has to start. `RayExecutor` hands Ray Data a
row per task, the pickled shard reference, never the shard, so Ray moves kilobytes however large the corpus is, places
tasks, retries them on lost nodes and scales out. Ray itself needs some ten seconds to start on a laptop and about 0.3 s
a stage, which is why small inputs that train nothing run locally under `auto`. A Ray task costs some 20 ms of two
cores, so many short tasks go a few together; their receipts arrive together too.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any, ClassVar

from catalog.errors import TamisError, UsageError
from catalog.run import Executor, Receipt, Task, TaskFunction
from catalog.store import Store

KINDS = ("local", "ray", "auto")
RAY_FROM_BYTES = 512 << 20
TURNS, MOST_TOGETHER = 8, 4  # Ray tasks a worker gets in a stage, and how many of ours one holds to come down to that
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
    """Ray Data on the cluster this process is connected to, or on a Ray started here with `workers` CPUs."""

    on_ray: ClassVar[bool] = True
    workers: int = 2

    def map(self, function: TaskFunction, store: Store, tasks: Sequence[Task]) -> Iterator[tuple[int, Receipt]]:
        """Yield (index, receipt) as tasks finish. The first failure ends the stage and is raised."""
        if not tasks:
            return
        start_ray(self.workers)
        import ray

        items = [{"index": index, "task": pickle.dumps(task)} for index, task in enumerate(tasks)]
        together = min(MOST_TOGETHER, -(-len(items) // (TURNS * self.workers)))
        blocks = -(-len(items) // together)
        dataset = ray.data.from_items(items, override_num_blocks=blocks)
        pool = ray.data.TaskPoolStrategy(size=min(self.workers, blocks))
        results = dataset.map(_Bound(function, store.root), num_cpus=1, compute=pool).iter_batches(
            batch_size=1, prefetch_batches=0, batch_format="pyarrow"
        )
        for batch in results:
            index, receipt, error = (batch[name][0].as_py() for name in ("index", "receipt", "error"))
            if error:
                raise pickle.loads(error)
            yield index, json.loads(receipt)


@dataclass(frozen=True)
class _Bound:
    """A task function with its store, as Ray Data calls it on one row.

    An error for the user travels as an answer: Ray Data would wrap it and add its own advice to the message.
    """

    function: TaskFunction
    root: str

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            receipt = self.function(Store(self.root), pickle.loads(row["task"]))
        except TamisError as error:
            return {"index": row["index"], "receipt": "", "error": pickle.dumps(error)}
        return {"index": row["index"], "receipt": json.dumps(receipt), "error": b""}


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
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # only now: the context sets up that logger


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

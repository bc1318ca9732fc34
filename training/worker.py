"""Training inside Ray Train: the only module here that knows Ray.

All jobs of one call share one `TorchTrainer`: world rank r is of team r // workers_per_job, and jobs are dealt out to
teams, each of which does its own one after the other and exchanges gradients in a process group of its own. So any
number of independent runs costs one worker-group start-up and no more processes than were asked for, and a job with one
worker computes the very bytes of `LocalContext` with as many threads. Rejected: one trainer per thread (a controller
and a placement group each) and Ray Tune (trials add their own storage and scheduler).

A worker that dies restarts the group, and every job continues from its newest checkpoint; jobs that were done return at
once. A job alone goes on with the workers that are left, because its order does not depend on their number. Our
checkpoints are the truth: Ray is given none, stores nothing but the state of one call in a folder of its own, and that
is never read again, so nothing that happens to Ray's files can stop a run. Progress is read from each run's
metrics.jsonl, because `ray.train.report` is a barrier over all ranks. `run_dir` must be visible to workers and driver.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from catalog.errors import NO_ROOM, StorageError, TamisError, UsageError
from catalog.pack import Packs
from training.checkpoint import write_file
from training.config import Device, EarlyStopping, ModelConfig, TrainConfig
from training.context import GroupContext, RunContext
from training.finetune import finetune
from training.methods import Full, Method
from training.order import Order
from training.pretrain import ordered, pretrain
from training.run_folder import TrainResult, read_result
from training.telemetry import OnProgress, Progress, follow, read_events, silent
from training.tune import REDUCTION, Setting, Task, Trial, run_trial

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
_MAX_FAILURES = 3
FAILURE = "failure.json"  # of a run: an error for the user, from the worker that met it
_NOISY_LOGGERS = ("ray.train", "ray.train.v2", "ray.data", "ray.tune")


@dataclass(frozen=True, kw_only=True)
class PretrainJob:
    """The arguments of `pretrain`, by value, and `threads` and `device` of its worker, which decide its bytes."""

    name: str
    packs: tuple[Path, ...]
    weights: tuple[float, ...] | None
    model: ModelConfig
    train: TrainConfig
    run_dir: Path
    threads: int = 1
    device: Device = "cpu"
    start: Path | None = None

    def order(self, packs: Packs) -> Order:
        """Which rows of the packs come when."""
        return ordered(packs, self.weights, train=self.train)

    def run(self, context: RunContext, on_progress: OnProgress = silent) -> TrainResult:
        return pretrain(
            self.packs,
            weights=self.weights,
            model=self.model,
            train=self.train,
            run_dir=self.run_dir,
            context=context,
            on_progress=on_progress,
            start=self.start,
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneJob:
    """The arguments of `finetune`, by value, and `threads` and `device` of its worker, which decide its bytes."""

    name: str
    packs: tuple[Path, ...]
    model_dir: Path
    train: TrainConfig
    validation: pa.Table = field(repr=False)
    stopping: EarlyStopping
    run_dir: Path
    threads: int = 1
    device: Device = "cpu"
    method: Method = Full()  # noqa: RUF009, a frozen value
    weights: tuple[float, ...] | None = None

    def order(self, packs: Packs) -> Order:
        """Which rows of the packs come when."""
        return ordered(packs, self.weights, train=self.train)

    def run(self, context: RunContext, on_progress: OnProgress = silent) -> TrainResult:
        return finetune(
            self.packs,
            model_dir=self.model_dir,
            train=self.train,
            validation=self.validation,
            stopping=self.stopping,
            run_dir=self.run_dir,
            context=context,
            on_progress=on_progress,
            method=self.method,
            weights=self.weights,
        )


Job = PretrainJob | FinetuneJob


def fit_with_ray(
    jobs: Sequence[Job],
    *,
    at_once: int,
    cpus_per_worker: float,
    on_progress: Callable[[str, Progress], None],
    workers_per_job: int = 1,
) -> list[TrainResult]:
    """Run the jobs, `at_once` at a time, on a Ray that is initialised, or start one; results in the order of `jobs`.

    `cpus_per_worker` is what Ray sets aside for each worker, a fraction where jobs share a core. Jobs are of one
    device; on `cuda` each worker has one GPU, and fewer run at once where there are fewer. `on_progress(name,
    progress)` is called from a thread of this process. Raises what the job raised when that is a TamisError (without
    retries), UsageError where Ray has fewer GPUs than a job needs, and TamisError after a worker died more than three
    times.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # the default, 2 s, is added at start and end
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    _check(jobs)
    for job in jobs:
        job.run_dir.mkdir(parents=True, exist_ok=True)
        (job.run_dir / FAILURE).unlink(missing_ok=True)
    _start_ray()
    on_gpus = jobs[0].device == "cuda"
    teams = min(at_once, len(jobs))
    if on_gpus and (_gpus() or not os.environ.get("RAY_ADDRESS")):  # a named cluster may add nodes that have some
        teams = min(teams, _gpus() // workers_per_job)
    if not teams:
        raise UsageError(
            f"device cuda: Ray has {_gpus()} GPUs, a run needs {workers_per_job}; leave `device` out to train on CPUs"
        )
    num_workers: Any = teams * workers_per_job
    if len(jobs) == 1 and workers_per_job > 1:
        num_workers = (1, workers_per_job)  # as many as there are
    trainer = TorchTrainer(
        _work,
        train_loop_config={"jobs": list(jobs), "teams": teams},
        torch_config=TorchConfig(backend="nccl" if on_gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=on_gpus,
            resources_per_worker={"CPU": cpus_per_worker, **({"GPU": 1} if on_gpus else {})},
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex,  # an old name would make Ray restore what it stored under it
            storage_path=str((jobs[0].run_dir / "ray").absolute()),
            failure_config=FailureConfig(max_failures=_MAX_FAILURES),
        ),
    )
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(list(jobs), on_progress, done), daemon=True)
    watcher.start()
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        for job in jobs:
            _raise_failure(job.run_dir)
        raise TamisError(f"training on Ray failed after {_MAX_FAILURES} restarts: {error}") from error
    finally:
        done.set()
        watcher.join()
        shutil.rmtree(jobs[0].run_dir / "ray", ignore_errors=True)
    for job in jobs:
        _raise_failure(job.run_dir)
    return [read_result(job.run_dir) for job in jobs]


def search_with_ray(
    task: Task, settings: Sequence[Setting], *, folder: Path, concurrent: int, on_report: Callable[[Trial], None]
) -> list[Trial]:
    """How far each setting came under ASHA, in the order of `settings`; `concurrent` trials at a time, a core each.

    Raises TamisError with what the first failed trial said.
    """
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    _start_ray()
    data, budget = ray.put(task), task.train.tokens

    def trial(config: dict[str, Any]) -> None:
        given, setting = ray.get(data), settings[config["number"]]

        def report(tokens: int, loss: float) -> None:
            tune.report({"tokens": min(tokens, budget), "bits_per_byte": loss})

        run_trial(given, setting, folder / str(config["number"]), report)

    class Told(tune.Callback):
        def on_trial_result(self, **given: Any) -> None:  # type: ignore[override]
            result = given["result"]
            on_report(_trial(settings[result["config"]["number"]], result, budget=budget))

    scheduler = ASHAScheduler(
        time_attr="tokens",
        max_t=budget,
        grace_period=max(1, budget // REDUCTION ** (task.rungs - 1)),
        reduction_factor=REDUCTION,
    )
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": 1}),
        param_space={"number": tune.grid_search(list(range(len(settings))))},
        tune_config=tune.TuneConfig(
            metric="bits_per_byte", mode="min", scheduler=scheduler, max_concurrent_trials=concurrent
        ),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex, storage_path=str(folder.absolute() / "ray"), verbose=0, callbacks=[Told()]
        ),
    )
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints a banner on stdout, at any verbosity
    results = tuner.fit()
    if results.errors:
        raise TamisError(f"a trial failed: {str(results.errors[0]).strip().splitlines()[-1]}")
    metrics = [results[i].metrics or {} for i in range(len(results))]
    found = {each["config"]["number"]: each for each in metrics}
    return [_trial(setting, found[number], budget=budget) for number, setting in enumerate(settings)]


def _trial(setting: Setting, metrics: dict[str, Any], *, budget: int) -> Trial:
    return Trial(
        learning_rate=setting.learning_rate,
        batch_rows=setting.batch_rows,
        tokens=metrics["tokens"],
        bits_per_byte=metrics["bits_per_byte"],
        seconds=metrics["time_total_s"],
        finished=metrics["tokens"] >= budget,
    )


def _start_ray() -> None:
    """Connect to a Ray that is there, or start one of this machine, quietly."""
    import ray

    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)


def _gpus() -> int:
    """GPUs of all nodes that Ray knows."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def _work(config: dict[str, Any]) -> None:
    """What every Ray Train worker runs."""
    import ray.train
    import ray.train.torch

    teams, here = config["teams"], ray.train.get_context()
    rank, size = here.get_world_rank(), here.get_world_size() // teams
    # every rank takes part in making every group
    groups = [torch.distributed.new_group(range(i * size, (i + 1) * size)) if size > 1 else None for i in range(teams)]
    team, device = rank // size, ray.train.torch.get_device()
    context = GroupContext(rank=rank % size, world_size=size, device=device, group=groups[team])
    for job in config["jobs"][team::teams]:
        _do(job, context)


def _do(job: Job, context: GroupContext) -> None:
    """Run a job on its number of threads; an error that is ours is written down for the driver.

    Ray would try again what can't succeed, and bury the message: where all ranks got here, a worker ends as if it were
    done. One rank of several may be alone with its error, and others wait for it, so it fails; when Ray has started
    all anew, what was written down ends them.
    """
    if (job.run_dir / FAILURE).exists():
        return
    torch.set_num_threads(job.threads)
    try:
        job.run(context)
    except TamisError as error:
        told: TamisError = error
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        told = StorageError(f"the disk of {job.run_dir} is full: free space and run the same command again")
    else:
        return
    if context.rank == 0:
        described = {"kind": type(told).__name__, "message": str(told)}
        write_file(job.run_dir / FAILURE, json.dumps(described).encode())
    if context.world_size > 1:
        raise told


def _check(jobs: Sequence[Job]) -> None:
    if not jobs:
        raise ValueError("fit_with_ray needs at least one job")
    if len({job.device for job in jobs}) > 1:
        raise ValueError("jobs that run together need one device, got cpu and cuda")
    for what, values in (("name", [job.name for job in jobs]), ("run_dir", [job.run_dir for job in jobs])):
        if len(set(values)) < len(values):
            raise ValueError(f"jobs that run together need different {what}s, got {values}")
    for job in jobs:
        if not job.run_dir.is_absolute():
            raise ValueError(
                f"run_dir of job {job.name} must be absolute because Ray's workers change folder: {job.run_dir}"
            )


def _watch(jobs: list[Job], on_progress: Callable[[str, Progress], None], done: threading.Event) -> None:
    seen, told = {job.name: 0 for job in jobs}, {job.name: len(read_events(job.run_dir)) for job in jobs}
    while True:
        finished = done.wait(_POLL_SECONDS)
        for job in jobs:
            progress = follow(job.run_dir)
            if progress is not None and progress.step != seen[job.name]:
                seen[job.name] = progress.step
                on_progress(job.name, progress)
            for event in read_events(job.run_dir)[told[job.name] :]:
                told[job.name] += 1
                _log.warning("%s: %s", job.name, event["text"])
        if finished:
            return


def _raise_failure(run_dir: Path) -> None:
    path = run_dir / FAILURE
    if path.exists():
        failure = json.loads(path.read_text())
        raise _kinds(TamisError).get(failure["kind"], TamisError)(failure["message"])


def _kinds(kind: type[TamisError]) -> dict[str, type[TamisError]]:
    below = {name: each for sub in kind.__subclasses__() for name, each in _kinds(sub).items()}
    return {kind.__name__: kind, **below}

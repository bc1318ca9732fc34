"""Training inside Ray Train gives the bytes of training here, whoever dies on the way. One Ray for all."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
from pathlib import Path

import pytest
import torch

from catalog.errors import TamisError, UsageError
from training.config import EarlyStopping
from training.context import GroupContext, LocalContext
from training.telemetry import read_metrics
from training.worker import FAILURE, FinetuneJob, Job, PretrainJob, _do, fit_with_ray


@dataclasses.dataclass(frozen=True, kw_only=True)
class DyingContext(GroupContext):
    """Gets SIGKILL in the step after its first checkpoint."""

    run_dir: Path

    def all_reduce(self, tensor):
        for marker in (self.run_dir / "checkpoints").glob("step-*/COMMITTED"):
            (self.run_dir / "killed").write_text(marker.parent.name)
            os.kill(os.getpid(), signal.SIGKILL)
        super().all_reduce(tensor)


@dataclasses.dataclass(frozen=True)
class Watched:
    """A job in a wrapper that says what its worker does."""

    job: Job

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def run_dir(self) -> Path:
        return self.job.run_dir

    @property
    def threads(self) -> int:
        return self.job.threads

    @property
    def device(self) -> str:
        return self.job.device


class KilledOnce(Watched):
    """A job whose worker dies the first time it runs."""

    def run(self, context: GroupContext) -> None:
        alive = (self.run_dir / "killed").exists()
        self.job.run(context if alive else DyingContext(**vars(context), run_dir=self.run_dir))


class Counted(Watched):
    """A job that notes the number of threads it ran on."""

    def run(self, context: GroupContext) -> None:
        self.job.run(context)
        (self.run_dir / "threads").write_text(str(torch.get_num_threads()))


def bytes_of(run_dir: Path) -> bytes:
    return (run_dir / "model" / "model.safetensors").read_bytes()


def no_progress(name, progress):
    assert progress.steps


def three_jobs(folder: Path, start: Path, *, pack, shape, settings, documents) -> list[Job]:
    """Two to pretrain, the second by weights, and one to fine-tune the model in `start`, on two threads."""
    shared = {"packs": (pack,), "train": settings}
    tuning = {"model_dir": start, "validation": documents, "stopping": EarlyStopping(evaluate_every=5, patience=2)}
    weights = (1.0, 2.0, 0.0, 1.0)
    return [
        PretrainJob(name="plain", weights=None, model=shape, run_dir=folder / "plain", **shared),
        PretrainJob(name="weighed", weights=weights, model=shape, run_dir=folder / "weighed", **shared),
        FinetuneJob(name="tuned", run_dir=folder / "tuned", threads=2, **tuning, **shared),
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, pack, shape, settings, documents) -> Path:
    """The folder of the three jobs, each run in this process on its own number of threads."""
    folder = tmp_path_factory.mktemp("alone")
    for job in three_jobs(
        folder, folder / "plain" / "model", pack=pack, shape=shape, settings=settings, documents=documents
    ):
        job.run(LocalContext(device_name="cpu", num_threads=job.threads))
    torch.set_num_threads(1)
    return folder


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_jobs_dealt_out_to_two_workers_give_the_bytes_of_each_alone_and_a_wrong_one_raises_its_own_error(
    tmp_path, alone, pack, shape, settings, documents
):
    start = alone / "plain" / "model"
    plain, *jobs = three_jobs(tmp_path, start, pack=pack, shape=shape, settings=settings, documents=documents)
    wrong = dataclasses.replace(plain, name="wrong", weights=(1, 1, 1, 1), run_dir=tmp_path / "wrong")
    with pytest.raises(UsageError) as here:
        wrong.run(LocalContext(device_name="cpu", num_threads=1))
    with pytest.raises(UsageError) as there:
        fit_with_ray([wrong, *map(Counted, jobs)], at_once=2, cpus_per_worker=0.5, on_progress=no_progress)
    assert str(there.value) == str(here.value)
    assert "cell 2" in str(there.value)
    for job in jobs:
        assert bytes_of(job.run_dir) == bytes_of(alone / job.name)
        assert (job.run_dir / "threads").read_text() == str(job.threads)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what is not there")
def test_a_gpu_that_is_not_there_is_one_line_here_and_on_ray(tmp_path, pack, shape, settings):
    job = PretrainJob(
        name="fast", packs=(pack,), weights=None, model=shape, train=settings, run_dir=tmp_path / "fast", device="cuda"
    )
    with pytest.raises(UsageError, match=r"device cuda: PyTorch .* finds no GPU here; leave `device` out"):
        job.run(LocalContext(device_name=job.device))
    with pytest.raises(UsageError, match="device cuda: Ray has 0 GPUs, a run needs 2; leave `device` out"):
        fit_with_ray([job], at_once=1, cpus_per_worker=1, workers_per_job=2, on_progress=no_progress)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_jobs_whose_worker_was_killed_end_with_the_bytes_of_local_runs(
    tmp_path, alone, pack, shape, settings, documents
):
    start = alone / "plain" / "model"
    plain, weighed, tuned = three_jobs(tmp_path, start, pack=pack, shape=shape, settings=settings, documents=documents)
    found = fit_with_ray([plain, KilledOnce(weighed), tuned], at_once=2, cpus_per_worker=0.5, on_progress=no_progress)
    assert (weighed.run_dir / "killed").read_text() == "step-00000006"
    assert [result.model_dir for result in found] == [job.run_dir / "model" for job in (plain, weighed, tuned)]
    for job in (plain, weighed, tuned):
        assert bytes_of(job.run_dir) == bytes_of(alone / job.name)


class KilledPair(Watched):
    """A job of several workers, the last of which dies the first time it runs."""

    def run(self, context: GroupContext) -> None:
        spared = (self.run_dir / "killed").exists() or context.rank < context.world_size - 1
        self.job.run(context if spared else DyingContext(**vars(context), run_dir=self.run_dir))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_run_whose_second_worker_was_killed_and_whose_ray_files_were_cut_ends_with_the_bytes_of_one_process(
    tmp_path, pack, shape, settings
):
    train = dataclasses.replace(settings, micro_batch_rows=2, determinism="bitwise", keep_every=12)
    here, there = (
        PretrainJob(name=name, packs=(pack,), weights=None, model=shape, train=train, run_dir=tmp_path / name)
        for name in ("here", "there")
    )
    here.run(LocalContext(device_name="cpu", num_threads=1))
    fit_with_ray([KilledPair(there)], at_once=1, cpus_per_worker=1, workers_per_job=2, on_progress=no_progress)
    assert (there.run_dir / "killed").read_text() == "step-00000006"
    assert bytes_of(there.run_dir) == bytes_of(here.run_dir)
    (there.run_dir / "result.json").unlink()
    cut = there.run_dir / "ray" / "old" / "checkpoint_manager_snapshot.json"
    cut.parent.mkdir(parents=True)
    cut.write_text('{"checkpoint_')
    fit_with_ray([there], at_once=1, cpus_per_worker=1, workers_per_job=1, on_progress=no_progress)
    assert bytes_of(there.run_dir) == bytes_of(here.run_dir)
    assert not cut.exists()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_two_workers_on_one_job_give_the_losses_of_one(tmp_path, alone, pack, shape, settings):
    job = PretrainJob(name="pair", packs=(pack,), weights=None, model=shape, train=settings, run_dir=tmp_path / "pair")
    fit_with_ray([job], at_once=1, cpus_per_worker=1, workers_per_job=2, on_progress=no_progress)
    pair, one = ([line["loss"] for line in read_metrics(f / "metrics.jsonl")] for f in (job.run_dir, alone / "plain"))
    assert pair == pytest.approx(one, abs=1e-4)


def test_jobs_that_share_a_name_or_a_folder_or_give_a_relative_one_are_refused(tmp_path, pack, shape, settings):
    def job(name, run_dir):
        return PretrainJob(name=name, packs=(pack,), weights=None, model=shape, train=settings, run_dir=run_dir)

    for jobs, message in (
        ([job("a", tmp_path / "a"), job("a", tmp_path / "b")], "different names"),
        ([job("a", tmp_path), job("b", tmp_path)], "different run_dirs"),
        ([job("a", Path("here"))], "must be absolute"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_with_ray(jobs, at_once=1, cpus_per_worker=1, on_progress=no_progress)


@pytest.mark.parametrize("error", [UsageError("no"), OSError(errno.ENOSPC, "No space left on device")])
def test_an_error_for_the_user_is_written_down_and_ends_a_team_of_several(tmp_path: Path, error: Exception) -> None:
    class Failing:
        threads, run_dir = 1, tmp_path

        def run(self, _: object) -> None:
            raise error

    alone, of_two = (GroupContext(rank=0, world_size=size, device=torch.device("cpu"), group=None) for size in (1, 2))
    _do(Failing(), alone)  # type: ignore[arg-type]
    described = json.loads((tmp_path / FAILURE).read_text())
    assert described["kind"] == ("UsageError" if isinstance(error, UsageError) else "StorageError")
    (tmp_path / FAILURE).unlink()
    with pytest.raises(TamisError):  # the other rank may be waiting for this one
        _do(Failing(), of_two)  # type: ignore[arg-type]
    _do(Failing(), of_two)  # type: ignore[arg-type]  # started anew: what was written down ends it

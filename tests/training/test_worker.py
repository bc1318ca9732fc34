"""Training inside Ray Train gives the bytes of training here, whoever dies on the way. One Ray instance for all."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from pathlib import Path

import pytest

from catalog.errors import UsageError
from training.config import EarlyStopping
from training.context import LocalContext
from training.pretrain import TrainResult
from training.telemetry import read_metrics
from training.worker import FinetuneJob, Job, PretrainJob, RayContext, Resources, fit_with_ray


@pytest.fixture(scope="module")
def ray_started():
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@dataclasses.dataclass(frozen=True, kw_only=True)
class DyingContext(RayContext):
    """Gets SIGKILL when its first checkpoint has just been committed."""

    def report(self, progress, checkpoint):
        (checkpoint.parents[1] / "killed").write_text(checkpoint.name)
        os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class KilledOnce:
    """A job whose worker dies the first time it runs."""

    job: Job

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def run_dir(self) -> Path:
        return self.job.run_dir

    def run(self, context: RayContext) -> TrainResult:
        return self.job.run(context if (self.run_dir / "killed").exists() else DyingContext(**vars(context)))


def bytes_of(result: TrainResult) -> bytes:
    return (result.model_dir / "model.safetensors").read_bytes()


def no_progress(name, progress):
    assert progress.steps


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_started")
def test_jobs_side_by_side_equal_local_runs_to_the_byte_though_a_worker_is_killed(
    tmp_path, pack, shape, settings, documents, local
):
    def jobs(folder: Path) -> list[Job]:
        start = tmp_path / "here" / "plain" / "model"
        shared = {"packs": (pack,), "train": settings}
        stopping = EarlyStopping(evaluate_every=5, patience=2)
        return [
            PretrainJob(name="plain", weights=None, model=shape, run_dir=folder / "plain", **shared),
            PretrainJob(
                name="weighed", weights=(1.0, 2.0, 0.0, 1.0), model=shape, run_dir=folder / "weighed", **shared
            ),
            FinetuneJob(
                name="tuned",
                weights=None,
                model_dir=start,
                validation=documents,
                stopping=stopping,
                run_dir=folder / "tuned",
                **shared,
            ),
        ]

    alone = [job.run(local) for job in jobs(tmp_path / "here")]
    plain, weighed, tuned = jobs(tmp_path / "there")
    found = fit_with_ray(
        [plain, KilledOnce(weighed), tuned], resources=Resources(cpus_per_worker=0.5), on_progress=no_progress
    )
    assert (weighed.run_dir / "killed").read_text() == "step-00000006"
    assert [bytes_of(each) for each in found] == [bytes_of(each) for each in alone]
    assert len({bytes_of(each) for each in found}) == 3


@pytest.mark.ray
@pytest.mark.usefixtures("ray_started")
def test_two_workers_on_one_job_give_the_losses_of_one(tmp_path, pack, shape, settings, local):
    def job(name: str) -> PretrainJob:
        return PretrainJob(name=name, packs=(pack,), weights=None, model=shape, train=settings, run_dir=tmp_path / name)

    fit_with_ray([job("pair")], resources=Resources(workers_per_job=2), on_progress=no_progress)
    job("one").run(local)
    pair, one = ([line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("pair", "one"))
    assert pair == pytest.approx(one, abs=1e-4)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_started")
def test_an_error_of_the_user_comes_back_as_it_was_raised(tmp_path, pack, shape, settings):
    wrong = PretrainJob(
        name="wrong", packs=(pack,), weights=(1, 1, 1, 1), model=shape, train=settings, run_dir=tmp_path / "wrong"
    )
    with pytest.raises(UsageError) as here:
        wrong.run(LocalContext(device_name="cpu", num_threads=1))
    with pytest.raises(UsageError) as there:
        fit_with_ray([wrong], resources=Resources(), on_progress=no_progress)
    assert str(there.value) == str(here.value)
    assert "cell 2" in str(there.value)


def test_jobs_that_share_a_name_or_a_folder_or_give_a_relative_one_are_refused(tmp_path, pack, shape, settings):
    def job(name, run_dir):
        return PretrainJob(name=name, packs=(pack,), weights=None, model=shape, train=settings, run_dir=run_dir)

    for jobs, message in (
        ([job("a", tmp_path / "a"), job("a", tmp_path / "b")], "different names"),
        ([job("a", tmp_path), job("b", tmp_path)], "different run_dirs"),
        ([job("a", Path("here"))], "must be absolute"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_with_ray(jobs, resources=Resources(), on_progress=no_progress)

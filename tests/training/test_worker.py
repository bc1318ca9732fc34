"""Training inside Ray Train gives the bytes of training here."""

import logging

import pytest

from catalog.errors import UsageError
from training.config import EarlyStopping
from training.finetune import finetune
from training.pretrain import pretrain
from training.worker import FinetuneJob, PretrainJob, Resources, fit_with_ray


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


def bytes_of(result):
    return (result.model_dir / "model.safetensors").read_bytes()


def no_progress(name, progress):
    assert progress.steps


@pytest.mark.ray
@pytest.mark.usefixtures("ray_started")
def test_different_jobs_side_by_side_equal_local_runs_to_the_byte_and_a_wrong_one_says_why(
    tmp_path, pack, shape, settings, documents, local
):
    alone = pretrain([pack], weights=None, model=shape, train=settings, run_dir=tmp_path / "alone", context=local)
    stopping = EarlyStopping(evaluate_every=5, patience=2)
    tuning = {"train": settings, "validation": documents, "stopping": stopping}
    tuned = finetune([pack], model_dir=alone.model_dir, run_dir=tmp_path / "tuned", context=local, **tuning)
    jobs = [
        PretrainJob(name="one", packs=(pack,), weights=None, model=shape, train=settings, run_dir=tmp_path / "one"),
        FinetuneJob(
            name="two", packs=(pack,), weights=None, model_dir=alone.model_dir, run_dir=tmp_path / "two", **tuning
        ),
        PretrainJob(
            name="three",
            packs=(pack,),
            weights=(1.0, 0.0, 0.0, 1.0),
            model=shape,
            train=settings,
            run_dir=tmp_path / "3",
        ),
    ]
    one, two, third = fit_with_ray(jobs, resources=Resources(cpus_per_worker=0.5, threads=1), on_progress=no_progress)
    assert bytes_of(one) == bytes_of(alone)
    assert bytes_of(two) == bytes_of(tuned)
    assert bytes_of(third) != bytes_of(alone)

    wrong = PretrainJob(
        name="wrong", packs=(pack,), weights=(0.0, 0.0, 1.0, 0.0), model=shape, train=settings, run_dir=tmp_path / "w"
    )
    with pytest.raises(UsageError, match="2"):  # cell 2 has no rows
        fit_with_ray([wrong], resources=Resources(), on_progress=no_progress)


def test_jobs_that_share_a_folder_or_a_relative_one_are_refused(tmp_path, pack, shape, settings):
    def job(name, run_dir):
        return PretrainJob(name=name, packs=(pack,), weights=None, model=shape, train=settings, run_dir=run_dir)

    with pytest.raises(ValueError, match="different run_dirs"):
        fit_with_ray([job("a", tmp_path), job("b", tmp_path)], resources=Resources(), on_progress=no_progress)
    with pytest.raises(ValueError, match="absolute"):
        fit_with_ray([job("a", tmp_path.relative_to("/"))], resources=Resources(), on_progress=no_progress)

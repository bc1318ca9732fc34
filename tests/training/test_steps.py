"""Training as steps of a catalog: what is trained together or alone, and what does not go together."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.run import StageProgress, begin, run
from catalog.snapshot import Snapshot
from catalog.tables import read_table
from clusters.metrics import metrics_of
from clusters.recipes import make_step
from dataops.executors import LocalExecutor
from tests.conftest import Curated
from training import jobs
from training.compare import Evaluate, Export
from training.context import LocalContext
from training.jobs import train_together
from training.steps import Finetune, Pretrain

SMALL = {"params": 130_000, "tokens": 2_000, "batch_rows": 4}
HERE = LocalExecutor(workers=2)


@pytest.fixture(scope="module")
def catalog(curated: Curated, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A store of its own with everything up to packs; its tests train models of different seeds."""
    return Catalog.open(shutil.copytree(curated.store, tmp_path_factory.mktemp("steps") / "store"))


@pytest.fixture(scope="module")
def models(catalog: Catalog) -> list[Snapshot]:
    packs = catalog.snapshot("generic-packs")
    made = [
        run(Pretrain(**SMALL, seed=seed), packs, into=f"model-{seed}", catalog=catalog, executor=HERE)
        for seed in range(2)
    ]
    torch.set_num_threads(1)
    return made


def of_another_tokenizer(catalog: Catalog, name: str) -> Snapshot:
    """A snapshot like the one called `name`, as another tokenizer would have made it."""
    given = catalog.snapshot(name)
    artifacts = {**given.contents.artifacts, "tokenizer": replace(given.artifact("tokenizer"), sha256="0" * 64)}
    contents = replace(given.contents, artifacts=artifacts)
    return catalog.commit(f"other-{name}", contents, catalog.runs[given.run])


def test_runs_trained_together_keep_the_ids_threads_and_seconds_of_runs_alone(
    catalog: Catalog, curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"one": Pretrain(**SMALL, seed=3, threads=1), "two": Pretrain(**SMALL, seed=3, threads=2)}
    alone, together = catalog, Catalog.open(shutil.copytree(curated.store, tmp_path / "together"))
    packs = catalog.snapshot("generic-packs")
    used = []

    def fit(jobs, *, at_once, cpus_per_worker, on_progress, workers_per_job):
        """What Ray's workers do, one after the other."""
        used.extend((job.name, job.threads, at_once, cpus_per_worker) for job in jobs)
        return [job.run(LocalContext(device_name="cpu", num_threads=job.threads)) for job in jobs]

    monkeypatch.setattr(jobs, "fit_with_ray", fit)
    works = [begin(step, packs, into=name, catalog=together, executor=HERE) for name, step in wanted.items()]
    train_together([(step, work, [packs]) for step, work in zip(wanted.values(), works, strict=True)])
    assert used == [("one", 1, 2, 1.0), ("two", 2, 2, 1.0)]
    for name, step in wanted.items():
        mine = run(step, packs, into=name, catalog=alone, executor=HERE)
        theirs = run(step, packs, into=name, catalog=together, executor=HERE)
        assert (mine.id, mine.run) == (theirs.id, theirs.run)
        (stage,) = together.runs[theirs.run].stages
        assert (stage["stage"], stage["unit"], stage["rows"]) == ("train", "tokens", theirs.contents.summary["tokens"])
        assert 0 < stage["seconds"] <= together.runs[theirs.run].seconds
    torch.set_num_threads(1)


def test_settings_of_the_trainer_are_settings_of_the_step_and_those_that_change_no_byte_bear_no_identity(
    catalog: Catalog, models: list[Snapshot], tmp_path: Path
) -> None:
    packs = catalog.snapshot("generic-packs")
    watched = Pretrain(
        **SMALL, gradient_checkpointing=True, trackers=("tensorboard",), tracking_dir=str(tmp_path / "runs")
    )
    again = run(watched, packs, into="model-0", catalog=catalog, executor=HERE)
    assert again == models[0], "known under the same name"
    other = replace(watched, schedule="cosine", precision="fp32")
    made = run(other, packs, into="watched", catalog=catalog, executor=HERE)
    assert made.contents.summary["precision"] == "fp32"
    assert len(list((tmp_path / "runs").glob("watched-*/tensorboard/events.*"))) == 1, (
        "stays when the run's folder goes"
    )
    curve = metrics_of(catalog, "watched")
    assert curve["step"].to_pylist() == list(range(1, made.contents.summary["steps"] + 1))
    assert curve["mean_loss"][-1].as_py() == made.contents.summary["loss"]
    rates = curve["learning_rate"].to_pylist()
    assert rates[-1] < rates[len(rates) // 2] < max(rates), "a cosine falls from the middle on"
    mixture = replace(other, family="mixture", experts=2)
    run(mixture, packs, into="many", catalog=catalog, executor=HERE)
    assert len(list((tmp_path / "runs").glob("many-*/expert-*/tensorboard/events.*"))) == 2
    with pytest.raises(UsageError, match="many@1 has no metrics, pretrain made it: expected a model that"):
        metrics_of(catalog, "many")
    with pytest.raises(UsageError, match="optimizer muon needs whole matrices on every rank"):
        Pretrain(**SMALL, sharding="sharded")


def test_training_in_this_process_tells_its_progress(catalog: Catalog) -> None:
    heard: list[StageProgress] = []
    packs = catalog.snapshot("generic-packs")
    run(Pretrain(**SMALL, seed=5), packs, into="model", catalog=catalog, executor=HERE, listener=heard.append)
    assert [each.done for each in heard] == list(range(1, heard[0].total + 1))
    assert "tokens/s" in heard[-1].note


def test_a_model_learns_and_is_scored_on_text_of_one_tokenizer_only(catalog: Catalog, models: list[Snapshot]) -> None:
    packs, validation, model = catalog.snapshot("target-packs"), catalog.snapshot("validation"), models[0]
    others = {name: of_another_tokenizer(catalog, name) for name in ("validation", "model-0")}
    for step, inputs, message in (
        (Finetune(tokens=10), [packs, others["validation"], model], "target-packs@1 and other-validation@1 have diff"),
        (Finetune(tokens=10), [packs, validation, others["model-0"]], "target-packs@1 and other-model-0@1 have diff"),
        (Evaluate(), [validation, model, others["model-0"]], "validation@1 and other-model-0@1 have different tok"),
    ):
        with pytest.raises(UsageError, match=message):
            run(step, *inputs, into="x", catalog=catalog, executor=HERE)


def test_models_of_one_name_are_not_compared(catalog: Catalog, models: list[Snapshot]) -> None:
    newer = run(
        Pretrain(**SMALL, seed=7), catalog.snapshot("generic-packs"), into="model-0", catalog=catalog, executor=HERE
    )
    with pytest.raises(UsageError, match="model-0@1 and model-0@2 share a name"):
        run(Evaluate(), catalog.snapshot("validation"), models[0], newer, into="x", catalog=catalog, executor=HERE)


def test_a_sample_of_documents_has_the_lowest_ids_whatever_the_shards(catalog: Catalog, models: list[Snapshot]) -> None:
    pool = catalog.snapshot("clean-tokens")
    scored = {
        most: run(Evaluate(most_documents=most), pool, models[0], into=f"most-{most}", catalog=catalog, executor=HERE)
        for most in (0, 7, 10_000)
    }
    ids = {most: read_table(catalog.store, each.artifact("scores"))["id"].to_pylist() for most, each in scored.items()}
    assert len(ids[0]) == pool.contents.rows
    assert sorted(ids[7]) == sorted(ids[0])[:7]
    assert ids[10_000] == ids[0]
    with pytest.raises(UsageError, match="most_documents -1: expected"):
        Evaluate(most_documents=-1)


def test_an_evaluation_of_renamed_models_speaks_of_the_new_names(catalog: Catalog, models: list[Snapshot]) -> None:
    validation, packs = catalog.snapshot("validation"), catalog.snapshot("generic-packs")
    renamed = run(Pretrain(**SMALL, seed=0), packs, into="renamed", catalog=catalog, executor=HERE)
    assert renamed.id == models[0].id
    for model in (models[0], renamed):
        scores = run(Evaluate(), validation, model, into="scores", catalog=catalog, executor=HERE)
        assert [row["model"] for row in scores.contents.summary["results"]] == [model.name]


def test_an_export_is_the_best_of_the_models_given_and_says_how_it_was_chosen_and_how_good_it_is(
    catalog: Catalog, models: list[Snapshot]
) -> None:
    chosen, tested = (
        run(Evaluate(), catalog.snapshot(name), *models, into=f"{name}-scores", catalog=catalog, executor=HERE)
        for name in ("validation", "test")
    )
    best = min(chosen.contents.summary["results"], key=lambda row: row["bits_per_byte"])["model"]
    for tests in ([], [tested]):
        made = run(Export(), chosen, *tests, *models, into="export", catalog=catalog, executor=HERE)
        card = catalog.store.local(made.artifact("README.md")).read_text()
        assert "A `LlamaForCausalLM` of " in card
        assert "Nobody stated its licence." in card
        assert made.contents.summary["model"] == best
        assert made.contents.artifacts["tokenizer.json"].bytes
        assert re.search(r"chosen by its bits per byte on the \d+ documents of `validation`", card)
        assert ("documents of `test`" in card) == bool(tests)
    stated = run(Export(licence="cc-by-4.0"), chosen, *models, into="stated", catalog=catalog, executor=HERE)
    assert "\nlicense: cc-by-4.0\n---" in catalog.store.local(stated.artifact("README.md")).read_text()
    (pair,) = tested.contents.summary["comparisons"]
    assert f"| model-1 | {tested.contents.summary['results'][1]['bits_per_byte']:.4f} |" in card
    assert f"{pair['difference']:+.4f} [{pair['low']:+.4f}, {pair['high']:+.4f}]" in card


def test_a_model_that_the_evaluation_did_not_score_is_not_exported(catalog: Catalog, models: list[Snapshot]) -> None:
    scores = run(Evaluate(), catalog.snapshot("test"), models[0], into="s", catalog=catalog, executor=HERE)
    with pytest.raises(UsageError, match="s@1 did not score model-1@1"):
        run(Export(), scores, *models, into="export", catalog=catalog, executor=HERE)


@pytest.mark.parametrize("step", [Pretrain, Finetune])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tokens": 0}, "tokens must be at least 1, got 0"),
        ({"batch_rows": 0}, "batch_rows must be at least 1, got 0"),
        ({"threads": 0}, "threads 0: expected at least 1"),
        ({"ranks": 0}, "ranks 0: expected at least 1"),
        ({"device": "cuda", "determinism": "bitwise"}, "determinism bitwise is for CPUs"),
    ],
)
def test_settings_that_no_run_can_have_are_refused_before_anything_runs(
    step: type[Pretrain] | type[Finetune], setting: dict, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        step(**{"tokens": 1_000, **setting})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trackers": ("tensorbord",)}, "no tracker 'tensorbord'; the trackers are tensorboard, wandb, mlflow"),
        ({"compile": "always"}, "compile always: on a CPU it saves nothing"),
    ],
)
def test_settings_of_the_trainer_are_looked_at_before_anything_runs(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pretrain(**SMALL, **settings)


def test_settings_of_the_trainer_are_written_as_yaml() -> None:
    step = make_step(
        "pretrain", yaml.safe_load("{tokens: 9, compile: never, precision: fp32, trackers: [tensorboard]}")
    )
    assert (step.compile, step.precision, step.trackers) == ("never", "fp32", ("tensorboard",))  # type: ignore[attr-defined]

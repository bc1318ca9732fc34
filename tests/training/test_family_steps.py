"""Families, experts, teachers and blends as steps of a store."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.pack import Packs, cell_weights
from catalog.pack_audit import check_packs
from catalog.run import begin, run
from catalog.snapshot import Snapshot
from clusters.screens import facts
from dataops.blend import Blend
from dataops.executors import LocalExecutor
from tests.conftest import Curated
from training.compare import Evaluate, Export
from training.context import LocalContext
from training.distill import Teach
from training.expert import Project
from training.export import export
from training.family import Mixture
from training.folder import model_config
from training.gguf_file import ExportGguf
from training.inputs import model_folder, pack_paths
from training.jobs import run_folder, trained
from training.order import Order
from training.steps import Finetune, Pretrain
from training.telemetry import read_metrics
from training.warm_start import WarmStart

SMALL = {"params": 130_000, "tokens": 4_000, "batch_rows": 4, "micro_batch_rows": 2}
TUNE = {"tokens": 2_000, "params": 130_000, "batch_rows": 4, "evaluate_every": 4}
HERE = LocalExecutor(workers=2)


@pytest.fixture(scope="module")
def catalog(curated: Curated, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A store of its own with everything up to packs; its tests name different snapshots."""
    yield Catalog.open(shutil.copytree(curated.store, tmp_path_factory.mktemp("families") / "store"))
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def experts(catalog: Catalog) -> int:
    return len(catalog.snapshot("generic-packs").contents.summary["rows_per_cell"])


@pytest.fixture(scope="module")
def projected(catalog: Catalog, experts: int) -> Snapshot:
    step = Pretrain(**SMALL, family="projected", experts=experts, banks=2)
    return run(step, catalog.snapshot("generic-packs"), into="many", catalog=catalog, executor=HERE)


@pytest.fixture(scope="module")
def plain(catalog: Catalog) -> Snapshot:
    return run(Pretrain(**SMALL), catalog.snapshot("generic-packs"), into="plain", catalog=catalog, executor=HERE)


def weights_of(catalog: Catalog, model: Snapshot) -> dict[str, torch.Tensor]:
    return load_file(catalog.store.local(model.artifact("model.safetensors")))


def do(catalog: Catalog, step, *inputs: Snapshot, into: str) -> Snapshot:
    return run(step, *inputs, into=into, catalog=catalog, executor=HERE)


def test_an_expert_is_projected_tuned_scored_and_exported_as_a_plain_model(catalog, projected, tmp_path):
    packs, validation = catalog.snapshot("target-packs"), catalog.snapshot("validation")
    with pytest.raises(UsageError, match=r"many is a projected model of \d experts where one model was expected"):
        do(catalog, Evaluate(), validation, projected, into="scores-of-many")
    one = do(catalog, Project(expert="most-frequent"), projected, packs, into="one")
    rows = packs.contents.summary["rows_per_cell"]
    assert np.argmax(one.contents.summary["histogram"]) == np.argmax(rows)
    assert one.contents.summary["logits_difference"] < 1e-4
    assert one.contents.summary["family"] == "decoder"
    assert facts(one) == f"{one.contents.summary['parameters']:,} parameters"
    wide = do(catalog, Project(expert="histogram"), projected, packs, into="wide")
    assert wide.contents.summary["histogram"] == pytest.approx(np.array(rows) / np.sum(rows), abs=1e-5)
    tuned = do(catalog, Finetune(**TUNE, expert="most-frequent"), packs, validation, projected, into="tuned")
    again = do(catalog, Finetune(**TUNE), packs, validation, one, into="tuned-again")
    assert tuned.id == again.id
    scores = do(catalog, Evaluate(), validation, one, tuned, into="scores")
    before, after = (row["bits_per_byte"] for row in scores.contents.summary["results"])
    assert after < before
    exported = do(catalog, Export(), scores, tuned, into="exported")
    pytest.importorskip("gguf")
    assert do(catalog, ExportGguf(), exported, into="for-llama-cpp").artifact("model.gguf").bytes > 400_000


def test_the_experts_of_a_mixture_are_runs_of_their_own_that_go_on_after_a_stop(
    catalog, experts, tmp_path, monkeypatch
):
    packs = catalog.snapshot("generic-packs")
    step = Pretrain(**SMALL, family="mixture", experts=experts, checkpoint_every=2)
    work = begin(step, packs, into="mixed", catalog=catalog, executor=HERE)
    jobs = step.jobs(work, packs)
    assert len(jobs.jobs) == experts
    assert not any(np.array(a.weights) @ np.array(b.weights) for a in jobs.jobs for b in jobs.jobs if a is not b)

    def stop(progress):
        if progress.step == 3:
            raise InterruptedError

    one_thread = LocalContext(device_name="cpu", num_threads=1)
    jobs.jobs[0].run(one_thread)
    with pytest.raises(InterruptedError):
        jobs.jobs[1].run(one_thread, stop)
    steps = []
    monkeypatch.setattr("training.jobs.tell_progress", lambda work, progress, prefix: steps.append(prefix))
    mixed = do(catalog, step, packs, into="mixed")
    assert steps.count(f"{jobs.jobs[0].name}  ") == 0
    assert steps.count(f"{jobs.jobs[1].name}  ") == steps.count(f"{jobs.jobs[2].name}  ") - 2
    alone = begin(step, packs, into="alone", catalog=Catalog.open(catalog.store.here), executor=HERE)
    held, config = weights_of(catalog, mixed), mixed.contents.summary
    assert config["family"] == "mixture"
    for number, job in enumerate(step.jobs(alone, packs).jobs):
        made = job.run(one_thread)
        for name, tensor in load_file(made.model_dir / "model.safetensors").items():
            assert torch.equal(tensor, held[f"experts.{number}.{name}"])
    folder = model_folder(catalog.store, mixed, tmp_path / "mixed")
    assert model_config(folder).family == Mixture(experts=experts, cells=experts)


def test_tuning_all_experts_keeps_the_one_that_is_best_on_validation(catalog, projected, experts):
    packs, validation = catalog.snapshot("target-packs"), catalog.snapshot("validation")
    step = Finetune(**TUNE, expert="all")
    work = begin(step, packs, validation, projected, into="best", catalog=catalog, executor=HERE)
    jobs = step.jobs(work, packs, validation, projected)
    assert len(jobs.jobs) == experts
    trained(work, jobs, packs, ranks=1)
    found = []
    for job in jobs.jobs:
        lines = read_metrics(job.run_dir / "metrics.jsonl")
        found.append(min(line["validation_bits_per_byte"] for line in lines if "validation_bits_per_byte" in line))
    best = jobs.jobs[int(np.argmin(found))].run_dir / "model" / "model.safetensors"
    assert best.read_bytes() == (run_folder(work) / "model" / "model.safetensors").read_bytes()
    assert len(set(found)) > 1


def test_a_soup_and_a_recurrent_model_go_the_same_way(catalog, experts):
    packs, target = catalog.snapshot("generic-packs"), catalog.snapshot("target-packs")
    validation = catalog.snapshot("validation")
    settings = {**SMALL, "micro_batch_rows": 4}
    soup = do(catalog, Pretrain(**settings, family="soup", experts=experts, banks=2), packs, into="soup")
    ladle = do(catalog, Project(expert="histogram"), soup, target, into="ladle")
    recurrent = do(catalog, Pretrain(**SMALL, family="recurrent"), packs, into="recurrent")
    tuned = do(catalog, Finetune(**TUNE), target, validation, recurrent, into="recurrent-tuned")
    scores = do(catalog, Evaluate(), validation, ladle, recurrent, tuned, into="soup-scores")
    bits = [row["bits_per_byte"] for row in scores.contents.summary["results"]]
    assert bits[2] < bits[1], bits


def test_a_model_is_continued_and_a_pretrained_folder_is_too(catalog, plain, tmp_path):
    packs = catalog.snapshot("generic-packs")
    go_on = Pretrain(tokens=1_000, batch_rows=4, learning_rate=1e-9)
    continued = do(catalog, go_on, packs, plain, into="continued")
    before, after = weights_of(catalog, plain), weights_of(catalog, continued)
    assert all((before[name] - after[name]).abs().max() < 1e-6 for name in before)
    folder = export(
        model_folder(catalog.store, plain, tmp_path / "model"),
        tokenizer_json=catalog.store.local(plain.artifact("tokenizer")),
        out=tmp_path / "pretrained",
        card="",
    )
    warm = do(catalog, WarmStart(path=str(folder)), packs, into="warm")
    assert warm.id == plain.id
    assert facts(warm).endswith(" parameters")
    (tmp_path / "pretrained" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="is not a folder of a model"):
        do(catalog, WarmStart(path=str(tmp_path / "nowhere")), packs, into="nowhere")


@pytest.mark.parametrize("family", ["projected", "mixture"])
def test_a_decoder_becomes_every_expert_of_a_family_and_learns_on(catalog, plain, experts, family):
    packs, target = catalog.snapshot("generic-packs"), catalog.snapshot("target-packs")
    settings = {**SMALL, "family": family, "experts": experts, "banks": 2}
    begun = do(catalog, Pretrain(**{**settings, "learning_rate": 1e-9}), packs, plain, into=f"begun-{family}")
    expert = do(catalog, Project(), begun, target, into=f"expert-{family}")
    before, after = weights_of(catalog, plain), weights_of(catalog, expert)
    assert all((before[name] - after[name]).abs().max() < 1e-6 for name in before)
    learned = do(catalog, Pretrain(**settings), packs, plain, into=f"learned-{family}")
    assert learned.contents.summary["family"] == family
    assert learned.contents.summary["loss"] < plain.contents.summary["loss"]


def test_a_model_of_another_family_stays_what_it_is(catalog, projected, plain):
    packs = catalog.snapshot("generic-packs")
    for family, model, kind in (("soup", projected, "projected"), ("recurrent", plain, "decoder")):
        with pytest.raises(UsageError, match=f"family {family}: the model to start from is a {kind} model"):
            do(catalog, Pretrain(**SMALL, family=family), packs, model, into="x")


def test_a_teacher_and_its_stored_lessons_teach(catalog, plain):
    packs, validation = catalog.snapshot("target-packs"), catalog.snapshot("validation")
    lessons = do(catalog, Teach(top=8), packs, plain, into="lessons")
    assert lessons.contents.rows == packs.contents.summary["rows"]
    online = do(catalog, Finetune(**TUNE, label_share=0.5), packs, validation, plain, into="from-teacher")
    offline = do(catalog, Finetune(**TUNE, label_share=0.5), packs, validation, lessons, into="from-lessons")
    student = do(catalog, Finetune(**TUNE), packs, validation, into="from-labels")
    assert len({online.id, offline.id, student.id}) == 3
    both = do(catalog, Finetune(**TUNE, label_share=0.5), packs, validation, student, lessons, into="twice")
    scores = do(catalog, Evaluate(), validation, student, both, into="taught-scores")
    one, other = (row["bits_per_byte"] for row in scores.contents.summary["results"])
    assert other < one
    others = catalog.snapshot("generic-packs")
    with pytest.raises(UsageError, match="are lessons about target-packs@1 where generic-packs@1 was expected"):
        do(catalog, Finetune(**TUNE, label_share=0.5), others, validation, lessons, into="x")
    with pytest.raises(UsageError, match=r"label_share 0.5 learns from a teacher"):
        do(catalog, Finetune(**TUNE, label_share=0.5), packs, validation, into="x")


def test_a_blend_has_every_row_of_its_sources_in_the_shares_that_were_asked_for(catalog):
    target, generic = catalog.snapshot("target-packs"), catalog.snapshot("specialized-packs")
    blend = do(catalog, Blend(shares=(3, 1)), target, generic, into="blend")
    parts = [Packs(pack_paths(catalog.store, each)) for each in (target, generic)]
    whole = Packs(pack_paths(catalog.store, blend))
    first = len(target.contents.summary["rows_per_cell"])
    offsets = [0, first]
    for part, offset in zip(parts, offsets, strict=True):
        for cell, rows in enumerate(part.rows_per_cell.tolist()):
            here = whole.rows(np.full(rows, cell + offset), np.arange(rows))
            there = part.rows(np.full(rows, cell), np.arange(rows))
            assert (whole.tokens(here) == part.tokens(there)).all()
    assert len(whole) == sum(len(part) for part in parts)
    weights = cell_weights(catalog.store, blend, whole.rows_per_cell)
    drawn = Order(whole.rows_per_cell, weights, seed=0).samples(0, 4000).cells
    assert (drawn < first).mean() == pytest.approx(0.75, abs=0.005)
    own = np.array(cell_weights(catalog.store, generic, parts[1].rows_per_cell))
    counts = np.bincount(drawn[drawn >= first] - first, minlength=len(own))
    assert np.abs(counts / counts.sum() - own).max() < 0.01
    with pytest.raises(UsageError, match="1 shares for 2 packs"):
        do(catalog, Blend(shares=(1.0,)), target, generic, into="x")


def test_verification_looks_for_the_documents_of_a_blend_behind_each_of_its_parts(catalog):
    parts = [catalog.snapshot(name) for name in ("target-packs", "specialized-packs")]
    blend = do(catalog, Blend(shares=(1, 1)), *parts, into="parts")
    behind = [catalog.inputs(each)[0] for each in parts]
    checked = check_packs(catalog, [blend, *behind])
    assert checked.segments > 0
    assert checked.problems == []
    assert check_packs(catalog, [blend, behind[0]]).segments == 0, "one of them has expired: it can't be told"


def test_settings_that_do_not_fit_are_refused_by_name(catalog):
    packs = catalog.snapshot("generic-packs")
    with pytest.raises(UsageError, match=r"99 experts for \d cells"):
        do(catalog, Pretrain(**SMALL, family="mixture", experts=99), packs, into="x")
    with pytest.raises(UsageError, match="every 4 rows of a soup share a histogram"):
        do(catalog, Pretrain(**{**SMALL, "batch_rows": 5}, family="soup", experts=2), packs, into="x")
    with pytest.raises(UsageError, match="expected label_share 1"):
        Finetune(tokens=1, lora_rank=4, label_share=0.5)

"""Runs: resumed, killed, cut into ranks, damaged; always the same bytes or a clear error."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from catalog.errors import UsageError
from catalog.pack import Packs
from tests.training.ranks import on_ranks
from training.checkpoint import latest
from training.config import EarlyStopping, TrainConfig
from training.finetune import finetune
from training.folder import read_model
from training.loop import Diverged
from training.model import IGNORED, Llama, targets
from training.optim import build_optimizer, learning_rate
from training.order import Order
from training.pretrain import MixtureChange, pretrain
from training.telemetry import follow, read_metrics

ROOT = Path(__file__).parents[2]


def weights_of(result):
    return (result.model_dir / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pack, shape, settings, local):
    """One uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return pretrain([pack], weights=None, model=shape, train=settings, run_dir=folder, context=local)


def test_the_loop_equals_a_naive_loop_over_whole_batches(pack, shape, settings, finished):
    packs, network = Packs([pack]), Llama(shape)
    network.initialise(settings.seed)
    optimizer = build_optimizer(network, settings)
    order = Order(packs.rows_per_cell, None, seed=settings.seed)
    for step in range(20):
        drawn = order.samples(step * 8, step * 8 + 8)
        rows = packs.rows(drawn.cells, drawn.rows)
        tokens, segments = torch.from_numpy(packs.tokens(rows)), torch.from_numpy(packs.segments(rows))
        logits, wanted = network(tokens, segments), targets(tokens, segments)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step, 20)
        optimizer.step()
        optimizer.zero_grad()
    for name, trained in read_model(finished.model_dir, device=torch.device("cpu")).state_dict().items():
        torch.testing.assert_close(trained, network.state_dict()[name], atol=2e-3, rtol=0)


def test_training_learns_and_reports(finished):
    lines = read_metrics(finished.model_dir.parent / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert lines[-1]["loss"] < lines[0]["loss"] - 1
    assert finished.final_loss == pytest.approx(np.mean([line["loss"] for line in lines]))
    progress = follow(finished.model_dir.parent)
    assert (progress.step, progress.steps, progress.eta_seconds) == (20, 20, 0)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("at", [1, 7, 13, 19])
def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path, pack, shape, settings, local, finished, at):
    def stop(progress):
        if progress.step == at:
            raise Interrupted

    run = {"weights": None, "model": shape, "train": settings, "run_dir": tmp_path / "run", "context": local}
    with pytest.raises(Interrupted):
        pretrain([pack], **run, on_progress=stop)
    assert not (tmp_path / "run" / "result.json").exists()
    resumed = pretrain([pack], **run)
    assert weights_of(resumed) == weights_of(finished)
    assert resumed.final_loss == finished.final_loss
    steps = [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == list(range(1, 21))


def test_a_damaged_newest_checkpoint_is_named_and_costs_steps_but_not_the_result(
    tmp_path, pack, shape, settings, local, finished, caplog
):
    def stop(progress):
        if progress.step == 14:
            raise Interrupted

    run = {"weights": None, "model": shape, "train": settings, "run_dir": tmp_path / "run", "context": local}
    with pytest.raises(Interrupted):
        pretrain([pack], **run, on_progress=stop)
    newest = tmp_path / "run" / "checkpoints" / "step-00000012" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    seen = []
    resumed = pretrain([pack], **run, on_progress=lambda progress: seen.append(progress.step))
    assert seen[0] == 7
    (told,) = [record.getMessage() for record in caplog.records if "is not used" in record.getMessage()]
    assert re.search(r"step-00000012 is not used: the bytes of model.safetensors are not those", told)
    assert weights_of(resumed) == weights_of(finished)


CHILD = """
import pickle, sys
sys.modules["ray"] = None
import training.evaluate, training.export, training.finetune, training.generate
from training.pretrain import pretrain
pretrain(**pickle.load(open(sys.argv[1], "rb")))
"""


@pytest.mark.parametrize("wanted_kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment_of_a_loop_without_ray_loses_nothing_but_time(tmp_path, pack, shape, local, wanted_kills):
    import pickle

    total = 30 * wanted_kills
    settings = TrainConfig(
        tokens=total * 8 * 32, batch_rows=8, learning_rate=1e-2, checkpoint_every=2, precision="fp32"
    )
    run = {"packs": [pack], "weights": None, "model": shape, "train": settings, "context": local}
    whole = pretrain(**run, run_dir=tmp_path / "whole")
    arguments = tmp_path / "arguments"
    arguments.write_bytes(pickle.dumps({**run, "run_dir": tmp_path / "killed"}))
    random, kills = np.random.default_rng(0), 0
    while kills < wanted_kills:
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(arguments)], cwd=ROOT)
        before = follow(tmp_path / "killed")
        started = before.step if before else 0
        wanted = min(started + int(random.integers(8, 20)), total - 10)
        while child.poll() is None:
            now = follow(tmp_path / "killed")
            if now and now.step >= wanted:
                break
            time.sleep(0.01)
        assert child.poll() is None, "the child ended before it was killed"
        time.sleep(float(random.random()) * 0.02)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        kills += 1
    resumed = pretrain(**run, run_dir=tmp_path / "killed")
    assert weights_of(resumed) == weights_of(whole)
    assert not list((tmp_path / "killed").rglob("*.tmp"))


def test_a_finished_run_returns_at_once(pack, shape, settings, local, finished):
    def never(progress):
        raise AssertionError("trained again")

    again = pretrain(
        [pack],
        weights=None,
        model=shape,
        train=dataclasses.replace(settings, checkpoint_every=99),
        run_dir=finished.model_dir.parent,
        context=local,
        on_progress=never,
    )
    assert again == finished


def test_other_settings_in_the_same_folder_are_refused_by_name(pack, shape, settings, local, finished):
    other = dataclasses.replace(settings, learning_rate=5e-3)
    with pytest.raises(UsageError, match=r"train\.learning_rate was 0\.01, now 0\.005"):
        pretrain([pack], weights=None, model=shape, train=other, run_dir=finished.model_dir.parent, context=local)


def test_packs_of_another_context_are_refused(tmp_path, pack, shape, settings, local):
    wide = dataclasses.replace(shape, context=64)
    with pytest.raises(UsageError, match=r"context 32 .* the model has context 64"):
        pretrain([pack], weights=None, model=wide, train=settings, run_dir=tmp_path / "x", context=local)


def test_weight_on_a_cell_without_rows_is_a_usage_error(tmp_path, pack, shape, settings, local):
    with pytest.raises(UsageError, match="cell 2 has weight"):
        pretrain([pack], weights=[1, 1, 1, 1], model=shape, train=settings, run_dir=tmp_path / "x", context=local)


def test_a_loss_that_is_no_number_names_step_and_documents_and_is_never_saved(
    tmp_path, pack, shape, settings, local, monkeypatch
):
    honest = Llama.loss

    def poisoned(self, *given):
        calls.append(1)
        return honest(self, *given) * (float("nan") if len(calls) > 15 else 1.0)

    calls: list[int] = []
    monkeypatch.setattr(Llama, "loss", poisoned)
    # three micro-batches a step: the sixteenth is the first of step 6, where a checkpoint is due
    with pytest.raises(Diverged, match=r"step 6: the loss is nan.*documents (01|02)[0-9a-f]{30}"):
        pretrain([pack], weights=None, model=shape, train=settings, run_dir=tmp_path / "run", context=local)
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))
    still_open = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
    assert not [path for path in still_open if path.startswith(str(tmp_path))]


def test_two_ranks_compute_the_loss_and_weights_of_one(tmp_path, pack, shape, settings, finished):
    (tmp_path / "run").mkdir()
    found = on_ranks(
        2,
        lambda rank: pretrain(
            [pack], weights=None, model=shape, train=settings, run_dir=tmp_path / "run", context=rank
        ),
    )
    one = read_metrics(finished.model_dir.parent / "metrics.jsonl")
    two = read_metrics(tmp_path / "run" / "metrics.jsonl")
    np.testing.assert_allclose([line["loss"] for line in two], [line["loss"] for line in one], atol=1e-3)
    assert len(found) == 2


def test_a_mixture_changes_at_a_step_as_an_appended_stage(tmp_path, pack, shape, settings, local):
    later = MixtureChange(step=12, weights=(0.0, 1.0, 0.0, 0.0))
    run = {"weights": None, "model": shape, "train": settings, "context": local}
    whole = pretrain([pack], **run, changes=[later], run_dir=tmp_path / "whole")

    def stop(progress):
        if progress.step == 9:
            raise Interrupted

    with pytest.raises(Interrupted):
        pretrain([pack], **run, run_dir=tmp_path / "changed", on_progress=stop)
    with pytest.raises(UsageError, match="is past step 5, from which another mixture was asked for: expected a step"):
        pretrain([pack], **run, changes=[MixtureChange(step=5, weights=later.weights)], run_dir=tmp_path / "changed")
    changed = pretrain([pack], **run, changes=[later], run_dir=tmp_path / "changed")
    assert weights_of(changed) == weights_of(whole)
    with pytest.raises(UsageError, match="holds a run with other settings: changes"):
        pretrain([pack], **run, run_dir=tmp_path / "changed")


def test_a_run_keeps_the_checkpoints_that_a_rule_names_and_they_hold_the_log_of_stages(
    tmp_path, pack, shape, settings, local
):
    kept = dataclasses.replace(settings, keep_every=8, decay_share=0.25)
    change = MixtureChange(step=3, weights=(1.0, 1.0, 0.0, 0.0))
    result = pretrain(
        [pack], weights=None, model=shape, train=kept, changes=[change], run_dir=tmp_path / "run", context=local
    )
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step-00000008", "step-00000015", "step-00000016"]
    assert [stage["begin"] for stage in latest(tmp_path / "run" / "checkpoints").state()["stages"]] == [0, 24]
    assert result.steps == 20


def test_fine_tuning_keeps_the_best_weights_and_resumes_to_the_same_bytes(
    tmp_path, pack, documents, settings, local, finished
):
    def run(folder, on_progress=lambda progress: None):
        return finetune(
            [pack],
            model_dir=finished.model_dir,
            train=dataclasses.replace(settings, checkpoint_every=5),
            validation=documents,
            stopping=EarlyStopping(evaluate_every=4, patience=2),
            run_dir=tmp_path / folder,
            context=local,
            on_progress=on_progress,
        )

    def stop(progress):
        if progress.step == 7:
            raise Interrupted

    whole = run("whole")
    lines = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    judged = {line["step"]: line["validation_bits_per_byte"] for line in lines if "validation_bits_per_byte" in line}
    assert list(judged) == [0, 4, 8, 12, 16, 20][: len(judged)]
    from training.evaluate import evaluate, summarise

    assert summarise(evaluate(whole.model_dir, documents, context=local)).bits_per_byte == min(judged.values())
    with pytest.raises(Interrupted):
        run("cut", stop)
    assert weights_of(run("cut")) == weights_of(whole)


def test_fine_tuning_stops_when_validation_stops_improving(tmp_path, pack, documents, settings, local, finished):
    hot = dataclasses.replace(settings, learning_rate=3.0, tokens=100 * 8 * 32, warmup_share=0.0)
    found = finetune(
        [pack],
        model_dir=finished.model_dir,
        train=hot,
        validation=documents,
        stopping=EarlyStopping(evaluate_every=3, patience=2),
        run_dir=tmp_path / "hot",
        context=local,
    )
    assert found.steps == 6
    assert weights_of(found) == weights_of(finished)

"""What a run says about itself: spikes, speed, cost, trackers."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import pytest

from catalog.errors import UsageError
from training.telemetry import Telemetry, Yardstick, follow, is_spike, read_events, read_metrics
from training.trackers import open_trackers

YARDSTICK = Yardstick(steps=100, tokens_per_step=1000, flops_per_token=10, peak_flops=1e6, price_per_hour=3.6)


def opened(folder, seen, *, begin=0, trackers=()):
    return Telemetry(folder, begin=begin, yardstick=YARDSTICK, trackers=trackers, on_progress=seen.append)


def step(telemetry, number, loss, waited=0.0):
    telemetry.step(number, loss=loss, learning_rate=0.1, gradient_norm=1.0, waited=waited)


def test_a_spike_is_told_once_with_its_step_and_how_to_replay_it(tmp_path, caplog):
    telemetry = opened(tmp_path, [])
    for number in range(1, 41):
        step(telemetry, number, 5.0 if number != 36 else 9.0)
    telemetry.close()
    (event,) = read_events(tmp_path)
    assert (event["step"], event["kind"]) == (36, "spike")
    assert event["text"].startswith("step 36: the loss is 9.000, 4.000 above the steps before")
    assert event["text"].endswith("tamis replay MODEL --step 36")
    assert caplog.messages == [event["text"]]


def test_a_falling_or_noisy_loss_is_no_spike():
    assert not is_spike([6.0] * 31, 9.0)
    assert not is_spike([5 + 0.1 * (i % 3) for i in range(32)], 5.3)
    assert not is_spike([8 - i / 10 for i in range(32)], 5.0)
    assert is_spike([5 + 0.01 * (i % 3) for i in range(32)], 5.2)


def test_progress_has_speed_share_of_the_peak_stall_cost_and_the_sealed_checkpoint(tmp_path, monkeypatch):
    from training import telemetry as module

    clock = iter(range(1000, 2000))
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock) * 0.5)
    seen = []
    telemetry = opened(tmp_path, seen)
    telemetry.sealed(7, "3fa9c01b2d4e55")
    for number in range(1, 9):
        step(telemetry, number, 2.0, waited=number * 0.25)
    telemetry.close()
    last = seen[-1]
    elapsed = (1000 * 8) / last.tokens_per_second
    assert last.mfu == pytest.approx(last.tokens_per_second * 10 / 1e6)
    assert last.stall == pytest.approx(8 * 0.25 / elapsed)
    assert last.eta_seconds == pytest.approx(92 * elapsed / 8)
    assert last.cost > 0
    for text in ("loss 2.000", "MFU", "waits for data", "cost", "checkpoint 7 3fa9c01b2d4e", "left"):
        assert text in last.line
    line = read_metrics(tmp_path / "metrics.jsonl")[-1]
    assert line["cost"] == pytest.approx(last.cost)
    followed = follow(tmp_path)
    assert (followed.mfu, followed.stall, followed.checkpoint) == (last.mfu, last.stall, last.checkpoint)


def test_an_unknown_tracker_and_one_without_its_package_are_refused(tmp_path, monkeypatch):
    import sys

    with pytest.raises(UsageError, match="no tracker 'x'; the trackers are tensorboard, wandb, mlflow"):
        open_trackers(["x"], tmp_path, begin=0)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"wandb can't start: .*pip install tamis\[wandb\]"):
        open_trackers(["wandb"], tmp_path, begin=0)


def test_tensorboard_has_every_number_of_a_resumed_run_once(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.summary.writer import event_file_writer

    clock = itertools.count(1_800_000_000)  # files are read in the order of their names, which have whole seconds
    monkeypatch.setattr(event_file_writer, "time", SimpleNamespace(time=lambda: next(clock)))
    for begin, numbers in ((0, range(1, 6)), (3, range(4, 8))):
        telemetry = opened(tmp_path, [], begin=begin, trackers=("tensorboard",))
        for number in numbers:
            step(telemetry, number, float(number))
        telemetry.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [each.step for each in events.Scalars("loss")] == list(range(1, 8))


@pytest.mark.slow
def test_mlflow_goes_on_with_its_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for begin, numbers in ((0, (1, 2, 3)), (3, (4, 5))):
        telemetry = opened(tmp_path, [], begin=begin, trackers=("mlflow",))
        for number in numbers:
            step(telemetry, number, float(number))
        telemetry.close()
    client = MlflowClient((tmp_path / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("tamis").experiment_id])
    assert [each.step for each in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_wandb_writes_offline_without_a_key(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    telemetry = opened(tmp_path, [], trackers=("wandb",))
    step(telemetry, 1, 2.0)
    telemetry.close()
    (written,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert written.stat().st_size > 0
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] == 2.0

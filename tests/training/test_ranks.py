"""A run on one, two or four ranks: the same samples, the same bytes where they are promised."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from catalog.errors import UsageError
from catalog.pack import Packs
from tests.training.ranks import on_ranks
from training import batches
from training.batches import check_cut, micro_batches, share
from training.checkpoint import latest
from training.config import TrainConfig
from training.context import LocalContext
from training.order import Order
from training.pretrain import pretrain
from training.telemetry import read_metrics

ROOT = Path(__file__).parents[2]


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def eight(settings):
    """Eight rows a step, two a micro-batch, added in a tree."""
    return dataclasses.replace(settings, batch_rows=8, micro_batch_rows=2, determinism="bitwise", tokens=12 * 8 * 32)


def weights_of(result):
    return (result.model_dir / "model.safetensors").read_bytes()


def test_bitwise_determinism_gives_one_two_and_four_ranks_the_same_parameters(tmp_path, pack, shape, eight):
    def run(ranks):
        folder = tmp_path / f"{ranks}"
        folder.mkdir()
        return on_ranks(
            ranks,
            lambda rank: pretrain([pack], weights=None, model=shape, train=eight, run_dir=folder, context=rank),
        )[0]

    one, two, four = run(1), run(2), run(4)
    assert weights_of(one) == weights_of(two) == weights_of(four)
    losses = [[line["loss"] for line in read_metrics(tmp_path / f"{n}" / "metrics.jsonl")] for n in (1, 2, 4)]
    assert losses[0] == losses[1] == losses[2]


def test_the_tree_adds_what_a_sum_adds(tmp_path, pack, shape, eight, local):
    def run(name, determinism):
        train = dataclasses.replace(eight, determinism=determinism)
        return pretrain([pack], weights=None, model=shape, train=train, run_dir=tmp_path / name, context=local)

    tree, plain = run("tree", "bitwise"), run("plain", "run")
    assert tree.final_loss == pytest.approx(plain.final_loss, abs=1e-4)


def test_a_run_killed_on_two_ranks_goes_on_with_one_and_four_over_the_same_samples_and_bytes(
    tmp_path, pack, shape, eight, local, monkeypatch
):
    whole = pretrain([pack], weights=None, model=shape, train=eight, run_dir=tmp_path / "whole", context=local)
    seen: dict[tuple[int, int], list[int]] = {}
    honest = batches.Batches.__next__

    def noted(self):
        batch = honest(self)
        seen[batch.step, self._first] = batch.rows.tolist()
        return batch

    def stop_at(step):
        def stop(progress):
            if progress.step == step:
                raise Interrupted

        return stop

    monkeypatch.setattr(batches.Batches, "__next__", noted)
    train = dataclasses.replace(eight, checkpoint_every=4)
    (tmp_path / "cut").mkdir()

    def run(ranks, stop):
        return on_ranks(
            ranks,
            lambda rank: pretrain(
                [pack],
                weights=None,
                model=shape,
                train=train,
                run_dir=tmp_path / "cut",
                context=rank,
                on_progress=stop_at(stop),
            ),
        )

    for ranks, stop in ((2, 5), (1, 9)):
        with pytest.raises(Interrupted):
            run(ranks, stop)
    resumed = run(4, 99)[0]
    assert weights_of(resumed) == weights_of(whole)
    packs = Packs([pack])
    drawn = Order(packs.rows_per_cell, None, seed=train.seed).samples(0, 12 * 8)
    wanted = packs.rows(drawn.cells, drawn.rows).reshape(12, 8)
    for (step, first), rows in seen.items():
        assert rows == wanted[step, first : first + len(rows)].tolist()
    assert {step for step, _ in seen} == set(range(12))
    assert {len(rows) for rows in seen.values()} == {2, 4, 8}


def test_ranks_share_a_batch_without_cutting_micro_batches_that_stay_whole():
    for world_size in (1, 2, 4):
        pieces = [share(16, rank=rank, world_size=world_size) for rank in range(world_size)]
        sizes = [each.stop - each.start for first, last in pieces for each in micro_batches(first, last, 4)]
        assert sizes == [4] * 4
    uneven = [share(7, rank=rank, world_size=3) for rank in range(3)]
    assert [last - first for first, last in uneven] == [2, 2, 3]
    assert [list(micro_batches(*piece, 3)) for piece in uneven] == [
        [slice(0, 2)],
        [slice(0, 1), slice(1, 2)],
        [slice(0, 2), slice(2, 3)],
    ]


@pytest.mark.parametrize(("rows", "ranks", "message"), [(10, 1, "multiple of ranks"), (12, 3, "expected 1, 2, 4")])
def test_what_would_not_be_bitwise_is_refused(rows, ranks, message):
    config = TrainConfig(tokens=1, batch_rows=rows, micro_batch_rows=4, determinism="bitwise")
    with pytest.raises(UsageError, match=message):
        check_cut(config, family="decoder", world_size=ranks)


def test_every_checkpoint_names_its_parameters_by_the_same_hash_on_any_number_of_ranks(tmp_path, pack, shape, eight):
    hashes = []
    for ranks in (1, 2):
        folder = tmp_path / f"{ranks}"
        folder.mkdir()
        train = dataclasses.replace(eight, checkpoint_every=4, keep_every=4)
        on_ranks(
            ranks,
            lambda rank, folder=folder, train=train: pretrain(
                [pack], weights=None, model=shape, train=train, run_dir=folder, context=rank
            ),
        )
        hashes.append([latest(folder / "checkpoints", at_most=step).parameter_hash for step in (4, 8, 12)])
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 3


FSDP = """
import json, sys
from pathlib import Path
from training.config import ModelConfig, TrainConfig
from training.context import launched
from training.pretrain import pretrain
given = json.loads(Path(sys.argv[1]).read_text())
del given["model"]["family"]  # the decoder, which is the default
with launched() as context:
    pretrain([Path(given["pack"])], weights=None, model=ModelConfig(**given["model"]),
             train=TrainConfig(**given["train"]), run_dir=Path(given["run_dir"]), context=context)
"""


def launch(folder, given, *, world_size):
    path = folder / f"given-{world_size}.json"
    path.write_text(json.dumps(given))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size), "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen([sys.executable, "-c", FSDP, str(path)], env={**os.environ, **env, "RANK": str(rank)})
        for rank in range(world_size)
    ]
    return [rank.wait(timeout=120) for rank in ranks]


@pytest.mark.slow
def test_two_sharded_processes_train_as_one_and_their_checkpoint_goes_on_with_one(
    tmp_path, pack, shape, settings, local
):
    train = dataclasses.replace(
        settings, micro_batch_rows=4, sharding="sharded", optimizer="adamw", keep_every=6, trackers=()
    )
    one = pretrain([pack], weights=None, model=shape, train=train, run_dir=tmp_path / "one", context=local)
    given = {
        "pack": str(pack),
        "model": dataclasses.asdict(shape),
        "train": dataclasses.asdict(train),
        "run_dir": str(tmp_path / "two"),
    }
    assert launch(tmp_path, given, world_size=2) == [0, 0]
    losses = [[line["loss"] for line in read_metrics(tmp_path / n / "metrics.jsonl")] for n in ("one", "two")]
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-3)
    (tmp_path / "two" / "result.json").unlink()
    for step in (18, 20):
        shutil.rmtree(tmp_path / "two" / "checkpoints" / f"step-{step:08d}", ignore_errors=True)
    again = pretrain([pack], weights=None, model=shape, train=train, run_dir=tmp_path / "two", context=local)
    assert again.final_loss == pytest.approx(one.final_loss, abs=1e-3)
    assert isinstance(local, LocalContext)
    assert torch.isfinite(latest(tmp_path / "two" / "checkpoints").model()["model.norm.weight"]).all()

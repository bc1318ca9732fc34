"""What a run has seen is what a walk through its samples, one by one, finds; masked windows carry no loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from catalog.pack import Packs, mask
from catalog.snapshot import Contents, Run, Shard, Snapshot
from catalog.store import Store
from catalog.tables import write_table
from training import exposure
from training.exposure import seen
from training.given import given
from training.model import IGNORED, Llama, layout, targets
from training.order import Order

NAME = bytes([2, 7] * 8).hex()
STEPS, ROWS, SEED = 60, 8, 3


def planted(store: Store, pack: Path, weights: list[float] | None) -> tuple[Snapshot, Snapshot, Run]:
    shard = Shard(rows=60, tables={"pack": store.put_copy(pack)})
    artifacts = {} if weights is None else {"weights": write_table(store, pa.table({"weight": weights}))}
    held = Contents(kind="packs", shards=(shard,), artifacts=artifacts)
    trained = Contents(kind="model", summary={"steps": STEPS})
    packs = Snapshot(name="packs", version=1, id="1", run="p", inputs=(), contents=held, store=store)
    model = Snapshot(name="model", version=1, id="2", run="m", inputs=("packs@1",), contents=trained, store=store)
    parameters = {"seed": SEED, "batch_rows": ROWS}
    run = Run(fingerprint="m", step="pretrain", parameters=parameters, inputs=(), code="", started=0.0, seconds=0.0)
    return packs, model, run


@pytest.mark.parametrize("weights", [None, [0.7, 0.1, 0.0, 0.2]])
def test_the_replay_counts_the_samples_that_a_walk_through_the_order_finds(
    tmp_path: Path, pack: Path, weights: list[float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    packs, model, run = planted(store, pack, weights)
    reader = Packs([pack])
    order = Order(reader.rows_per_cell, weights, seed=SEED)
    found = []
    for g in range(STEPS * ROWS):
        sample = order.samples(g, g + 1)
        (row,) = reader.rows(sample.cells, sample.rows)
        if NAME in reader.documents(row):
            found.append(g)
    assert found
    rows = np.array([row for row in range(60) if NAME in reader.documents(row)])
    monkeypatch.setattr(exposure, "BLOCK", 7)
    counted = seen(store, packs, model, run, rows)
    assert (counted.samples, counted.first) == (len(found), found[0])
    assert seen(store, packs, model, run, np.empty(0, np.int64)) == exposure.Seen(samples=0, first=-1)


def test_the_order_of_an_older_projected_network_is_not_guessed(tmp_path: Path, pack: Path) -> None:
    store = Store(tmp_path)
    packs, model, run = planted(store, pack, None)
    old = replace(run, parameters={**run.parameters, "family": "projected", "revision": 3})
    assert seen(store, packs, model, old, np.arange(60)) == exposure.Seen(samples=-1, first=-1)
    new = replace(run, parameters={**run.parameters, "family": "projected", "revision": 4})
    assert seen(store, packs, model, new, np.arange(60)) == exposure.Seen(samples=STEPS * ROWS, first=0)
    decoder = replace(run, parameters={**run.parameters, "family": "decoder", "revision": 3})
    assert seen(store, packs, model, decoder, np.arange(60)) == exposure.Seen(samples=STEPS * ROWS, first=0)


def test_runs_that_made_a_model_together_are_counted_as_they_were_stored_with_it(tmp_path: Path, pack: Path) -> None:
    store = Store(tmp_path)
    packs, model, run = planted(store, pack, None)
    reader = Packs([pack])
    order = Order(reader.rows_per_cell, None, seed=SEED)
    alone = seen(store, packs, model, run, np.arange(10))
    stored = write_table(store, given(reader, [(order, STEPS * ROWS // 5)] * 5))  # five runs of a fifth of the steps
    model = replace(model, contents=replace(model.contents, counts={"given": stored}))
    drawn = order.samples(0, STEPS * ROWS // 5)
    fifth = int(np.isin(reader.rows(drawn.cells, drawn.rows), np.arange(10)).sum())
    together = seen(store, packs, model, run, np.arange(10))
    assert (together.samples, together.first) == (5 * fifth, alone.first)
    assert together.samples != alone.samples


def test_training_on_a_masked_pack_skips_the_loss_of_its_windows_and_no_other(
    tmp_path: Path, pack: Path, shape
) -> None:
    mask(pack, tmp_path / "masked", [NAME])
    before, after, row = Packs([pack]), Packs([tmp_path / "masked"]), np.array([7])
    losses = []
    model = Llama(shape)
    model.initialise(0)
    for packs in (before, after):
        tokens, segments = torch.from_numpy(packs.tokens(row)), torch.from_numpy(packs.segments(row))
        wanted = targets(tokens, segments)
        losses.append(model.nll(tokens, wanted, layout(segments), torch.float32)[0])
        if packs is after:
            hidden = segments[0] == -1
            assert (wanted[0][hidden] == IGNORED).all()
            assert (tokens[0][hidden] == packs.format.end_of_text).all()
            assert 0 < int(hidden.sum()) < len(hidden)
    assert torch.equal(losses[0][~hidden], losses[1][~hidden])
    assert not losses[1][hidden].any()
    assert losses[0][hidden].any()

"""A replayed step: the documents that were in it, where they lie, and what they cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.query import sql
from catalog.run import run
from dataops.blend import Blend
from dataops.executors import LocalExecutor
from tests.conftest import Curated
from training.replay import replay
from training.steps import Finetune, Pretrain

SMALL = {"params": 130_000, "tokens": 2_000, "batch_rows": 4}
HERE = LocalExecutor(workers=1)


@pytest.fixture(scope="module")
def catalog(curated: Curated, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A store with a pretrained and a fine-tuned model."""
    store = tmp_path_factory.mktemp("replay") / "store"
    shutil.copytree(curated.store, store)
    catalog = Catalog.open(store)
    packs = catalog.snapshot("resampled-packs" if "resampled-packs" in catalog.snapshots else "generic-packs")
    model = run(Pretrain(**SMALL), packs, into="model", catalog=catalog, executor=HERE)
    for name, rank in (("tuned", 0), ("low-rank", 4)):
        run(
            Finetune(tokens=1_000, batch_rows=4, evaluate_every=2, lora_rank=rank),
            catalog.snapshot("target-packs"),
            catalog.snapshot("validation"),
            model,
            into=name,
            catalog=catalog,
            executor=HERE,
        )
    return catalog


@pytest.mark.parametrize(("name", "step"), [("model", 1), ("model", 5), ("tuned", 2), ("low-rank", 1), ("low-rank", 2)])
def test_the_losses_of_a_step_as_it_began_add_up_to_what_the_run_recorded(catalog, name, step):
    found = replay(catalog, catalog.snapshot(name), step, weights="then")
    nats, tokens = found.segments["loss_nats"].to_numpy(), found.segments["n_tokens"].to_numpy()
    metrics = catalog.store.local(catalog.runs[catalog.snapshot(name).run].attachments["metrics"])
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert found.recorded_loss == next(line["loss"] for line in lines if line["step"] == step and "loss" in line)
    assert nats.sum() / tokens.sum() == pytest.approx(found.recorded_loss, rel=2e-3)  # bf16 heads round differently


def test_segments_lie_where_the_replay_says(catalog):
    found = replay(catalog, catalog.snapshot("model"), 3)
    documents = catalog.snapshot(found.documents)
    rows = found.segments.to_pylist()
    assert {row["sample"] for row in rows} == {8, 9, 10, 11}
    per_token = [row["loss_nats"] / max(row["n_tokens"], 1) for row in rows]
    assert per_token == sorted(per_token, reverse=True)
    for row in rows:
        shard = documents.contents.shards[row["shard"]]
        tokens = pq.read_table(catalog.store.local(shard.tables["tokens"]), partitioning=None).to_pylist()
        (whole,) = [each["tokens"] for each in tokens if each["id"] == row["id"]]
        windows = sql(
            catalog,
            "SELECT start, n_tokens FROM cells WHERE snapshot = ? AND id = ? AND cell = ?",
            [found.documents, row["id"], row["cell"]],
        ).to_pylist()
        assert any(each["start"] <= row["start"] <= each["start"] + each["n_tokens"] for each in windows)
        assert row["start"] + row["n_tokens"] - 1 <= len(whole)
    joined = sql(catalog, "SELECT DISTINCT id FROM documents WHERE snapshot = ?", [found.documents])
    assert {row["id"] for row in rows} <= set(joined["id"].to_pylist())


def test_a_model_of_blended_packs_is_replayed_with_the_documents_of_each_part(catalog):
    parts = [catalog.snapshot(name) for name in ("target-packs", "specialized-packs")]
    packs = run(Blend(shares=(1, 1)), *parts, into="parts", catalog=catalog, executor=HERE)
    model = run(Pretrain(**SMALL), packs, into="blended", catalog=catalog, executor=HERE)
    found = replay(catalog, model, 1)
    assert found.documents == " or ".join(catalog.inputs(each)[0].ref for each in parts)
    cells = len(parts[0].contents.summary["rows_per_cell"])
    assert {cell < cells for cell in found.segments["cell"].to_pylist()} == {True, False}, "rows of both"


def test_a_step_that_was_not_and_a_snapshot_that_is_no_model_are_refused(catalog):
    with pytest.raises(UsageError, match="so it has no step 999"):
        replay(catalog, catalog.snapshot("model"), 999)
    with pytest.raises(UsageError, match="where model was expected"):
        replay(catalog, catalog.snapshot("target-packs"), 1)
    runs = Path(catalog.store.url("")) / "work" / catalog.snapshot("model").run
    assert not runs.exists()


def test_a_step_of_a_projected_network_is_replayed_and_one_of_an_older_revision_is_refused(catalog, monkeypatch):
    step = Pretrain(**SMALL, micro_batch_rows=3, family="projected", experts=3, banks=2)
    model = run(step, catalog.snapshot("generic-packs"), into="many", catalog=catalog, executor=HERE)
    found = replay(catalog, model, 2, weights="then").segments
    nats, tokens = found["loss_nats"].to_numpy(), found["n_tokens"].to_numpy()
    assert nats.sum() / tokens.sum() == pytest.approx(replay(catalog, model, 2).recorded_loss, rel=2e-3)
    monkeypatch.setitem(catalog.runs[model.run].parameters, "revision", 3)
    with pytest.raises(
        UsageError, match="many@1 was made by revision 3 of pretrain, which read the rows of a projected"
    ):
        replay(catalog, model, 2)

"""A takedown from command to proof, on a store with everything up to models."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from catalog.audit import verify
from catalog.catalog import Catalog
from catalog.counterfactual import alone
from catalog.errors import TamisError, UnknownReference, UsageError
from catalog.lineage import waterfall
from catalog.pack import Packs
from catalog.query import sql
from catalog.run import run
from catalog.snapshot import Contents, Snapshot
from catalog.suppression import select, suppress
from catalog.tokenizer import BpeTokenizer
from clusters.cli import app
from clusters.console import Console
from clusters.takedown import _learned_from, finish, learned_from, preview
from tests.catalog.planted import a_run
from tests.catalog.test_macros import COUNTED, ROWS
from tests.clusters.takedown_store import HERE, invoke, live_ids, secret, take_down, with_copies
from tests.conftest import Curated
from training.order import Order
from training.replay import replay
from training.steps import Finetune, Pretrain

SETTINGS = {"params": 150_000, "batch_rows": 4}


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A folder with a store from which a document was taken down, and what the command printed."""

    folder: Path
    document: dict[str, Any]
    printed: str

    @property
    def catalog(self) -> Catalog:
        return Catalog.open(self.folder / "store")


@pytest.fixture(scope="module")
def made(curated: Curated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store with models of it. It is only read."""
    folder = tmp_path_factory.mktemp("takedown")
    catalog = with_copies(curated, folder)
    base = run(
        Pretrain(tokens=4_000, **SETTINGS),
        catalog.snapshot("target-packs"),
        into="base",
        catalog=catalog,
        executor=HERE,
    )
    run(
        Finetune(tokens=500, **SETTINGS),
        *(catalog.snapshot("generic-packs"), catalog.snapshot("validation"), base),
        into="tuned",
        catalog=catalog,
        executor=HERE,
    )
    run(
        Pretrain(tokens=500, **SETTINGS),
        catalog.snapshot("generic-packs"),
        into="other",
        catalog=catalog,
        executor=HERE,
    )
    return folder


@pytest.fixture(scope="module")
def taken(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """The same store after the takedown. It is only read."""
    folder = tmp_path_factory.mktemp("taken") / "copy"
    shutil.copytree(made, folder)
    document = secret(Catalog.open(folder / "store"))
    return Taken(folder=folder, document=document, printed=take_down(folder, named=document["id"]))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def contents_of(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what they say once decompressed."""
    yield path.read_bytes()
    if path.suffix == ".parquet":
        for batch in pq.ParquetFile(path).iter_batches():
            yield from (str(column.to_pylist()).encode() for column in batch.columns)
            yield from (
                column.flatten().to_numpy(zero_copy_only=False).tobytes()
                for column in batch.columns
                if _is_list(column)
            )
    if path.suffix == ".duckdb":
        with duckdb.connect(str(path), read_only=True) as connection:
            views = "SELECT view_name FROM duckdb_views() WHERE NOT internal"
            names = connection.execute(f"SELECT table_name FROM duckdb_tables() UNION ALL {views}").fetchall()
            for (name,) in names:
                yield str(connection.sql(f'FROM "{name}"').to_arrow_table().to_pylist()).encode()


def _is_list(column: pa.Array) -> bool:
    return pa.types.is_list(column.type) or pa.types.is_large_list(column.type)


def files_with(folder: Path, needles: dict[str, bytes]) -> set[tuple[str, str]]:
    return {
        (name, str(path.relative_to(folder)))
        for path in folder.rglob("*")
        if path.is_file()
        for content in contents_of(path)
        for name, needle in needles.items()
        if needle in content
    }


def needles(catalog: Catalog, text: str) -> dict[str, bytes]:
    """Six words from behind what others quote, a word of the excerpt in the quarantine, and the tokens of a stretch."""
    words = text.split()
    tokenizer = BpeTokenizer(catalog.store.local(catalog.snapshot("tokenizer").artifact("tokenizer")))
    (tokens,) = tokenizer.encode([text])
    assert len(tokens) > 160
    return {
        "words": " ".join(words[80:86]).encode(),
        "excerpt": json.dumps({"text": text})[:60].encode(),
        "tokens": tokens[100:108].tobytes(),
        "more tokens": tokens[150:158].tobytes(),
        "address": b"https://elsewhere.example/copy",
    }


def test_after_a_takedown_and_gc_no_byte_of_the_text_is_left(taken: Taken, tmp_path: Path) -> None:
    shutil.copytree(taken.folder, tmp_path / "copy")
    store = tmp_path / "copy" / "store"
    wanted = needles(taken.catalog, taken.document["text"])
    abandoned = store / "work" / ("ab" * 32)
    abandoned.mkdir(parents=True)
    (abandoned / "sample-0.jsonl").write_text(json.dumps(taken.document["text"]))
    assert {name for name, _ in files_with(store, wanted)} == set(wanted), "the search must be able to find it"
    invoke("gc", "--grace", "0s", "--store", str(store))
    invoke("sql", "SELECT 1 AS one", "--store", str(store))
    assert files_with(store, wanted) == set()
    assert (store / "catalog.duckdb").exists()
    assert verify(Catalog.open(store)).problems == ()


def test_the_record_names_documents_reason_snapshots_and_models_and_what_they_saw(made: Path, taken: Taken) -> None:
    catalog, document = taken.catalog, taken.document
    before = {each.ref: each for each in Catalog.open(made / "store").live()}
    packs = Packs([catalog.store.local(s.tables["pack"]) for s in before["target-packs@1"].contents.shards])
    order = Order(packs.rows_per_cell, None, seed=0).samples(0, before["base@1"].contents.summary["steps"] * 4)
    rows = packs.rows(order.cells, order.rows)
    truth = [g for g, row in enumerate(rows.tolist()) if document["id"] in packs.documents(row)]
    held = sum(document["id"] in packs.documents(row) for row in range(len(packs)))
    assert truth
    assert held
    (record,) = sql(catalog, "SELECT * FROM takedowns").to_pylist()
    assert (record["takedown"], record["reason"], record["models"]) == (1, "the author asked", ["base@1", "tuned@1"])
    assert record["finished"] >= record["time"]
    assert {"target@2", "target-packs@2", "more@2"} <= set(record["replaced"])
    assert sql(catalog, "SELECT id, content FROM taken_down").to_pylist() == [
        {"id": document["id"], "content": document["content"]}
    ]
    seen = sql(catalog, "SELECT * FROM exposures WHERE model = 'base@1'").to_pylist()
    expected = {"packs": "target-packs@1", "rows": held, "samples": len(truth), "first": truth[0]}
    assert seen == [{"takedown": 1, "model": "base@1", **expected}]
    assert "base@1" in taken.printed
    assert "saw them" in taken.printed
    expired = {ref for ref in before if not catalog.is_live(before[ref])}
    assert expired == set(record["expired"])
    assert "generic-packs@1" not in expired, "packs without the document stay"
    masked, whole = catalog.snapshot("target-packs@2").contents, before["target-packs@1"].contents
    assert (masked.summary, masked.rows) == (whole.summary, whole.rows), "rows are masked, none is taken"


def test_rewritten_snapshots_differ_from_the_old_ones_by_the_document_alone(made: Path, taken: Taken) -> None:
    catalog = Catalog.open(made / "store")
    old = {each.ref: live_ids(catalog, each) for each in catalog.live() if each.contents.kind == "documents"}
    copies = {
        row["id"]
        for row in sql(catalog, "SELECT id FROM documents WHERE content = ?", [taken.document["content"]]).to_pylist()
    }
    catalog = taken.catalog
    for rewrite in catalog.rewrites:
        for before, after in rewrite.replaced.items():
            if before not in old:
                continue
            snapshot = catalog.snapshot(after)
            assert live_ids(catalog, snapshot) == [each for each in old[before] if each not in copies], after
            assert snapshot.contents.rows == len(live_ids(catalog, snapshot))
    dropped = sql(catalog, "SELECT DISTINCT id, reason FROM decisions WHERE rule = 'takedown'").to_pylist()
    assert {row["id"] for row in dropped} == copies
    assert {row["reason"] for row in dropped} == {"takedown 1"}
    rewritten = [catalog.snapshot(after).contents for each in catalog.rewrites for after in each.replaced.values()]
    assert all(each.counts for each in rewritten if each.kind == "documents"), "counted in the takedown's own run"
    for view, rows in ROWS.items():
        assert sql(catalog, COUNTED[view]).to_pylist() == sql(catalog, rows).to_pylist(), view


def test_quotations_in_excerpts_and_passages_of_others_go_and_other_ones_stay(folder: Path) -> None:
    catalog = Catalog.open(folder / "store")
    passages = "SELECT id, evaluation, ngrams, passage FROM matches WHERE snapshot = ? ORDER BY id"
    before = sql(catalog, passages, [catalog.snapshot("clean").ref]).to_pylist()
    assert [row for row in before if row["passage"]]
    stays = secret(catalog)
    assert stays["id"] != secret(catalog, "target")["id"]
    take_down(folder, named=secret(catalog, "target")["id"])
    catalog.refresh()
    after = sql(catalog, passages, [catalog.snapshot("clean").ref]).to_pylist()
    assert after == [{**row, "passage": ""} for row in before]
    explained = invoke("explain", before[0]["id"], "--store", str(folder / "store"))
    assert f"n-grams with {before[0]['evaluation']}, the longest passage" in explained
    excerpts = "SELECT path, position, reason, excerpt FROM quarantine WHERE starts_with(snapshot, 'more@')"
    (before,) = sql(catalog, excerpts).to_pylist()
    assert " ".join(stays["text"].split()[:5]) in before["excerpt"], "it quotes another document"
    take_down(folder, named=stays["id"])
    assert sql(catalog.refresh(), excerpts).to_pylist() == [{**before, "excerpt": ""}]


def test_explain_tells_of_the_takedown(taken: Taken) -> None:
    printed = invoke("explain", taken.document["id"], "--store", str(taken.folder / "store"))
    assert "dropped by takedown: takedown 1" in printed
    assert "the author asked" in printed
    assert "models that may have seen it: base@1, tuned@1" in printed


def test_a_takedown_is_a_loss_but_no_rule_that_could_have_been_left_out(taken: Taken) -> None:
    clean = taken.catalog.snapshot("target-clean")
    lost = {loss.rule for loss in waterfall(taken.catalog, clean)}
    assert lost - {each.rule for each in alone(taken.catalog, clean)} == {"takedown"}


def test_after_a_takedown_models_still_saw_what_else_their_packs_hold(taken: Taken) -> None:
    catalog = taken.catalog
    query = "SELECT id FROM given WHERE snapshot = 'base@1' ORDER BY id LIMIT 1"
    (other,) = sql(catalog, query)["id"].to_pylist()
    assert other != taken.document["id"]
    said = "\n".join(preview(catalog, [other], ""))
    assert re.search(r"base@1 saw them|base@1 .*target-packs@2", said), said


def test_the_same_command_finishes_a_takedown_that_was_killed_half_way(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    catalog = Catalog.open(tmp_path / "copy" / "store")
    chosen = secret(catalog)["id"]
    suppress(catalog, select(catalog, ids=[chosen], where="").named, reason="asked")
    assert Catalog.open(catalog.store.root).pending
    printed = invoke("takedown", "--id", chosen, "--executor", "local", "--store", str(catalog.store.root))
    assert "snapshots have a new version without them" in printed
    assert not Catalog.open(catalog.store.root).pending


def test_a_dry_run_says_what_would_happen_and_changes_nothing(made: Path) -> None:
    catalog = Catalog.open(made / "store")
    printed = invoke("takedown", "--where", "host = 'example.org'", "--dry-run", "--store", str(made / "store"))
    (count,) = sql(catalog, "SELECT count(DISTINCT id) AS n FROM documents WHERE host = 'example.org'")["n"].to_pylist()
    assert f"{count:,} documents would be taken down" in printed
    assert "pool@1" in printed
    assert "other@1" in printed
    assert Catalog.open(made / "store").sequence == catalog.sequence


def test_a_dry_run_counts_what_goes_with_a_document_and_what_resembles_it_and_stays(made: Path) -> None:
    catalog = Catalog.open(made / "store")
    repeated = invoke("takedown", "--id", secret(catalog)["id"], "--dry-run", "--store", str(catalog.store.root))
    assert "\n1 more documents have the same text and go with them\n" in repeated
    assert "nearly repeat" not in repeated
    pairs = sql(catalog, "SELECT DISTINCT left_id, right_id FROM edges").to_pylist()
    one = pairs[0]["left_id"]
    like_it = {each for pair in pairs if one in pair.values() for each in pair.values()} - {one}
    assert f"{len(like_it)} documents that nearly repeat them stay" in preview(catalog, [one], "")[1]
    every = {each for pair in pairs for each in pair.values()}
    assert not any("nearly repeat" in line for line in preview(catalog, sorted(every), ""))


def test_a_step_is_replayed_without_what_was_taken_down_but_not_trained_again(taken: Taken) -> None:
    catalog = taken.catalog
    found = replay(catalog, catalog.snapshot("base"), 1)
    assert taken.document["id"] not in found.segments["id"].to_pylist()
    assert found.segments.num_rows
    with pytest.raises(UsageError, match=r"a takedown rewrote what base@1 was trained on"):
        replay(catalog, catalog.snapshot("base"), 1, weights="then")


def test_lessons_hold_what_their_teacher_learned(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path / "store", create=True)

    def made(name: str, kind: str, *inputs: Snapshot) -> Snapshot:
        run = dataclasses.replace(a_run(name), inputs=tuple(each.id for each in inputs))
        return catalog.commit(name, Contents(kind=kind, summary={"name": name}), run, inputs=inputs)

    packs = made("packs", "packs")
    teacher = made("teacher", "model", packs)
    lessons = made("lessons", "lessons", packs, teacher)
    student = made("student", "model", packs, lessons)
    assert [each.name for each in _learned_from(catalog, student)] == ["packs", "lessons", "teacher"]
    assert learned_from(catalog, ["packs@1"]) == ["lessons@1"]


def test_gc_right_after_a_takedown_says_what_it_spares(taken: Taken) -> None:
    printed = invoke("gc", "--dry-run", "--store", str(taken.folder / "store"))
    assert re.search(r"^\d+ files that nothing refers to, .* are younger than 24h and stay", printed, re.M)


def test_conditions_may_use_the_view_and_the_text_without_leaving_either_on_record(folder: Path) -> None:
    store, catalog = str(folder / "store"), Catalog.open(folder / "store")
    words = " ".join(secret(catalog)["text"].split()[100:104])
    quoting = f"id IN (SELECT id FROM texts WHERE contains(text, '{words}'))"
    assert "2 documents would" in invoke("takedown", "--where", quoting, "--dry-run", "--store", store)
    seen = "snapshot = 'more@1' AND n_tokens IS NULL AND host LIKE 'else%'"
    assert "1 documents would" in invoke("takedown", "--where", seen, "--dry-run", "--store", store)
    invoke("takedown", "--where", quoting, "--reason", "asked", "--store", store)
    log = b"".join(path.read_bytes() for path in (folder / "store" / "_log").glob("*.json"))
    assert words.encode() not in log


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--reason", "asked"], UsageError, "--id or --where"),
        (["--id", "abc", "--reason", "asked"], UsageError, "32 hexadecimal digits"),
        (["--id", "0" * 32, "--reason", "asked"], UnknownReference, "no document with the id"),
        (["--where", "host = 'nowhere'", "--reason", "asked"], UnknownReference, "no document meets"),
        (["--where", "host = 'example.org'"], UsageError, "--reason"),
        (["--finish", "--id", "0" * 32, "--reason", "asked"], UsageError, "--finish ends a takedown that was begun"),
        (["--where", "nonsense = 1", "--reason", "asked"], TamisError, "nonsense"),
        (["--where", "true); DROP TABLE x; --", "--reason", "asked"], TamisError, "one SELECT|failed"),
    ],
)
def test_a_request_that_can_not_be_met_is_refused_and_nothing_is_committed(
    made: Path, arguments: list[str], error: type[TamisError], message: str
) -> None:
    catalog = Catalog.open(made / "store")
    result = CliRunner().invoke(app, ["takedown", *arguments, "--store", str(made / "store")])
    assert isinstance(result.exception, error)
    assert re.search(message, str(result.exception))
    assert Catalog.open(made / "store").sequence == catalog.sequence


def test_nothing_pending_is_nothing_to_finish(made: Path) -> None:
    assert "nothing to do" in invoke("takedown", "--finish", "--store", str(made / "store"))
    assert finish(Catalog.open(made / "store"), HERE, Console(quiet=True)) is None

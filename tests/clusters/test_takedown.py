"""A takedown from command to proof, on a store with everything up to models."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from catalog.audit import verify
from catalog.catalog import Catalog
from catalog.errors import TamisError, UnknownReference, UsageError
from catalog.pack import Packs
from catalog.query import sql
from catalog.run import run
from catalog.tables import read_live, read_table
from catalog.tokenizer import BpeTokenizer
from clusters.cli import app
from clusters.console import Console
from clusters.takedown import finish
from dataops.exact import ExactDedup
from dataops.executors import LocalExecutor
from dataops.ingest import Ingest
from tests.catalog.test_macros import COUNTED, ROWS
from tests.conftest import Curated
from training.order import Order
from training.steps import Finetune, Pretrain

HERE = LocalExecutor(workers=2)
SETTINGS = {"params": 150_000, "batch_rows": 4}


@pytest.fixture(scope="module")
def made(curated: Curated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The curated store with models of it, and a file that repeats the document to be taken down, once cut short."""
    folder = tmp_path_factory.mktemp("takedown")
    shutil.copytree(curated.store, folder / "store")
    catalog = Catalog.open(folder / "store")
    text = secret(catalog)["text"]
    lines = [json.dumps({"text": text, "url": "https://elsewhere.example/copy"}), json.dumps({"text": text})[:150]]
    lines.insert(1, json.dumps({"text": "A page of its own, which stays where it is."}))
    (folder / "more.jsonl").write_text("\n".join(lines))
    again(catalog, folder)
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


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A folder after the takedown of a document, what the command printed, and the catalog as it was before."""

    folder: Path
    document: dict
    printed: str
    before: Catalog

    @property
    def catalog(self) -> Catalog:
        return Catalog.open(self.folder / "store")


@pytest.fixture(scope="module")
def taken(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Taken:
    """For tests that only read. Copy the folder to change it."""
    folder, before = tmp_path_factory.mktemp("taken") / "copy", Catalog.open(made / "store")
    shutil.copytree(made, folder)
    document = secret(before)
    return Taken(folder=folder, document=document, printed=take_down(folder, named=document["id"]), before=before)


@pytest.fixture
def after(taken: Taken, tmp_path: Path) -> Taken:
    """A copy of its own."""
    return replace(taken, folder=shutil.copytree(taken.folder, tmp_path / "copy"))


def again(catalog: Catalog, folder: Path):
    """Ingest the file that repeats the document."""
    step = Ingest(paths=(str(folder / "more.jsonl"),), url_column="url")
    return run(step, into="more", catalog=catalog, executor=HERE)


def secret(catalog: Catalog, name: str = "target-train") -> dict:
    """The longest document of a snapshot. Of `target`, a pool document quotes the first sixty words."""
    snapshot, columns = catalog.snapshot(name), ["id", "content", "text"]
    shards, layers = snapshot.contents.shards, snapshot.contents.layers
    rows = [row for shard in shards for row in read_live(catalog.store, shard, layers, columns).to_pylist()]
    return max(rows, key=lambda row: len(row["text"]))


def invoke(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, f"{arguments}: {result.exception!r}\n{result.output}"
    return result.stdout


def take_down(folder: Path, *, named: str) -> str:
    return invoke("takedown", "--id", named, "--reason", "the author asked", "--store", str(folder / "store"))


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


def test_after_a_takedown_and_gc_no_byte_of_the_text_is_left(folder: Path) -> None:
    store, catalog = folder / "store", Catalog.open(folder / "store")
    document = secret(catalog)
    wanted = needles(catalog, document["text"])
    abandoned = store / "work" / ("ab" * 32)
    abandoned.mkdir(parents=True)
    (abandoned / "sample-0.jsonl").write_text(json.dumps(document["text"]))
    assert {name for name, _ in files_with(store, wanted)} == set(wanted), "the search must be able to find it"
    take_down(folder, named=document["id"])
    invoke("gc", "--grace", "0s", "--store", str(store))
    invoke("sql", "SELECT 1 AS one", "--store", str(store))
    assert files_with(store, wanted) == set()
    assert (store / "catalog.duckdb").exists()
    assert verify(catalog).problems == ()


def test_the_record_names_documents_reason_snapshots_and_models_and_what_they_saw(taken: Taken) -> None:
    catalog, document = taken.before, taken.document
    before = {each.ref: each for each in catalog.live()}
    packs = Packs([catalog.store.local(s.tables["pack"]) for s in before["target-packs@1"].contents.shards])
    order = Order(packs.rows_per_cell, None, seed=0).samples(0, before["base@1"].contents.summary["steps"] * 4)
    rows = packs.rows(order.cells, order.rows)
    truth = [g for g, row in enumerate(rows.tolist()) if document["id"] in packs.documents(row)]
    held = sum(document["id"] in packs.documents(row) for row in range(len(packs)))
    assert truth
    assert held
    catalog = taken.catalog
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


def test_rewritten_snapshots_differ_from_the_old_ones_by_the_document_alone(taken: Taken) -> None:
    catalog, document = taken.before, taken.document
    old = {each.ref: _live_ids(catalog, each) for each in catalog.live() if each.contents.kind == "documents"}
    copies = {
        row["id"]
        for row in sql(catalog, "SELECT id FROM documents WHERE content = ?", [document["content"]]).to_pylist()
    }
    catalog = taken.catalog
    for rewrite in catalog.rewrites:
        for before, after in rewrite.replaced.items():
            if before not in old:
                continue
            snapshot = catalog.snapshot(after)
            assert _live_ids(catalog, snapshot) == [each for each in old[before] if each not in copies], after
            assert snapshot.contents.rows == len(_live_ids(catalog, snapshot))
    dropped = sql(catalog, "SELECT DISTINCT id, reason FROM decisions WHERE rule = 'takedown'").to_pylist()
    assert {row["id"] for row in dropped} == copies
    assert {row["reason"] for row in dropped} == {"takedown 1"}
    rewritten = [catalog.snapshot(after).contents for each in catalog.rewrites for after in each.replaced.values()]
    assert all(each.counts for each in rewritten if each.kind == "documents"), "counted in the takedown's own run"
    for view, rows in ROWS.items():
        assert sql(catalog, COUNTED[view]).to_pylist() == sql(catalog, rows).to_pylist(), view


def _live_ids(catalog: Catalog, snapshot) -> list[str]:
    layers = snapshot.contents.layers
    tables = [read_live(catalog.store, shard, layers, ["id"]) for shard in snapshot.contents.shards]
    return pa.concat_tables(tables)["id"].to_pylist()


def test_quotations_in_excerpts_and_passages_of_others_go_and_other_ones_stay(folder: Path) -> None:
    catalog = Catalog.open(folder / "store")
    passages = "SELECT DISTINCT id, ngrams, passage FROM matches"
    before = sql(catalog, passages).to_pylist()
    assert [row for row in before if row["passage"]]
    stays = secret(catalog)
    assert stays["id"] != secret(catalog, "target")["id"]
    take_down(folder, named=secret(catalog, "target")["id"])
    catalog.refresh()
    snapshot = catalog.snapshot("clean")
    after = [
        row for s in snapshot.contents.shards for row in read_table(catalog.store, s.tables["matches"]).to_pylist()
    ]
    assert [(row["id"], row["ngrams"], row["passage"]) for row in after] == [(r["id"], r["ngrams"], "") for r in before]
    excerpts = "SELECT path, position, reason, excerpt FROM quarantine WHERE starts_with(snapshot, 'more@')"
    (before,) = sql(catalog, excerpts).to_pylist()
    assert " ".join(stays["text"].split()[:5]) in before["excerpt"], "it quotes another document"
    take_down(folder, named=stays["id"])
    assert sql(catalog.refresh(), excerpts).to_pylist() == [{**before, "excerpt": ""}]


def test_a_text_that_is_ingested_again_stays_out_and_gives_the_rewritten_snapshot(after: Taken) -> None:
    folder, catalog = after.folder, after.catalog
    rewritten = catalog.snapshot("more")
    assert again(catalog, folder) == rewritten, "the same files: what the takedown left of them, nothing runs"
    (folder / "new.jsonl").write_text((folder / "more.jsonl").read_text())
    step = Ingest(paths=(str(folder / "new.jsonl"),), url_column="url")
    fresh = run(step, into="fresh", catalog=catalog, executor=HERE)
    texts = [
        row["text"]
        for s in fresh.contents.shards
        for row in read_table(catalog.store, s.tables["documents"], ["text"]).to_pylist()
    ]
    assert texts == ["", "A page of its own, which stays where it is."]
    assert (fresh.contents.rows, fresh.contents.layers, fresh.contents.summary["taken_down"]) == (1, ("takedown",), 1)
    unique = run(ExactDedup(), fresh, into="fresh-unique", catalog=catalog, executor=HERE)
    assert unique.contents.rows == 1
    assert verify(catalog).problems == ()


def test_the_rewritten_shards_are_those_that_ingesting_without_the_text_gives(after: Taken) -> None:
    folder, catalog = after.folder, after.catalog
    rewritten = catalog.snapshot("more").contents.shards[0].tables
    shutil.rmtree(folder / "store" / "work", ignore_errors=True)
    catalog.expire([each.ref for each in catalog.snapshots["more"]], reason="test")
    ingested = again(catalog, folder).contents.shards[0].tables
    for table in ("documents", "takedown"):
        assert ingested[table].sha256 == rewritten[table].sha256


def test_between_the_two_commits_nothing_runs_on_what_is_left_and_the_next_recipe_finishes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, catalog = folder / "store", Catalog.open(folder / "store")
    document = secret(catalog)
    raw = catalog.snapshot("more")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clusters.takedown.finish", killed)
    result = CliRunner().invoke(app, ["takedown", "--id", document["id"], "--reason", "asked", "--store", str(store)])
    assert result.exit_code != 0
    assert [each.number for each in catalog.refresh().pending] == [1]
    with pytest.raises(TamisError, match="takedown 1 is not finished"):
        run(ExactDedup(), raw, into="unique", catalog=catalog, executor=HERE)
    assert any("not finished" in problem for problem in verify(catalog).problems)
    monkeypatch.undo()
    invoke("step", "exact-dedup", "more@1", "--into", "unique", "--executor", "local", "--store", str(store))
    made = catalog.refresh().snapshot("unique")
    assert made.inputs == ("more@2",)
    assert document["id"] not in _live_ids(catalog, made)
    assert not catalog.pending


def test_a_second_takedown_keeps_what_the_first_one_said(after: Taken) -> None:
    folder, catalog, first = after.folder, after.catalog, after.document["id"]
    assert "nothing to do" in take_down(folder, named=first)
    second = secret(catalog.refresh())["id"]
    assert second != first
    take_down(folder, named=second)
    found = sql(
        catalog.refresh(), "SELECT DISTINCT id, reason FROM decisions WHERE rule = 'takedown' AND snapshot = 'target@3'"
    )
    assert {row["id"]: row["reason"] for row in found.to_pylist()} == {first: "takedown 1", second: "takedown 2"}
    assert catalog.snapshot("target-train").version == 3
    assert verify(catalog).problems == ()


def test_a_dry_run_says_what_would_happen_and_changes_nothing(folder: Path) -> None:
    catalog = Catalog.open(folder / "store")
    printed = invoke("takedown", "--where", "host = 'example.org'", "--dry-run", "--store", str(folder / "store"))
    (count,) = sql(catalog, "SELECT count(DISTINCT id) AS n FROM documents WHERE host = 'example.org'")["n"].to_pylist()
    assert f"{count:,} documents would be taken down" in printed
    assert "pool@1" in printed
    assert "other@1" in printed
    assert Catalog.open(folder / "store").sequence == catalog.sequence


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


def test_a_commit_that_comes_while_shards_are_rewritten_is_rewritten_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clusters import takedown

    catalog = Catalog.open(folder / "store")
    document = secret(catalog)
    commit, raced = takedown.commit_rewrite, []

    def after_another(*arguments: object, **settings: object):
        if not raced:
            other = Catalog.open(folder / "store")
            tainted = other.snapshot("target")
            raced.append(other.commit("late", tainted.contents, other.runs[tainted.run], inputs=[tainted]))
        return commit(*arguments, **settings)

    monkeypatch.setattr(takedown, "commit_rewrite", after_another)
    take_down(folder, named=document["id"])
    assert raced
    late = catalog.refresh().snapshot("late")
    assert (late.ref, document["id"] in _live_ids(catalog, late)) == ("late@2", False)


def test_a_run_whose_input_was_taken_down_meanwhile_commits_no_text(after: Taken) -> None:
    catalog, before = after.catalog, after.before.snapshot("target")
    with pytest.raises(TamisError, match="expired while the run went on"):
        catalog.commit("slow", before.contents, catalog.runs[before.run], inputs=[before])
    with pytest.raises(TamisError, match="was taken down while it was read"):
        catalog.commit("slow", before.contents, catalog.runs[before.run])


def test_nothing_pending_is_nothing_to_finish(made: Path) -> None:
    assert "nothing to do" in invoke("takedown", "--finish", "--store", str(made / "store"))
    assert finish(Catalog.open(made / "store"), HERE, Console(quiet=True)) is None


def test_duplicates_are_decided_again_and_documents_added_after_a_takedown(after: Taken) -> None:
    folder, catalog = after.folder, after.catalog  # the document is in `more`, not in the pool
    store = str(folder / "store")
    kept = sql(catalog, "SELECT id FROM documents_parquet WHERE source_id = 'kept'")["id"][0].as_py()
    invoke("dedup", "more", "--against", "pool-dedup", "--into", "grown", "--executor", "local", "--store", store)
    grown = catalog.refresh().snapshot("grown")
    assert (grown.contents.layers[0], grown.contents.rows) == (
        "takedown",
        catalog.snapshot("pool-dedup").contents.rows + 1,
    )
    take_down(folder, named=kept)  # in the pool; `near` was dropped in its favour
    decided = catalog.refresh().snapshot("pool-dedup")
    assert decided.contents.layers == ("takedown", "exact", "near-duplicate")
    invoke("dedup", "pool-dedup", "--into", "again", "--executor", "local", "--store", store)
    again = _live_ids(catalog, catalog.refresh().snapshot("again"))
    near = sql(catalog, "SELECT id FROM documents_parquet WHERE source_id = 'near'")["id"][0].as_py()
    assert near not in _live_ids(catalog, decided), "a rewrite takes no decision"
    assert near in again, "nothing that is left resembles it"
    assert kept not in again
    assert catalog.computed_by(decided).step == "fuzzy-dedup"
    assert verify(catalog).problems == ()


def test_explain_tells_of_the_takedown(taken: Taken) -> None:
    printed = invoke("explain", taken.document["id"], "--store", str(taken.folder / "store"))
    assert "dropped by takedown: takedown 1" in printed
    assert "the author asked" in printed
    assert "models that may have seen it: base@1, tuned@1" in printed

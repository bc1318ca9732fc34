"""What comes beside a takedown, and after it: other commits, the same text again, more takedowns, deduplication."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from catalog.audit import verify
from catalog.catalog import Catalog
from catalog.errors import TamisError
from catalog.query import sql
from catalog.run import run
from catalog.tables import read_table
from clusters.cli import app
from dataops.exact import ExactDedup
from dataops.ingest import Ingest
from tests.clusters.takedown_store import HERE, again, invoke, live_ids, secret, take_down, with_copies
from tests.conftest import Curated


@pytest.fixture(scope="module")
def made(curated: Curated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store before the takedown. It is only read."""
    folder = tmp_path_factory.mktemp("before")
    with_copies(curated, folder)
    return folder


@pytest.fixture(scope="module")
def taken(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store after it. It is only read."""
    folder = tmp_path_factory.mktemp("taken") / "copy"
    shutil.copytree(made, folder)
    take_down(folder, named=secret(Catalog.open(folder / "store"))["id"])
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the store before."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def after(taken: Path, tmp_path: Path) -> Path:
    """A copy of the store after."""
    shutil.copytree(taken, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_text_that_is_ingested_again_stays_out_and_gives_the_rewritten_snapshot(after: Path) -> None:
    catalog = Catalog.open(after / "store")
    rewritten = catalog.snapshot("more")
    assert again(catalog, after) == rewritten, "the same files: what the takedown left of them, nothing runs"
    (after / "new.jsonl").write_text((after / "more.jsonl").read_text())
    step = Ingest(paths=(str(after / "new.jsonl"),), url_column="url")
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


def test_the_rewritten_shards_are_those_that_ingesting_without_the_text_gives(after: Path) -> None:
    catalog = Catalog.open(after / "store")
    rewritten = catalog.snapshot("more").contents.shards[0].tables
    shutil.rmtree(after / "store" / "work", ignore_errors=True)
    catalog.expire([each.ref for each in catalog.snapshots["more"]], reason="test")
    ingested = again(catalog, after).contents.shards[0].tables
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
    assert document["id"] not in live_ids(catalog, made)
    assert not catalog.pending


def test_a_second_takedown_keeps_what_the_first_one_said(made: Path, after: Path) -> None:
    catalog = Catalog.open(after / "store")
    first, second = secret(Catalog.open(made / "store"))["id"], secret(catalog)["id"]
    assert second != first
    assert "nothing to do" in take_down(after, named=first)
    take_down(after, named=second)
    found = sql(
        catalog.refresh(), "SELECT DISTINCT id, reason FROM decisions WHERE rule = 'takedown' AND snapshot = 'target@3'"
    )
    assert {row["id"]: row["reason"] for row in found.to_pylist()} == {first: "takedown 1", second: "takedown 2"}
    assert catalog.snapshot("target-train").version == 3
    assert verify(catalog).problems == ()


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
    assert (late.ref, document["id"] in live_ids(catalog, late)) == ("late@2", False)


def test_a_run_whose_input_was_taken_down_meanwhile_commits_no_text(after: Path) -> None:
    catalog = Catalog.open(after / "store")
    before = catalog.snapshot("target@1")
    with pytest.raises(TamisError, match="expired while the run went on"):
        catalog.commit("slow", before.contents, catalog.runs[before.run], inputs=[before])
    with pytest.raises(TamisError, match="was taken down while it was read"):
        catalog.commit("slow", before.contents, catalog.runs[before.run])


def test_duplicates_are_decided_again_and_documents_added_after_a_takedown(after: Path) -> None:
    """The first took its text out of `more`, not out of the pool."""
    store, catalog = str(after / "store"), Catalog.open(after / "store")
    kept = sql(catalog, "SELECT id FROM documents_parquet WHERE source_id = 'kept'")["id"][0].as_py()
    invoke("dedup", "more", "--against", "pool-dedup", "--into", "grown", "--executor", "local", "--store", store)
    grown = catalog.refresh().snapshot("grown")
    assert (grown.contents.layers[0], grown.contents.rows) == (
        "takedown",
        catalog.snapshot("pool-dedup").contents.rows + 1,
    )
    take_down(after, named=kept)  # in the pool; `near` was dropped in its favour
    decided = catalog.refresh().snapshot("pool-dedup")
    assert decided.contents.layers == ("takedown", "exact", "near-duplicate")
    invoke("dedup", "pool-dedup", "--into", "again", "--executor", "local", "--store", store)
    again = live_ids(catalog, catalog.refresh().snapshot("again"))
    near = sql(catalog, "SELECT id FROM documents_parquet WHERE source_id = 'near'")["id"][0].as_py()
    assert near not in live_ids(catalog, decided), "a rewrite takes no decision"
    assert near in again, "nothing that is left resembles it"
    assert kept not in again
    assert catalog.computed_by(decided).step == "fuzzy-dedup"
    assert verify(catalog).problems == ()

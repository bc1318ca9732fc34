from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest

from catalog import gc
from catalog import run as catalog_run
from catalog.audit import verify
from catalog.catalog import Catalog
from catalog.errors import TamisError, UsageError
from catalog.lineage import tree
from catalog.query import sql
from catalog.run import run
from catalog.snapshot import Contents, Shard
from catalog.store import Store
from catalog.tables import write_table
from tests.catalog.planted import Inline, Sprout, Thin, a_run, documents

HOUR = 3600.0


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """raw@1 and thin@1 made of it; raw@2 shares two of three files with raw@1."""
    catalog = Catalog(Store(tmp_path))
    raw = run(Sprout(shards=3), into="raw", catalog=catalog, executor=Inline())
    run(Thin(), raw, into="thin", catalog=catalog, executor=Inline())
    run(Sprout(shards=2), into="raw", catalog=catalog, executor=Inline())
    return catalog


def age(catalog: Catalog, *, seconds: float = 2 * HOUR) -> None:
    """Make every file look that old."""
    then = time.time() - seconds
    for path in sorted(catalog.store.here.rglob("*"), reverse=True):
        os.utime(path, (then, then))


def files(catalog: Catalog) -> set[str]:
    return {str(path.relative_to(catalog.store.here)) for path in catalog.store.here.glob("data/*/*")}


def collected(catalog: Catalog) -> gc.Garbage:
    return gc.delete(catalog, gc.collect(catalog, grace_seconds=HOUR), grace_seconds=HOUR)


def test_files_go_when_no_live_snapshot_has_them_and_the_rest_stays(catalog: Catalog) -> None:
    age(catalog)
    assert collected(catalog) == gc.Garbage(known={}, orphans={}, work={})
    catalog.expire(["raw@1"], reason="test")
    figures = {ref.path for ref in catalog.snapshot("raw@1").contents.counts.values()}
    assert collected(catalog).known.keys() == figures, "thin@1 still has the documents of raw@1"
    catalog.expire(["thin@1"], reason="test")
    live = {ref.path for ref in catalog.files_of(catalog.snapshot("raw@2"))}
    gone = files(catalog) - live
    assert len(gone) == 5, "one file of documents, three of decisions and one of figures"
    assert set(collected(catalog).known) == gone
    assert files(catalog) == live
    assert verify(catalog).problems == ()


def test_expired_versions_are_drawn_but_neither_listed_nor_read(catalog: Catalog) -> None:
    catalog.expire(["raw@1"], reason="test")
    assert "└─ raw@1" in "\n".join(tree(catalog, catalog.snapshot("thin@1")))
    assert catalog.snapshot("raw").ref == "raw@2"
    live = sql(catalog, "SELECT snapshot FROM snapshots WHERE live ORDER BY 1")["snapshot"].to_pylist()
    assert live == ["raw@2", "thin@1"]
    assert sql(catalog, "SELECT DISTINCT snapshot FROM documents ORDER BY 1")["snapshot"].to_pylist() == live
    with pytest.raises(TamisError, match=r"raw@1 has expired.*use raw@2"):
        run(Thin(), catalog.snapshot("raw@1"), into="again", catalog=catalog, executor=Inline())
    assert run(Sprout(shards=3), into="raw", catalog=catalog, executor=Inline()).ref == "raw@3", "made again"


def test_the_newest_versions_of_each_name_are_kept(catalog: Catalog) -> None:
    assert gc.expirable(catalog, keep=1) == ["raw@1"]
    assert gc.expirable(catalog, keep=2) == []
    with pytest.raises(UsageError, match="at least 1"):
        gc.expirable(catalog, keep=0)


def test_orphans_go_only_past_the_grace_period_and_only_by_a_content_name(catalog: Catalog) -> None:
    orphan = write_table(catalog.store, documents(900, 2))
    assert gc.collect(catalog, grace_seconds=HOUR).spared == {orphan.path: orphan.bytes}
    stray = catalog.store.here / "data" / "notes.txt"
    stray.write_text("somebody else's")
    assert collected(catalog).orphans == {}
    age(catalog)
    assert collected(catalog).orphans == {orphan.path: orphan.bytes}
    assert stray.exists()


def test_files_that_receipts_of_unfinished_work_name_stay_with_it(catalog: Catalog) -> None:
    orphan = write_table(catalog.store, documents(900, 2))
    folder = catalog.store.work("ab" * 32)
    (folder / "read.receipts.jsonl").write_text(json.dumps({"task": 0, "receipt": {"path": orphan.path}}) + "\n")
    age(catalog)
    os.utime(folder / "read.receipts.jsonl")
    assert collected(catalog) == gc.Garbage(known={}, orphans={}, work={})
    age(catalog)
    found = collected(catalog)
    assert (list(found.orphans), list(found.work)) == ([orphan.path], [f"work/{'ab' * 32}"])
    assert not folder.exists()


def test_work_whose_lock_is_held_stays_however_old(catalog: Catalog) -> None:
    folder = catalog.store.work("cd" * 32)
    with open(folder / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        age(catalog)
        assert collected(catalog).work == {}
    assert list(collected(catalog).work) == [f"work/{'cd' * 32}"]


def test_inputs_that_unfinished_work_claims_stay(catalog: Catalog) -> None:
    folder = catalog.store.work("ab" * 32)
    (folder / "inputs").write_text("thin@1\n")
    catalog.expire(["raw@1", "thin@1"], reason="test")
    before = files(catalog)
    age(catalog)
    os.utime(folder / "inputs")
    collected(catalog)
    figures = {ref.path for ref in catalog.snapshot("raw@1").contents.counts.values()}
    assert files(catalog) == before - figures


def test_a_writer_that_meets_its_file_renews_it(catalog: Catalog) -> None:
    orphan = write_table(catalog.store, documents(900, 2))
    age(catalog)
    assert write_table(catalog.store, documents(900, 2)) == orphan
    assert collected(catalog).orphans == {}


def test_a_file_that_is_renewed_while_it_is_being_deleted_comes_back(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = write_table(catalog.store, documents(900, 2))
    age(catalog)
    garbage, rename = gc.collect(catalog, grace_seconds=HOUR), os.rename

    def renewed_just_before(source: str, target: str) -> None:
        if orphan.path in source and ".parquet." not in source:
            write_table(catalog.store, documents(900, 2))
        rename(source, target)

    monkeypatch.setattr(os, "rename", renewed_just_before)
    assert gc.delete(catalog, garbage, grace_seconds=HOUR).orphans == {}
    assert orphan.path in files(catalog)


def test_a_run_that_commits_while_gc_looks_is_seen_in_its_folder_or_in_the_log(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    orphan = write_table(catalog.store, documents(900, 2))
    age(catalog)

    def commits_and_removes_its_folder(store: Store) -> list[Path]:
        contents = Contents(kind="documents", shards=(Shard(rows=2, tables={"documents": orphan}),))
        Catalog(store).commit("late", contents, a_run())
        return []

    catalog.refresh()
    monkeypatch.setattr(gc, "_work_folders", commits_and_removes_its_folder)
    assert orphan.path in gc._used(catalog, set(), skipped=set())


def write_and_expire(root: Path, stop: Path) -> None:
    """Shards out of some dozens, so that few are written anew within the grace period, under names that expire."""
    catalog_run.publish = lambda _: None  # type: ignore[assignment]
    catalog, draw, number = Catalog(Store(root)), random.Random(0), 0
    while not stop.exists():
        name, number = f"w{number % 3}", number + 1
        made = run(Sprout(shards=2, rows=draw.randrange(1, 60)), into=name, catalog=catalog, executor=Inline())
        if number % 5:
            catalog.refresh().expire([each.ref for each in catalog.live() if each.name == name], reason="test")
        else:
            run(Thin(), made, into=f"{name}-thin", catalog=catalog, executor=Inline())


def test_beside_a_writer_that_commits_nothing_that_is_live_is_deleted(tmp_path: Path) -> None:
    catalog = Catalog(Store(tmp_path / "store"))
    run(Sprout(shards=1), into="first", catalog=catalog, executor=Inline())
    deleted, grace, stop = 0, 2.0, tmp_path / "stop"
    arguments = (tmp_path / "store", stop)
    writer = multiprocessing.get_context("spawn").Process(target=write_and_expire, args=arguments)
    writer.start()
    end = time.monotonic() + 60
    while (deleted < 5 or catalog.sequence < 30) and writer.is_alive() and time.monotonic() < end:
        found = gc.collect(catalog.refresh(), grace_seconds=grace)
        deleted += len(gc.delete(catalog, found, grace_seconds=grace).known)
    stop.touch()
    writer.join()
    assert writer.exitcode == 0
    assert verify(catalog).problems == ()
    assert deleted >= 5


def test_in_a_bucket_the_time_is_the_objects_and_copies_here_go_too(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = Catalog(Store("memory://collected"))
    raw = run(Sprout(), into="raw", catalog=catalog, executor=Inline())
    copies = [catalog.store.local(shard.tables["documents"]) for shard in raw.contents.shards]
    catalog.expire(["raw@1"], reason="test")
    assert gc.delete(catalog, gc.collect(catalog, grace_seconds=HOUR), grace_seconds=HOUR).known == {}
    paths = {ref.path for ref in catalog.files_of(raw)}
    assert set(gc.delete(catalog, gc.collect(catalog, grace_seconds=0), grace_seconds=0).known) == paths
    assert not any(path.exists() for path in copies)

from __future__ import annotations

import pytest

from catalog.audit import verify
from catalog.catalog import Catalog
from catalog.errors import CorruptStore
from catalog.projection import publish
from catalog.query import sql
from catalog.run import run
from catalog.snapshot import Contents, Shard
from catalog.store import Store
from catalog.suppression import commit_rewrite, suppress
from catalog.tables import write_table
from tests.catalog.planted import Inline, Sprout, Thin, a_run, decisions, documents


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog(Store(tmp_path))
    raw = run(Sprout(), into="raw", catalog=catalog, executor=Inline())
    run(Thin(), raw, into="thin", catalog=catalog, executor=Inline())
    return catalog


def a_file(catalog):
    ref = catalog.snapshot("raw").contents.shards[1].tables["documents"]
    return ref, catalog.store.local(ref)


def test_a_sound_store_has_no_problem_and_everything_is_counted(catalog):
    found = verify(catalog)
    sizes = [path.stat().st_size for path in catalog.store.here.glob("data/*/*")]
    assert (found.commits, found.snapshots, found.files) == (2, 2, len(sizes))
    assert (found.bytes, found.problems) == (sum(sizes), ())
    assert (found.orphans, found.damaged) == (0, ())


def test_files_that_no_commit_names_are_counted_and_are_no_problem(catalog):
    orphan = write_table(catalog.store, documents(900, 2))
    found = verify(catalog)
    assert (found.orphans, found.orphan_bytes, found.problems) == (1, orphan.bytes, ())


def test_a_damaged_file_does_not_hide_what_is_wrong_elsewhere(catalog):
    ref, path = a_file(catalog)
    path.unlink()
    short = {"documents": write_table(catalog.store, documents(700, 4))}
    catalog.commit("wrong", Contents(kind="documents", shards=(Shard(rows=3, tables=short),)), a_run())
    found = verify(catalog)
    assert found.problems == (f"{ref.path}: missing", "wrong@1 shard 0: 4 live documents, the log counted 3")
    assert found.damaged == (ref,)


def test_decisions_that_leave_documents_out_are_found(catalog):
    store = catalog.store
    tables = {"documents": write_table(store, documents(0, 4)), "thin": write_table(store, decisions(0, [0], range(3)))}
    contents = Contents(kind="documents", shards=(Shard(rows=1, tables=tables),), layers=("thin",))
    catalog.commit("wrong", contents, a_run())
    assert verify(catalog).problems == ("wrong@1 shard 0: 3 thin decisions on 4 documents",)


def test_a_projection_cut_short_is_found(catalog):
    path = publish(catalog)
    assert verify(catalog).problems == ()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert verify(catalog).problems == (
        "catalog.duckdb: can't be read in full; the next command rebuilds it from the log",
    )


def test_what_was_taken_down_and_lies_in_a_live_shard_is_found(catalog):
    named = sql(catalog, "SELECT id, content FROM documents_parquet WHERE row = 0 ORDER BY id LIMIT 1")
    suppress(catalog, named, reason="test")
    assert verify(catalog).problems == ("takedown 1 is not finished: run `tamis takedown --finish`",)
    considered = {each.ref for each in catalog.live()}
    nothing = {"expired": (), "exposures": (), "found": write_table(catalog.store, named), "considered": considered}
    commit_rewrite(catalog, {}, run=a_run("a" * 64), takedowns=[1], **nothing)
    found = verify(catalog).problems
    assert found[0] == "raw@1 shard 0: holds 1 texts that were taken down"
    assert all("taken down" in each for each in found)


def test_a_flipped_byte_is_found_and_named(catalog):
    ref, path = a_file(catalog)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert verify(catalog).problems == (f"{ref.path}: its bytes do not have the sha256 in its name",)


def test_a_missing_file_is_found_and_named(catalog):
    ref, path = a_file(catalog)
    path.unlink()
    assert verify(catalog).problems == (f"{ref.path}: missing",)


def test_a_truncated_file_is_found_and_named(catalog):
    ref, path = a_file(catalog)
    path.write_bytes(path.read_bytes()[:-1])
    assert verify(catalog).problems == (f"{ref.path}: {ref.bytes - 1} bytes, the log says {ref.bytes}",)


def test_an_edited_log_is_found_by_a_catalog_that_read_it_before(catalog):
    path = catalog.store.here / "_log/000000000002.json"
    path.write_text(path.read_text().replace("thin", "thim"))
    with pytest.raises(CorruptStore, match="000000000002"):
        verify(catalog)


def test_rows_that_do_not_add_up_are_found(catalog):
    store = catalog.store
    tables = {"documents": write_table(store, documents(0, 4)), "thin": write_table(store, decisions(0, [0], range(4)))}
    wrong = Contents(kind="documents", shards=(Shard(rows=3, tables=tables),), layers=("thin",))
    catalog.commit("wrong", wrong, a_run())
    assert verify(catalog).problems == ("wrong@1 shard 0: 1 live documents, the log counted 3",)
    more = {**tables, "thin": write_table(store, decisions(0, [0, 1], range(5)))}
    contents = Contents(kind="documents", shards=(Shard(rows=2, tables=more),), layers=("thin",))
    catalog.commit("wrong", contents, a_run("e" * 64))
    assert "wrong@2 shard 0: 5 thin decisions on 4 documents" in verify(catalog).problems


def test_a_store_in_a_bucket_is_hashed_there_and_not_in_the_local_copy():
    catalog = Catalog(Store("memory://audited"))
    snapshot = run(Sprout(), into="raw", catalog=catalog, executor=Inline())
    ref = snapshot.contents.shards[0].tables["documents"]
    catalog.store.local(ref)
    content = bytearray(catalog.store.read(ref.path))
    content[10] ^= 1
    catalog.store.fs.pipe_file(catalog.store.at(ref.path), bytes(content))
    assert verify(catalog).problems == (f"{ref.path}: its bytes do not have the sha256 in its name",)

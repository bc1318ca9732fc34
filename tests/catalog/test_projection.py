from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from catalog.catalog import Catalog
from catalog.counts import DOCUMENTS, store_counts
from catalog.errors import QueryError
from catalog.manifest import Shard, file_ref
from catalog.places import places
from catalog.projected import TABLES
from catalog.projection import FILENAME, REVISION, publish
from catalog.query import sql
from catalog.run import run
from catalog.snapshot import Contents
from catalog.store import Store
from catalog.views import VIEWS
from tests.catalog.planted import Inline, Sprout, Thin, a_run, commit_documents

ROOT = Path(__file__).parents[2]


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog(Store(tmp_path / "store"))
    raw = run(Sprout(), into="raw", catalog=catalog, executor=Inline())
    run(Thin(), raw, into="thin", catalog=catalog, executor=Inline())
    return catalog


def documents_per_snapshot(catalog):
    rows = sql(catalog, "SELECT snapshot, count(*) FROM documents GROUP BY 1 ORDER BY 1").to_pydict()
    return dict(zip(*rows.values(), strict=True))


def test_a_plain_client_opens_it_from_any_folder_and_reads_documents(catalog, tmp_path):
    code = f"""
import duckdb
con = duckdb.connect({str(catalog.store.here / FILENAME)!r}, read_only=True)
rows = con.execute("SELECT count(*), min(text) FROM documents JOIN texts USING (id) WHERE snapshot = 'thin@1'")
print(rows.fetchall())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[(9, 'document 0')]\n"


def test_it_is_stored_in_the_format_of_duckdb_1_4(catalog):
    with open(catalog.store.here / FILENAME, "rb") as file:
        header = file.read(4096)
    assert int.from_bytes(header[12:20], "little") <= 67  # the main header's storage version; 1.4 reads 64 to 67


def test_every_view_can_be_read_also_in_an_empty_store(tmp_path, catalog):
    names = [statement.split()[2] for statement in VIEWS]
    for each in (catalog, Catalog(Store(tmp_path / "empty"))):
        read = sql(each, "SELECT " + ", ".join(f"(SELECT max(v::VARCHAR) FROM {name} v) AS {name}" for name in names))
        assert (read.column_names, read.num_rows) == (names, 1)


def test_views_agree_with_the_log(catalog):
    assert documents_per_snapshot(catalog) == {"raw@1": 15, "thin@1": 9}
    kept = sql(
        catalog, "SELECT snapshot, step, kept, count(*) AS n FROM decisions GROUP BY ALL ORDER BY kept"
    ).to_pylist()
    assert [(row["snapshot"], row["step"], row["kept"], row["n"]) for row in kept] == [
        ("thin@1", "thin", False, 6),
        ("thin@1", "thin", True, 9),
    ]
    lineage = sql(catalog, "SELECT * FROM lineage").to_pylist()
    assert lineage == [{"snapshot": "thin@1", "input": "raw@1", "position": 0, "step": "thin"}]


@pytest.mark.parametrize("damage", ["deleted", "empty", "cut", "cut late", "not a database", "stale"])
def test_a_file_that_can_not_be_used_is_published_again(catalog, damage):
    path = catalog.store.here / FILENAME
    content = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    elif damage == "stale":
        commit_documents(catalog, "more")
    else:
        cut = {"empty": b"", "cut": content[:9000], "cut late": content[:-300_000], "not a database": b"x" * 50_000}
        path.write_bytes(cut[damage])
    expected = {"raw@1": 15, "thin@1": 9} | ({"more@1": 3} if damage == "stale" else {})
    assert documents_per_snapshot(catalog) == expected


def test_a_store_folder_that_moved_is_published_again_with_its_new_paths(catalog, tmp_path):
    shutil.move(catalog.store.root, tmp_path / "elsewhere")
    moved = Catalog(Store(tmp_path / "elsewhere"))
    assert documents_per_snapshot(moved) == {"raw@1": 15, "thin@1": 9}


def test_a_store_made_anew_in_the_same_place_does_not_show_the_old_one(catalog):
    shutil.rmtree(catalog.store.here / "_log")
    shutil.rmtree(catalog.store.here / "data")
    anew = Catalog(Store(catalog.store.root))
    for number in range(catalog.sequence):
        commit_documents(anew, f"new{number}")
    assert list(documents_per_snapshot(anew)) == ["new0@1", "new1@1"]


def test_other_definitions_of_the_views_are_published_again(catalog, monkeypatch):
    monkeypatch.setattr("catalog.projection.DEFINITIONS", "of the next release")
    before = os.stat(catalog.store.here / FILENAME).st_ino
    publish(catalog)
    assert os.stat(catalog.store.here / FILENAME).st_ino != before


def test_publishing_what_is_published_writes_nothing(catalog):
    before = os.stat(catalog.store.here / FILENAME)
    publish(catalog)
    after = os.stat(catalog.store.here / FILENAME)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_what_a_killed_publisher_left_is_swept_up(catalog):
    (catalog.store.here / f".{FILENAME}.0123").write_bytes(b"half")
    commit_documents(catalog, "more")
    publish(catalog)
    assert not list(catalog.store.here.glob(f".{FILENAME}.*"))


def test_a_connection_held_open_neither_blocks_nor_goes_stale_for_others(catalog):
    with duckdb.connect(str(catalog.store.here / FILENAME), read_only=True) as held:
        commit_documents(catalog, "more")
        assert documents_per_snapshot(catalog) == {"more@1": 3, "raw@1": 15, "thin@1": 9}
        assert held.execute("SELECT count(*) FROM snapshots").fetchall() == [(2,)]


READER = """
import sys, time, duckdb
path, seen, reads = sys.argv[1], 0, 0
while seen < int(sys.argv[2]):
    with duckdb.connect(path, read_only=True) as con:
        (now,), = con.execute("SELECT sequence FROM published_state").fetchall()
        (rows,), = con.execute("SELECT count(*) FROM documents").fetchall()
    assert now >= seen, f"went back from {seen} to {now}"
    seen, reads = now, reads + 1
print(reads)
"""


def test_readers_never_fail_or_go_back_while_two_publishers_publish_8_times(catalog):
    path = str(catalog.store.here / FILENAME)
    last = catalog.sequence + 8
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READER, path, str(last)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]

    def publish_four(name):
        mine = Catalog(Store(catalog.store.root))
        for _ in range(4):
            commit_documents(mine, name)
            publish(mine)
            time.sleep(0.01)

    publishers = [threading.Thread(target=publish_four, args=(name,)) for name in ("one", "two")]
    for publisher in publishers:
        publisher.start()
    for publisher in publishers:
        publisher.join()
    said = [reader.communicate(timeout=60) for reader in readers]
    assert [(error, reader.returncode) for (_, error), reader in zip(said, readers, strict=True)] == [("", 0)] * 2
    assert all(int(reads) >= 2 for reads, _ in said)


def test_a_data_file_that_is_gone_is_named_with_the_remedy(catalog):
    lost = [shard.tables["documents"] for shard in catalog.snapshot("raw").contents.shards]
    for ref in lost:
        catalog.store.local(ref).unlink()
    catalog.store.here.joinpath(FILENAME).unlink()
    with pytest.raises(QueryError, match=rf"{lost[0].path}.*tamis verify"):
        sql(catalog, "SELECT count(*) FROM documents")
    assert sql(catalog, "SELECT count(*) AS n FROM snapshots")["n"].to_pylist() == [2]


def test_a_store_that_may_only_be_read_is_asked_from_the_cache(catalog, monkeypatch):
    expected, there = documents_per_snapshot(catalog), places(catalog, "documents", f"{3:016x}")
    moved = catalog.store.here.rename(catalog.store.here.with_name("moved"))  # so that its file must be made anew
    shutil.rmtree(moved / "index")
    files = sorted(moved.rglob("*"))
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != moved and allowed(path, mode))
    readable = Catalog.open(moved)
    assert (documents_per_snapshot(readable), places(readable, "documents", f"{3:016x}")) == (expected, there)
    assert sorted(moved.rglob("*")) == files


def test_more_files_than_the_catalog_lists_are_read_after_the_prologue(catalog, monkeypatch):
    with catalog.store.writing(suffix="bin") as (path, refs):
        path.write_bytes(b"weights")
    catalog.commit("fitted", Contents(kind="mixture", artifacts={"cell-model": refs[0]}), a_run())
    expected = documents_per_snapshot(catalog)
    monkeypatch.setattr("catalog.scans.LISTED", 2)
    catalog.store.here.joinpath(FILENAME).unlink()
    publish(catalog)
    with duckdb.connect(str(catalog.store.here / FILENAME), read_only=True) as plain:
        with pytest.raises(duckdb.Error, match=r"3 files of documents .* view prologue"):
            plain.execute("SELECT count(*) FROM documents")
        for (statement,) in plain.execute("SELECT statement FROM prologue").fetchall():
            plain.execute(statement)
        assert plain.execute("SELECT count(*) FROM documents").fetchall() == [(sum(expected.values()),)]
    assert documents_per_snapshot(catalog) == expected
    commit_documents(catalog, "more")
    assert documents_per_snapshot(catalog) == {**expected, "more@1": 3}


# What the tables of the projection hold for one fixed log, by revision of the code that fills them.
ROWS = {4: "34b3c36a7572092c13b425f3a317209121a352d9b673d4a8c1c78221d229498d"}


def test_equal_logs_give_equal_rows_unless_the_revision_is_raised(tmp_path):
    """A published file is kept while REVISION and the definitions are the same: other rows need another REVISION."""
    catalog = Catalog(Store(tmp_path / "store"))
    figures = {"layer": [0, 1], "rule": ["exact", None], "source": ["a", "a"], "domain": [None, "d"]}
    figures |= {name: [1, 2] for name in ("documents", "chars", "bytes", "tokens")}
    counts = store_counts(catalog.store, {"documents": pa.table(figures, schema=DOCUMENTS)})

    def shard(number, *tables):
        files = {name: file_ref(f"{number}{i}".rjust(64, "0"), 10 + i, "parquet") for i, name in enumerate(tables)}
        return Shard(rows=5, tables=files)

    for layers in ((), ("exact",)):
        for count in (3, 100):  # listed in the log, and in manifests
            shards = tuple(shard(n, "documents", *layers, *(["tokens"] if layers else [])) for n in range(count))
            contents = Contents(kind="documents", shards=shards, layers=layers, counts=counts, summary={"n": count})
            catalog.commit(f"of-{count}", contents, a_run(f"{count}{layers}"), inputs=catalog.history[-1:])
    artifacts = {"quarantine": file_ref("9" * 64, 7, "parquet")}
    catalog.commit("other", Contents(kind="model", artifacts=artifacts), a_run("model"), inputs=catalog.history[-1:])
    digest = hashlib.sha256()
    with duckdb.connect(str(publish(catalog)), read_only=True) as plain:
        plain.execute("SET TimeZone = 'UTC'")
        for name in sorted(TABLES.keys() - {"published_state"}):
            digest.update(
                f"{name} {plain.execute(f'SELECT COLUMNS(*)::VARCHAR FROM {name} ORDER BY ALL').fetchall()}".encode()
            )
    assert digest.hexdigest() == ROWS[REVISION]

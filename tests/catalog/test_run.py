from __future__ import annotations

import re
import threading
import uuid
from dataclasses import replace

import pyarrow as pa
import pytest

from catalog import schema
from catalog.catalog import Catalog
from catalog.manifest import Shard
from catalog.query import sql
from catalog.run import run
from catalog.store import Store
from catalog.tables import read_table, write_table
from tests.catalog.planted import Inline, Sprout, Thin, a_run


@pytest.fixture
def catalog(tmp_path):
    return Catalog(Store(tmp_path / "store"))


def receipts_of(catalog):
    return list((catalog.store.here / "work").glob("*/*.receipts.jsonl"))


def test_a_run_is_remembered_by_any_catalog_of_the_store(catalog):
    executor = Inline()
    first = run(Sprout(), into="raw", catalog=catalog, executor=executor)
    again = run(Sprout(eagerness=9), into="raw", catalog=Catalog(catalog.store), executor=executor)
    assert (again, executor.ran, catalog.refresh().sequence) == (first, 3, 1)


def test_another_setting_or_another_input_is_another_run(catalog):
    executor = Inline()
    raw = run(Sprout(), into="raw", catalog=catalog, executor=executor)
    more = run(Sprout(rows=6), into="raw", catalog=catalog, executor=executor)
    assert (more.ref, more.id != raw.id) == ("raw@2", True)
    thinned = [run(Thin(), each, into="thin", catalog=catalog, executor=executor) for each in (raw, more, raw)]
    assert [each.ref for each in thinned] == ["thin@1", "thin@2", "thin@1"]
    assert catalog.inputs(thinned[1]) == [more]


def test_another_name_for_the_same_run_is_given_without_running(catalog):
    executor = Inline()
    raw = run(Sprout(), into="raw", catalog=catalog, executor=executor)
    also = run(Sprout(), into="also", catalog=catalog, executor=executor)
    assert (also.ref, also.id, executor.ran) == ("also@1", raw.id, 3)
    for name in ("raw", "also"):  # and from now on each name answers with itself
        assert run(Sprout(), into=name, catalog=catalog, executor=executor).ref == f"{name}@1"
    assert catalog.sequence == 2


def test_lineage_names_the_inputs_that_were_given_not_others_of_equal_content(catalog):
    executor = Inline()
    raw, also = (run(Sprout(), into=name, catalog=catalog, executor=executor) for name in ("raw", "also"))
    one = run(Thin(), also, into="one", catalog=catalog, executor=executor)
    two = run(Thin(), raw, into="two", catalog=catalog, executor=executor)
    assert (one.id, one.run) == (two.id, two.run)
    assert (catalog.inputs(one), catalog.inputs(two)) == ([also], [raw])
    drawn = sql(catalog, "SELECT snapshot, input FROM lineage ORDER BY ALL").to_pylist()
    assert drawn == [{"snapshot": "one@1", "input": "also@1"}, {"snapshot": "two@1", "input": "raw@1"}]


def test_a_run_that_failed_in_the_middle_goes_on_from_its_receipts(catalog):
    with pytest.raises(RuntimeError, match="power"):
        run(Sprout(shards=5), into="raw", catalog=catalog, executor=Inline(fail_before=3))
    assert catalog.sequence == 0
    executor = Inline()
    resumed = run(Sprout(shards=5), into="raw", catalog=catalog, executor=executor)
    assert (executor.ran, resumed.contents.rows) == (2, 25)
    assert receipts_of(catalog) == []


def test_the_seconds_of_a_stage_go_on_after_an_interruption(catalog):
    with pytest.raises(RuntimeError, match="power"):
        run(Sprout(shards=5), into="raw", catalog=catalog, executor=Inline(fail_before=3))
    (path,) = receipts_of(catalog)
    path.write_text(re.sub(r'"seconds": [0-9.e-]+', '"seconds": 1000.0', path.read_text()))
    resumed = run(Sprout(shards=5), into="raw", catalog=catalog, executor=Inline())
    assert 1000 < catalog.runs[resumed.run].stages[0]["seconds"] < 1100


def test_what_killed_writers_left_goes_when_a_run_ends_but_not_under_a_writer(catalog):
    left = catalog.store.scratch() / "left.parquet"
    left.write_bytes(b"half")
    with catalog.store.writing(suffix="txt") as (path, _):
        path.write_bytes(b"whole")
        run(Sprout(), into="raw", catalog=catalog, executor=Inline())
        assert left.exists()
    run(Sprout(rows=6), into="raw", catalog=catalog, executor=Inline())
    assert list(catalog.store.scratch().iterdir()) == []


def test_a_resumed_run_is_byte_for_byte_an_uninterrupted_one(catalog, tmp_path):
    for fail_before in (1, 2, 4):
        with pytest.raises(RuntimeError):
            run(Sprout(shards=5), into="raw", catalog=catalog, executor=Inline(workers=2, fail_before=fail_before - 1))
    resumed = run(Sprout(shards=5), into="raw", catalog=catalog, executor=Inline())
    straight = run(Sprout(shards=5), into="raw", catalog=Catalog(Store(tmp_path / "other")), executor=Inline())
    assert resumed == straight


@pytest.mark.parametrize("cut", [1, 20])
def test_a_receipt_line_cut_short_is_not_a_receipt(catalog, cut):
    with pytest.raises(RuntimeError):
        run(Sprout(shards=5), into="raw", catalog=catalog, executor=Inline(fail_before=3))
    (path,) = receipts_of(catalog)
    path.write_bytes(path.read_bytes()[:-cut])
    executor = Inline(fail_before=1)
    with pytest.raises(RuntimeError):
        run(Sprout(shards=5), into="raw", catalog=catalog, executor=executor)
    executor = Inline()
    assert run(Sprout(shards=5), into="raw", catalog=catalog, executor=executor).contents.rows == 25
    assert executor.ran == 2


def test_ids_do_not_depend_on_workers_or_on_who_finishes_first(tmp_path):
    made = [
        run(Sprout(shards=9), into="raw", catalog=Catalog(Store(tmp_path / str(w))), executor=Inline(workers=w))
        for w in (1, 2, 7)
    ]
    assert len({each.id for each in made}) == 1
    assert len({each.run for each in made}) == 1


def test_of_two_equal_runs_at_once_one_works_and_both_get_the_answer(tmp_path):
    executors, answers = [Inline(), Inline()], []

    def go(executor):
        answers.append(run(Sprout(shards=40), into="raw", catalog=Catalog(Store(tmp_path)), executor=executor))

    threads = [threading.Thread(target=go, args=(executor,)) for executor in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(executor.ran for executor in executors) == [0, 40]
    assert answers[0] == answers[1]
    assert Catalog(Store(tmp_path)).sequence == 1


def test_progress_starts_at_what_was_done_before_and_ends_at_the_total(catalog):
    with pytest.raises(RuntimeError):
        run(Sprout(), into="raw", catalog=catalog, executor=Inline(fail_before=2))
    heard = []
    run(Sprout(), into="raw", catalog=catalog, executor=Inline(), listener=heard.append)
    told = [(each.done, each.total, each.rows) for each in heard if each.stage == "documents"]
    assert told == [(2, 3, 10), (3, 3, 15)]


def test_a_step_that_names_two_stages_alike_is_stopped(catalog):
    class Twice(Sprout):
        def build(self, work, *inputs):
            super().build(work, *inputs)
            return super().build(work, *inputs)

    with pytest.raises(AssertionError, match="two stages named 'documents'"):
        run(Twice(), into="raw", catalog=catalog, executor=Inline())


def test_a_store_in_a_bucket_runs_remembers_and_answers():
    catalog = Catalog(Store(f"memory://{uuid.uuid4().hex}"))
    executor = Inline()
    raw = run(Sprout(), into="raw", catalog=catalog, executor=executor)
    thin = run(Thin(), raw, into="thin", catalog=catalog, executor=executor)
    assert run(Sprout(), into="raw", catalog=catalog, executor=executor) == raw
    counts = sql(catalog, "SELECT snapshot, count(*) AS n FROM documents GROUP BY 1 ORDER BY 1").to_pylist()
    assert counts == [{"snapshot": "raw@1", "n": 15}, {"snapshot": "thin@1", "n": thin.contents.rows}]


def test_figures_have_the_tokens_that_other_snapshots_know_also_of_many_shards(catalog, monkeypatch):
    monkeypatch.setattr("catalog.manifest.INLINE", 2)
    raw = run(Sprout(rows=2), into="raw", catalog=catalog, executor=Inline())
    columns = {"row": [0, 1], "id": ["", ""], "n_tokens": [3, 4], "tokens": [[], []]}
    tokens = write_table(catalog.store, pa.table(columns, schema=schema.TOKENS))
    shards = [Shard(rows=each.rows, tables={**each.tables, "tokens": tokens}) for each in raw.contents.shards]
    catalog.commit("tokenized", replace(raw.contents, shards=shards), a_run(), inputs=[raw])
    thin = run(Thin(), raw, into="thin", catalog=catalog, executor=Inline())
    figures = read_table(catalog.store, thin.contents.counts["documents"], ["layer", "tokens"]).to_pylist()
    assert figures == [{"layer": 0, "tokens": 4 * len(shards)}, {"layer": 1, "tokens": 3 * len(shards)}]

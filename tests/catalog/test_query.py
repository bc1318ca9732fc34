from __future__ import annotations

import csv
import io
import json
import os
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.catalog import Catalog
from catalog.errors import QueryError, UsageError
from catalog.query import FORMATS, Limits, render, sql, write_result
from catalog.run import run
from catalog.store import Store
from tests.catalog.planted import Inline, Sprout


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    catalog = Catalog(Store(tmp_path_factory.mktemp("o'brien") / "store"))
    run(Sprout(), into="raw", catalog=catalog, executor=Inline())
    return catalog


def listing(root):
    return sorted((path, os.stat(path).st_size) for path in root.parent.rglob("*") if path.is_file())


ATTACKS = [
    "CREATE TABLE t AS SELECT 1",
    "CREATE TEMP TABLE t AS SELECT 1",
    "CREATE OR REPLACE VIEW documents AS SELECT 1",
    "INSERT INTO snapshot_rows SELECT * FROM snapshot_rows",
    "UPDATE run_rows SET step = 'x'",
    "DELETE FROM snapshot_rows",
    "DROP VIEW documents",
    "ATTACH '{root}/new.db' AS other",
    "ATTACH '/tmp/tamis-attack.db' AS other",
    "COPY (SELECT 1) TO '/tmp/tamis-attack.csv'",
    "COPY (SELECT 1) TO '{root}/_log/000000000002.json'",
    "COPY documents TO '{root}/data/stolen.parquet' (FORMAT parquet)",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{root}/attack.csv'",
    "EXPORT DATABASE '{root}/export'",
    "EXPORT DATABASE '/tmp/tamis-attack-export'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv('{root}/../../../../../../../../etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_text('{root}-sibling/secret')",
    "SELECT * FROM read_blob('/etc/hostname')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM read_duckdb('/etc/passwd')",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '1TB'",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "RESET lock_configuration",
    "PRAGMA enable_profiling = 'json'",
    "PRAGMA database_list",
    "CALL enable_logging(storage = 'file', storage_path = '{root}/logs')",
    "SELECT * FROM enable_logging(storage = 'file', storage_config = {{'path': '{root}/logs'}})",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{root}/attack.csv''')",
    "CHECKPOINT",
    "USE memory",
    "PREPARE p AS COPY (SELECT 1) TO '{root}/attack.csv'",
    "SELECT 1; DROP VIEW documents",
    "SELECT 1; SELECT 2",
    "SELECT set_config('a', 'b')",
    "SELECT * FROM leaked",
    "SELECT * FROM nothing",
    "SELEC",
    "",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_but_one_select_of_the_store_is_answered(catalog, attack):
    leaked = pa.table({"a": [1]})  # noqa: F841 - a Python variable that DuckDB would read by its name
    secret = catalog.store.here.parent / "store-sibling" / "secret"
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("secret")
    root = str(catalog.store.here).replace("'", "''")
    before = listing(catalog.store.here)
    with pytest.raises(QueryError):
        sql(catalog, attack.format(root=root))
    assert listing(catalog.store.here) == before
    assert not [name for name in os.listdir("/tmp") if name.startswith("tamis-attack")]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM documents;",
        "FROM documents LIMIT 1",
        "WITH d AS (FROM documents) SELECT * FROM d",
        "-- a comment\nSELECT 1",
        "SHOW TABLES",
        "DESCRIBE documents",
        "SUMMARIZE snapshots",
        "VALUES (1)",
        "PIVOT documents ON source IN ('planted') USING count(*)",
        "SELECT * FROM read_parquet('{root}/data/*/*.parquet', union_by_name=true)",
    ],
)
def test_every_form_of_select_is_answered(catalog, query):
    assert sql(catalog, query.format(root=str(catalog.store.here).replace("'", "''"))).num_rows >= 1


def test_parameters_are_values_and_not_sql(catalog):
    assert sql(catalog, "SELECT ? AS name, ? AS n", ["'; DROP VIEW documents", 3]).to_pylist() == [
        {"name": "'; DROP VIEW documents", "n": 3}
    ]


def test_memory_is_bounded_and_nothing_is_spilled_beside_the_user(catalog):
    settings = sql(
        catalog, "SELECT current_setting('memory_limit') AS memory, current_setting('temp_directory') AS spill"
    ).to_pylist()
    assert settings == [{"memory": "1.8 GiB", "spill": ""}]


def test_a_refused_statement_says_what_was_expected(catalog):
    with pytest.raises(QueryError, match="only reads: expected one SELECT, got SELECT, DROP"):
        sql(catalog, "SELECT 1; DROP VIEW documents")
    with pytest.raises(QueryError, match="only reads: expected one SELECT, got nothing"):
        sql(catalog, "  ")
    with pytest.raises(QueryError, match="no_such_column"):
        sql(catalog, "SELECT no_such_column FROM documents")


def test_queries_of_several_threads_do_not_meet(catalog):
    answers = []

    def ask():
        answers.append(sql(catalog, "SELECT count(*) AS n FROM documents").to_pylist())

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[{"n": 15}]] * 6


EVERYTHING = """
SELECT i, i * 0.5 AS half, 'naïve "quoted", ⏎' || i AS text, i = 1 AS flag, NULL AS nothing, sum(i) OVER () AS total,
       [i, i + 1] AS list, {'a': i} AS struct, DATE '2026-01-02' AS day FROM range(3) t(i)
"""


def written(table, output_format):
    stream = io.BytesIO()
    write_result(table, output_format, stream)
    return stream.getvalue()


def test_json_lines_read_back_as_the_rows_with_sums_as_numbers(catalog):
    rows = [json.loads(line) for line in written(sql(catalog, EVERYTHING), "json").splitlines()]
    assert rows[1] == {
        "i": 1,
        "half": 0.5,
        "text": 'naïve "quoted", ⏎1',
        "flag": True,
        "nothing": None,
        "total": 3,
        "list": [1, 2],
        "struct": {"a": 1},
        "day": "2026-01-02",
    }


def test_json_has_no_word_for_nan():
    assert (
        written(pa.table({"x": [float("nan"), float("inf"), 1.0]}), "json") == b'{"x": null}\n{"x": null}\n{"x": 1.0}\n'
    )


def test_csv_reads_back_with_nested_values_as_json(catalog):
    rows = list(csv.DictReader(io.StringIO(written(sql(catalog, EVERYTHING), "csv").decode())))
    assert rows[1]["text"] == 'naïve "quoted", ⏎1'
    assert (rows[1]["total"], rows[1]["list"], json.loads(rows[1]["struct"])) == ("3", "[1, 2]", {"a": 1})


def test_parquet_reads_back_as_the_same_table(catalog):
    table = sql(catalog, EVERYTHING)
    assert pq.read_table(io.BytesIO(written(table, "parquet"))).to_pylist() == table.to_pylist()


def test_the_text_table_is_aligned_and_cuts_long_cells():
    table = pa.table({"name": ["a", "b" * 200, None], "n": [1, 20, 300], "x": [0.5, 1.0, None]})
    lines = render(table, width=10).splitlines()
    assert lines[0] == "name          n    x"
    assert lines[2:] == ["a             1  0.5", "bbbbbbbbb…   20    1", "            300"]


@pytest.mark.parametrize("output_format", FORMATS)
def test_every_format_writes_every_view_and_a_result_without_rows(catalog, output_format):
    for query in ("SELECT * FROM snapshots", "SELECT * FROM runs", "SELECT * FROM documents WHERE false"):
        rows = sql(catalog, query)
        assert counted(written(rows, output_format), output_format) == rows.num_rows


def counted(data, output_format):
    """The rows of what was written."""
    if output_format == "parquet":
        return pq.read_table(io.BytesIO(data)).num_rows
    if output_format == "csv":
        return len(list(csv.reader(io.StringIO(data.decode())))) - 1
    return len(data.splitlines()) - {"json": 0, "table": 2}[output_format]


def test_an_unknown_format_names_the_known_ones():
    with pytest.raises(UsageError, match="table, json, csv, parquet"):
        write_result(pa.table({}), "xml", io.BytesIO())


def test_a_query_that_takes_too_long_is_stopped_with_the_remedy(catalog):
    started = time.monotonic()
    with pytest.raises(QueryError, match=r"did not end in 0.2 s: narrow it, or allow more with --max-seconds"):
        sql(
            catalog,
            "SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b",
            limits=Limits(seconds=0.2),
        )
    assert time.monotonic() - started < 30


def test_a_query_that_takes_too_much_memory_is_stopped_with_the_remedy(catalog):
    query = "SELECT count(*) FROM (SELECT range, count(*) FROM range(20000000) GROUP BY range)"
    with pytest.raises(QueryError, match=r"needs more than 30MB of memory: .* --max-memory"):
        sql(catalog, query, limits=Limits(memory="30MB"))


@pytest.mark.parametrize("given", [{"memory": "lots"}, {"memory": "1GB'; SET x = '"}, {"seconds": 0}])
def test_limits_that_make_no_sense_are_refused(given):
    with pytest.raises(UsageError, match="expected"):
        Limits(**given)


@pytest.mark.parametrize("output_format", ["json", "parquet"])
def test_columns_of_one_name_are_refused_where_one_would_be_lost(catalog, output_format):
    with pytest.raises(QueryError, match=r"two columns are called 'a', of which .* keeps one: name them with AS"):
        write_result(sql(catalog, "SELECT 1 AS a, 2 AS a"), output_format, io.BytesIO())


def test_what_a_format_can_not_hold_is_said_in_one_line(catalog):
    answer = sql(catalog, "SELECT max(started) - min(started) AS a FROM (SELECT now() AS started)")
    with pytest.raises(QueryError, match=r"csv can't hold this answer .*: cast the column to text"):
        write_result(answer, "csv", io.BytesIO())


def test_small_numbers_are_not_shown_as_nothing():
    shown = render(pa.table({"p": [1e-6, -2.5e-7, 0.0, 0.25]})).split()
    assert shown[2:] == ["1.00e-06", "-2.50e-07", "0", "0.25"]

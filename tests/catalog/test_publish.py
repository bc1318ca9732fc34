"""Publishing under fire: publishers are killed, published files are torn, and readers loop all the while."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from catalog.catalog import Catalog
from catalog.manifest import Shard
from catalog.projection import FILENAME, publish
from catalog.query import sql
from catalog.snapshot import Contents
from catalog.store import Store
from tests.catalog.planted import a_run, commit_documents

ROOT = Path(__file__).parents[2]

KILLER = """
import os, random, signal, sys, time
import duckdb
from catalog.catalog import Catalog
from catalog.projection import FILENAME, publish
from tests.catalog.planted import commit_documents

folder, times = sys.argv[1], int(sys.argv[2])

def publish_for_ever():
    catalog = Catalog.open(folder, create=True)
    while True:
        commit_documents(catalog, "more", start=catalog.sequence)
        os.write(told, b".")
        publish(catalog)

def look():
    path = os.path.join(folder, FILENAME)
    if os.path.exists(path):
        with duckdb.connect(path, read_only=True) as plain:
            sequence = plain.execute("SELECT sequence FROM published_state").fetchall()[0][0]
            assert plain.execute("SELECT count(*) FROM documents").fetchall() == [(3 * sequence,)]

def child(work):
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    return pid

draw, (heard, told) = random.Random(times), os.pipe()
for _ in range(times):
    pid = child(publish_for_ever)
    os.read(heard, 1)
    time.sleep(draw.uniform(0.0, 0.12))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert os.waitpid(child(look), 0)[1] == 0, "the published file could not be read"
"""

PLAIN_READER = """
import sys, duckdb
path, last, seen, reads = sys.argv[1], int(sys.argv[2]), 0, 0
while seen < last:
    with duckdb.connect(path, read_only=True) as con:
        (now,), = con.execute("SELECT sequence FROM published_state").fetchall()
        (rows,), = con.execute("SELECT count(*) FROM documents").fetchall()
        (snapshots,), = con.execute("SELECT count(*) FROM snapshots").fetchall()
    assert now >= seen and snapshots == now and rows == 3 * now, (seen, now, rows, snapshots)
    seen, reads = now, reads + 1
print(reads)
"""

SQL_READER = """
import json, sys
from typer.testing import CliRunner
from clusters.cli import app
store, last, seen, reads = sys.argv[1], int(sys.argv[2]), 0, 0
question = "SELECT count(DISTINCT snapshot) AS n, count(*) AS rows FROM documents"
while seen < last:
    done = CliRunner().invoke(app, ["sql", "--store", store, "--format", "json", question])
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)
    assert row["n"] >= seen and row["rows"] == 3 * row["n"], (seen, row)
    seen, reads = row["n"], reads + 1
print(reads)
"""


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def check_kills(folder: Path, times: int) -> None:
    """Kill a process that commits and publishes at random moments; the file is read after each."""
    killer = python(KILLER, folder, times)  # forks from a process that has imported all and started no thread
    assert (killer.communicate(), killer.returncode) == (("", ""), 0)
    catalog = Catalog.open(folder)
    assert catalog.sequence >= times
    assert sql(catalog, "SELECT count(*) AS n FROM documents")["n"].to_pylist() == [3 * catalog.sequence]
    assert not list(folder.glob(f".{FILENAME}.*"))


def test_the_projection_opens_after_each_of_8_kills_of_its_publisher(tmp_path: Path) -> None:
    check_kills(tmp_path / "store", 8)


@pytest.mark.slow
def test_the_projection_opens_after_each_of_200_kills_of_its_publisher(tmp_path: Path) -> None:
    check_kills(tmp_path / "store", 200)


def check_readers(folder: Path, publishes: int) -> None:
    catalog = Catalog.open(folder, create=True)
    commit_documents(catalog, "some")
    path = publish(catalog)
    last = catalog.sequence + publishes
    readers = [python(PLAIN_READER, path, last), python(PLAIN_READER, path, last)]
    readers += [python(SQL_READER, folder, last), python(SQL_READER, folder, last)]
    while catalog.sequence < last:
        commit_documents(catalog, "some", start=catalog.sequence)
        publish(catalog)
    said = [reader.communicate(timeout=250) for reader in readers]
    assert [(error, reader.returncode) for (_, error), reader in zip(said, readers, strict=True)] == [("", 0)] * 4
    assert sum(int(reads) for reads, _ in said) >= publishes / 2


def test_4_publishes_under_four_looping_readers_without_an_error_or_a_step_back(tmp_path: Path) -> None:
    check_readers(tmp_path / "store", 4)


@pytest.mark.slow
def test_100_publishes_under_four_looping_readers_without_an_error_or_a_step_back(tmp_path: Path) -> None:
    check_readers(tmp_path / "store", 100)


@pytest.mark.parametrize("seed", range(12))
def test_a_file_torn_anywhere_answers_as_one_built_from_the_log(tmp_path: Path, seed: int) -> None:
    """Cut short, or a stretch of it overwritten: what one lost write leaves."""
    catalog = Catalog.open(tmp_path / "store", create=True)
    for number in range(4):
        commit_documents(catalog, "some", start=number)
    path, draw = publish(catalog), random.Random(seed)
    questions = [
        "SELECT * FROM snapshots ORDER BY ALL",
        "SELECT * FROM documents ORDER BY ALL",
        "FROM lineage",
        "FROM runs",
    ]
    expected = [sql(catalog, question) for question in questions]
    content = bytearray(path.read_bytes())
    at = draw.randrange(len(content))
    if seed % 2:
        content = content[:at]
    else:
        size = min(4096, len(content) - at)
        content[at : at + size] = draw.randbytes(size)
    path.write_bytes(content)
    assert [sql(Catalog(Store(catalog.store.root)), question) for question in questions] == expected


def test_an_extended_file_is_equal_to_one_built_from_the_log(tmp_path: Path) -> None:
    """Row by row in every table, whatever was published in between."""
    steps = []
    for times in (1, 3, 6):
        catalog = Catalog.open(tmp_path / f"{times}", create=True)
        for number in range(6):
            commit_documents(catalog, f"name-{number % 2}", start=number)
            twice = catalog.snapshot("name-0").contents.shards
            layered = [
                Shard(rows=each.rows, tables={**each.tables, "edges": each.tables["documents"]}) for each in twice
            ]
            catalog.commit("both", Contents(kind="documents", shards=(*twice, *layered)), a_run(f"{number}"))
            if number % times == 0:
                publish(catalog)
        with duckdb.connect(str(publish(catalog)), read_only=True) as plain:
            tables = [name for (name,) in plain.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()]
            hidden = {"published_state", "run_rows"}  # paths and times differ
            steps.append(
                {name: plain.execute(f"FROM {name} ORDER BY ALL").fetchall() for name in tables if name not in hidden}
            )
    assert len(steps[0]) > 8
    assert steps[0] == steps[1] == steps[2], json.dumps([sorted(each) for each in steps])

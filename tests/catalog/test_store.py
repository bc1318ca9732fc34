from __future__ import annotations

import ast
import errno
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from catalog.errors import CorruptStore, TamisError, UsageError
from catalog.store import FileRef, Store

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path):
    if request.param == "s3":
        return Store(request.getfixturevalue("s3_root"))
    return Store(tmp_path if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def put_bytes(store: Store, data: bytes) -> FileRef:
    with store.writing(suffix="bin") as (path, refs):
        path.write_bytes(data)
    return refs[0]


def claim(argument: tuple[str, int, int]) -> list[int]:
    """Numbers of the names that this process created."""
    root, process, names = argument
    store = Store(root)
    return [n for n in range(names) if store.put_if_absent(f"_log/{n}", f"{process}".encode())]


def test_equal_bytes_are_one_file_and_putting_them_twice_changes_nothing(store):
    first, second = put_bytes(store, b"flour"), put_bytes(store, b"flour")
    assert first == second
    assert store.read(first.path) == b"flour"
    assert store.names(first.path.rpartition("/")[0]) == [f"{first.sha256}.bin"]
    assert list(store.scratch().iterdir()) == []


def test_a_put_file_can_be_read_as_a_local_path(store):
    assert store.local(put_bytes(store, b"flour")).read_bytes() == b"flour"


def test_a_missing_file_is_named(store):
    with pytest.raises(CorruptStore, match=r"data/00/nothing\.bin is missing.*tamis verify"):
        store.local(FileRef(path="data/00/nothing.bin", sha256="0" * 64, bytes=1))


def test_put_if_absent_tells_who_created_the_file(store):
    assert store.put_if_absent("_log/1", b"mine")
    assert not store.put_if_absent("_log/1", b"yours")
    assert store.read("_log/1") == b"mine"


def test_replace_writes_over_what_was_there(store):
    store.replace("_log/1", b"one")
    store.replace("_log/1", b"two")
    assert store.read("_log/1") == b"two"


def test_names_are_listed_from_after_a_name_on(store):
    for name in ("a", "b", "c"):
        store.put_if_absent(f"_log/{name}", b"")
    assert sorted(store.names("_log")) == ["a", "b", "c"]
    assert sorted(store.names("_log", after="a")) == ["b", "c"]
    assert store.names("nothing") == store.names("nothing", after="a") == []


def test_a_large_file_travels_to_the_store_and_back(store, tmp_path, monkeypatch):
    data = os.urandom(12 << 20)
    ref = put_bytes(store, data)
    monkeypatch.setenv("TAMIS_CACHE", str(tmp_path / "another machine"))
    assert store.local(ref).read_bytes() == data


def test_where_files_can_not_be_created_only_once_there_is_no_store():
    with pytest.raises(UsageError, match=r"no store on ftp://: expected a folder or s3://, gs://, az://"):
        Store("ftp://example.org/store")


def test_of_eight_threads_exactly_one_creates_each_name(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(claim, [(str(tmp_path), process, 40) for process in range(8)]))
    assert sorted(n for names in won for n in names) == list(range(40))


def test_of_eight_processes_exactly_one_creates_each_name_and_its_bytes_stay(tmp_path):
    with multiprocessing.get_context("fork").Pool(8) as pool:
        won = pool.map(claim, [(str(tmp_path), process, 40) for process in range(8)], chunksize=1)
    owners = {n: process for process, names in enumerate(won) for n in names}
    assert sorted(n for names in won for n in names) == list(range(40))
    assert all(Store(tmp_path).read(f"_log/{n}") == f"{owner}".encode() for n, owner in owners.items())
    assert not list(tmp_path.glob("_log/*.tmp"))


def test_a_full_disk_says_so_and_leaves_no_scratch_file(tmp_path):
    store = Store(tmp_path)

    def fill() -> None:
        with store.writing(suffix="bin") as (path, _):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "no space left on device")

    with pytest.raises(TamisError, match=r"disk of .* is full"):
        fill()
    assert list(store.scratch().iterdir()) == []


def test_a_store_travels_as_its_root(tmp_path):
    assert pickle.loads(pickle.dumps(Store(tmp_path))).root == str(tmp_path)


def test_exclusive_lets_one_thread_in_at_a_time(tmp_path):
    store, inside, most = Store(tmp_path), [0], [0]

    def enter(_: int) -> None:
        with store.exclusive("work/lock"):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            inside[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(200)))
    assert most == [1]


PUTS = """
import os, sys
from catalog.catalog import Catalog
from catalog.run import run
from tests.catalog.planted import Inline, Sprout, Thin
for umask in (0o002, 0o027, 0o077):
    os.umask(umask)
    catalog = Catalog.open(f"{sys.argv[1]}/{umask}", create=True)
    raw = run(Sprout(), into="raw", catalog=catalog, executor=Inline())
    run(Thin(), raw, into="clean", catalog=catalog, executor=Inline())
    with catalog.store.writing(suffix="bin") as (path, _):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # as some libraries make their files
"""


def test_files_and_folders_of_a_store_are_created_with_the_users_umask(tmp_path):
    subprocess.run([sys.executable, "-c", PUTS, str(tmp_path)], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    for umask in (0o002, 0o027, 0o077):
        paths = [tmp_path / str(umask), *(tmp_path / str(umask)).rglob("*")]
        assert {path.suffix for path in paths if path.is_file()} >= {".json", ".parquet", ".duckdb", ".bin"}
        for path in paths:
            allowed = 0o777 if path.is_dir() else 0o666
            assert path.stat().st_mode & 0o777 == allowed & ~umask, path


UNPICKLERS = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unpickles(tree: ast.AST) -> bool:
    """Whether a module imports something that unpickles, or asks numpy or torch to."""
    for node in ast.walk(tree):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imported += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        if UNPICKLERS & {name.partition(".")[0] for name in imported}:
            return True
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            return True
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            return True
    return False


def test_only_what_ray_hands_to_its_workers_is_unpickled():
    packages = ("catalog", "dataops", "training", "clusters")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in files if unpickles(ast.parse(path.read_text()))}
    assert found == {"dataops/executors.py", "dataops/datasets.py"}


def test_reading_a_whole_store_unpickles_nothing(tmp_path):
    code = """
import sys
from pathlib import Path
from catalog.audit import verify
from catalog.catalog import Catalog
from catalog.query import sql
seen = []
sys.addaudithook(lambda event, args: seen.append(args) if event == "pickle.find_class" else None)
catalog = Catalog.open(sys.argv[1])
assert verify(catalog).problems == ()
for view in ("documents", "texts", "decisions", "snapshots", "runs", "lineage"):
    assert sql(catalog, f"SELECT * FROM {view}").num_rows
assert seen == [], seen
import pickle
pickle.loads(pickle.dumps(Path("x")))
assert seen, "the hook sees unpickling"
"""
    shutil.copytree(ROOT / "tests" / "catalog" / "data" / "log_format_1", tmp_path / "store")
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)

"""Object stores: what the tests of log and store, which run on S3 too, don't show."""

from __future__ import annotations

import hashlib
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from catalog import objects
from catalog.catalog import Catalog
from catalog.errors import StorageError, UsageError
from catalog.log import Log
from catalog.objects import Bucket
from catalog.run import run
from catalog.store import Store
from tests.catalog.planted import Inline, Sprout, commit_documents


class OnMachine(Store):
    """The same store as a machine with another cache sees it."""

    def __init__(self, root: str, cache: Path):
        super().__init__(root)
        self._cache = cache

    @property
    def here(self) -> Path:
        return self._cache


def test_of_sixteen_writers_exactly_one_creates_each_object_and_its_bytes_stay(s3_root):
    def claim(writer: int) -> list[int]:
        return [n for n in range(30) if Store(s3_root).put_if_absent(f"_log/{n}", f"{writer}".encode())]

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(claim, range(16)))
    owners = {n: writer for writer, names in enumerate(won) for n in names}
    assert sorted(n for names in won for n in names) == list(range(30))
    assert all(Store(s3_root).read(f"_log/{n}") == f"{owner}".encode() for n, owner in owners.items())


def test_creating_is_one_conditional_request_whatever_was_looked_at_before(s3_root):
    bucket = Bucket("s3")
    path = s3_root.removeprefix("s3://") + "/one"
    bucket.pipe_file(path, b"mine", mode="create")
    with pytest.raises(FileExistsError):
        bucket.pipe_file(path, b"yours", mode="create")
    assert bucket.cat_file(path) == b"mine"
    assert bucket.cat_file(path, start=1, end=3) == b"in"


def test_two_machines_that_make_the_same_run_at_once_commit_it_once(s3_root, tmp_path):
    meet, answers = threading.Barrier(2), []

    class Waiting(Inline):
        def map(self, function, store, tasks):
            meet.wait()  # both have looked, and neither found it
            yield from super().map(function, store, tasks)

    def go(machine: str) -> None:
        catalog = Catalog(OnMachine(s3_root, tmp_path / machine))
        answers.append(run(Sprout(), into="raw", catalog=catalog, executor=Waiting()))

    threads = [threading.Thread(target=go, args=(name,)) for name in ("here", "there")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers[0] == answers[1]
    assert Catalog(Store(s3_root)).sequence == 1


def test_data_files_are_kept_by_the_machine_that_wrote_them_and_fetched_by_others(s3_root, tmp_path):
    ref = commit_documents(Catalog(Store(s3_root)), "raw").contents.shards[0].tables["documents"]
    kept = Store(s3_root).here / ref.path
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == ref.sha256
    fetched = OnMachine(s3_root, tmp_path).local(ref)
    assert fetched == tmp_path / ref.path
    assert fetched.read_bytes() == kept.read_bytes()


def test_a_server_that_does_not_answer_is_one_line_and_no_commit(s3_root, monkeypatch):
    log = Log(Store(s3_root))
    log.append(lambda _: [{"n": 1}])
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setattr(objects, "RETRIES", {"max_retries": 0})
        objects._connected.cache_clear()
        with pytest.raises(
            StorageError, match=r"can't be reached: .*; check the address, the network and .*$"
        ) as error:
            log.append(lambda _: [{"n": 2}])
    assert "\n" not in str(error.value)
    monkeypatch.undo()


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "catalog.objects")
    with pytest.raises(UsageError, match=r"a store on s3:// needs obstore: pip install 'tamis\[s3\]'"):
        Store("s3://bucket/store")

from __future__ import annotations

import errno
import multiprocessing
import pickle
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from catalog.errors import CorruptStore, TamisError
from catalog.store import FileRef, Store


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
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

"""Writes that fail part of the way: what the kernel lets through is cut off at a size, or the disk is full."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from catalog.catalog import Catalog
from catalog.errors import StorageError
from catalog.log import CHECKPOINT_EVERY, Log, checkpoint_name
from catalog.log_check import flaws
from catalog.store import Store
from tests.catalog.planted import commit_documents


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The kernel writes files up to `size` bytes and then refuses (EFBIG), in the middle of a write if need be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def one_before_a_checkpoint(tmp_path_factory):
    root = tmp_path_factory.mktemp("long")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        log = Log(Store(root))
        for number in range(CHECKPOINT_EVERY - 1):
            log.append(lambda _, number=number: [{"number": number}])
    return root


@pytest.mark.parametrize("size", [0, 1, 50, 190])
def test_a_commit_cut_short_at_any_byte_is_a_clear_error_and_no_commit(tmp_path, size):
    log = Log(Store(tmp_path))
    log.append(lambda _: [{"number": 0}])
    with no_file_beyond(size), pytest.raises(StorageError) as error:
        log.append(lambda _: [{"number": 1}])
    assert str(error.value) == f"the disk of {tmp_path} is full: free space and run the same command again"
    assert os.listdir(tmp_path / "_log") == ["000000000001.json"]
    assert list(Store(tmp_path).scratch().iterdir()) == []
    assert log.append(lambda _: [{"number": 2}]).sequence == 2
    assert list(flaws(Store(tmp_path))) == []


@pytest.mark.parametrize("size", [1_000, 100_000, 200_000])
def test_a_checkpoint_cut_short_at_any_byte_costs_nothing_but_itself(one_before_a_checkpoint, tmp_path, size):
    root = tmp_path / "store"
    shutil.copytree(one_before_a_checkpoint, root, copy_function=os.link)
    with no_file_beyond(size):
        commit = Log(Store(root)).append(lambda _: [{"number": CHECKPOINT_EVERY - 1}])
    assert commit.sequence == CHECKPOINT_EVERY
    assert not (root / checkpoint_name(CHECKPOINT_EVERY)).exists()
    assert list(Store(root).scratch().iterdir()) == []
    Log(Store(root)).append(lambda _: [{"number": CHECKPOINT_EVERY}])
    assert (root / checkpoint_name(CHECKPOINT_EVERY)).stat().st_size > 200_000
    assert [commit.actions[0]["number"] for commit in Log(Store(root)).refresh()] == list(range(CHECKPOINT_EVERY + 1))


@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
def test_a_disk_that_fills_at_any_call_leaves_the_store_as_it_was(tmp_path, monkeypatch, call):
    catalog = Catalog.open(tmp_path, create=True)
    commit_documents(catalog, "before")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, no_space)
        with pytest.raises(StorageError, match=r"^the disk of \S+ is full: free space"):
            commit_documents(catalog, "after", start=9)
    assert [each.ref for each in Catalog.open(tmp_path).all_snapshots()] == ["before@1"]
    assert list(Store(tmp_path).scratch().iterdir()) == []
    assert commit_documents(Catalog.open(tmp_path), "after", start=9).ref == "after@1"

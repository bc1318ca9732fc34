from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import CorruptStore, UnreadableFormat
from catalog.log import Log
from catalog.store import Store

ROOT = Path(__file__).parents[2]


def entry(root: Path, sequence: int) -> Path:
    return root / "_log" / f"{sequence:012d}.json"


def written(root: Path, commits: int) -> Log:
    log = Log(Store(root))
    for number in range(commits):
        log.append(lambda _, number=number: [{"number": number}])
    return log


@pytest.fixture(scope="module")
def three_commits(tmp_path_factory):
    root = tmp_path_factory.mktemp("log")
    written(root, 3)
    return root


@pytest.mark.parametrize("scheme", ["local", "memory"])
def test_commits_are_numbered_from_one_and_each_names_its_parents_hash(tmp_path, scheme):
    root = str(tmp_path) if scheme == "local" else f"memory://{uuid.uuid4().hex}"
    log = Log(Store(root))
    for number in range(5):
        log.append(lambda _, number=number: [{"number": number}])
    commits = Log(Store(root)).refresh()
    assert [commit.sequence for commit in commits] == [1, 2, 3, 4, 5]
    assert [commit.parent_sha256 for commit in commits[1:]] == [commit.sha256 for commit in commits[:-1]]
    assert [commit.actions for commit in commits] == [({"number": n},) for n in range(5)]


def test_build_sees_what_won_before_it_is_asked_again(tmp_path):
    log, other, seen = Log(Store(tmp_path)), Log(Store(tmp_path)), []

    def build(commits):
        seen.append(len(commits))
        if len(seen) == 1:
            other.append(lambda _: [{"who": "other"}])
        return [{"who": "us"}]

    assert log.append(build).sequence == 2
    assert seen == [0, 1]


def test_a_token_is_committed_once_whichever_process_tries_and_however_often(tmp_path):
    first = Log(Store(tmp_path)).append_once("wash the sieve", lambda _: [{"n": 1}])
    written(tmp_path, 2)
    asked = []
    again = Log(Store(tmp_path)).append_once("wash the sieve", lambda _: asked.append(1) or [{"n": 2}])
    assert again == first
    assert asked == []
    assert len(Log(Store(tmp_path)).refresh()) == 3


def test_two_logs_that_race_with_one_token_make_one_commit(tmp_path):
    log, other = Log(Store(tmp_path)), Log(Store(tmp_path))

    def build(_):
        other.append_once("mine", lambda _: [{"who": "other"}])
        return [{"who": "us"}]

    assert log.append_once("mine", build).actions == ({"who": "other"},)
    assert len(Log(Store(tmp_path)).refresh()) == 1


@pytest.mark.parametrize("answer", ["refused", "timeout"])
def test_a_lost_answer_is_not_a_second_commit(tmp_path, monkeypatch, answer):
    store = Store(tmp_path)
    create = store.put_if_absent

    def lossy(path, data):
        create(path, data)
        if answer == "timeout":
            raise TimeoutError("no answer")
        return False  # the client library tried twice and its second try met its first

    monkeypatch.setattr(store, "put_if_absent", lossy)
    assert Log(store).append(lambda _: [{"n": 1}]).sequence == 1
    assert len(Log(Store(tmp_path)).refresh()) == 1


def test_a_write_that_failed_is_raised_and_leaves_no_commit(tmp_path, monkeypatch):
    store = Store(tmp_path)
    monkeypatch.setattr(store, "put_if_absent", lambda *_: (_ for _ in ()).throw(TimeoutError("no answer")))
    with pytest.raises(TimeoutError):
        Log(store).append(lambda _: [])
    assert Log(Store(tmp_path)).refresh() == []


@given(sequence=st.integers(1, 3), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_no_byte_of_any_commit_can_change_unseen(three_commits, tmp_path_factory, sequence, place, flip):
    root = tmp_path_factory.mktemp("edited")
    shutil.copytree(three_commits, root, dirs_exist_ok=True)
    path = entry(root, sequence)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)
    with pytest.raises((CorruptStore, UnreadableFormat)):
        Log(Store(root)).refresh()


def test_a_commit_that_was_rewritten_with_a_valid_seal_breaks_the_chain(tmp_path):
    written(tmp_path, 3)
    (tmp_path / "other").mkdir()
    written(tmp_path / "other", 2)
    entry(tmp_path, 2).write_bytes(entry(tmp_path / "other", 2).read_bytes())
    with pytest.raises(CorruptStore, match="does not follow commit 1"):
        Log(Store(tmp_path)).refresh()


@pytest.mark.parametrize("removed", [1, 3, 4])
def test_a_removed_commit_is_named_instead_of_taken_for_the_head(tmp_path, removed):
    written(tmp_path, 5)
    entry(tmp_path, removed).unlink()
    with pytest.raises(CorruptStore, match=rf"_log/{removed:012d}\.json is missing"):
        Log(Store(tmp_path)).refresh()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"format": "x"}', b"\xff"])
def test_a_file_that_is_not_a_commit_is_named(tmp_path, content):
    written(tmp_path, 2)
    entry(tmp_path, 2).write_bytes(content)
    with pytest.raises(CorruptStore, match=r"_log/000000000002\.json"):
        Log(Store(tmp_path)).refresh()


def test_text_that_utf8_cannot_carry_survives_a_commit(tmp_path):
    path = os.fsdecode(b"caf\xe9.jsonl")
    Log(Store(tmp_path)).append(lambda _: [{"path": path}])
    assert Log(Store(tmp_path)).refresh()[0].actions == ({"path": path},)

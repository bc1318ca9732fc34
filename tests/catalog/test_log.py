from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import CorruptStore
from catalog.log import Log
from catalog.store import Store

ROOT = Path(__file__).parents[2]


def commit_many(argument: tuple[str, int, int]) -> None:
    root, process, commits = argument
    log = Log(Store(root))
    for number in range(commits):
        log.append(lambda _, number=number: [{"by": process, "number": number}])


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


def test_four_processes_lose_nothing_double_nothing_and_leave_no_hole(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(commit_many, [(str(tmp_path), process, 25) for process in range(4)], chunksize=1)
    commits = Log(Store(tmp_path)).refresh()
    assert [commit.sequence for commit in commits] == list(range(1, 101))
    made = [(action["by"], action["number"]) for commit in commits for action in commit.actions]
    assert sorted(made) == [(process, number) for process in range(4) for number in range(25)]
    assert all([n for by, n in made if by == process] == list(range(25)) for process in range(4))


def test_build_sees_what_won_before_it_is_asked_again(tmp_path):
    log, other, seen = Log(Store(tmp_path)), Log(Store(tmp_path)), []

    def build(commits):
        seen.append(len(commits))
        if len(seen) == 1:
            other.append(lambda _: [{"who": "other"}])
        return [{"who": "us"}]

    assert log.append(build).sequence == 2
    assert seen == [0, 1]


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
    with pytest.raises(CorruptStore):
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


def test_a_newer_format_asks_for_a_newer_tamis(tmp_path):
    written(tmp_path, 1)
    body = json.loads(entry(tmp_path, 1).read_text())
    entry(tmp_path, 1).write_text(json.dumps({**body, "format": 99}))
    with pytest.raises(CorruptStore, match=r"log format 99, this tamis reads 2: upgrade tamis"):
        Log(Store(tmp_path)).refresh()


def test_text_that_utf8_cannot_carry_survives_a_commit(tmp_path):
    path = os.fsdecode(b"caf\xe9.jsonl")
    Log(Store(tmp_path)).append(lambda _: [{"path": path}])
    assert Log(Store(tmp_path)).refresh()[0].actions == ({"path": path},)


COMMITTER = """
import sys
from catalog.log import Log
from catalog.store import Store
log = Log(Store(sys.argv[1]))
for number in range(100_000):
    commit = log.append(lambda _: [{"by": sys.argv[2], "number": number}])
    print(commit.sequence, number, flush=True)
"""


def test_killed_committers_leave_every_acknowledged_commit(tmp_path):
    dice, acknowledged = random.Random(0), {}
    for kill in range(5):
        committers = [
            subprocess.Popen(
                [sys.executable, "-c", COMMITTER, str(tmp_path / "store"), f"{kill}-{i}"],
                stdout=subprocess.PIPE,
                cwd=ROOT,
                text=True,
            )
            for i in range(2)
        ]
        heads = [committer.stdout.readline() for committer in committers]
        time.sleep(dice.uniform(0.02, 0.2))
        for committer in committers:
            committer.send_signal(signal.SIGKILL)
        for i, committer in enumerate(committers):
            said = heads[i] + committer.communicate()[0]
            for line in said.splitlines(keepends=True):
                if line.endswith("\n"):
                    sequence, number = map(int, line.split())
                    acknowledged[sequence] = (f"{kill}-{i}", number)
    commits = {
        commit.sequence: (commit.actions[0]["by"], commit.actions[0]["number"])
        for commit in Log(Store(tmp_path / "store")).refresh()
    }
    assert len(acknowledged) >= 10
    assert acknowledged.items() <= commits.items()
    assert len(set(commits.values())) == len(commits)

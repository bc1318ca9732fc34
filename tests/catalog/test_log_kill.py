from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from catalog.log import Log
from catalog.log_check import flaws
from catalog.store import Store

ROOT = Path(__file__).parents[2]


def committers(mode: str, root: str, processes: int, times: int) -> tuple[list[tuple[int, str, int]], float]:
    """What committers.py says: (sequence, who, number) of each acknowledged commit, and seconds."""
    program = [sys.executable, str(Path(__file__).with_name("committers.py")), mode, root, str(processes), str(times)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return [(sequence, who, number) for sequence, who, number in said["acknowledged"]], said["seconds"]


def check_survivors(root: str, acknowledged: list[tuple[int, str, int]], *, rounds: int) -> None:
    """Nothing acknowledged is lost, nothing is there twice, and beyond it each committer has one commit at most."""
    commits = Log(Store(root)).refresh()
    made = {(commit.sequence, commit.actions[0]["by"], commit.actions[0]["number"]) for commit in commits}
    assert len(acknowledged) >= rounds
    assert set(acknowledged) <= made
    assert len({(who, number) for _, who, number in made}) == len(commits)
    said, wrote = defaultdict(list), defaultdict(list)
    for _, who, number in acknowledged:
        said[who].append(number)
    for _, who, number in sorted(made):
        wrote[who].append(number)
    for who, numbers in wrote.items():
        assert numbers == list(range(len(numbers)))
        assert len(numbers) - len(said[who]) in (0, 1)
    assert list(flaws(Store(root))) == []
    assert all(re.fullmatch(r"[0-9]{12}\.jsonl?", name) for name in Store(root).names("_log"))


def root_at(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if place == "disk" else request.getfixturevalue("s3_root")


@pytest.mark.parametrize(
    ("place", "rounds"),
    [
        ("disk", 20),
        ("s3", 4),
        pytest.param("disk", 200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
        pytest.param("s3", 200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_killed_committers_lose_nothing_acknowledged_and_leave_no_half_commit(request, tmp_path, place, rounds):
    root = root_at(place, request, tmp_path)
    acknowledged, _ = committers("kill", root, 4, rounds)
    check_survivors(root, acknowledged, rounds=rounds)
    print(f"{place}: {rounds} kills of four committers, {len(acknowledged):,} commits acknowledged, 0 lost")
    store = Store(root)
    store.sweep()
    assert list(store.scratch().iterdir()) == []


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_eight_processes_at_once_lose_nothing_double_nothing_and_leave_no_hole(request, tmp_path, place):
    root = root_at(place, request, tmp_path)
    acknowledged, _ = committers("race", root, 8, 25)
    assert sorted(sequence for sequence, _, _ in acknowledged) == list(range(1, 201))
    commits = Log(Store(root)).refresh()
    made = {(commit.sequence, commit.actions[0]["by"], commit.actions[0]["number"]) for commit in commits}
    assert made == set(acknowledged)
    assert all([n for _, by, n in sorted(made) if by == str(who)] == list(range(25)) for who in range(8))

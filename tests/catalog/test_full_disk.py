"""A disk that is really full: a small one is mounted where only the program that fills it sees it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOUNT = 'mount -t tmpfs -o size=24m none "$1" && shift && exec "$@"'
FULL = "StorageError: the disk of {}/store is full: free space and run the same command again"


def on_small_disk(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh", str(folder)]
    return subprocess.run([*alone, *command], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder that is a disk of 24 MB to `on_small_disk`."""
    if on_small_disk(tmp_path, "true").returncode:
        pytest.skip("a small disk can't be mounted here: it takes user namespaces, or root")
    return tmp_path


def check(disk: Path, *rooms: str) -> list[bool]:
    """Which runs were done with the room that they had."""
    done = on_small_disk(disk, sys.executable, "-m", "tests.catalog.full_disk", str(disk), *rooms)
    assert done.returncode == 0, done.stderr
    *lines, seen = map(json.loads, done.stdout.splitlines())
    assert [line["name"] for line in lines] == ["shard", "commit", "publish", *rooms]
    assert {line["said"] for line in lines} <= {FULL.format(disk), "done"}
    assert [line["said"] == "done" for line in lines[:3]] == [False] * 3
    assert [line["committed"] for line in lines[:3]] == [1, 1, 2], "nothing is half there"
    assert [line["problems"] for line in lines] == [line["wrong"] for line in lines] == [[]] * len(lines)
    assert seen == ["first", "alias", *rooms], "what was refused is there once there is space"
    return [line["said"] == "done" for line in lines[3:]]


def test_a_full_disk_is_one_line_and_what_it_stopped_is_done_when_space_is_freed(disk: Path) -> None:
    assert check(disk, "0-0", "1-1", "4-0") == [False, False, True]


@pytest.mark.slow
def test_a_run_that_finds_the_disk_full_at_any_point_leaves_the_store_sound(disk: Path) -> None:
    """From no room at all to a published file that is copied and can't be extended."""
    rooms = [f"0-{pages}" for pages in (0, 1, 2, 4, 8, *range(12, 44, 2), 64, 256)]
    rooms += [f"1-{pages}" for pages in (0, 1, 2, 4, *range(8, 40, 4))]
    done = check(disk, *rooms, "4-0")
    assert done.count(False) > 20
    assert done[-1]

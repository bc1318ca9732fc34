"""The command line where something is wrong: one line, and an exit status."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from clusters.commands import looking
from tests.clusters.conftest import Tamis
from tests.conftest import Curated


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "No such command 'nothing'; see `tamis --help`"),
        (("show",), "Missing argument 'reference'; see `tamis show --help`"),
        (("ls", "--what"), "No such option: --what; see `tamis ls --help`"),
        (
            ("verify", "--workers", "0"),
            "Invalid value for '--workers': Input should be greater than or equal to 1, given '0'; "
            "see `tamis verify --help`",
        ),
        (
            ("specialize", "--trunk", "abc", "--pool", "p", "--target", "t", "--out", "o"),
            "Invalid value for '--trunk': Input should be a valid number, unable to parse string as a number, "
            "given 'abc'; see `tamis specialize --help`",
        ),
    ],
)
def test_a_command_line_that_means_nothing_is_one_line(tamis: Tamis, arguments: tuple[str, ...], said: str) -> None:
    answer = tamis(*arguments)
    assert (answer.status, answer.out, answer.err) == (2, "", f"tamis: {said}\n")


def test_no_command_at_all_is_help(tamis: Tamis) -> None:
    answer = tamis()
    assert answer.status == 2
    assert "Usage: tamis" in answer.out + answer.err


def test_a_full_disk_outside_the_store_is_one_line(
    tamis: Tamis, curated: Curated, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(looking, "print_sql", full)
    answer = tamis("ls", "--store", curated.store)
    assert (answer.status, answer.out) == (1, "")
    assert answer.err == "tamis: the disk is full: free space and run the same command again\n"


def test_a_ray_that_does_not_answer_is_one_line(tamis: Tamis, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(looking, "print_sql", unreachable)
    answer = tamis("ls")
    assert answer.status == 1
    assert answer.err == (
        "tamis: RAY_ADDRESS is auto: no Ray answers there; start one (`ray start --head`) or unset the variable\n"
    )


IN_THE_WAY = "a file is in the way, expected a folder"


def test_a_folder_that_can_not_be_made_is_one_line(tamis: Tamis, curated: Curated, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = tamis("run", curated.recipe, "--store", tmp_path / "file" / "store", "--executor", "local")
    assert (answer.status, answer.out, answer.err) == (1, "", f"tamis: {tmp_path}/file/store/_log: {IN_THE_WAY}\n")

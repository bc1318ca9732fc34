"""Everything that one does with a store, on S3: the same recipe gives the same ids, and the same commands answer."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from typing import Any

import pytest

from catalog.catalog import Catalog
from catalog.query import sql
from clusters import cli
from clusters.console import Console
from clusters.recipes import Recipe, load
from clusters.runner import run_recipe
from tests.conftest import Curated

NAMES = ("pool", "pool-unique", "pool-dedup", "pool-quality")


@pytest.fixture
def bucket_store(curated: Curated, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store on S3 with the curation of the pool, and the one that commands look at."""
    entries = tuple(entry for entry in load(curated.recipe).entries if entry.name in NAMES)
    run_recipe(Recipe(entries=entries), store=s3_root, executor="local", workers=2, console=Console(quiet=True))
    monkeypatch.setenv("TAMIS_STORE", s3_root)
    return s3_root


@pytest.fixture
def tamis(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Callable[..., str]:
    """What a command prints; it must end with status 0."""

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["tamis", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        assert not end.value.code, err
        return str(out)

    return call


def test_a_recipe_gives_the_ids_that_it_gives_on_a_disk(curated: Curated, bucket_store: str) -> None:
    ids = {each.ref: each.id for each in Catalog.open(bucket_store).all_snapshots()}
    assert ids == {f"{name}@1": curated.catalog.snapshot(name).id for name in NAMES}


def test_commands_answer_from_a_bucket(curated: Curated, bucket_store: str, tamis: Callable[..., str]) -> None:
    assert all(f"{name}@1" in tamis("ls") for name in NAMES)
    assert "documents" in tamis("show", "pool-dedup")
    assert "pool@1" in tamis("log", "pool-dedup")
    assert "near-duplicate" in tamis("explain", curated.ids["near"])
    assert tamis("verify").startswith("4 commits, 4 snapshots, ")
    question = "SELECT rule, count(*) AS n FROM decisions WHERE NOT kept GROUP BY rule ORDER BY rule"
    rows = [json.loads(line) for line in tamis("sql", question, "--format", "json").splitlines()]
    refs = ", ".join(f"'{name}@1'" for name in NAMES)
    of_disk = sql(curated.catalog, question.replace("GROUP", f"AND snapshot IN ({refs}) GROUP"))
    assert rows == of_disk.to_pylist()


def test_another_machine_needs_nothing_but_the_address(
    bucket_store: str, tamis: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    before = tamis("sql", "SELECT id, text FROM texts ORDER BY id", "--format", "csv")
    monkeypatch.setenv("TAMIS_CACHE", str(tmp_path / "another machine"))
    assert tamis("sql", "SELECT id, text FROM texts ORDER BY id", "--format", "csv") == before
    shutil.rmtree(tmp_path / "another machine")
    assert "pool@1" in tamis("ls")

"""Everything that one does with a store, on S3: the same recipe gives the same ids, and the same commands answer."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.catalog import Catalog
from catalog.query import sql
from catalog.store import Store
from clusters import cli
from clusters.console import Console
from clusters.recipes import Recipe, load
from clusters.runner import run_recipe
from tests.conftest import Curated
from tests.s3 import Server

NAMES = ("pool", "pool-unique", "pool-dedup", "pool-quality")


@pytest.fixture(scope="module")
def bucket_store(curated: Curated, s3_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store on S3 with the curation of the pool, and the one that commands look at. It is only read."""
    root = f"s3://{s3_server.new_bucket()}/some/store"
    with pytest.MonkeyPatch.context() as patch:
        cache = str(tmp_path_factory.mktemp("cache"))
        for name, value in {**s3_server.environment, "TAMIS_STORE": root, "TAMIS_CACHE": cache}.items():
            patch.setenv(name, value)
        entries = tuple(entry for entry in load(curated.recipe).entries if entry.name in NAMES)
        run_recipe(Recipe(entries=entries), store=root, executor="local", workers=2, console=Console(quiet=True))
        yield root


@pytest.fixture
def copied(curated: Curated, s3_root: str, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """The curated store, copied into a bucket, and the one that commands look at."""
    store = Store(s3_root)
    for path in [*curated.store.glob("_log/*"), *curated.store.glob("data/*/*")]:
        store.fs.put_file(str(path), store.at(str(path.relative_to(curated.store))))
    monkeypatch.setenv("TAMIS_STORE", s3_root)
    return Catalog(store)


def objects(store: Store) -> dict[str, bytes]:
    """Everything in a bucket's store, by its path there."""
    found = store.fs.find(store.at(""))
    return {path.removeprefix(store.at("")): store.fs.cat_file(path) for path in found}


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


def test_gc_deletes_objects_of_expired_versions_and_their_copies_here(
    copied: Catalog, tamis: Callable[..., str]
) -> None:
    packs = copied.snapshot("target-packs")
    gone = {ref.path for ref in copied.files_of(packs)}
    for each in copied.live():
        if each.ref != packs.ref:
            gone -= {ref.path for ref in copied.files_of(each)}
    copies = [copied.store.local(shard.tables["pack"]) for shard in packs.contents.shards]
    before = set(objects(copied.store))
    assert gone < before
    assert "would go" in tamis("gc", "--expire", packs.ref, "--grace", "0s", "--dry-run")
    assert set(objects(copied.store)) == before
    tamis("gc", "--expire", packs.ref, "--grace", "0s")
    after = set(objects(copied.store))
    assert before - after == gone
    assert not any(path.exists() for path in copies)
    assert "no problems" in tamis("verify")


@pytest.mark.slow
def test_after_a_takedown_and_gc_no_object_and_no_copy_here_has_the_text(
    curated: Curated, copied: Catalog, tamis: Callable[..., str]
) -> None:
    (text,) = sql(copied, "SELECT text FROM texts WHERE id = ? LIMIT 1", [curated.ids["good-5"]])["text"].to_pylist()
    needles = {" ".join(text.split()[at : at + 6]).encode() for at in (5, 20)}

    def holders() -> set[str]:
        here = {str(path): path.read_bytes() for path in copied.store.here.rglob("*") if path.is_file()}
        files = {**objects(copied.store), **here}
        return {name for name, data in files.items() if any(each in plain(data) for each in needles)}

    for shard in copied.snapshot("pool").contents.shards:
        copied.store.local(shard.tables["documents"])
    assert len(holders()) >= 2, "an object, and the copy of it here"
    printed = tamis("takedown", "--id", curated.ids["good-5"], "--reason", "the author asked")
    assert "1 documents suppressed" in printed
    tamis("gc", "--grace", "0s")
    assert holders() == set()
    assert "no problems" in tamis("verify")
    assert sql(copied.refresh(), "SELECT id FROM taken_down")["id"].to_pylist() == [curated.ids["good-5"]]


def plain(data: bytes) -> bytes:
    """What a file says once decompressed."""
    if not data.startswith(b"PAR1"):
        return data
    return str(pq.read_table(pa.BufferReader(data)).to_pydict()).encode()

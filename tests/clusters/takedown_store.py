"""A store to take documents down from, and the commands that do it: for the tests of what a takedown does and meets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
from typer.testing import CliRunner

from catalog.catalog import Catalog
from catalog.run import run
from catalog.tables import read_live
from clusters.cli import app
from dataops.executors import LocalExecutor
from dataops.ingest import Ingest
from tests.conftest import Curated

HERE = LocalExecutor(workers=2)


def with_copies(curated: Curated, folder: Path) -> Catalog:
    """The curated store in a folder, where a file repeats the document to be taken down, once cut short."""
    shutil.copytree(curated.store, folder / "store")
    catalog = Catalog.open(folder / "store")
    text = secret(catalog)["text"]
    lines = [json.dumps({"text": text, "url": "https://elsewhere.example/copy"}), json.dumps({"text": text})[:150]]
    lines.insert(1, json.dumps({"text": "A page of its own, which stays where it is."}))
    (folder / "more.jsonl").write_text("\n".join(lines))
    again(catalog, folder)
    return catalog


def again(catalog: Catalog, folder: Path):
    """Ingest the file that repeats the document."""
    step = Ingest(paths=(str(folder / "more.jsonl"),), url_column="url")
    return run(step, into="more", catalog=catalog, executor=HERE)


def secret(catalog: Catalog, name: str = "target-train") -> dict:
    """The longest document of a snapshot. Of `target`, a pool document quotes the first sixty words."""
    snapshot, columns = catalog.snapshot(name), ["id", "content", "text"]
    shards, layers = snapshot.contents.shards, snapshot.contents.layers
    rows = [row for shard in shards for row in read_live(catalog.store, shard, layers, columns).to_pylist()]
    return max(rows, key=lambda row: len(row["text"]))


def invoke(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, f"{arguments}: {result.exception!r}\n{result.output}"
    return result.stdout


def take_down(folder: Path, *, named: str) -> str:
    return invoke("takedown", "--id", named, "--reason", "the author asked", "--store", str(folder / "store"))


def live_ids(catalog: Catalog, snapshot) -> list[str]:
    layers = snapshot.contents.layers
    tables = [read_live(catalog.store, shard, layers, ["id"]) for shard in snapshot.contents.shards]
    return pa.concat_tables(tables)["id"].to_pylist()

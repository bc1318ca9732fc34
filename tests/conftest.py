"""What tests of several packages look at: a small store with everything up to packs, servers, a Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from tests.elsewhere import Elsewhere, started
from tests.s3 import Server, serving

# threads of torch that wait for each other give their core away: a third of the processor time where cores are shared
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An S3 server that this session started."""
    with serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Ray with two CPUs in this process, once for all tests that need one."""
    import ray

    from dataops.executors import start_ray

    start_ray(2)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """A process with transformers and without us; its import takes seconds."""
    with started(tmp_path_factory.mktemp("elsewhere")) as process:
        yield process


@pytest.fixture
def s3_root(s3_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store that does not exist yet, in a bucket of its own; processes started now can reach it."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TAMIS_CACHE", str(tmp_path_factory.mktemp("cache")))
    return f"s3://{s3_server.new_bucket()}/some/store"


@dataclass(frozen=True, kw_only=True)
class Curated:
    """The store, the recipe that made it, and the ids of its documents by the names they were planted under."""

    store: Path
    recipe: Path
    ids: dict[str, str]

    @property
    def catalog(self) -> Catalog:
        return Catalog.open(self.store)


def planted_rows() -> tuple[list[dict], list[dict]]:
    """Pool and target: 48 and 30 good documents; repeats, near-repeats, short ones and one that quotes the target."""
    from tests.dataops.conftest import TOPICS, prose, topic_rows

    target = [{"id": f"target-{i}", "text": row["text"]} for i, row in enumerate(topic_rows({"topic-0": 30}, seed=5))]
    target.append({"id": "target-copy", "text": target[3]["text"] + " again"})
    pool = [
        {"id": f"good-{i}", "text": row["text"], "url": f"https://example.org/{i}"}
        for i, row in enumerate(topic_rows(dict.fromkeys(TOPICS, 12), seed=6))
    ]
    long = prose(71, 200)
    words = long.split()
    quoted = " ".join(max((row["text"] for row in target), key=len).split()[:60])
    pool += [
        {"id": "kept", "text": long + " longest"},
        {"id": "near", "text": " ".join([*words[:50], "replaced", *words[51:]])},
        {"id": "repeat", "text": pool[0]["text"]},
        {"id": "short", "text": "too few words"},
        {"id": "quotes", "text": f"{prose(72, 150)} {quoted}"},
    ]
    return pool, target


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    """Curation and selection of the main job on planted rows. Read it; copy the folder to change it."""
    from catalog.query import sql
    from clusters.console import Console
    from clusters.recipes import Recipe
    from clusters.runner import run_recipe
    from clusters.specialize import Request, recipe_for

    folder = tmp_path_factory.mktemp("curated")
    for name, rows in zip(("pool", "target"), planted_rows(), strict=True):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"url": None, **row}) + "\n" for row in rows))
    request = Request(
        pool=(str(folder / "pool.jsonl"),),
        target=(str(folder / "target.jsonl"),),
        tokens=4_000,
        cells=4,
        context=64,
        vocab_size=512,
        columns={"id_column": "id", "url_column": "url"},
    )
    entries = recipe_for(request).entries
    last = [entry.name for entry in entries].index("target-packs")
    recipe = Recipe(entries=entries[: last + 1])
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    run_recipe(recipe, store=str(folder / "store"), executor="local", workers=2, console=Console(quiet=True))
    catalog = Catalog.open(folder / "store")
    rows = sql(catalog, "SELECT DISTINCT source_id, id FROM documents WHERE snapshot IN ('pool@1', 'target@1')")
    ids = {row["source_id"]: row["id"] for row in rows.to_pylist()}
    return Curated(store=folder / "store", recipe=folder / "recipe.yaml", ids=ids)

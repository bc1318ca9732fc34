"""Executors decide where tasks run and never what they answer."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.run import Executor, Receipt, Task, TaskFunction, run
from catalog.snapshot import Snapshot
from catalog.store import Store
from dataops.cells import FitCells
from dataops.datasets import to_ray
from dataops.exact import ExactDedup
from dataops.executors import DATASET_FROM_GROUPS, MOST_TOGETHER, RAY_FROM_BYTES, LocalExecutor, RayExecutor, executor
from dataops.fuzzy import FuzzyDedup
from dataops.ingest import Ingest
from dataops.quality import QualityFilter
from dataops.tokenize import Tokenize, TrainTokenizer
from tests.dataops.conftest import prose


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """80 documents, with repeats and near-repeats, in files of different sizes."""
    folder = tmp_path_factory.mktemp("source") / "pool"
    folder.mkdir()
    texts = [prose(seed, 60 + seed) for seed in range(60)]
    texts += texts[:10] + [f"{text} and one more end" for text in texts[40:50]]
    random.Random(1).shuffle(texts)
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text)
    return str(folder)


def chain(source: str, catalog: Catalog, on: Executor) -> list[Snapshot]:
    """From files to cells."""

    def made(step, name: str, *inputs: Snapshot) -> Snapshot:  # type: ignore[no-untyped-def]
        return run(step, *inputs, into=name, catalog=catalog, executor=on)

    raw = made(Ingest(paths=(source,), shard_bytes=90_000), "raw")
    unique = made(ExactDedup(), "unique", raw)
    dedup = made(FuzzyDedup(), "dedup", unique)
    clean = made(QualityFilter(), "clean", dedup)
    tokenizer = made(TrainTokenizer(vocab_size=300), "tokenizer", clean)
    tokens = made(Tokenize(), "tokens", clean, tokenizer)
    cells = made(FitCells(context=32, cells=4, dimension=8, buckets=1 << 10), "cells", tokens)
    return [raw, unique, dedup, clean, tokenizer, tokens, cells]


@pytest.fixture(scope="module")
def truth(source: str, tmp_path_factory: pytest.TempPathFactory) -> list[Snapshot]:
    catalog = Catalog.open(tmp_path_factory.mktemp("truth") / "store", create=True)
    return chain(source, catalog, LocalExecutor(workers=1))


def test_the_chain_does_something_in_several_shards(truth: list[Snapshot]) -> None:
    raw, unique, dedup, *_ = truth
    assert len(raw.contents.shards) > 2
    assert raw.contents.rows > unique.contents.rows > dedup.contents.rows > 50


@pytest.mark.parametrize("workers", [2, 7])
def test_any_number_of_local_workers_gives_the_same_ids(
    truth: list[Snapshot], source: str, tmp_path: Path, workers: int
) -> None:
    made = chain(source, Catalog.open(tmp_path / "store", create=True), LocalExecutor(workers=workers))
    assert [each.id for each in made] == [each.id for each in truth]
    assert [each.contents for each in made] == [each.contents for each in truth]


@dataclass
class Killed:
    """Runs tasks here and stops for good after `tasks` of them; remembers what it ran."""

    on_ray: ClassVar[bool] = False
    workers: int = 1
    tasks: int = 10**9
    ran: list[str] = field(default_factory=list)

    def map(self, function: TaskFunction, store: Store, tasks: Sequence[Task]) -> Iterator[tuple[int, Receipt]]:
        for index, task in enumerate(tasks):
            if len(self.ran) == self.tasks:
                raise KeyboardInterrupt
            self.ran.append(function.__name__)
            yield index, function(store, task)


def test_a_chain_killed_anywhere_goes_on_without_doing_a_finished_task_again(
    truth: list[Snapshot], source: str, tmp_path: Path
) -> None:
    straight = Killed()
    chain(source, Catalog.open(tmp_path / "straight", create=True), straight)
    ran: list[str] = []
    for tasks in (1, 3, 5, 7, 2, 4, 6, 8, 1, 1, 5, 9, 10**9):
        killed = Killed(tasks=tasks)
        try:
            made = chain(source, Catalog.open(tmp_path / "store", create=True), killed)
        except KeyboardInterrupt:
            made = []
        ran += killed.ran
    assert [each.id for each in made] == [each.id for each in truth]
    assert sorted(ran) == sorted(straight.ran)


def echo(store: Store, task: Task) -> Receipt:
    return dict(task)


def refuse(_: Store, task: Task) -> Receipt:
    """A task that finds something wrong with what was asked."""
    if task["number"] == 2:
        raise UsageError("shard 2 is not what it should be")
    return {"number": task["number"]}


@pytest.mark.parametrize("workers", [1, 3])
def test_the_error_of_a_task_is_the_error_of_the_stage(tmp_path: Path, workers: int) -> None:
    with pytest.raises(UsageError, match=r"^shard 2 is not what it should be$"):
        list(LocalExecutor(workers=workers).map(refuse, Store(tmp_path), [{"number": i} for i in range(5)]))


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_answers_once_under_its_own_number(tmp_path: Path, workers: int) -> None:
    tasks = [{"number": i + 10} for i in range(20)]
    found = dict(LocalExecutor(workers=workers).map(refuse, Store(tmp_path), tasks))
    assert found == {i: {"number": i + 10} for i in range(20)}


def test_auto_takes_ray_for_large_inputs_for_training_and_where_a_cluster_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert executor("auto", workers=3, num_bytes=RAY_FROM_BYTES - 1) == LocalExecutor(workers=3)
    assert executor("auto", workers=3, num_bytes=RAY_FROM_BYTES) == RayExecutor(workers=3)
    assert executor("local", workers=3, num_bytes=RAY_FROM_BYTES) == LocalExecutor(workers=3)
    assert executor("ray", workers=3, num_bytes=0) == RayExecutor(workers=3)
    assert executor("auto", workers=3, num_bytes=0, trains=True) == RayExecutor(workers=3)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert executor("auto", workers=3, num_bytes=0) == RayExecutor(workers=3)


def test_an_unknown_executor_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="no executor 'spark': expected local, ray or auto"):
        executor("spark", workers=1, num_bytes=0)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ray_gives_the_same_ids_as_this_process(
    truth: list[Snapshot], source: str, tmp_path: Path, workers: int
) -> None:
    made = chain(source, Catalog.open(tmp_path / "store", create=True), RayExecutor(workers=workers))
    assert [each.contents for each in made] == [each.contents for each in truth]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_stage_of_many_tasks_is_a_ray_dataset_and_answers_each_once(tmp_path: Path) -> None:
    tasks = [{"number": number} for number in range(MOST_TOGETHER * DATASET_FROM_GROUPS)]
    answers = dict(RayExecutor(workers=2).map(echo, Store(tmp_path), tasks))
    assert answers == {number: {"number": number} for number in range(len(tasks))}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_the_error_of_a_task_on_ray_is_the_error_of_the_stage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^shard 2 is not what it should be$"):
        list(RayExecutor(workers=2).map(refuse, Store(tmp_path), [{"number": i} for i in range(5)]))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_ray_dataset_has_the_documents_of_the_snapshot(truth: list[Snapshot]) -> None:
    documents = truth[1].documents(["id", "text"])
    rows = to_ray(documents).take_all()
    assert sorted(rows, key=lambda row: row["id"]) == documents.to_arrow().sort_by("id").to_pylist()

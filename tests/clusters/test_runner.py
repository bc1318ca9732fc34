"""Running recipes: in order, only what is missing, and nothing at all when something is wrong."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from catalog.errors import BadInput, UnknownReference, UsageError
from catalog.run import Step, Work, begin
from catalog.snapshot import Snapshot
from clusters.console import Console, describe, duration
from clusters.recipes import Recipe, Stated, load, override
from clusters.runner import _input_bytes, _train_ahead, run_recipe, training_group, validate
from dataops.executors import RayExecutor
from tests.conftest import Curated
from tests.dataops.conftest import prose
from training.jobs import run_folder

PROGRESS = {
    "step": "s",
    "stage": "read",
    "done": 3,
    "total": 12,
    "rows": 4200,
    "unit": "documents",
    "bytes": 12_000_000,
}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "texts").mkdir()
    for i in range(8):
        (tmp_path / "texts" / f"{i}.txt").write_text(prose(i % 5))
    return Recipe(
        entries=(
            Stated(name="pool", step="ingest", settings={"paths": [str(tmp_path / "texts")]}),
            Stated(name="unique", step="exact-dedup", inputs=("pool",)),
            Stated(name="part", step="split", inputs=("unique",), settings={"start": 0.0, "stop": 1.0}),
        )
    )


def lines_of(recipe: Recipe, tmp_path: Path) -> list[str]:
    stream = io.StringIO()
    run_recipe(recipe, store=str(tmp_path / "store"), executor="local", workers=2, console=Console(stream=stream))
    return stream.getvalue().splitlines()


def test_every_entry_becomes_a_snapshot_of_its_name_and_says_what_it_made(recipe: Recipe, tmp_path: Path) -> None:
    lines = lines_of(recipe, tmp_path)
    assert [line.split()[0] for line in lines] == ["pool", "unique", "part"]
    assert "5 documents, 3 dropped" in lines[1]
    assert Catalog.open(tmp_path / "store").snapshot("part").contents.layers == ("exact", "split")


def test_a_recipe_run_again_takes_everything_from_the_catalog(recipe: Recipe, tmp_path: Path) -> None:
    lines_of(recipe, tmp_path)
    before = Catalog.open(tmp_path / "store").sequence
    assert all(line.endswith("[from the catalog]") for line in lines_of(recipe, tmp_path))
    assert Catalog.open(tmp_path / "store").sequence == before


def test_after_a_change_only_what_depends_on_it_runs(recipe: Recipe, tmp_path: Path) -> None:
    lines_of(recipe, tmp_path)
    lines = lines_of(override(recipe, ["part.stop=0.5"]), tmp_path)
    assert [line.endswith("[from the catalog]") for line in lines] == [True, True, False]
    assert [each.version for each in Catalog.open(tmp_path / "store").snapshots["part"]] == [1, 2]


def test_an_entry_reads_what_this_recipe_made_not_the_newest_of_that_name(recipe: Recipe, tmp_path: Path) -> None:
    lines_of(recipe, tmp_path)
    lines_of(override(recipe, ["pool.source=other"]), tmp_path)
    made = run_recipe(
        recipe, store=str(tmp_path / "store"), executor="local", workers=1, console=Console(stream=io.StringIO())
    )
    assert [each.ref for each in made.values()] == ["pool@1", "unique@1", "part@1"]


def test_snapshots_of_the_store_are_inputs_too(recipe: Recipe, tmp_path: Path) -> None:
    lines_of(recipe, tmp_path)
    further = Recipe(entries=(Stated(name="again", step="exact-dedup", inputs=("pool@1",)),))
    assert "5 documents" in lines_of(further, tmp_path)[0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (["part.stop=7"], UsageError, "expected 0 <= start < stop <= 1"),
        (["pool.paths=[/nowhere/at/all.txt]"], BadInput, "/nowhere/at/all.txt"),
        (["pool.text_column=x", "pool.paths=[]"], BadInput, "no input"),
    ],
)
def test_a_recipe_that_is_wrong_anywhere_runs_nothing(
    recipe: Recipe, tmp_path: Path, change: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        lines_of(override(recipe, change), tmp_path)
    assert not (tmp_path / "store").exists()


def test_an_input_that_nobody_makes_is_said_before_anything_runs(recipe: Recipe, tmp_path: Path) -> None:
    wrong = Recipe(entries=(*recipe.entries, Stated(name="x", step="exact-dedup", inputs=("uniqe",))))
    with pytest.raises(UsageError, match="no tamis store at"):
        lines_of(wrong, tmp_path)
    assert not (tmp_path / "store").exists()
    lines_of(recipe, tmp_path)
    before = Catalog.open(tmp_path / "store").sequence
    with pytest.raises(UnknownReference, match="no snapshot named 'uniqe'"):
        lines_of(wrong, tmp_path)
    assert Catalog.open(tmp_path / "store").sequence == before


def test_the_size_that_decides_on_ray_counts_files_in_folders(recipe: Recipe, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in (tmp_path / "texts").iterdir())
    assert _input_bytes(validate(recipe)) == size > 0


def test_neighbouring_trainings_go_together_up_to_the_first_that_needs_one_of_them() -> None:
    entries = (
        Stated(name="a", step="pretrain", inputs=("p",), settings={"tokens": 1}),
        Stated(name="b", step="pretrain", inputs=("p",), settings={"tokens": 2}),
        Stated(name="c", step="finetune", inputs=("p", "v", "a"), settings={"tokens": 1}),
        Stated(name="d", step="pretrain", inputs=("p",), settings={"tokens": 3}),
    )
    steps = validate(Recipe(entries=entries))
    assert [entry.name for entry, _ in training_group(steps, 0, {})] == ["a", "b"]
    made = {"a": None, "b": None}
    assert [entry.name for entry, _ in training_group(steps, 2, made)] == ["c", "d"]  # type: ignore[arg-type]


class Together:
    """A curated store, three entries that train (two of them equal), and a trainer that only notes what it is given."""

    def __init__(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.catalog = Catalog.open(store)
        self.executor = RayExecutor(workers=2)
        self.given: list[list[str]] = []
        entries = [
            Stated(name=name, step="pretrain", inputs=("generic-packs",), settings={"tokens": tokens})
            for name, tokens in (("a", 1), ("b", 2), ("also-a", 1))
        ]
        self.group = validate(Recipe(entries=tuple(entries)))
        monkeypatch.setattr("dataops.executors.start_ray", lambda workers: None)
        monkeypatch.setattr("training.jobs.train_together", self.train)

    def train(self, waiting: list[tuple[Step, Work, list[Snapshot]]]) -> None:
        self.given.append([work.name for _, work, _ in waiting])
        for _, work, _ in waiting:
            finish(work)

    def work(self, number: int) -> Work:
        entry, step = self.group[number]
        packs = self.catalog.snapshot("generic-packs")
        return begin(step, packs, into=entry.name, catalog=self.catalog, executor=self.executor)

    def ahead(self) -> None:
        _train_ahead(self.group, {}, Catalog(self.catalog.store), self.executor, Console(quiet=True))


def finish(work: Work) -> None:
    run_folder(work).mkdir(parents=True)
    (run_folder(work) / "result.json").write_text("{}")


@pytest.fixture
def together(curated: Curated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Together:
    return Together(Path(shutil.copytree(curated.store, tmp_path / "store")), monkeypatch)


def test_equal_entries_of_two_names_are_trained_once_and_finished_ones_not_again(together: Together) -> None:
    together.ahead()
    together.ahead()
    assert together.given == [["a", "b"]]


def test_a_single_entry_is_left_to_its_own_run(together: Together) -> None:
    finish(together.work(1))
    together.ahead()
    assert together.given == []


def test_of_two_processes_that_train_ahead_one_works_and_the_other_waits_for_its_locks(together: Together) -> None:
    other = threading.Thread(target=together.ahead)
    with together.work(0).exclusive():  # the lock of one of the runs is enough to keep the other process out
        other.start()
        other.join(0.5)
        assert other.is_alive()
        finish(together.work(0))
        finish(together.work(1))
    other.join(30)
    assert (other.is_alive(), together.given) == (False, [])


def test_the_shipped_files_of_a_recipe_are_plain_yaml(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(recipe.to_yaml())
    assert json.loads(json.dumps(validate(load(tmp_path / "r.yaml"))[2][0].settings)) == {"start": 0.0, "stop": 1.0}


def test_progress_tells_counts_rate_and_time_left() -> None:
    from catalog.run import StageProgress

    text = describe(StageProgress(**PROGRESS, seconds=3.0))  # type: ignore[arg-type]
    assert text == "read  3/12  4,200 documents  12.0 MB  4.0 MB/s  left 9 s"
    assert [duration(s) for s in (42, 190, 7500)] == ["42 s", "3 min 10 s", "2 h 5 min"]


def test_the_last_line_of_a_step_has_time_and_the_rate_of_what_it_read() -> None:
    from catalog.run import StageProgress

    stream = io.StringIO()
    console = Console(stream=stream)
    console.started("pool")
    console.stage(StageProgress(**PROGRESS, seconds=3.0))  # type: ignore[arg-type]
    console.done("7 documents", reused=False)
    console.started("packs")
    console.done("3 rows", reused=False)
    first, second = stream.getvalue().splitlines()
    assert re.fullmatch(r"  pool +7 documents  \[0\.0 s, [0-9.]+ MB/s\]", first)
    assert second.endswith("3 rows  [0.0 s]")


def test_a_stream_that_is_no_terminal_gets_whole_lines_and_a_quiet_console_none() -> None:
    from catalog.run import StageProgress

    for quiet in (False, True):
        stream = io.StringIO()
        console = Console(stream=stream, quiet=quiet)
        console.started("pool")
        console.stage(StageProgress(**PROGRESS, seconds=3.0))  # type: ignore[arg-type]
        console.done("7 documents", reused=True)
        expected = "" if quiet else f"  {'pool':<18} 7 documents  [from the catalog]\n"
        assert stream.getvalue() == expected

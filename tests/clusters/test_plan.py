"""A plan of a small pool: what it says, when it refuses, and that the main job does nothing of it again."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from catalog.catalog import Catalog
from catalog.errors import TamisError, UsageError
from catalog.query import sql
from catalog.snapshot import Snapshot
from clusters.console import Console
from clusters.plan import SHARES, Proxies, check, plan_now, plan_recipe, prepared, proxies_for
from clusters.plan_report import Report, _speeds, leaks_of, report_of, routes_of
from clusters.plan_screen import forecast_of, plan_screen, prediction_lines
from clusters.recipes import Recipe, override, validate
from clusters.runner import run_recipe
from clusters.specialize import Request, recipe_for, specialize_now
from dataops.kernels.histogram import effective_cells
from tests.clusters.test_specialize import PLAN, SETTINGS, write_texts
from tests.dataops.conftest import TOPICS, prose
from training.config import TrainConfig
from training.steps import Pretrain

SMALL = {**PLAN, "tokens": 4_000}
PROXIES = Proxies(tokens=(1_000, 2_000), params=130_000)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A request, the recipe of the main job that it is about, and what it made."""

    recipe: Recipe
    made: Mapping[str, Snapshot]
    store: Path
    report: Report


def planned_run(recipe: Recipe):
    return next(entry for entry in recipe.entries if entry.name == "specialized")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    folder = tmp_path_factory.mktemp("plan")
    write_texts(folder / "pool", dict.fromkeys(TOPICS, 38), seed=1)
    write_texts(folder / "target", {"topic-0": 60}, seed=2)
    leaked = next((folder / "target").iterdir()).read_text()
    (folder / "pool" / "leaked.txt").write_text(leaked + " again")
    request = Request(pool=(str(folder / "pool"),), target=(str(folder / "target"),), **SMALL)  # type: ignore[arg-type]
    recipe = override(recipe_for(request), SETTINGS)
    store = folder / "store"
    made = run(plan_recipe(recipe, PROXIES), store)[0]
    report = report_of(Catalog.open(store), made, planned_run(recipe), max_params=None, tasks=3, hours=None)
    return Planned(recipe=recipe, made=made, store=store, report=report)


def run(recipe: Recipe, store: Path) -> tuple[dict[str, Snapshot], str]:
    stream = io.StringIO()
    made = run_recipe(
        recipe, store=str(store), executor="local", workers=2, console=Console(stream=stream), check=check
    )
    return made, stream.getvalue()


def test_the_main_job_begins_where_the_plan_ended(planned: Planned, tmp_path: Path) -> None:
    store = Path(shutil.copytree(planned.store, tmp_path / "store"))
    before = Catalog.open(store).runs
    left_out = {"target-only", "validation-scores", "export"}
    entries = [
        dataclasses.replace(entry, inputs=tuple(name for name in entry.inputs if name not in left_out))
        for entry in planned.recipe.entries
        if entry.name not in left_out
    ]
    made, said = run(Recipe(entries=tuple(entries)), store)
    shared = [name for name in made if name in planned.made]
    assert shared[-1] == "target-packs"
    assert [line.split()[0] for line in said.splitlines() if line.endswith("[from the catalog]")] == shared
    new = Catalog.open(store).runs.keys() - before.keys()
    assert len(new) == len(made) - len(shared), "one run for each model and the evaluation, none for the rest"
    catalog = Catalog.open(store)
    assert forecast_of(catalog, made) == planned.made["forecast"]
    lines = prediction_lines(catalog, made)
    assert lines[1].startswith("Predicted by forecast@1")
    summary = planned.made["forecast"].contents.summary
    assert f"predicted {summary['before']['gain']:+.3f} [" in lines[2]
    row = made["test-scores"].contents.summary["comparisons"]
    actual = next(each for each in row if (each["model"], each["baseline"]) == ("specialized-tuned", "generic-tuned"))
    assert f"measured {-actual['difference']:+.3f} [" in lines[3]
    smaller = dict(made, specialized=made["specialized-tuned"])
    assert prediction_lines(catalog, smaller) == [], "a forecast is of one size"


def test_a_plan_made_again_takes_everything_from_the_catalog(planned: Planned) -> None:
    made, said = run(plan_recipe(planned.recipe, PROXIES), planned.store)
    assert made == planned.made
    assert all(line.endswith("[from the catalog]") for line in said.splitlines())


def test_the_report_counts_what_was_planted(planned: Planned) -> None:
    report = planned.report
    assert (report.pool.documents, report.target.documents) == (152, 60)
    assert (report.leaked, report.near_leaked) == (1, 1)
    assert report.validation + report.test < 60
    assert report.selection.outside < 0.2
    assert report.selection.effective_target < report.selection.effective_pool <= report.selection.cells
    assert report.selection.chosen_cells is None, "windows are weighed, not cells"
    assert 0.8 < report.selection.auc <= 1
    assert report.before.gain == pytest.approx(report.pairs[2]["gain"])
    assert [row["tokens"] for row in report.pairs] == [1024, 2048, 4000] * 2
    assert {route.name for route in report.routes} >= {"slm", "slm-is", "slm-pn", "slm-mix", "llm-lora", "slm-d"}
    assert list(report.speeds) == ["small", "mixture", "projected", "large"]
    assert all(speed.flops_per_second > 0 for speed in report.speeds.values())


def test_what_would_take_long_to_measure_is_said_to_be_taken_as_fast_as_the_small_model(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, settings = planned.report, Pretrain(**planned_run(planned.recipe).settings, micro_batch_rows=2)
    trained: list[TrainConfig] = []
    routes = routes_of(planned.made["generic-packs"], settings, max_params=None)
    monkeypatch.setattr(
        "clusters.plan_report.measure", lambda *_, train, **__: trained.append(train) or report.speeds["small"]
    )
    monkeypatch.setattr("clusters.plan_report.is_quick", lambda shape, *_: shape != routes.large)
    speeds = _speeds(Catalog.open(planned.store), planned.made["generic-packs"], routes, settings)
    assert list(speeds) == ["small", "mixture", "projected"]
    assert {each.micro_batch_rows for each in trained} == {2}
    screen = plan_screen(dataclasses.replace(report, speeds=speeds))
    assert "large taken to be as fast as small" in screen
    assert "taken to be as fast" not in plan_screen(report)


def test_leaks_are_counted_where_an_older_snapshot_took_the_same_decisions(planned: Planned) -> None:
    later = dataclasses.replace(planned.made["clean"], name="clean-again")
    assert leaks_of(Catalog.open(planned.store).store, later) == (1, 1)


def test_measured_gains_are_those_of_the_evaluation_and_can_be_asked_in_sql(planned: Planned) -> None:
    rows = sql(Catalog.open(planned.store), "FROM forecasts WHERE measured").to_pylist()
    compared = planned.made["proxy-scores"].contents.summary["comparisons"]
    pairs = {(row["model"], row["baseline"]): -row["difference"] for row in compared}
    wanted = [
        pairs[f"proxy-specialized-{n}{tuned}", f"proxy-generic-{n}{tuned}"] for tuned in ("", "-tuned") for n in (1, 2)
    ]
    assert [row["gain"] for row in rows] == pytest.approx(wanted)


@pytest.mark.parametrize("refused", ["", "no gain can be told; add text"])
def test_a_plan_is_printed_before_it_is_refused(
    planned: Planned, refused: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusters.plan_report.without_gain", lambda **_: refused)
    monkeypatch.setattr("clusters.plan_report._speeds", lambda *_, **__: planned.report.speeds)
    budget = {"max_params": None, "tasks": 3, "hours": None}
    where = {"store": str(planned.store), "executor": "local", "workers": 2}
    with pytest.raises(TamisError, match=refused) if refused else contextlib.nullcontext():
        plan_now(
            planned_run(planned.recipe),
            plan_recipe(planned.recipe, PROXIES),
            **budget,  # type: ignore[arg-type]
            **where,  # type: ignore[arg-type]
            output_format="json",
        )
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(dataclasses.asdict(dataclasses.replace(planned.report, refused=refused))))


def test_the_screen_holds_the_report(planned: Planned) -> None:
    screen = plan_screen(planned.report)
    assert screen == "\n".join(line.rstrip() for line in screen.split("\n"))
    for text in (
        "Leakage: 1 pool document with passages",
        "Gain of resampling",
        "predicted",
        "Cost for 3 tasks",
        "slm-is",
        "Recommended: ",
    ):
        assert text in screen
    refused = dataclasses.replace(planned.report, refused="why")
    assert plan_screen(refused).endswith("Recommended: nothing")


def test_a_pool_with_another_vocabulary_is_refused_before_anything_is_trained(
    planned: Planned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"{a}{b}zq" for a in "bdfglm" for b in "aeiou"]
    store = Path(shutil.copytree(planned.store, tmp_path / "store"))
    (tmp_path / "target").mkdir()
    for number in range(60):
        (tmp_path / "target" / f"{number}.txt").write_text(prose(number, 100, vocabulary=words))
    pool = planned.recipe.entries[0].settings["paths"]
    request = Request(pool=tuple(pool), target=(str(tmp_path / "target"),), **SMALL)  # type: ignore[arg-type]
    recipe = plan_recipe(override(recipe_for(request), SETTINGS), PROXIES)
    with pytest.raises(
        TamisError, match=r"the pool can't help: \d+% of the target's windows .*; add text near"
    ) as refused:
        run(recipe, store)
    assert refused.value.exit_status == 3
    catalog = Catalog.open(store)
    assert len(catalog.snapshots["mixture"]) == 2
    assert len(catalog.snapshots["proxy-generic-1"]) == 1
    capsys.readouterr()
    settings = {"max_params": None, "tasks": 1, "hours": None, "executor": "local", "workers": 2}
    for output_format in ("json", "text"):
        with pytest.raises(TamisError, match="the pool can't help"):
            plan_now(planned_run(planned.recipe), recipe, store=str(store), output_format=output_format, **settings)  # type: ignore[arg-type]
    printed, _, screen = capsys.readouterr().out.partition("\n}\n")
    found = json.loads(printed + "}")
    assert found["refused"] == str(refused.value)
    assert found["selection"]["outside"] > 0.5
    assert found["target"]["documents"] == 60
    assert "of the target's windows are further from their cell" in screen
    assert screen.endswith("Recommended: nothing\n")


def test_a_target_without_documents_to_hold_out_is_refused(planned: Planned) -> None:
    made = {name: planned.made[name] for name in ("target-clean", "validation")}
    check(made)
    small = dataclasses.replace(
        made["validation"], contents=dataclasses.replace(made["validation"].contents, shards=())
    )
    with pytest.raises(TamisError, match="of its 60 clean documents 0 are for validation where at least 8"):
        check({**made, "validation": small})


def test_proxies_are_the_planned_runs_but_for_their_size() -> None:
    request = Request(pool=("p",), target=("t",), tokens=1_600_000, params=8_000_000)
    own = ["generic.learning_rate=0.002", "specialized-tuned.seed=5", "generic.batch_rows=32"]
    recipe = override(recipe_for(request), own)
    proxies = proxies_for(recipe, tokens=(), params=None)
    assert proxies == Proxies(tokens=tuple(1_600_000 // share for share in SHARES), params=2_000_000)
    steps = {entry.name: (entry, step) for entry, step in validate(plan_recipe(recipe, proxies))}
    assert steps["proxy-generic-2"][0].inputs == ("generic-packs",)
    assert steps["proxy-specialized-2-tuned"][0].inputs == ("target-packs", "validation", "proxy-specialized-2")
    one, tuned = steps["proxy-generic-2"][1], steps["proxy-specialized-2-tuned"][1]
    assert (one.tokens, one.params, one.learning_rate) == (400_000, 2_000_000, 0.000707)  # type: ignore[attr-defined]
    assert [steps[f"proxy-generic-{n}"][1].batch_rows for n in (1, 2, 3)] == [2, 4, 8]  # type: ignore[attr-defined]
    assert (tuned.tokens, tuned.seed) == (200_000, 5)  # type: ignore[attr-defined]
    assert (steps["forecast"][1].tokens, steps["forecast"][1].params) == (1_600_000, 8_000_000)  # type: ignore[attr-defined]
    assert "export" not in steps
    with pytest.raises(UsageError, match="3,200,000 tokens and 8,000,000 parameters takes no less compute than the pl"):
        proxies_for(recipe, tokens=(3_200_000,), params=8_000_000)
    with pytest.raises(UsageError, match=r"proxies of \[8, 4\] tokens"):
        Proxies(tokens=(8, 4), params=1)


def test_proxies_are_as_large_as_the_vocabulary_that_was_set_asks_for() -> None:
    request = Request(pool=("p",), target=("t",), tokens=1_600_000, params=2_000_000)
    _, plain = prepared(request, proxy_tokens=(), proxy_params=None, assignments=())
    _, other = prepared(request, proxy_tokens=(), proxy_params=None, assignments=("tokenizer.vocab_size=8192",))
    plain_params, other_params = (
        next(e for e in recipe.entries if e.name == "proxy-generic-1").settings["params"] for recipe in (plain, other)
    )
    assert plain_params == 2_000_000 // 4 < 8192 * 64 < other_params
    with pytest.raises(UsageError, match=r"--proxy-params 100,000 is too small for a vocabulary of 4,096: expected at"):
        prepared(request, proxy_tokens=(), proxy_params=100_000, assignments=())
    with pytest.raises(UsageError, match=r"--params 2,000,000 is too small for a vocabulary of 32,768"):
        prepared(request, proxy_tokens=(), proxy_params=None, assignments=("tokenizer.vocab_size=32768",))


def test_settings_of_the_plans_own_entries_are_set_too() -> None:
    request = Request(pool=("p",), target=("t",), tokens=1_600_000)
    own = ("forecast.seed_error=0.02", "generic.seed=3")
    _, recipe = prepared(request, proxy_tokens=(), proxy_params=None, assignments=own)
    entries = {entry.name: entry.settings for entry in recipe.entries}
    assert (entries["forecast"]["seed_error"], entries["proxy-generic-1"]["seed"]) == (0.02, 3)
    with pytest.raises(UsageError, match=r"--set 'nothing.seed=1': expected name.setting=value"):
        prepared(request, proxy_tokens=(), proxy_params=None, assignments=("nothing.seed=1",))
    with pytest.raises(UsageError, match=r"pretrain: tokens: .*\(given '3e6'\)"):
        prepared(request, proxy_tokens=(), proxy_params=None, assignments=("specialized.tokens=3e6",))


def test_what_may_be_served_is_no_less_than_what_is_planned() -> None:
    request = Request(pool=("p",), target=("t",), tokens=1_600_000, params=8_000_000)
    planned, recipe = prepared(request, proxy_tokens=(), proxy_params=None, assignments=())
    where = {"store": "nowhere", "executor": "local", "workers": 1, "output_format": "text"}
    with pytest.raises(UsageError, match="--max-params 1,000,000 is below the 8,000,000 parameters of the plan"):
        plan_now(planned, recipe, max_params=1_000_000, tasks=1, hours=None, **where)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what is not there")
def test_a_gpu_that_is_not_there_is_said_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text(prose(1))
    some = (str(tmp_path / "some.txt"),)
    request = Request(pool=some, target=some, tokens=1_600_000, device="cuda")
    planned, recipe = prepared(request, proxy_tokens=(), proxy_params=None, assignments=())
    where = {"store": str(tmp_path / "store"), "executor": "local", "workers": 1}
    with pytest.raises(UsageError, match="finds no GPU here"):
        plan_now(planned, recipe, max_params=None, tasks=1, hours=None, output_format="text", **where)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="finds no GPU here"):
        specialize_now(request, out=tmp_path / "out", assignments=(), **where)  # type: ignore[arg-type]
    assert not (tmp_path / "store" / "data").exists()


def test_effective_cells_count_equal_cells_and_weigh_unequal_ones() -> None:
    assert effective_cells([5, 5, 0, 5]) == pytest.approx(3)
    assert 1 < effective_cells([98, 1, 1]) < 1.2

"""The whole way once: from text files to a folder that transformers loads without this project."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.lineage import waterfall
from catalog.query import sql
from catalog.snapshot import Snapshot
from clusters.console import Console
from clusters.origins import WEIGHING
from clusters.recipes import override, validate
from clusters.runner import run_recipe
from clusters.screens import _prompt, continue_text, last_screen, program, suggestions, verdict
from clusters.specialize import Request, _check_parts, recipe_for, training_tokens, write_export
from tests.dataops.conftest import TOPICS, live, prose
from tests.elsewhere import Elsewhere

PLAN = {"tokens": 20_000, "params": 130_000, "vocab_size": 512, "context": 64, "cells": 8}
SETTINGS = [  # a target of 60 documents needs a larger share for validation and test
    "train.stop=0.6",
    "validation.start=0.6",
    "validation.stop=0.8",
    "test.start=0.8",
    "target-train.stop=0.6",
]


@dataclass(frozen=True, kw_only=True)
class Made:
    """The request, what it made, and where it was exported to."""

    request: Request
    snapshots: Mapping[str, Snapshot]
    store: Path
    model: Path


def write_texts(folder: Path, counts: Mapping[str, int], *, seed: int) -> None:
    draw = random.Random(seed)
    folder.mkdir()
    for topic, count in counts.items():
        for i in range(count):
            text = prose(draw.random(), draw.randrange(60, 200), vocabulary=TOPICS[topic])
            (folder / f"{topic}-{i}.txt").write_text(text)


def run_again(request: Request, store: Path) -> tuple[dict[str, Snapshot], str]:
    stream = io.StringIO()
    recipe = override(recipe_for(request), SETTINGS)
    made = run_recipe(recipe, store=str(store), executor="local", workers=2, console=Console(stream=stream))
    return made, stream.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("a place with spaces")
    write_texts(folder / "pool", dict.fromkeys(TOPICS, 38), seed=1)
    write_texts(folder / "target", {"topic-0": 60}, seed=2)
    request = Request(pool=(str(folder / "pool"),), target=(str(folder / "target"),), **PLAN)  # type: ignore[arg-type]
    snapshots, _ = run_again(request, folder / "store")
    model = folder / "out" / "model"
    write_export(Catalog.open(folder / "store"), snapshots["export"], model)
    return Made(request=request, snapshots=snapshots, store=folder / "store", model=model)


def test_transformers_alone_loads_the_export_and_gives_our_logits(made: Made, elsewhere: Elsewhere) -> None:
    from training.folder import read_model

    text = prose(77, 20, vocabulary=TOPICS["topic-0"]) + " naïve 😀 <|endoftext|>"
    theirs = elsewhere.load(made.model, [text])
    (answer,) = theirs["out"]
    assert theirs["class"] == "LlamaForCausalLM"
    assert theirs["end"] == [0, 0]
    assert answer["decoded"].startswith(text.split("<")[0])
    torch.set_num_threads(1)
    tokens = torch.tensor([answer["ids"]])
    with torch.no_grad():
        ours = read_model(made.model, device=torch.device("cpu"))(tokens, torch.zeros_like(tokens))[0]
    np.testing.assert_allclose(np.array(answer["logits"]), ours.float().numpy(), atol=1e-5)


def test_the_second_run_takes_everything_from_the_catalog(made: Made) -> None:
    before = Catalog.open(made.store).sequence
    snapshots, said = run_again(made.request, made.store)
    assert snapshots == made.snapshots
    assert Catalog.open(made.store).sequence == before
    assert all(line.endswith("[from the catalog]") for line in said.splitlines())
    assert len(said.splitlines()) == len(snapshots)


def test_the_export_is_the_model_that_is_best_on_validation(made: Made) -> None:
    results = made.snapshots["validation-scores"].contents.summary["results"]
    best = min(results, key=lambda row: row["bits_per_byte"])
    exported = made.snapshots["export"].contents.summary
    assert (exported["model"], exported["bits_per_byte"]) == (best["model"], best["bits_per_byte"])
    assert len(results) == 5
    assert json.loads((made.model / "config.json").read_text())["vocab_size"] == 512


def test_no_document_of_the_target_is_in_two_parts_and_none_is_in_the_pool(made: Made) -> None:
    rows = sql(
        Catalog.open(made.store),
        """SELECT content, list(DISTINCT snapshot ORDER BY snapshot) AS places FROM documents
        WHERE snapshot IN ('train@1', 'validation@1', 'test@1', 'clean@1') GROUP BY 1""",
    ).to_pylist()
    assert all(len(row["places"]) == 1 for row in rows)
    counted = {name: made.snapshots[name].contents.rows for name in ("train", "validation", "test")}
    assert sum(counted.values()) == made.snapshots["target-tokens"].contents.rows
    assert min(counted.values()) > 0


def test_most_of_what_was_drawn_is_of_the_targets_topic(made: Made) -> None:
    catalog = Catalog.open(made.store)
    shares = {}
    for snapshot in ("clean-cells", "resampled"):
        rows = live(catalog, made.snapshots[snapshot], "text")
        shares[snapshot] = np.mean([row["text"].lower().split()[0] in TOPICS["topic-0"] for row in rows])
    assert shares["clean-cells"] == pytest.approx(0.25, abs=0.05)
    assert shares["resampled"] > 1.5 * shares["clean-cells"]


def test_the_last_screen_has_waterfall_results_sample_and_commands_that_a_shell_runs(
    made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # the environment is not activated
    catalog = Catalog.open(made.store)
    screen = last_screen(catalog, made.snapshots, made.model, store=str(made.store))
    assert "Where the text went\n  ingested " in screen
    assert screen.count("95% interval") == 2
    forgot = re.findall(r"^  (\S+) +(\S+) -> (\S+) bits/byte", screen, re.MULTILINE)
    scored = sql(
        catalog,
        "SELECT model, sum(nll_nats) / ln(2) / sum(n_bytes) AS bits FROM scores "
        "WHERE snapshot = 'pool-scores@1' GROUP BY model",
    ).to_pylist()
    bits = {row["model"]: f"{row['bits']:.4f}" for row in scored}
    assert forgot == [(name, bits[name], bits[f"{name}-tuned"]) for name in ("generic", "specialized")]
    assert f"exported to {made.model}" in screen
    answers = {}
    prompt = _prompt(catalog, made.snapshots["test"])
    for command in suggestions(catalog, made.snapshots, store=str(made.store), prompt=prompt):
        assert command in screen
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), command
        answers[shlex.split(command)[1]] = done.stdout
    assert answers.keys() >= {"sql", "show", "log", "generate"}
    taken = {line.split()[0]: int(line.split()[1]) for line in answers["sql"].splitlines()[2:]}
    losses = waterfall(catalog, made.snapshots["clean"])
    assert taken == {loss.rule: loss.dropped_documents for loss in losses}


def test_a_program_on_the_path_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my env" / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert program() == "'my env/bin/tamis'"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert program() == f"'{tmp_path}/my env/bin/tamis'"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tamis").touch(mode=0o755)
    assert program() == "tamis"


def test_the_store_and_the_exported_folder_continue_a_text_alike(made: Made) -> None:
    name = made.snapshots["export"].contents.summary["model"]
    prompt = prose(5, 8, vocabulary=TOPICS["topic-0"])
    from_store = continue_text(str(made.store), name, prompt, tokens=20, seed=3)
    assert from_store == continue_text(str(made.store), str(made.model), prompt, tokens=20, seed=3)
    assert from_store != continue_text(str(made.store), name, prompt, tokens=20, seed=4)


@pytest.mark.parametrize(
    ("family", "rule"), [("projected", "lowest-loss"), ("soup", "histogram"), ("mixture", "lowest-loss")]
)
def test_a_family_with_experts_adds_a_third_route_that_is_compared_with_the_others(family: str, rule: str) -> None:
    plain = recipe_for(Request(pool=("p",), target=("t",), tokens=1000))
    recipe = recipe_for(Request(pool=("p",), target=("t",), tokens=1000, family=family))
    steps = {entry.name: (entry, step) for entry, step in validate(recipe)}
    assert set(steps) - {entry.name for entry in plain.entries} == {"experts", "expert", "expert-tuned"}
    assert (steps["experts"][1].family, steps["experts"][1].experts) == (family, 32)
    assert steps["expert"][1].expert == rule
    assert steps["expert-tuned"][0].inputs == ("target-packs", "validation", "expert")
    assert {"expert", "expert-tuned"} <= set(steps["pool-scores"][0].inputs)
    for name in ("validation-scores", "test-scores", "export"):
        assert {"expert", "expert-tuned"} <= set(steps[name][0].inputs)
        assert "experts" not in steps[name][0].inputs


def test_decoders_with_a_trunk_read_its_tokens_as_one_and_go_on_by_their_own_packs(made: Made) -> None:
    request = dataclasses.replace(made.request, trunk=0.25)
    snapshots, said = run_again(request, made.store)
    catalog = Catalog.open(made.store)
    settings = {
        name: catalog.runs[snapshots[name].run].parameters for name in ("trunk", "generic", "specialized", "resampled")
    }
    assert {name: each["tokens"] for name, each in settings.items()} == {
        "trunk": 5_000,
        "generic": 15_000,
        "specialized": 15_000,
        "resampled": 15_000,
    }
    assert settings["trunk"]["seed"] != settings["generic"]["seed"] == settings["specialized"]["seed"]
    for name in ("generic", "specialized"):
        assert [each.name for each in catalog.inputs(snapshots[name])] == [f"{name}-packs", "trunk"]
    assert "[from the catalog]" in next(line for line in said.splitlines() if " generic-packs" in line)
    scored = {row["model"] for row in snapshots["test-scores"].contents.summary["results"]}
    assert scored == {"generic", "specialized", "generic-tuned", "specialized-tuned", "target-only"}


def test_a_target_too_small_to_be_judged_by_is_told_before_anything_trains(made: Made) -> None:
    test = made.snapshots["test"]
    empty = dataclasses.replace(test, contents=dataclasses.replace(test.contents, shards=()))
    _check_parts(made.snapshots)
    with pytest.raises(UsageError, match=r"none of the target's 60 clean documents fell into its part for test: give"):
        _check_parts({"target-tokens": made.snapshots["target-tokens"], "test": empty})


def test_few_test_documents_bear_no_verdict() -> None:
    row = {"low": -0.05, "high": -0.05}
    assert verdict(row, documents=1) == "too few documents to tell (1)"
    assert verdict(row, documents=8) == "importance resampling is better"


def test_a_trunk_is_a_share_and_leaves_time_for_more_tokens() -> None:
    given = {"pool": ("p",), "target": ("t",), "minutes": 60.0}
    alone, together = (Request(**given, trunk=trunk) for trunk in (0.0, 0.5))  # type: ignore[arg-type]
    assert training_tokens(together) / training_tokens(alone) == pytest.approx(3.5 / 3, rel=0.01)
    with pytest.raises(UsageError, match="--trunk 1: expected a share of the tokens, 0 to below 1"):
        recipe_for(Request(pool=("p",), target=("t",), trunk=1.0))


def test_a_recurrent_family_takes_the_place_of_both_decoders_and_an_unknown_one_is_refused() -> None:
    steps = {e.name: step for e, step in validate(recipe_for(Request(pool=("p",), target=("t",), family="recurrent")))}
    assert steps["generic"].family == steps["specialized"].family == "recurrent"
    with pytest.raises(UsageError, match="no family 'transformer': expected decoder, recurrent, projected"):
        recipe_for(Request(pool=("p",), target=("t",), family="transformer"))


def test_the_device_that_is_asked_for_trains_every_model_and_an_unknown_one_is_refused() -> None:
    recipe = recipe_for(Request(pool=("p",), target=("t",), family="soup", device="cuda"))
    trained = [step for _, step in validate(recipe) if step.verb in ("pretrain", "finetune")]
    assert [step.device for step in trained] == ["cuda"] * 7
    with pytest.raises(UsageError, match="no device 'tpu': expected cpu, cuda"):
        recipe_for(Request(pool=("p",), target=("t",), device="tpu"))


def test_the_selector_that_is_asked_for_makes_the_mixture_and_an_unknown_one_is_refused() -> None:
    for selector in WEIGHING:
        recipe = recipe_for(Request(pool=("p",), target=("t",), selector=selector))
        steps = {entry.name: step for entry, step in validate(recipe)}
        assert steps["mixture"].verb == selector
    with pytest.raises(UsageError, match="no selector 'dsir': expected weigh, weigh-two-stage"):
        recipe_for(Request(pool=("p",), target=("t",), selector="dsir"))

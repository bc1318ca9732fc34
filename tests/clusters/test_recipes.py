"""Recipes: what is written is read back, what is wrong is said before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from catalog.errors import BadInput, TamisError, UsageError
from clusters.recipes import Recipe, Stated, load, make_step, override, schema, validate
from clusters.registry import INPUTS, STEPS, check_inputs, step_class
from clusters.specialize import Request, recipe_for, training_tokens
from dataops.fuzzy import FuzzyDedup
from dataops.quality import QualityFilter, Rule

PLAN = Request(pool=("/a/pool",), target=("/a/target.jsonl", "/b/été"), tokens=20_000, classify=True)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def one(step: str, *inputs: str, name: str = "x", **settings: object) -> Recipe:
    return Recipe(entries=(Stated(name=name, step=step, inputs=inputs, settings=settings),))


def test_a_recipe_that_is_written_is_read_back(tmp_path: Path) -> None:
    recipe = recipe_for(PLAN)
    read = load(written(tmp_path, recipe.to_yaml()))
    assert validate(read) == validate(recipe)
    assert read.to_yaml() == recipe.to_yaml()


def test_the_recipe_of_the_main_job_is_valid_with_and_without_classification() -> None:
    for classify in (True, False):
        steps = validate(recipe_for(Request(pool=("p",), target=("t",), classify=classify)))
        assert ("classify" in [entry.step for entry, _ in steps]) == classify


def test_settings_become_the_steps_dataclass_nested_ones_too() -> None:
    rules = [{"name": "short", "statistic": "n_words", "low": 5}]
    assert make_step("quality-filter", {"rules": rules}) == QualityFilter(
        rules=(Rule(name="short", statistic="n_words", low=5.0),)
    )
    assert make_step("fuzzy-dedup", {"threshold": 0.7}) == FuzzyDedup(threshold=0.7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [", "is not YAML"),
        ("- name: x", "has no list `steps`; `tamis specialize --print-recipe` writes an example"),
        ("steps: many", "has no list `steps`"),
        ("", "has no list `steps`"),
        ("steps: [pool]", "an entry is 'pool'; expected the keys name, step, and optionally from and with"),
        ("steps: [{name: x}]", "expected the keys name, step"),
        (
            "steps: [{name: x, step: split, into: y}]",
            "the entry 'x' has no key 'into'; its keys: name, step, from, with",
        ),
        ("store: here\nsteps: []", "has no key 'store'; its keys: steps"),
        ("steps: [{name: Pool, step: split}]", "'Pool' can't name a snapshot: use lower-case letters"),
        ("steps: [{name: 7, step: split}]", "7 can't name a snapshot"),
        ("steps: [{name: x, step: [split]}]", "x: step is ['split']; expected the name of a step"),
        ("steps: [{name: x, step: split, from: pool}]", "x: from is 'pool'; expected a list of snapshots"),
        ("steps: [{name: x, step: split, from: [1]}]", "x: from is [1]; expected a list of snapshots"),
        ("steps: [{name: x, step: split, with: [seed]}]", "x: with is ['seed']; expected settings, like {seed: 1}"),
    ],
)
def test_a_file_that_is_no_recipe_says_where_and_what_was_expected(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as error:
        load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_not_text_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"the recipe .*nowhere.yaml can't be read"):
        load(tmp_path / "nowhere.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="can't be read"):
        load(tmp_path / "bytes.yaml")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (one("fuzy-dedup", "a"), "no step 'fuzy-dedup'; did you mean fuzzy-dedup"),
        (
            one("fuzzy-dedup", "a", treshold=1),
            "fuzzy-dedup has no setting 'treshold'; its settings: threshold,",
        ),
        (one("classify", "a", "b", seed=1), "classify has no setting 'seed'; its settings: none"),
        (one("fuzzy-dedup", "a", threshold="high"), "fuzzy-dedup: threshold: Input should be a valid number"),
        (one("fuzzy-dedup", "a", threshold=1.5), "threshold 1.5: expected a Jaccard"),
        (one("split", "a", start=0.5), "split: stop: "),
        (one("train-tokenizer", "a", vocab_size=100), "a vocabulary of 100: expected 257 to 65536"),
        (one("exact-dedup"), "exact-dedup reads documents; it was given 0"),
        (one("weigh", "a", tokens=5), "weigh reads pool target [feedback]; it was given 1"),
        (one("weigh", "a", "b", "c", "d", tokens=5), "weigh reads pool target [feedback]; it was given 4"),
        (one("decontaminate", "a"), "decontaminate reads pool evaluation...; it was given 1"),
        (one("finetune", *"abcde"), "finetune reads packs validation [model] [teacher]; it was given 5"),
        (one("ingest", "a", paths=["x"]), "ingest reads no snapshot; it was given 1"),
        (one("exact-dedup", "x", name="x"), "x reads x, which the recipe makes only later: move it up"),
        (
            Recipe(entries=(*one("exact-dedup", "y").entries, *one("exact-dedup", "a", name="y").entries)),
            "x reads y, which the recipe makes only later: move it up",
        ),
        (one("exact-dedup", "a", name="Pool"), "'Pool' can't name a snapshot: use lower-case letters, digits"),
    ],
)
def test_what_a_recipe_gets_wrong_is_said_in_one_line(recipe: Recipe, message: str) -> None:
    with pytest.raises(UsageError) as error:
        validate(recipe)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_two_entries_of_one_name_are_refused_when_the_file_is_read(tmp_path: Path) -> None:
    twice = "steps: [{name: x, step: ingest}, {name: x, step: exact-dedup, from: [a]}]"
    with pytest.raises(UsageError, match="the recipe names 'x' twice"):
        load(written(tmp_path, twice))


def test_the_steps_that_read_several_snapshots_take_as_many_as_they_say() -> None:
    assert INPUTS.keys() == STEPS.keys()
    for verb, given in (("ingest", 0), ("decontaminate", 2), ("decontaminate", 5), ("finetune", 2), ("finetune", 3)):
        check_inputs(verb, given)


def test_every_verb_names_its_step() -> None:
    for verb in STEPS:
        assert step_class(verb).verb == verb


def test_a_setting_can_be_given_on_the_command_line_and_wins_over_the_file() -> None:
    recipe = one("fuzzy-dedup", "a", threshold=0.9)
    changed = override(recipe, ["x.threshold=0.7", "x.seed=3", "x.threshold=0.75"])
    assert changed.entries[0].settings == {"threshold": 0.75, "seed": 3}
    assert recipe.entries[0].settings == {"threshold": 0.9}
    nested = override(one("quality-filter", "a"), ["x.rules=[{name: s, statistic: n_words, high: 9}]"])
    assert validate(nested)[0][1] == QualityFilter(rules=(Rule(name="s", statistic="n_words", high=9.0),))


@pytest.mark.parametrize("assignment", ["threshold=1", "y.threshold=1", "x.threshold", "x=1", "=", "x.threshold=[1"])
def test_a_setting_that_names_no_entry_or_is_not_yaml_is_refused(assignment: str) -> None:
    with pytest.raises(UsageError, match="--set") as error:
        override(one("fuzzy-dedup", "a"), [assignment])
    assert repr(assignment) in str(error.value)


def test_the_schema_is_json_and_accepts_what_validate_accepts() -> None:
    described = json.loads(json.dumps(schema(), allow_nan=False))
    jsonschema.Draft202012Validator.check_schema(described)
    jsonschema.validate(yaml.safe_load(recipe_for(PLAN).to_yaml()), described)
    rules = one("quality-filter", "a", rules=[{"name": "s", "statistic": "n_words", "low": None, "high": 3}])
    jsonschema.validate(yaml.safe_load(rules.to_yaml()), described)


def test_the_schema_refuses_keys_beside_steps() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"steps": [], "store": "here"}, schema())


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "x", "step": "fuzy-dedup"},
        {"name": "X", "step": "exact-dedup"},
        {"step": "exact-dedup"},
        {"name": "x", "step": "exact-dedup", "into": "y"},
        {"name": "x", "step": "fuzzy-dedup", "with": {"treshold": 0.5}},
        {"name": "x", "step": "fuzzy-dedup", "with": {"threshold": "high"}},
        {"name": "x", "step": "quality-filter", "with": {"rules": [{"name": "s", "statistic": "n_words", "max": 3}]}},
    ],
)
def test_the_schema_refuses_what_load_or_validate_refuses(tmp_path: Path, entry: dict) -> None:
    body = {"steps": [entry]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, schema())
    with pytest.raises(TamisError):
        validate(load(written(tmp_path, yaml.safe_dump(body))))


def test_a_plan_with_too_few_parameters_for_its_vocabulary_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--params 100,000 is too small for a vocabulary of 4,096"):
        recipe_for(Request(pool=("p",), target=("t",), params=100_000))


def test_endless_minutes_are_refused() -> None:
    with pytest.raises(UsageError, match="--minutes inf: expected a number of minutes, or --tokens"):
        recipe_for(Request(pool=("p",), target=("t",), minutes=float("inf")))


def test_more_minutes_are_more_tokens_and_larger_models_get_fewer() -> None:
    def tokens(**request: float) -> int:
        return training_tokens(Request(pool=("p",), target=("t",), **request))  # type: ignore[arg-type]

    assert tokens(minutes=10) == pytest.approx(2 * tokens(minutes=5), rel=0.01)
    assert tokens(params=2_000_000) == pytest.approx(tokens() / 2, rel=0.01)
    assert tokens(tokens=1234) == 1234

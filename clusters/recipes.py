"""Recipes: a YAML file that names steps, their inputs and their settings; running one makes its snapshots in order.

    steps:
      - name: clean           the snapshot it makes
        step: fuzzy-dedup     a verb of clusters.registry
        from: [unique]        names of this recipe, or any snapshot reference of the store
        with: {threshold: 0.8}

Settings are validated into the step's frozen dataclass, so a recipe fails before anything runs. A recipe run again does
only what is missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from catalog.errors import BadInput, UsageError
from catalog.run import Step
from catalog.snapshot import NAME, Snapshot
from clusters.registry import STEPS, check_inputs, step_class


@dataclass(frozen=True, kw_only=True)
class Stated:
    """One entry of a recipe, not validated yet."""

    name: str
    step: str
    inputs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def stated(name: str, step: str, *inputs: str, **settings: Any) -> Stated:
    """An entry in one line."""
    return Stated(name=name, step=step, inputs=inputs, settings=settings)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Entries in the order they run. Raises UsageError for two of one name."""

    entries: tuple[Stated, ...]

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"the recipe names {name!r} twice; every entry makes its own snapshot")

    def to_yaml(self) -> str:
        """The file that `load` reads back."""
        steps = []
        for entry in self.entries:
            body: dict[str, Any] = {"name": entry.name, "step": entry.step}
            if entry.inputs:
                body["from"] = list(entry.inputs)
            if entry.settings:
                body["with"] = dict(entry.settings)
            steps.append(body)
        return yaml.safe_dump({"steps": steps}, sort_keys=False, allow_unicode=True, width=120)


def load(path: Path) -> Recipe:
    """Read a recipe file. Raises BadInput or UsageError naming the entry that is wrong."""
    try:
        body = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BadInput(f"the recipe {path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"the recipe {path} can't be read: it is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise BadInput(f"the recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if isinstance(body, dict):
        _check_keys(body, ("steps",), f"the recipe {path}")
    if not isinstance(body, dict) or not isinstance(body.get("steps"), list):
        raise BadInput(f"the recipe {path} has no list `steps`; `tamis specialize --print-recipe` writes an example")
    return Recipe(entries=tuple(_read(entry, path) for entry in body["steps"]))


def _read(entry: Any, path: Path) -> Stated:
    if isinstance(entry, dict):
        _check_keys(entry, ("name", "step", "from", "with"), f"{path}: the entry {entry.get('name', entry)!r}")
    if not isinstance(entry, dict) or not {"name", "step"} <= set(entry):
        raise BadInput(f"{path}: an entry is {entry!r}; expected the keys name, step, and optionally from and with")
    name, step, inputs, settings = entry["name"], entry["step"], entry.get("from") or [], entry.get("with") or {}
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(f"{path}: {name!r} can't name a snapshot: use lower-case letters, digits, '.', '_', '-'")
    if not isinstance(step, str):
        raise BadInput(f"{path}: {name}: step is {step!r}; expected the name of a step")
    if not isinstance(inputs, list) or not all(isinstance(each, str) for each in inputs):
        raise BadInput(f"{path}: {name}: from is {inputs!r}; expected a list of snapshots, like [{step}]")
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise BadInput(f"{path}: {name}: with is {settings!r}; expected settings, like {{seed: 1}}")
    return Stated(name=name, step=step, inputs=tuple(inputs), settings=settings)


def _check_keys(body: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    for key in body:
        if key not in known:
            raise UsageError(f"{where} has no key {key!r}; its keys: {', '.join(known)}")


def override(recipe: Recipe, assignments: Sequence[str]) -> Recipe:
    """Apply `name.setting=value` to the entry called `name`; values are YAML. Raises UsageError."""
    entries = {entry.name: entry for entry in recipe.entries}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        name, dot, setting = key.partition(".")
        if not equals or not dot or name not in entries:
            raise UsageError(
                f"--set {assignment!r}: expected name.setting=value, where name is one of {', '.join(entries)}"
            )
        entry = entries[name]
        try:
            given = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {assignment!r}: {value!r} is not YAML") from error
        entries[name] = dataclasses.replace(entry, settings={**entry.settings, setting: given})
    return Recipe(entries=tuple(entries.values()))


def pinned(entry: Stated, made: Mapping[str, Snapshot]) -> Stated:
    """The entry with versions for names: of two commands in turn the newest of a name may be the other one's."""
    return dataclasses.replace(entry, inputs=tuple(made[name].ref if name in made else name for name in entry.inputs))


def make_step(verb: str, settings: Mapping[str, Any]) -> Step:
    """The validated step. Raises UsageError naming the setting, what was given and what was expected."""
    cls = step_class(verb)
    names = [each.name for each in dataclasses.fields(cls)]
    unknown = sorted(set(settings) - set(names))
    if unknown:
        raise UsageError(f"{verb} has no setting {unknown[0]!r}; its settings: {', '.join(names) or 'none'}")
    try:
        step: Step = TypeAdapter(cls).validate_python(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        raise UsageError(f"{verb}: {where}: {first['msg']} (given {first['input']!r})") from error
    return step


def schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors."""
    mode: Literal["validation"] = "validation"
    adapters = [(verb, mode, TypeAdapter(step_class(verb))) for verb in STEPS]
    settings, definitions = TypeAdapter.json_schemas(adapters)
    for definition in definitions["$defs"].values():
        definition["additionalProperties"] = False
    entries = []
    for verb in STEPS:
        entries.append(
            {
                "type": "object",
                "required": ["name", "step"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string", "pattern": f"^{NAME.pattern}$"},
                    "step": {"const": verb},
                    "from": {"type": "array", "items": {"type": "string"}},
                    "with": settings[verb, mode],
                },
            }
        )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **definitions,
        "type": "object",
        "required": ["steps"],
        "additionalProperties": False,
        "properties": {"steps": {"type": "array", "items": {"oneOf": entries}}},
    }


def validate(recipe: Recipe) -> list[tuple[Stated, Step]]:
    """Every entry with its step; nothing has run yet. Raises UsageError for the first that is wrong."""
    names = [entry.name for entry in recipe.entries]
    for position, entry in enumerate(recipe.entries):
        if not NAME.fullmatch(entry.name):
            raise UsageError(f"{entry.name!r} can't name a snapshot: use lower-case letters, digits, '.', '_' and '-'")
        for name in entry.inputs:
            if name in names[position:]:
                raise UsageError(f"{entry.name} reads {name}, which the recipe makes only later: move it up")
        check_inputs(entry.step, len(entry.inputs))
    return [(entry, make_step(entry.step, entry.settings)) for entry in recipe.entries]

"""Recipes: a YAML file that names steps, their inputs and their settings; running one makes its snapshots in order.

    store: ./store            (optional)
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
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from catalog.errors import BadInput, UsageError
from catalog.run import Step
from catalog.snapshot import NAME
from clusters.registry import STEPS, step_class


@dataclass(frozen=True, kw_only=True)
class Stated:
    """One entry of a recipe, not validated yet."""

    name: str
    step: str
    inputs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Entries in the order they run."""

    entries: tuple[Stated, ...]

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
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the recipe {path} can't be read: {error}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"the recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(body, dict) or not isinstance(body.get("steps"), list):
        raise BadInput(f"the recipe {path} has no list `steps`; `tamis specialize --print-recipe` writes an example")
    return Recipe(entries=tuple(_stated(entry, path) for entry in body["steps"]))


def _stated(entry: Any, path: Path) -> Stated:
    known = {"name", "step", "from", "with"}
    if not isinstance(entry, dict) or not {"name", "step"} <= set(entry) or set(entry) - known:
        raise BadInput(f"{path}: an entry is {entry!r}; expected the keys name, step, and optionally from and with")
    if not NAME.fullmatch(str(entry["name"])):
        raise UsageError(
            f"{path}: {entry['name']!r} can't name a snapshot: use lower-case letters, digits, '.', '_', '-'"
        )
    return Stated(
        name=entry["name"], step=entry["step"], inputs=tuple(entry.get("from", ())), settings=entry.get("with") or {}
    )


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
        entries[name] = dataclasses.replace(entry, settings={**entry.settings, setting: yaml.safe_load(value)})
    return Recipe(entries=tuple(entries.values()))


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
    entries = []
    for verb in STEPS:
        settings = TypeAdapter(step_class(verb)).json_schema()
        entries.append(
            {
                "type": "object",
                "required": ["name", "step"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string", "pattern": f"^{NAME.pattern}$"},
                    "step": {"const": verb},
                    "from": {"type": "array", "items": {"type": "string"}},
                    "with": settings,
                },
            }
        )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["steps"],
        "properties": {"steps": {"type": "array", "items": {"oneOf": entries}}},
    }


def validate(recipe: Recipe) -> list[tuple[Stated, Step]]:
    """Every entry with its step; nothing has run yet. Raises UsageError for the first that is wrong."""
    names = [entry.name for entry in recipe.entries]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"the recipe names {name!r} twice; every entry makes its own snapshot")
    return [(entry, make_step(entry.step, entry.settings)) for entry in recipe.entries]

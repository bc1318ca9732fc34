"""Running recipes against a store, with progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from catalog.catalog import Catalog
from catalog.run import run
from catalog.snapshot import Snapshot
from clusters.console import Console
from clusters.recipes import Recipe, validate
from clusters.screens import facts


def run_recipe(
    recipe: Recipe, *, store: str, executor: str, workers: int, console: Console | None = None
) -> dict[str, Snapshot]:
    """Run the entries in order; what the catalog already has is not run again. Returns the snapshots by name."""
    from dataops.executors import executor as executor_called

    console = console or Console()
    steps = validate(recipe)
    catalog = Catalog.open(store, create=True)
    chosen = executor_called(executor, workers=workers, num_bytes=_input_bytes(steps))
    made: dict[str, Snapshot] = {}
    for entry, step in steps:
        inputs = [made[name] if name in made else catalog.snapshot(name) for name in entry.inputs]
        console.started(entry.name)
        before = catalog.sequence
        made[entry.name] = run(
            step, *inputs, into=entry.name, catalog=catalog, executor=chosen, listener=console.stage
        )
        console.finished(made[entry.name], reused=catalog.sequence == before, facts=facts(made[entry.name]))
    return made


def _input_bytes(steps: list[tuple[Any, Any]]) -> int:
    """Size of the files that the recipe ingests."""
    paths = [path for _, step in steps for path in getattr(step, "paths", ())]
    return sum(Path(path).stat().st_size for path in paths if Path(path).is_file())

"""The same curation in this process, on Ray with one worker and with two: equal snapshot ids, and what each took.

    python benchmarks/executors.py --pool PATH... --target PATH...

Runs the recipe of `tamis specialize` up to the packs, each time in a new store.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time

from catalog.catalog import Catalog
from clusters.console import Console
from clusters.recipes import Recipe
from clusters.runner import TRAINING, run_recipe
from clusters.specialize import Request, recipe_for

SETTINGS = (("local", 1), ("local", 2), ("ray", 1), ("ray", 2))


def main() -> int:
    """Print one line a setting; exit status 1 when ids differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pool", nargs="+", required=True)
    parser.add_argument("--target", nargs="+", required=True)
    options = parser.parse_args()
    request = Request(pool=tuple(options.pool), target=tuple(options.target))
    entries = recipe_for(request).entries
    before_training = next(i for i, entry in enumerate(entries) if entry.step in TRAINING)
    recipe = Recipe(entries=entries[:before_training])
    reference: dict[str, str] = {}
    equal = True
    for executor, workers in SETTINGS:
        with tempfile.TemporaryDirectory() as store:
            console = Console(stream=io.StringIO(), quiet=True)
            started = time.monotonic()
            run_recipe(recipe, store=store, executor=executor, workers=workers, console=console)
            seconds = time.monotonic() - started
            ids = {each.ref: each.id for each in Catalog.open(store).all_snapshots()}
        if executor == "ray":
            import ray

            ray.shutdown()
        reference = reference or ids
        same = sum(ids.get(ref) == reference[ref] for ref in reference)
        equal = equal and same == len(reference) == len(ids)
        print(f"{executor:<6} {workers} worker(s)  {seconds:6.1f} s  {same} of {len(reference)} ids equal", flush=True)
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())

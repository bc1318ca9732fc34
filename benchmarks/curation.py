"""What curation costs, step by step: one `tamis run` over 400 MB of text, from files to packs.

    python benchmarks/curation.py [--store DIR] [--target biomedical_research] [PARQUET...]

The recipe is that of `tamis specialize` with the domain classifier and every selector, cut before training; the name of
a file is the domain of its documents. A step's rate is the text of the documents that it was given, live ones of all
inputs, over its seconds from start to commit, on both cores. Text is looked for in ../shared/corpora beside the
checkout.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.catalog import Catalog
from catalog.snapshot import Snapshot
from clusters.recipes import Recipe, Stated
from clusters.specialize import Request, recipe_for

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"
SELECTORS = ("weigh-two-stage", "weigh-ngrams", "weigh-cross-entropy", "weigh-stacked", "weigh-classifier")
TOKENS = 20_000_000
SLOW = 10.0  # MB/s: a step below it is pointed at


def recipe(pool: list[Path], target: Path) -> Recipe:
    """Curation and selection."""
    named = {"domain_column": "domain"}
    request = Request(pool=tuple(map(str, pool)), target=(str(target),), tokens=TOKENS, classify=True, columns=named)
    entries = recipe_for(request).entries
    last = [entry.name for entry in entries].index("target-packs")
    others = [
        Stated(name=verb, step=verb, inputs=("clean-cells", "train-cells"), settings={"tokens": TOKENS})
        for verb in SELECTORS
    ]
    return Recipe(entries=(*entries[: last + 1], *others))


def with_domain(file: Path, folder: Path) -> Path:
    """A copy of the file with its name as the domain of every document."""
    path = folder / file.name
    if not path.exists():
        table = pq.read_table(file, columns=["text"])
        pq.write_table(table.append_column("domain", pa.array([file.stem] * len(table))), path, row_group_size=4096)
    return path


def text_bytes(catalog: Catalog, snapshots: list[Snapshot]) -> int:
    """Bytes of the live documents of all of them; other kinds than documents have none."""
    names = [each.ref for each in snapshots]
    found = catalog.sql("SELECT sum(n_bytes) AS bytes FROM document_totals WHERE list_contains(?, snapshot)", [names])
    return int(found["bytes"][0].as_py() or 0)


def print_costs(catalog: Catalog) -> None:
    """A row a snapshot, in the order they were made."""
    print(f"\n| snapshot | step | MB | s | MB/s |\n| --- | --- | {'---: | ' * 3}".rstrip())
    whole = 0.0
    for snapshot in catalog.history:
        run = catalog.computed_by(snapshot)
        size = text_bytes(catalog, catalog.inputs(snapshot) or [snapshot]) / 1e6
        rate = size / max(run.seconds, 1e-3)
        whole += run.seconds
        slow = " slow" if rate < SLOW and run.seconds > 1 else ""
        print(f"| {snapshot.name} | {run.step} | {size:.1f} | {run.seconds:.1f} | {rate:.0f}{slow} |")
    print(f"\n{whole:.0f} s of steps")


def main() -> None:
    """Run the recipe and print what each step cost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, default=sorted(CORPORA.glob("*.parquet")))
    parser.add_argument("--target", default="biomedical_research", help="name of the file that is the target")
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    target = [path for path in options.files if path.stem == options.target]
    if len(target) != 1:
        sys.exit(f"no {options.target}.parquet among {len(options.files)} files: name files, one of them the target")
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}, "
        f"pyarrow {version('pyarrow')}, duckdb {version('duckdb')}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.store or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        pool = [with_domain(path, folder) for path in options.files if path not in target]
        (folder / "recipe.yaml").write_text(recipe(pool, with_domain(target[0], folder)).to_yaml())
        words = ["run", str(folder / "recipe.yaml"), "--store", str(folder / "store"), "--executor", "local"]
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "clusters.cli", *words], check=True)
        print(f"\ntamis run: {time.monotonic() - began:.0f} s from start to end")
        print_costs(Catalog.open(folder / "store"))


if __name__ == "__main__":
    main()

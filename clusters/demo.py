"""`tamis demo`: the main job on the documentation of the Python packages that are installed here."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial as partially
from multiprocessing import get_context
from pathlib import Path

from catalog.fingerprint import fingerprint
from clusters.console import Console, duration
from clusters.specialize import Request, recipe_for, run_and_export

DEMO_TOKENS = 1_600_000
QUICK_TOKENS = 250_000
PARAMS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class CorpusFiles:
    """The demo's corpus on disk."""

    pool: tuple[str, ...]
    target: tuple[str, ...]


def run_demo(*, store: str, out: Path, target: str, quick: bool, executor: str, workers: int) -> None:
    """Collect the corpus, run the recipe, print the last screen."""
    from dataops.pydocs import READ_OPTIONS

    started = time.monotonic()
    console = Console()
    console.title(f"tamis demo: a small model of {target}, from the documentation on this machine")
    corpus = collect(out / "corpus", target=target, quick=quick, workers=workers, console=console)
    request = Request(
        pool=corpus.pool,
        target=corpus.target,
        tokens=QUICK_TOKENS if quick else DEMO_TOKENS,
        params=PARAMS,
        columns={name: value for name, value in vars(READ_OPTIONS).items() if value is not None},
        classify=True,
    )
    run_and_export(recipe_for(request), out / "model", store=store, executor=executor, workers=workers, console=console)
    console.title(f"done in {duration(time.monotonic() - started)}")


def collect(folder: Path, *, target: str, quick: bool, workers: int, console: Console) -> CorpusFiles:
    """The corpus of this environment, written once: the folder's name is the digest of the files it is made from."""
    from dataops.pydocs import default_roots, list_files, write_corpus

    console.started("corpus")
    sources = [(each.url, Path(each.path).stat().st_size) for each in list_files(default_roots())]
    home = folder / fingerprint({"sources": sources, "target": target, "quick": quick})[:16]
    manifest = home / "manifest.json"
    reused = manifest.exists()
    if not reused:
        partial = home.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            corpus = write_corpus(partial, target=target, quick=quick, map_files=partially(pool.map, chunksize=64))
        names = {side: [path.name for path in getattr(corpus, side)] for side in ("pool", "target")}
        tallies = [vars(tally) for tally in corpus.tallies]
        (partial / "manifest.json").write_text(json.dumps({**names, "tallies": tallies, "skipped": corpus.skipped}))
        shutil.rmtree(home, ignore_errors=True)
        partial.rename(home)
    written = json.loads(manifest.read_text())
    documents = sum(tally["documents"] for tally in written["tallies"])
    size = sum(tally["num_bytes"] for tally in written["tallies"])
    sides = {side: tuple(str((home / name).resolve()) for name in written[side]) for side in ("pool", "target")}
    console.done(f"{documents:,} documents, {size / 1e6:.1f} MB, from {len(sources):,} files", reused=reused)
    return CorpusFiles(pool=sides["pool"], target=sides["target"])

"""Near-duplicate removal against other tools: wall time, memory, recall on planted pairs, precision of what is dropped.

    python benchmarks/dedup.py [--megabytes 372] [--rounds 5] [--ray] [--peers-python PYTHON] [--only ours,daft]
    python benchmarks/dedup.py --growth 1_000_000 3_000_000 10_000_000 [--ray]
    python benchmarks/dedup.py --kernels

The corpus (dedup_corpus.py) is made once and kept in --cache: real documents of --corpora with planted near-duplicates,
no exact repeats, ingested. Every tool reads the same Parquet shards, in a fresh process, the tools in turns; time runs
from the start of that process to the written list of ids to drop. What ours does beside (decisions, verified pairs,
commit, catalog) is in its time. One untimed run on a single shard comes first: numba compiles once an installation.
Recall: pairs of which not both stay, planted ones by level and all. Precision: dropped documents similar to one that
stays. Words are `\\w+` there; each tool cuts its own way (ours takes a kana or Han sign for a word).

The other tools (dedup_peers.py) want other versions of our dependencies, so they have an environment of their own:
    python -m venv peers && peers/bin/pip install -r benchmarks/peers.txt
    python benchmarks/dedup.py --peers-python peers/bin/python
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
from dedup_corpus import Corpus, open_corpus, parquet_files
from dedup_growth import print_growth
from dedup_kernels import print_kernels
from dedup_process import Head, Outcome, fresh_store, measured, ray_head
from machine import machine

from catalog.errors import UsageError
from dataops.fuzzy import FuzzyDedup
from dataops.kernels.minhash import optimal_bands

HERE = Path(__file__).parent
CORPORA = HERE.parent.parent / "shared" / "corpora"
PEERS = ("daft", "daft-own-bands", "rensa", "gaoya", "datasketch")
OURS = ("ours", "ours-on-ray")
SLOW = ("rensa", "gaoya", "datasketch")
WORKERS = 2


def main() -> int:
    """Print the table of the mode asked for."""
    options = _options()
    print(machine("numpy", "numba", "pyarrow", "ray"), flush=True)
    try:
        if options.growth:
            print_growth(options.growth, seed=options.seed, workers=WORKERS, on_ray=options.ray)
            return 0
        corpus = open_corpus(_cache(options), options.corpora, megabytes=options.megabytes, seed=options.seed)
        if options.kernels:
            print_kernels(corpus.files)
        else:
            print_contest(corpus, options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", default=[str(CORPORA)], help="Parquet files or folders of them")
    parser.add_argument("--megabytes", type=int, default=372, help="text to take from them, before copies are planted")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", help="folder for the corpus; default one of the system's temporary folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow-rounds", type=int, default=1, help=f"rounds of {', '.join(SLOW)}")
    parser.add_argument("--only", default="", help=f"some of {', '.join(OURS + PEERS)}; default all")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has the other tools")
    parser.add_argument("--ray", action="store_true", help="also run ours on a Ray that is already up")
    parser.add_argument("--growth", type=int, nargs="+", metavar="DOCUMENTS", help="time against number of documents")
    parser.add_argument("--kernels", action="store_true", help="MB/s of each kernel on one core")
    return parser.parse_args()


def _cache(options: argparse.Namespace) -> Path:
    """A folder for these settings: other input, size, seed or recipe of the corpus means another folder."""
    recipe = (HERE / "dedup_corpus.py").read_bytes()
    files = [(str(each), each.stat().st_size) for each in parquet_files(options.corpora)]
    name = hashlib.sha256(repr((files, options.megabytes, options.seed, recipe)).encode()).hexdigest()[:12]
    return Path(options.cache or Path(tempfile.gettempdir()) / "tamis-dedup-benchmark") / name


def print_contest(corpus: Corpus, options: argparse.Namespace) -> None:
    """Rounds in which each contestant runs once; one line a run, then the table."""
    names = _contestants(options)
    print(
        f"{len(corpus.numbers):,} documents, {corpus.bytes / 1e6:.0f} MB, {corpus.planted.num_rows:,} planted pairs, "
        f"{corpus.similar.num_rows:,} pairs at 0.8 and above",
        flush=True,
    )
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    with ExitStack() as stack:
        head = stack.enter_context(ray_head(WORKERS)) if "ours-on-ray" in names else None
        for name in names:  # warm-up: compiled kernels, libraries and files in the page cache
            _run(name, corpus, options, head, shards=1)
        for number in range(options.rounds):
            for name in names:
                if number < (options.slow_rounds if name in SLOW else options.rounds):
                    outcome = _run(name, corpus, options, head, shards=len(corpus.files))
                    outcomes[name].append(outcome)
                    print(f"  round {number + 1} {name:<14} {outcome.seconds:7.2f} s", flush=True)
    print_table(corpus, outcomes)


def _contestants(options: argparse.Namespace) -> list[str]:
    """Those asked for that can run; prints the version of each tool and the names of those left out."""
    asked = options.only.split(",") if options.only else [*OURS, *PEERS]
    unknown = set(asked) - {*OURS, *PEERS}
    if unknown:
        raise UsageError(f"no contestant {', '.join(sorted(unknown))}: there are {', '.join(OURS + PEERS)}")
    found = [name for name in asked if name not in PEERS and (name != "ours-on-ray" or options.ray)]
    for tool in dict.fromkeys(_tool(name) for name in asked if name in PEERS):
        query = f"from importlib.metadata import version; import {tool}; print(version('{tool}'))"
        answer = subprocess.run([options.peers_python, "-c", query], capture_output=True, text=True)
        if answer.returncode:
            print(f"without {tool}, which {options.peers_python} lacks: see --help", flush=True)
            continue
        found += [name for name in asked if name in PEERS and _tool(name) == tool]
        print(f"{tool} {answer.stdout.strip()}", end=", ")
    if not found:
        raise UsageError(f"none of {', '.join(asked)} can run here: see --help")
    chosen = [name for name in found if name in ("ours", "daft-own-bands")]
    print("; ".join("{}: {} bands of {} rows".format(name, *_bands(name)) for name in chosen), flush=True)
    return found


def _tool(name: str) -> str:
    return name.split("-")[0]


def _bands(name: str) -> tuple[int, int]:
    """Ours for everyone; those of daft's tutorial, which weighs both errors equally, for daft on its own terms."""
    if name != "daft-own-bands":
        return FuzzyDedup().bands_and_rows
    return optimal_bands(FuzzyDedup().threshold, FuzzyDedup().permutations, miss_weight=0.5)


def _run(name: str, corpus: Corpus, options: argparse.Namespace, head: Head | None, *, shards: int) -> Outcome:
    if name in PEERS:
        settings = [str(each) for each in _bands(name)]
        peers = str(HERE / "dedup_peers.py")
        return measured([options.peers_python, peers, _tool(name), "OUT", *settings, *corpus.files[:shards]])
    kind, head = ("ray", head) if name == "ours-on-ray" else ("local", None)
    with fresh_store(corpus.catalog, corpus.snapshot, shards=shards) as store:
        command = [sys.executable, str(HERE / "dedup_ours.py"), store, "OUT", kind, str(WORKERS)]
        return measured(command, head=head)


def print_table(corpus: Corpus, outcomes: dict[str, list[Outcome]]) -> None:
    """One line a contestant."""
    daft = [each.seconds for each in outcomes.get("daft", [])]
    planted = corpus.planted
    print(f"\n{'':<14} {'median s (min..max)':>22} {'vs daft':>8} {'peak GB':>8} {'dropped':>8} ", end="")
    print(f"{'0.80-0.85':>10} {'>= 0.85':>8} {'all pairs':>9} {'precision':>9}")
    for name, runs in outcomes.items():
        if not runs:
            continue
        seconds = [each.seconds for each in runs]
        middle = statistics.median(seconds)
        gone = np.zeros(len(corpus.numbers), bool)
        gone[[corpus.numbers[each] for each in runs[-1].dropped]] = True
        ratio = f"{middle / statistics.median(daft):.2f}x" if daft else "-"
        print(
            f"{name:<14} {f'{middle:.2f} ({min(seconds):.2f}..{max(seconds):.2f})':>22} {ratio:>8} "
            f"{max(each.peak for each in runs) / 1e9:>8.2f} {int(gone.sum()):>8,} "
            f"{recall(gone, planted, 0.8, 0.85):>10.4f} {recall(gone, planted, 0.85, 2):>8.4f} "
            f"{recall(gone, corpus.similar, 0.8, 2):>9.4f} {precision(gone, corpus.similar):>9.4f}",
            flush=True,
        )


def recall(gone: np.ndarray, pairs: pa.Table, low: float, high: float) -> float:
    """Share of the pairs with low <= Jaccard < high of which not both stay."""
    jaccard = pairs["jaccard"].to_numpy()
    level = (jaccard >= low) & (jaccard < high)
    found = gone[pairs["left"].to_numpy()[level]] | gone[pairs["right"].to_numpy()[level]]
    return float(found.mean()) if found.size else float("nan")


def precision(gone: np.ndarray, similar: pa.Table) -> float:
    """Share of the dropped documents that are in a pair with one that stays."""
    left, right = similar["left"].to_numpy(), similar["right"].to_numpy()
    justified = np.zeros(gone.size, bool)
    justified[left[~gone[right]]] = True
    justified[right[~gone[left]]] = True
    return float(justified[gone].mean()) if gone.any() else float("nan")


if __name__ == "__main__":
    sys.exit(main())

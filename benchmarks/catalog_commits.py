"""Commits a second and failed commits, with 1, 2 and 8 writers at once: our log and four other catalogs.

    python benchmarks/catalog_commits.py [--seconds 4] [--rounds 3] [--writers 1 2 8] [--peers-python PYTHON]
    python benchmarks/catalog_commits.py --opening 10000

Every writer is a process of its own that appends one row a commit. All of a round start together, each after one commit
that does not count, on a fresh folder of this machine's disk, the tools in turns. A commit that raises after the tool's
own retries is a failure and is not repeated. At the end a reader counts the rows: `lost` ones were acknowledged and are
not there, `extra` ones are there without that.
`--opening` measures how long a store of so many commits takes to open, with its checkpoints and without.

The other tools (catalog_commits_peers.py) have an environment of their own:
    python -m venv peers && peers/bin/pip install -r benchmarks/peers-catalog.txt
    python benchmarks/catalog_commits.py --peers-python peers/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from catalog_commits_ours import ours
from machine import machine

from catalog.catalog import Catalog
from catalog.log import Log
from catalog.store import Store

HERE = Path(__file__).parent
TOOLS = {
    "ours": "",
    "ours-with-file": "",
    "ducklake-duckdb": "duckdb duckdb-extension-ducklake",
    "ducklake-sqlite": "duckdb duckdb-extension-ducklake duckdb-extension-sqlite-scanner",
    "pyiceberg": "pyiceberg SQLAlchemy",
    "delta-rs": "deltalake",
}
OURS = ("ours", "ours-with-file")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the writers of one round did together."""

    rate: float
    done: int
    failed: int
    found: int
    error: str


def main() -> int:
    """Print the table of the mode asked for."""
    options = _options()
    print(f"{machine('tamis')}, an fsync {fsync_ms():.1f} ms", flush=True)
    if options.opening:
        print_opening(options.opening)
        return 0
    names = [name for name in options.only or TOOLS if _can_run(name, options.peers_python)]
    outcomes: dict[tuple[str, int], list[Outcome]] = {}
    for number in range(options.rounds):
        for writers in options.writers:
            for name in names:
                outcome = run_round(name, writers, options.seconds, options.peers_python)
                outcomes.setdefault((name, writers), []).append(outcome)
                print(f"  round {number + 1} {name:<16} {writers} writers {outcome.rate:7.1f} commits/s", flush=True)
    print_table(outcomes)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each round commits")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--only", nargs="+", choices=list(TOOLS), help="some of the tools; default all")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has the other tools")
    parser.add_argument("--opening", type=int, metavar="COMMITS", help="time to open a store of so many commits")
    return parser.parse_args()


def fsync_ms() -> float:
    """Median time to bring 1 kB to this disk, which is most of what a durable commit costs."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(30):
            file.write(bytes(1000))
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def _can_run(name: str, python: str) -> bool:
    """Whether the tool is there; prints its versions, or that it is left out and why."""
    if name in OURS:
        return True
    query = f"from importlib.metadata import version; print(*[f'{{n}} {{version(n)}}' for n in {TOOLS[name].split()}])"
    answer = subprocess.run([python, "-c", query], capture_output=True, text=True)
    said = answer.stdout.strip() or f"left out: {answer.stderr.strip().splitlines()[-1]}"
    print(f"{name}: {said}", flush=True)
    return answer.returncode == 0


def run_round(name: str, writers: int, seconds: float, python: str) -> Outcome:
    """All writers of one tool at once on a fresh folder."""
    program = [sys.executable, HERE / "catalog_commits_ours.py"]
    if name not in OURS:
        program = [python, HERE / "catalog_commits_peers.py"]
    with tempfile.TemporaryDirectory() as folder:
        words = [*map(str, program), name, folder]
        subprocess.run([*words, "-1", "0"], check=True, capture_output=True)
        processes = [
            subprocess.Popen([*words, str(i), str(seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for i in range(writers)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", f"{name}: a writer did not start"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        said = [json.loads(process.communicate()[0]) for process in processes]
        found = subprocess.run([*words, "-2", "0"], check=True, capture_output=True, text=True).stdout
    done = sum(each["done"] for each in said)
    return Outcome(
        rate=done / max(each["seconds"] for each in said),
        done=done,
        failed=sum(each["failed"] for each in said),
        found=int(found.split()[-1]) - sum(each["warm"] for each in said),
        error=next((each["error"] for each in said if each["error"]), ""),
    )


def print_table(outcomes: dict[tuple[str, int], list[Outcome]]) -> None:
    """Medians and extremes of the rounds, sums of failures, and what the failures said."""
    print("\n| tool | writers | commits/s | least - most | failed | of attempts | lost | extra |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, writers in sorted(outcomes, key=lambda key: key[1]):
        rounds = outcomes[name, writers]
        rates = [each.rate for each in rounds]
        done, failed = sum(each.done for each in rounds), sum(each.failed for each in rounds)
        cells = [
            f"{statistics.median(rates):.0f} | {min(rates):.0f} - {max(rates):.0f}",
            f"{failed} | {failed / max(1, done + failed):.0%}",
            str(sum(max(0, each.done - each.found) for each in rounds)),
            str(sum(max(0, each.found - each.done) for each in rounds)),
        ]
        print(f"| {name} | {writers} | {' | '.join(cells)} |")
    for (name, writers), rounds in outcomes.items():
        if error := next((each.error for each in rounds if each.error), ""):
            print(f"{name}, {writers} writers: {error}")


def print_opening(commits: int) -> None:
    """Seconds to read the log and to have the catalog, with checkpoints and without, in turns."""
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as root:
        _fill(root, commits)
        checkpoints = {path: path.read_bytes() for path in Path(root, "_log").glob("*.jsonl")}
        for _ in range(7):
            for path in checkpoints:
                path.unlink()
            _time_opening(root, "without", seconds)
            for path, data in checkpoints.items():
                path.write_bytes(data)
            _time_opening(root, "with", seconds)
    for what, times in seconds.items():
        print(f"{commits:,} commits, {what}: {statistics.median(times):.2f} s ({min(times):.2f} - {max(times):.2f})")


def _time_opening(root: str, kind: str, seconds: dict[str, list[float]]) -> None:
    opened = {"log": lambda: Log(Store(root)).refresh(), "catalog": lambda: Catalog.open(root)}
    for what, open_it in opened.items():
        started = time.perf_counter()
        open_it()
        seconds.setdefault(f"{what} {kind} checkpoints", []).append(time.perf_counter() - started)


def _fill(root: str, commits: int) -> None:
    os.fsync = lambda _: None  # nobody needs this store after a power failure
    append, _ = ours(root, with_file=False)
    for number in range(commits):
        append(number)


if __name__ == "__main__":
    sys.exit(main())

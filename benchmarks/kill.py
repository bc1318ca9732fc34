"""Kill -9 at random moments: does a command continue, is the store sound, does it end with the same bytes?

    python benchmarks/kill.py [--kills 10] [--seed 1] [--start STORE] [-- COMMAND...]

COMMAND is one of tamis, `{folder}` and `{store}` standing for where it works; by default `demo --quick`. One
uninterrupted run gives the reference ids. Then the command is started in a new store (a copy of --start) and killed
again and again, each time after a random share of what an uninterrupted run takes; after each kill `tamis verify` must
be clean. A run that ends before its kill must have the reference's ids, and the next one begins with a new store; so
does the last, which is left alone.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from catalog.audit import verify
from catalog.catalog import Catalog

DEMO = ("demo", "--quick", "--store", "{store}", "--out", "{folder}")
SHARES = (0.03, 0.35)  # of an uninterrupted run: several kills before its end, whatever the machine


def main() -> int:
    """Run the campaign and print one line a kill."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="store to begin with")
    parser.add_argument("command", nargs="*", default=DEMO)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        reference, folder = Path(scratch) / "reference", Path(scratch) / "killed"
        fresh(reference, options.start)
        started = time.monotonic()
        finish(reference, options.command)
        seconds = time.monotonic() - started
        expected = identities(reference)
        print(f"uninterrupted: {seconds:.1f} s, {len(expected)} snapshots", flush=True)
        fresh(folder, options.start)
        kills = 0
        while kills < options.kills:
            moment = seconds * draw.uniform(*SHARES)
            process = start(folder, options.command)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                kill(process)
                kills += 1
                found = verify(Catalog.open(folder / "store", create=True))
                print(
                    f"{kills:>2}: killed after {moment:5.1f} s, {found.snapshots} snapshots, "
                    f"{len(found.problems)} problems",
                    flush=True,
                )
                if found.problems:
                    return 1
                continue
            if differences(expected, folder):
                return 1
            fresh(folder, options.start)
        finish(folder, options.command)
        return 1 if differences(expected, folder) else 0


def fresh(folder: Path, store: Path | None) -> None:
    """An empty folder, or one with a copy of `store`: hard links, since files of a store never change."""
    corpus = folder / "corpus"  # the demo's, made before there is a store and not what is tested
    kept = corpus.rename(folder.with_name("corpus")) if corpus.exists() else None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if kept is not None:
        kept.rename(corpus)
    if store is not None:
        shutil.copytree(store, folder / "store", copy_function=os.link)


def start(folder: Path, command: list[str]) -> subprocess.Popen[bytes]:
    """The command, in a session of its own."""
    filled = [part.format(folder=folder, store=folder / "store") for part in command]
    with open(folder / "log.txt", "ab") as log:
        arguments = [sys.executable, "-m", "clusters.cli", *filled]
        return subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)


def finish(folder: Path, command: list[str]) -> None:
    """Run the command to its end. Exits with its log when it fails."""
    if start(folder, command).wait():
        sys.exit((folder / "log.txt").read_text()[-2000:])


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the command and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def identities(folder: Path) -> dict[str, str]:
    """Snapshot ids by reference."""
    return {each.ref: each.id for each in Catalog.open(folder / "store").all_snapshots()}


def differences(expected: dict[str, str], folder: Path) -> list[str]:
    """The references whose ids are not the expected ones, printed."""
    ended = identities(folder)
    different = sorted(ref for ref in expected if ended.get(ref) != expected[ref])
    print(f"a run to its end: {len(expected) - len(different)} of {len(expected)} snapshot ids equal", flush=True)
    for ref in different:
        print(f"  {ref}: {expected[ref][:16]} became {ended.get(ref, 'nothing')[:16]}")
    return different


if __name__ == "__main__":
    sys.exit(main())

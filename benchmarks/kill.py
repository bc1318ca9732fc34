"""Kill -9 at random moments: does the demo continue, is the store sound, does it end with the same bytes?

    python benchmarks/kill.py [--kills 10] [--seed 1] [further options of `tamis demo`, default --quick]

One uninterrupted run gives the reference ids. Then the demo is started in a new store and killed at a random moment of
what an uninterrupted run takes, over and over; after each kill `tamis verify` must be clean. At last it runs to its end
and every snapshot must have the reference's id.
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


def demo(folder: Path, options: list[str]) -> subprocess.Popen[bytes]:
    """Start the demo in `folder`, in a session of its own."""
    command = [sys.executable, "-m", "clusters.cli", "demo", "--store", f"{folder}/store", "--out", str(folder)]
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen([*command, *options], stdout=log, stderr=log, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the demo and all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def identities(folder: Path) -> dict[str, str]:
    """Snapshot ids by reference."""
    return {each.ref: each.id for each in Catalog.open(folder / "store").all_snapshots()}


def main() -> int:
    """Run the campaign and print one line a kill."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments, options = parser.parse_known_args()
    options = options or ["--quick"]
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        reference, killed = Path(scratch) / "reference", Path(scratch) / "killed"
        reference.mkdir()
        killed.mkdir()
        started = time.monotonic()
        assert demo(reference, options).wait() == 0, (reference / "log.txt").read_text()[-2000:]
        seconds = time.monotonic() - started
        print(f"uninterrupted: {seconds:.0f} s, {len(identities(reference))} snapshots", flush=True)
        shutil.copytree(reference / "corpus", killed / "corpus")  # made before the store exists, not what is tested
        for number in range(arguments.kills):
            process = demo(killed, options)
            moment = draw.uniform(2, seconds * 0.6)
            try:
                process.wait(moment)
                state = "ended before its kill"
            except subprocess.TimeoutExpired:
                kill(process)
                state = "killed"
            found = verify(Catalog.open(killed / "store", create=True))
            print(
                f"{number + 1:>2}: {state} after {moment:5.1f} s, {found.snapshots} snapshots, "
                f"{len(found.problems)} problems",
                flush=True,
            )
            if found.problems:
                return 1
        assert demo(killed, options).wait() == 0, (killed / "log.txt").read_text()[-2000:]
        expected, ended = identities(reference), identities(killed)
        different = sorted(ref for ref in expected if ended.get(ref) != expected[ref])
        print(f"after {arguments.kills} kills: {len(expected) - len(different)} of {len(expected)} snapshot ids equal")
        for ref in different:
            print(f"  {ref}: {expected[ref][:16]} became {ended.get(ref, 'nothing')[:16]}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())

"""What the demo costs: wall time and peak memory of `tamis demo`, over all its processes.

    python benchmarks/demo.py [--quick] [further options of `tamis demo`]

Memory is the proportional set size (shared pages counted once) of the process and everything that it started, sampled
twice a second from /proc. Runs in a new folder, so nothing is reused; prints one line with machine and versions.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

SECONDS_BETWEEN_SAMPLES = 0.5


def descendants(root: int) -> list[int]:
    """`root` and every process below it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            parents[int(entry.name)] = int(fields[1])
    found = [root]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


def memory(processes: list[int]) -> int:
    """Proportional set size of the processes, in bytes."""
    total = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
    return total


def main() -> int:
    """Run the demo and print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "clusters.cli", "demo", "--store", f"{folder}/store", "--out", folder]
        started, peak = time.monotonic(), 0
        process = subprocess.Popen([*command, *sys.argv[1:]])
        while process.poll() is None:
            peak = max(peak, memory(descendants(process.pid)))
            time.sleep(SECONDS_BETWEEN_SAMPLES)
        seconds = time.monotonic() - started
    versions = ", ".join(f"{name} {version(name)}" for name in ("ray", "torch", "duckdb", "pyarrow"))
    print(
        f"{seconds:.0f} s, peak {peak / 1e9:.2f} GB, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {versions}"
    )
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())

"""A contestant in a process of its own: how long until its answer, how much memory, and the answer.

In-process tools: the largest resident size of that process (VmHWM). On Ray: the sum of proportional set sizes over the
contestant and all of Ray, sampled, Ray's own processes (about 0.4 GB when idle) included.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from demo import SECONDS_BETWEEN_SAMPLES, descendants, memory

from catalog.catalog import Catalog
from catalog.snapshot import Snapshot

ENVIRONMENT = {"DO_NOT_TRACK": "1", "DAFT_PROGRESS_BAR": "0"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Seconds from the start of the process to its written answer, peak bytes, ids to drop."""

    seconds: float
    peak: int
    dropped: list[str]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A Ray that is up: its address and the process that it lives under."""

    address: str
    process: int


def measured(command: Sequence[str], *, head: Head | None = None) -> Outcome:
    """Run a command whose word OUT stands for the file it writes its answer to. Raises RuntimeError if it fails."""
    environment = os.environ | ENVIRONMENT | ({"RAY_ADDRESS": head.address, **_token()} if head else {})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dropped.txt"
        words = [str(out) if word == "OUT" else word for word in command]
        with open(Path(folder) / "log.txt", "w+b") as log:
            started = time.monotonic()
            process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=log)
            peak = _sampled(process, head) if head else 0
            printed, _ = process.communicate()
            if process.returncode:
                log.seek(0)
                raise RuntimeError(f"{' '.join(words)[:300]} failed: {log.read().decode()[-3000:]}")
        said = json.loads(printed.splitlines()[-1])
        return Outcome(seconds=said["ended"] - started, peak=peak or said["peak"], dropped=out.read_text().splitlines())


def _sampled(process: subprocess.Popen[bytes], head: Head) -> int:
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory([*descendants(process.pid), *descendants(head.process)]))
        time.sleep(SECONDS_BETWEEN_SAMPLES)
    return peak


@contextmanager
def fresh_store(catalog: Catalog, snapshot: Snapshot, *, shards: int) -> Iterator[str]:
    """A throw-away store with the first shards of a snapshot, as `pool`: its files are links to the same bytes."""
    here = catalog.store.here
    contents = snapshot.contents
    if shards < len(contents.shards):
        contents = replace(contents, shards=contents.shards[:shards], counts={})
    with tempfile.TemporaryDirectory(dir=here.parent) as root:
        for path in {ref.path for ref in contents.files()}:
            target = Path(root) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(here / path, target)
        Catalog.open(root, create=True).commit("pool", contents, catalog.runs[snapshot.run])
        yield root


@contextmanager
def ray_head(workers: int) -> Iterator[Head]:
    """A Ray of its own on a free port, with as many CPUs as workers, ended by the id of its process."""
    folder = tempfile.mkdtemp(prefix="tb")  # short: sockets live below it
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    settings = ["--node-ip-address=127.0.0.1", f"--port={port}", f"--num-cpus={workers}", f"--temp-dir={folder}"]
    settings += ["--include-dashboard=false", "--object-store-memory=268435456", "--disable-usage-stats", "--block"]
    with open(Path(folder) / "head.txt", "wb") as log:
        process = subprocess.Popen(
            [ray, "start", "--head", *settings], env=os.environ | _token(), stdout=log, stderr=log
        )
    try:
        _wait_for(port, process, Path(folder) / "head.txt")
        yield Head(address=f"127.0.0.1:{port}", process=process.pid)
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(120):
        if process.poll() is not None:
            break
        if "--block" in log.read_text() and not socket.socket().connect_ex(("127.0.0.1", port)):
            return
        time.sleep(0.5)
    process.terminate()
    raise RuntimeError(f"Ray did not start: {log.read_text()[-2000:]}")


def _token() -> dict[str, str]:
    """Ray asks for a token where its user has one."""
    return {"RAY_AUTH_MODE": "token"} if (Path.home() / ".ray" / "auth_token").exists() else {}

"""Committers at once, killed or not: a program that imports nothing but the catalog, for local and remote stores.

    python committers.py race ROOT COMMITTERS COMMITS
    python committers.py kill ROOT COMMITTERS ROUNDS

`race` forks processes that make so many commits each. `kill` forks, in each round, processes that commit as fast as
they can, sends them SIGKILL at a random moment, and has another process open the log. Both print one JSON line:
`acknowledged` commits as [sequence, who, number], and the `seconds` that it took.
This process never opens the store: clients of object stores do not survive a fork.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable

from catalog.log import Log
from catalog.store import Store

FOR_EVER = 1_000_000


def commit(root: str, who: str, commits: int, out: int) -> None:
    log = Log(Store(root))
    for number in range(commits):
        done = log.append(lambda _, number=number: [{"by": who, "number": number}])
        os.write(out, f"{done.sequence} {who} {number}\n".encode())


def open_log(root: str, out: int) -> None:
    os.write(out, f"{len(Log(Store(root)).refresh())}\n".encode())


def forked(work: Callable[[], None]) -> int:
    """The id of a process that does `work` and ends; status 1 when it fails."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def lines_of(reading: int) -> list[str]:
    """Whole lines up to the end of a pipe; one that the kill cut short was never acknowledged."""
    with os.fdopen(reading) as file:
        return [line for line in file if line.endswith("\n")]


def race(root: str, committers: int, commits: int) -> list[str]:
    reading, writing = os.pipe()
    children = [forked(lambda i=i: commit(root, str(i), commits, writing)) for i in range(committers)]
    os.close(writing)
    lines = lines_of(reading)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children), "a committer failed"
    return lines


def kill(root: str, committers: int, rounds: int) -> list[str]:
    dice, lines = random.Random(1), []
    for number in range(rounds):
        lines += killed_round(root, str(number), committers, dice.uniform(0, 0.05))
        assert opened(root) >= max(int(line.split()[0]) for line in lines)
    return lines


def killed_round(root: str, name: str, committers: int, delay: float) -> list[str]:
    reading, writing = os.pipe()
    children = [forked(lambda i=i: commit(root, f"{name}-{i}", FOR_EVER, writing)) for i in range(committers)]
    os.close(writing)
    first = os.read(reading, 1)
    time.sleep(delay)
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    lines = lines_of(reading)
    return [first.decode() + lines[0], *lines[1:]]


def opened(root: str) -> int:
    """Number of commits that another process finds."""
    reading, writing = os.pipe()
    reader = forked(lambda: open_log(root, writing))
    os.close(writing)
    assert os.waitpid(reader, 0)[1] == 0, "the log can't be opened"
    return int(lines_of(reading)[0])


def main(mode: str, root: str, committers: str, times: str) -> None:
    started = time.monotonic()
    lines = {"race": race, "kill": kill}[mode](root, int(committers), int(times))
    seconds = time.monotonic() - started
    words = [line.split() for line in lines]
    acknowledged = [[int(sequence), who, int(number)] for sequence, who, number in words]
    print(json.dumps({"acknowledged": acknowledged, "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])

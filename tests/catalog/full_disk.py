"""What is said and left on a full disk: a program for a small disk of its own, mounted by who starts it.

    python full_disk.py FOLDER ROOM...

A ROOM is what is free as FILES-PAGES: so many copies of the published file and so many pages. The program prints a
JSON line for a shard, a commit and a publication that find no room, and one for a run at each ROOM: what they said,
which problems `verify` finds then, and, when there is space and the same was done again, what is wrong or left over.
The last line has the snapshots that SQL sees.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from catalog.audit import verify
from catalog.catalog import Catalog
from catalog.errors import TamisError
from catalog.projection import FILENAME, publish
from catalog.query import sql
from catalog.run import run
from catalog.store import Store
from catalog.tables import write_table
from tests.catalog.planted import Inline, Sprout, a_run, documents

PAGE = 4096


def main(folder: Path, *rooms: str) -> None:
    catalog = Catalog.open(folder / "store", create=True)
    store = catalog.store
    first = run(Sprout(), into="first", catalog=catalog, executor=Inline())
    tried("shard", store, 0, lambda: write_table(store, documents(0, 5000)))
    tried("commit", store, 0, lambda: Catalog(store).commit("alias", first.contents, a_run(), token="once"))
    tried("publish", store, 0, lambda: publish(Catalog(store)))
    for number, room in enumerate(rooms):
        files, pages = map(int, room.split("-"))
        free = files * (store.here / FILENAME).stat().st_size + pages * PAGE
        tried(room, store, free, partial(made, store, Sprout(rows=2000 + number), room))
    print(json.dumps(sql(Catalog(store), "SELECT name FROM snapshots")["name"].to_pylist()))


def made(store: Store, step: Sprout, name: str) -> None:
    run(step, into=name, catalog=Catalog(store), executor=Inline())


def tried(name: str, store: Store, free: int, act: Callable[[], object]) -> None:
    """Do it with so many bytes free, and again with space; print what became of it."""
    with only(free, Path(store.root).with_name("ballast")):
        try:
            act()
            said = "done"
        except TamisError as error:
            said = f"{type(error).__name__}: {error}"
        committed, problems = Catalog(store).sequence, verify(Catalog(store)).problems
    act()
    left = [path.name for path in (*store.scratch().iterdir(), *store.here.glob(f".{FILENAME}.*"))]
    print(
        json.dumps(
            {
                "name": name,
                "said": said,
                "committed": committed,
                "problems": problems,
                "wrong": [*verify(Catalog(store)).problems, *left],
            }
        )
    )


@contextmanager
def only(free: int, ballast: Path) -> Iterator[None]:
    """A disk with so many bytes free."""
    disk = os.statvfs(ballast.parent)
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, disk.f_bavail * disk.f_frsize - free))
    try:
        yield
    finally:
        ballast.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

"""`tamis verify`: what was looked at, what is wrong, and what a repair made of it."""

from __future__ import annotations

from collections.abc import Sequence

from catalog.audit import Verification, verify
from catalog.catalog import Catalog


def verify_command(
    catalog: Catalog, *, repairing: bool, sources: Sequence[str], workers: int
) -> tuple[list[str], bool]:
    """Lines to print, and whether nothing is wrong in the end."""
    found = verify(catalog, workers=workers)
    lines = report(found)
    if not repairing or not found.problems:
        return lines, not found.problems
    from clusters.console import Console
    from clusters.repair import repair
    from dataops.executors import executor

    chosen = executor("local", workers=workers, num_bytes=0, trains=False)
    lines.append("repair")
    tried: set[str] = set()
    while True:
        told = repair(catalog, found, executor=chosen, console=Console(), sources=sources)
        lines += [line for line in (f"  {each}" for each in told) if line not in lines]
        tried |= {ref.path for ref in found.damaged}
        found = verify(catalog, workers=workers)
        if {ref.path for ref in found.damaged} <= tried:  # else a list that was lost names more
            return [*lines, *report(found)], not found.problems


def report(found: Verification) -> list[str]:
    """What was looked at, and a line for each problem."""
    count = len(found.problems)
    lines = [
        f"{found.commits} commits, {found.snapshots} snapshots, {found.files} files, {found.bytes / 1e6:.1f} MB, "
        f"{found.segments} windows encoded anew: {count or 'no'} problem{'s' * (count != 1)}"
    ]
    if found.orphans:
        lines.append(
            f"{found.orphans} files ({found.orphan_bytes / 1e6:.1f} MB) that no commit names: of unfinished work, "
            "or left over (`tamis gc`)"
        )
    return lines + [f"  {problem}" for problem in found.problems]

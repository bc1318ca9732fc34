"""`tamis gc`: what a request expires, and what it deletes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.gc import collect, delete, expirable
from catalog.snapshot import parse_reference

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LISTED = 20


def gc_command(catalog: Catalog, *, keep: int | None, expire: Sequence[str], grace: str, dry_run: bool) -> list[str]:
    """Expire what `keep` and `expire` ask for, delete what nothing refers to, and say so; only say so when dry."""
    seconds = duration(grace)
    expiring = {_version(catalog, reference) for reference in expire}
    if keep is not None:
        expiring |= set(expirable(catalog, keep=keep))
    if dry_run:
        found = collect(catalog, grace_seconds=seconds, expiring=expiring)
    else:
        if expiring:
            catalog.expire(sorted(expiring), reason="gc")
        found = delete(catalog, collect(catalog, grace_seconds=seconds), grace_seconds=seconds)
    verb = "would go" if dry_run else "deleted"
    lines = [f"{'would expire' if dry_run else 'expired'}: {', '.join(sorted(expiring))}"] if expiring else []
    lines += _group(found.known, f"files of expired snapshots {verb}")
    lines += _group(found.orphans, f"files that no snapshot ever named {verb}")
    lines += _group(found.work, f"folders of unfinished work {verb}")
    listed = [*found.work, *found.known, *found.orphans] if dry_run else []
    lines += [f"  {path}" for path in listed[:LISTED]] + (
        [f"  and {len(listed) - LISTED} more"] * (len(listed) > LISTED)
    )
    lines = lines or [f"nothing to delete that is older than {grace}"]
    spared = f"are younger than {grace} and stay; --grace 0s is for when no other command runs"
    return lines + [f"{line}, {spared}" for line in _group(found.spared, "files that nothing refers to")]


def duration(text: str) -> float:
    """Seconds of a number with a unit. Raises UsageError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text)
    if match is None:
        raise UsageError(f"{text!r} is not a grace period: expected a number with s, m, h or d, like 24h")
    return float(match[1]) * UNITS[match[2]]


def _version(catalog: Catalog, reference: str) -> str:
    if parse_reference(reference)[1] is None:
        raise UsageError(f"{reference!r} names no version: give name@version, like {reference}@1")
    return catalog.snapshot(reference).ref


def _group(files: Mapping[str, int], what: str) -> list[str]:
    return [f"{len(files):,} {what}, {sum(files.values()) / 1e6:.1f} MB"] if files else []

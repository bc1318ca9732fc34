"""Commands that keep a store sound, small and lawful."""

from __future__ import annotations

from typing import Annotated

import typer

from catalog.errors import UsageError
from clusters.commands.options import (
    STORE,
    WORKERS,
    ExecutorOption,
    StoreOption,
    WorkersOption,
    catalog_of,
)

app = typer.Typer()


@app.command()
def verify(
    store: StoreOption = STORE,
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild what can be rebuilt.")] = False,
    sources: Annotated[
        list[str] | None, typer.Option("--from", help="With --repair: files that were ingested; repeatable.")
    ] = None,
    workers: WorkersOption = WORKERS,
) -> None:
    """Check every file and count of the store.

    Hashes of all files, the chain of the log, the counts of every decision, packs against the text of their documents,
    and what was taken down. Exit status 1 when something is wrong and was not repaired.
    """
    from clusters.verify import verify_command

    if sources and not repair:
        raise UsageError("--from names files to repair from: give --repair too")
    lines, sound = verify_command(catalog_of(store), repairing=repair, sources=sources or [], workers=workers)
    typer.echo("\n".join(lines))
    if not sound:
        raise typer.Exit(1)


@app.command()
def gc(
    keep: Annotated[int | None, typer.Option(help="Expire all but the newest versions of each name.")] = None,
    expire: Annotated[list[str] | None, typer.Option(help="A version to expire, name@version; repeatable.")] = None,
    grace: Annotated[str, typer.Option(help="Spare what is younger, like 90s, 30m, 24h or 7d.")] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go.")] = False,
    store: StoreOption = STORE,
) -> None:
    """Delete what nothing refers to any more.

    That is: no live snapshot and no unfinished run. Versions that expire keep their record: lineage is drawn as before.
    A grace period that is shorter than what a running command needs for one task is for stores that nothing else
    writes to.
    """
    from clusters.gc import gc_command

    typer.echo("\n".join(gc_command(catalog_of(store), keep=keep, expire=expire or [], grace=grace, dry_run=dry_run)))


@app.command()
def takedown(
    ids: Annotated[list[str] | None, typer.Option("--id", help="A document id; repeatable.")] = None,
    where: Annotated[str, typer.Option(help="SQL condition on `documents`, like \"host = 'example.org'\".")] = "",
    reason: Annotated[str, typer.Option(help="For the record; without quoting the text.")] = "",
    finish: Annotated[bool, typer.Option("--finish", help="Only finish a takedown that was interrupted.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen.")] = False,
    store: StoreOption = STORE,
    executor: ExecutorOption = "local",
    workers: WorkersOption = WORKERS,
) -> None:
    """Take documents down: no later run sees them.

    Shards are rewritten without their text and packs with their windows masked; models that learned from them are
    named. The same text does not come back when it is ingested again.
    """
    from clusters.takedown import finish_command, preview, takedown_command

    if finish and (ids or where or reason or dry_run):
        raise UsageError("--finish ends a takedown that was begun: give it alone, and name documents without it")
    catalog = catalog_of(store)
    if dry_run:
        lines = preview(catalog, ids or [], where)
    elif finish:
        lines = finish_command(catalog, executor, workers=workers)
    else:
        lines = takedown_command(catalog, ids or [], where, reason=reason, executor=executor, workers=workers)
    typer.echo("\n".join(lines))

"""Commands about duplicates: remove them, measure the removal."""

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
def dedup(
    reference: Annotated[str, typer.Argument(help="Documents: name or name@version.")],
    into: Annotated[str, typer.Option("--into", help="Name of the snapshot it makes.")],
    store: StoreOption = STORE,
    threshold: Annotated[float | None, typer.Option(help="Exact Jaccard from which a document goes.")] = None,
    prefer: Annotated[
        str | None, typer.Option(help="Who stays: terms of an SQL ORDER BY, like 'n_chars DESC'.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="Deduplicated documents that the new ones join.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="With --against: a preferred newcomer takes over.")
    ] = False,
    max_drop_per_source: Annotated[float, typer.Option(help="Larger share that a source loses stops the run.")] = 0.5,
    allow: Annotated[list[str] | None, typer.Option(help="A source that may lose more; repeatable.")] = None,
    executor: ExecutorOption = "auto",
    workers: WorkersOption = WORKERS,
) -> None:
    """Drop exact repeats and near-duplicates.

    Documents that were deduplicated before are decided again from the pairs that were stored: no text is read. With
    --against, new documents join such documents, and only the new text is read.
    """
    from clusters.dedup import cost_table, dedup_recipe
    from clusters.runner import run_recipe

    if replace and against is None:
        raise UsageError("--replace says what new documents do to old ones: name these with --against")
    given = {"threshold": threshold, "prefer": prefer, "max_drop_per_source": max_drop_per_source, "allow": allow}
    settings = {name: value for name, value in given.items() if value is not None}
    catalog = catalog_of(store)
    recipe = dedup_recipe(catalog, reference, into=into, settings=settings, against=against, replace=replace)
    made = run_recipe(recipe, store=store, executor=executor, workers=workers)
    typer.echo(cost_table(catalog.refresh(), made))


@app.command()
def audit(
    reference: Annotated[str, typer.Argument(help="A snapshot that fuzzy-dedup made.")],
    store: StoreOption = STORE,
    sample: Annotated[int, typer.Option(min=1, help="Copies to plant, and removals to look at.")] = 2000,
    workers: WorkersOption = WORKERS,
) -> None:
    """Measure a deduplication.

    Recall on planted copies, by their similarity, and precision on its removals, with intervals.
    """
    from clusters.dedup import audit_table
    from clusters.recipes import Recipe, Stated
    from clusters.runner import run_recipe

    snapshot = catalog_of(store).snapshot(reference)
    name = f"{snapshot.name}-audit"
    entry = Stated(name=name, step="audit-dedup", inputs=(snapshot.ref,), settings={"sample": sample})
    made = run_recipe(Recipe(entries=(entry,)), store=store, executor="local", workers=workers)
    typer.echo(audit_table(made[name].contents.summary))

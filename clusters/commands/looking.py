"""Commands that only read the catalog."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clusters.commands.options import (
    STORE,
    StoreOption,
    catalog_of,
    print_sql,
)

app = typer.Typer()


@app.command("ls")
def list_snapshots(store: StoreOption = STORE) -> None:
    """List the snapshots of the store."""
    print_sql(
        store,
        """SELECT snapshot, kind, step, rows, bytes, round(seconds, 1) AS seconds, left(id, 12) AS id
        FROM snapshots WHERE live ORDER BY started, snapshot""",
        "table",
    )


@app.command()
def show(reference: Annotated[str, typer.Argument(help="name or name@version")], store: StoreOption = STORE) -> None:
    """Show settings, figures and stages of a snapshot.

    Where its documents went through rules, also the waterfall: what each rule took, in order.
    """
    from clusters.screens import show_screen

    typer.echo(show_screen(catalog_of(store), reference))


@app.command("log")
def lineage(
    reference: Annotated[str, typer.Argument(help="name or name@version")],
    store: StoreOption = STORE,
    openlineage: Annotated[
        Path | None, typer.Option("--openlineage", help="Write the runs as OpenLineage events to this file instead.")
    ] = None,
) -> None:
    """Draw the tree of runs behind a snapshot.

    It goes down to source files.
    """
    from catalog.lineage import tree
    from catalog.openlineage import run_events

    catalog = catalog_of(store)
    snapshot = catalog.snapshot(reference)
    if openlineage is None:
        typer.echo("\n".join(tree(catalog, snapshot)))
    else:
        events = list(run_events(catalog, snapshot))
        openlineage.write_text("".join(f"{event}\n" for event in events))
        typer.echo(f"{len(events)} events in {openlineage}")


@app.command()
def waterfall(
    reference: Annotated[str, typer.Argument(help="Documents: name or name@version.")], store: StoreOption = STORE
) -> None:
    """Show what each rule took.

    In order, and what is known of its documents without it.
    """
    from catalog.counterfactual import alone
    from catalog.lineage import waterfall as losses_of
    from clusters.screens import alone_table, waterfall_table

    catalog = catalog_of(store)
    snapshot = catalog.snapshot(reference)
    typer.echo(waterfall_table(losses_of(catalog, snapshot)))
    typer.echo("\nwithout one rule\n" + alone_table(alone(catalog, snapshot)))


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT.")],
    store: StoreOption = STORE,
    output_format: Annotated[str, typer.Option("--format", help="table, json, csv or parquet.")] = "table",
    max_seconds: Annotated[float, typer.Option(help="Time after which the query is stopped.")] = 300.0,
    max_memory: Annotated[str, typer.Option(help="Memory that the query may take, like 500MB.")] = "2GB",
) -> None:
    """Ask the catalog in SQL, read-only."""
    print_sql(store, query, output_format, max_seconds=max_seconds, max_memory=max_memory)


@app.command()
def explain(
    document: Annotated[str, typer.Argument(help="A document id, or the first digits of one.")],
    store: StoreOption = STORE,
) -> None:
    """Say why a document was kept or dropped.

    Every decision on it, the difference to the document kept instead, its cells, packs and models.
    """
    from catalog.explain import explain as explain_document

    typer.echo(explain_document(catalog_of(store), document))

"""The command line. Imports of ray, torch and the steps happen inside the commands: `tamis --help` loads neither.

Exit status: 0 done, 1 failed, 2 wrong usage. An error is one or two lines on standard error; `--debug` adds the
traceback.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from catalog.errors import TamisError, UsageError

app = typer.Typer(
    name="tamis",
    help="From a large generic corpus and a little text of a specialty to the best small language model for it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="With --debug, at any place, an error shows its traceback.",
)

StoreOption = Annotated[str, typer.Option("--store", envvar="TAMIS_STORE", help="Folder of the store.")]
ExecutorOption = Annotated[
    str, typer.Option("--executor", help="local, ray or auto (ray for training and from 512 MB of input on).")
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Tasks at a time; never changes a result.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Setting of an entry: name.setting=value in YAML; repeatable.")
]
STORE = "store"
REPEATABLE = ("--pool", "--target")
WORKERS = os.cpu_count() or 1
INTERRUPTED = 130  # the exit status that typer gives to Ctrl-C


@app.command()
def demo(
    store: StoreOption = "demo/store",
    out: Annotated[Path, typer.Option(help="Folder for the exported model and the corpus.")] = Path("demo"),
    target: Annotated[str, typer.Option(help="The specialty; a wrong one lists what there is.")] = "mathematics",
    quick: Annotated[bool, typer.Option("--quick", help="A quarter of the text and short training.")] = False,
    executor: ExecutorOption = "ray",
    workers: WorkersOption = WORKERS,
) -> None:
    """Show the whole way on text of this machine.

    The documentation of its Python packages is the pool, one subject of it the target.
    """
    from clusters.demo import run_demo

    run_demo(store=store, out=out, target=target, quick=quick, executor=executor, workers=workers)


@app.command()
def specialize(
    pool: Annotated[list[str], typer.Option("--pool", help="Generic text: files, folders or globs; repeatable.")],
    target: Annotated[list[str], typer.Option("--target", help="Text of the specialty; repeatable.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the exported model.")],
    store: Annotated[str | None, typer.Option("--store", help="Folder of the store; default OUT/store.")] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1000, help="Tokens of each pretraining stream; default: what --minutes allow.")
    ] = None,
    params: Annotated[int, typer.Option(min=10_000, help="Parameters of each model, about.")] = 1_000_000,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Training time, on two cores, to plan for where --tokens is not given.")
    ] = 5.0,
    cells: Annotated[int, typer.Option(min=2, help="Number of k-means cells.")] = 64,
    family: Annotated[
        str, typer.Option(help="decoder, recurrent, or beside two decoders: projected, soup, mixture.")
    ] = "decoder",
    text_column: Annotated[str, typer.Option(help="Column that holds the text.")] = "text",
    id_column: Annotated[str | None, typer.Option(help="Column that holds your own ids.")] = None,
    domain_column: Annotated[str | None, typer.Option(help="Column that holds domain labels.")] = None,
    executor: ExecutorOption = "auto",
    workers: WorkersOption = WORKERS,
    assignments: SetOption = None,
    print_recipe: Annotated[
        bool, typer.Option("--print-recipe", help="Write the recipe instead of running it.")
    ] = False,
) -> None:
    """Make a specialized model of your text.

    From pool and target to an exported model, with baselines and the evidence for or against it.
    """
    from clusters.specialize import Plan, columns, recipe_for, specialize_now

    plan = Plan(
        pool=_absolute(pool),
        target=_absolute(target),
        tokens=tokens,
        params=params,
        minutes=minutes,
        cells=cells,
        family=family,
        columns=columns(text=text_column, identity=id_column, domain=domain_column),
    )
    if print_recipe:
        from clusters.recipes import override

        sys.stdout.write(override(recipe_for(plan), assignments or []).to_yaml())
        return
    specialize_now(
        plan,
        out=out,
        store=store or str(out / "store"),
        executor=executor,
        workers=workers,
        assignments=assignments or [],
    )


@app.command("run")
def run_command(
    recipe: Annotated[Path, typer.Argument(help="A recipe file.")],
    store: StoreOption = STORE,
    executor: ExecutorOption = "auto",
    workers: WorkersOption = WORKERS,
    assignments: SetOption = None,
) -> None:
    """Run a recipe: those of its steps that the catalog lacks."""
    from clusters.recipes import load, override
    from clusters.runner import run_recipe

    run_recipe(override(load(recipe), assignments or []), store=store, executor=executor, workers=workers)


@app.command("step")
def step_command(
    verb: Annotated[str, typer.Argument(help="A step, for example fuzzy-dedup; an unknown word lists all.")],
    inputs: Annotated[list[str] | None, typer.Argument(help="Snapshots it reads, name or name@version.")] = None,
    into: Annotated[str, typer.Option("--into", help="Name of the snapshot it makes; default: the verb.")] = "",
    store: StoreOption = STORE,
    executor: ExecutorOption = "auto",
    workers: WorkersOption = WORKERS,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Setting of the step: setting=value in YAML; repeatable.")
    ] = None,
) -> None:
    """Run one step on snapshots of the store."""
    from clusters.recipes import Recipe, Stated, override
    from clusters.runner import run_recipe

    name = into or verb
    recipe = Recipe(entries=(Stated(name=name, step=verb, inputs=tuple(inputs or ())),))
    recipe = override(recipe, [f"{name}.{assignment}" for assignment in assignments or []])
    run_recipe(recipe, store=store, executor=executor, workers=workers)


@app.command()
def ingest(
    name: Annotated[str, typer.Argument(help="Name of the snapshot it makes.")],
    paths: Annotated[list[str], typer.Argument(help="Text: files, folders or globs.")],
    store: StoreOption = STORE,
    source: Annotated[str | None, typer.Option(help="Source of all documents; default: by folder or file.")] = None,
    text_column: Annotated[str, typer.Option(help="Column that holds the text.")] = "text",
    id_column: Annotated[str | None, typer.Option(help="Column that holds your own ids.")] = None,
    source_column: Annotated[str | None, typer.Option(help="Column that holds sources.")] = None,
    domain_column: Annotated[str | None, typer.Option(help="Column that holds domain labels.")] = None,
    url_column: Annotated[str | None, typer.Option(help="Column that holds addresses.")] = None,
    executor: ExecutorOption = "auto",
    workers: WorkersOption = WORKERS,
) -> None:
    """Take in documents of files and folders.

    What can't be used is quarantined with its reason.
    """
    from clusters.recipes import Recipe, Stated
    from clusters.runner import run_recipe

    columns = {
        "source": source,
        "id_column": id_column,
        "source_column": source_column,
        "domain_column": domain_column,
        "url_column": url_column,
    }
    settings = {"paths": _absolute(paths), "text_column": text_column}
    settings |= {column: value for column, value in columns.items() if value is not None}
    recipe = Recipe(entries=(Stated(name=name, step="ingest", inputs=(), settings=settings),))
    run_recipe(recipe, store=store, executor=executor, workers=workers)


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
    catalog = _catalog(store)
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

    snapshot = _catalog(store).snapshot(reference)
    name = f"{snapshot.name}-audit"
    entry = Stated(name=name, step="audit-dedup", inputs=(snapshot.ref,), settings={"sample": sample})
    made = run_recipe(Recipe(entries=(entry,)), store=store, executor="local", workers=workers)
    typer.echo(audit_table(made[name].contents.summary))


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    import json

    from clusters.recipes import schema as recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=1))


@app.command("ls")
def list_snapshots(store: StoreOption = STORE) -> None:
    """List the snapshots of the store."""
    _print_sql(
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

    typer.echo(show_screen(_catalog(store), reference))


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

    catalog = _catalog(store)
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

    catalog = _catalog(store)
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
    _print_sql(store, query, output_format, max_seconds=max_seconds, max_memory=max_memory)


@app.command()
def tune(
    packs: Annotated[str, typer.Argument(help="Packs to train on.")],
    validation: Annotated[str, typer.Argument(help="Tokenized documents to judge by.")],
    tokens: Annotated[int, typer.Option(min=1, help="Budget of a trial.")],
    params: Annotated[int, typer.Option(min=10_000, help="Parameters of the model, about.")] = 1_000_000,
    trials: Annotated[int, typer.Option(min=1, help="Settings to try.")] = 12,
    rates: Annotated[str, typer.Option(help="Lowest and highest learning rate.")] = "5e-4:2e-2",
    batch_rows: Annotated[str, typer.Option(help="Batch sizes, in rows.")] = "8,16,32",
    start: Annotated[
        list[str] | None, typer.Option(help="A setting to try first, like 4e-3x16; repeatable. Default: pretrain's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same settings.")] = 0,
    store: StoreOption = STORE,
    workers: WorkersOption = WORKERS,
    output_format: Annotated[str, typer.Option("--format", help="table, json, csv or parquet.")] = "table",
) -> None:
    """Search learning rate and batch size.

    ASHA on Ray Tune, one process a trial with an equal budget of tokens; the best first.
    """
    from catalog.query import print_result
    from clusters.tuning import search

    check_format(output_format)
    found = search(
        _catalog(store),
        packs,
        validation,
        tokens=tokens,
        params=params,
        trials=trials,
        rates=rates,
        batch_rows=batch_rows,
        start=start or [],
        seed=seed,
        workers=workers,
    )
    print_result(found, output_format)
    best = found.slice(0, 1).to_pylist()[0]
    typer.echo(
        f"the best as settings: --set learning_rate={best['learning_rate']:g} --set batch_rows={best['batch_rows']}",
        err=True,
    )


@app.command()
def replay(
    model: Annotated[str, typer.Argument(help="A model that pretrain or finetune made.")],
    step: Annotated[int, typer.Option("--step", min=1, help="The optimiser step, as the metrics count: from 1.")],
    store: StoreOption = STORE,
    weights: Annotated[
        str, typer.Option(help="now: losses of the finished model; then: of the weights the step began with.")
    ] = "now",
    output_format: Annotated[str, typer.Option("--format", help="table, json, csv or parquet.")] = "table",
) -> None:
    """List the documents of a training step with their loss.

    The worst come first. Rows join with the views documents, cells and texts by id. With --weights then, the steps
    before it are trained again.
    """
    from catalog.query import print_result
    from training.replay import replay as replay_step

    check_format(output_format)
    catalog = _catalog(store)
    found = replay_step(catalog, catalog.snapshot(model), step, weights=weights)
    print_result(found.segments, output_format)
    typer.echo(
        f"step {step}: recorded loss {found.recorded_loss:.4f} nats per token; shard and start are those of "
        f"{found.documents}",
        err=True,
    )


@app.command()
def explain(
    document: Annotated[str, typer.Argument(help="A document id, or the first digits of one.")],
    store: StoreOption = STORE,
) -> None:
    """Say why a document was kept or dropped.

    Every decision on it, the difference to the document kept instead, its cells, packs and models.
    """
    from catalog.explain import explain as explain_document

    typer.echo(explain_document(_catalog(store), document))


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

    lines, sound = verify_command(_catalog(store), repairing=repair, sources=sources or [], workers=workers)
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

    typer.echo("\n".join(gc_command(_catalog(store), keep=keep, expire=expire or [], grace=grace, dry_run=dry_run)))


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

    catalog = _catalog(store)
    if dry_run:
        lines = preview(catalog, ids or [], where)
    elif finish:
        lines = finish_command(catalog, executor, workers=workers)
    else:
        lines = takedown_command(catalog, ids or [], where, reason=reason, executor=executor, workers=workers)
    typer.echo("\n".join(lines))


@app.command()
def generate(
    model: Annotated[str, typer.Argument(help="A model snapshot, or the folder of an exported model.")],
    prompt: Annotated[str, typer.Argument(help="How the text begins.")],
    store: StoreOption = STORE,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to add.")] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.8,
    seed: Annotated[int, typer.Option(help="Same seed, same text.")] = 1,
) -> None:
    """Continue a text with a model."""
    from clusters.screens import continue_text

    typer.echo(continue_text(store, model, prompt, tokens=tokens, temperature=temperature, seed=seed))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    cluster: Annotated[Path, typer.Option("--cluster", help="Cluster file, like clusters/local.yaml.")],
    wait: Annotated[bool, typer.Option(help="Follow the job's log to its end.")] = True,
) -> None:
    """Run any tamis command as a Ray job.

    The command follows --, as in: tamis submit --cluster FILE -- demo --quick. Paths in it are the cluster's own.
    """
    from clusters.submit import submit as submit_job

    if not context.args:
        raise UsageError(
            "nothing to submit: put the command after --, like tamis submit --cluster FILE -- demo --quick"
        )
    raise typer.Exit(submit_job(context.args, cluster=cluster, wait=wait))


def main() -> None:
    """Entry point: turn our own errors into one line and an exit status."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait starve those that work
    debug = "--debug" in sys.argv
    arguments = one_value_each([argument for argument in sys.argv[1:] if argument != "--debug"])
    try:
        app(args=arguments, prog_name="tamis")
    except TamisError as error:
        if debug:
            raise
        sys.stderr.write(f"tamis: {error}\n")
        sys.exit(error.exit_status)
    except OSError as error:  # a folder that can't be made, a file that may not be written
        if debug or error.filename is None:
            raise
        sys.stderr.write(f"tamis: {error.filename}: {error.strerror}\n")
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            sys.stderr.write("tamis: interrupted; the same command continues where it stopped\n")
        raise


def one_value_each(arguments: list[str]) -> list[str]:
    """`--pool A B` as `--pool A --pool B`: a shell expands globs and braces into several values after one option."""
    out: list[str] = []
    option = ""
    for argument in arguments:
        if option and out[-1] != option and not argument.startswith("-"):
            out.append(option)
        elif argument.startswith("-"):
            option = argument if argument in REPEATABLE else ""
        out.append(argument)
    return out


def _catalog(store: str):  # type: ignore[no-untyped-def]
    from catalog.catalog import Catalog

    return Catalog.open(store)


def _print_sql(
    store: str, query: str, output_format: str, *, max_seconds: float = 300.0, max_memory: str = "2GB"
) -> None:
    from catalog import query as queries

    check_format(output_format)
    limits = queries.Limits(memory=max_memory, seconds=max_seconds)
    queries.print_result(queries.sql(_catalog(store), query, limits=limits), output_format)


def check_format(output_format: str) -> None:
    """Raise UsageError for an output format that does not exist or does not belong on a terminal."""
    from catalog.query import FORMATS

    if output_format not in FORMATS:
        raise UsageError(f"no output format {output_format!r}; the formats are {', '.join(FORMATS)}")
    if output_format == "parquet" and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal: write it to a file, like --format parquet > rows.parquet")


def _absolute(paths: list[str]) -> tuple[str, ...]:
    return tuple(path if "://" in path else os.path.abspath(path) for path in paths)


if __name__ == "__main__":
    main()

"""Commands that make something: the demo, a whole specialization, a recipe, a step, a job on a cluster."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.errors import UsageError
from clusters.commands.options import (
    STORE,
    WORKERS,
    DomainColumnOption,
    ExecutorOption,
    IdColumnOption,
    PrintRecipeOption,
    SetOption,
    StoreOption,
    TextColumnOption,
    WorkersOption,
    absolute,
)
from clusters.commands.wanted import of_what_is_wanted

if TYPE_CHECKING:
    from clusters.specialize import Request

app = typer.Typer()


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
@of_what_is_wanted
def specialize(
    request: Request,
    out: Annotated[Path, typer.Option("--out", help="Folder for the exported model.")],
    store: Annotated[
        str | None, typer.Option("--store", envvar="TAMIS_STORE", help="Folder of the store; default OUT/store.")
    ] = None,
    family: Annotated[
        str, typer.Option(help="decoder, recurrent, or beside two decoders: projected, soup, mixture.")
    ] = "decoder",
    trunk: Annotated[
        float, typer.Option(help="Share of the tokens that both decoders read of the pool as one, first.")
    ] = 0.0,
    executor: ExecutorOption = "auto",
    workers: WorkersOption = WORKERS,
    assignments: SetOption = None,
    print_recipe: PrintRecipeOption = False,
) -> None:
    """Make a specialized model of your text.

    From pool and target to an exported model, with baselines and the evidence for or against it.
    """
    from clusters.specialize import recipe_with, specialize_now

    request = replace(request, family=family, trunk=trunk)
    if print_recipe:
        sys.stdout.write(recipe_with(request, assignments or []).to_yaml())
        return
    specialize_now(
        request,
        out=out,
        store=store or str(out / "store"),
        executor=executor,
        workers=workers,
        assignments=assignments or [],
    )


@app.command("plan")
@of_what_is_wanted
def plan_command(
    request: Request,
    store: StoreOption = STORE,
    tasks: Annotated[int, typer.Option(min=1, help="Specialties that will be wanted of the same pool.")] = 1,
    hours: Annotated[
        float | None,
        typer.Option(min=0.01, help="Hours of training here for all tasks, one run at a time; default: no limit."),
    ] = None,
    max_params: Annotated[
        int | None,
        typer.Option(min=10_000, help="Parameters of the largest model that may be served; default: --params."),
    ] = None,
    proxy_tokens: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Tokens of a pair of proxies; repeatable. Default: 1/8, 1/4 and 1/2."),
    ] = None,
    proxy_params: Annotated[
        int | None, typer.Option(min=10_000, help="Parameters of the proxies; default: a quarter, where it can be.")
    ] = None,
    executor: ExecutorOption = "auto",
    workers: WorkersOption = WORKERS,
    assignments: SetOption = None,
    print_recipe: PrintRecipeOption = False,
    output_format: Annotated[str, typer.Option("--format", help="text or json.")] = "text",
) -> None:
    """Say what a specialization would bring and cost.

    Coverage, leakage, the gain that small models predict, the cost of each route, and which to take. What it makes is
    in the store, where `specialize` with equal options finds it. Ends with 3 when the pool can't help.
    """
    from clusters.plan import plan_now, prepared

    if output_format not in ("text", "json"):
        raise UsageError(f"no output format {output_format!r} of a plan; the formats are text, json")
    planned, recipe = prepared(
        request, proxy_tokens=proxy_tokens or [], proxy_params=proxy_params, assignments=assignments or []
    )
    if print_recipe:
        sys.stdout.write(recipe.to_yaml())
        return
    plan_now(
        planned,
        recipe,
        max_params=max_params,
        tasks=tasks,
        hours=hours,
        store=store,
        executor=executor,
        workers=workers,
        output_format=output_format,
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
    text_column: TextColumnOption = "text",
    id_column: IdColumnOption = None,
    source_column: Annotated[str | None, typer.Option(help="Column that holds sources.")] = None,
    domain_column: DomainColumnOption = None,
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
    settings = {"paths": absolute(paths), "text_column": text_column}
    settings |= {column: value for column, value in columns.items() if value is not None}
    recipe = Recipe(entries=(Stated(name=name, step="ingest", inputs=(), settings=settings),))
    run_recipe(recipe, store=store, executor=executor, workers=workers)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    import json

    from clusters.recipes import schema as recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=1))


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

"""Commands about models: tune one, replay a step of its training, let it write, see whether it is out of date."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from catalog.errors import Declined
from clusters.commands.options import (
    STORE,
    WORKERS,
    ExecutorOption,
    PrintRecipeOption,
    SetOption,
    StoreOption,
    WorkersOption,
    absolute,
    catalog_of,
    check_format,
    store_option,
)

app = typer.Typer()


@app.command()
def tune(
    packs: Annotated[str, typer.Argument(help="Packs to train on.")],
    validation: Annotated[str, typer.Argument(help="Tokenized documents to judge by.")],
    tokens: Annotated[int, typer.Option(min=1, help="Budget of a trial.")],
    params: Annotated[int, typer.Option(min=10_000, help="Parameters of the model, about.")] = 1_000_000,
    trials: Annotated[int, typer.Option(min=1, help="Settings to try.")] = 12,
    rates: Annotated[str, typer.Option(help="Lowest and highest learning rate.")] = "1e-3:5e-2",
    batch_rows: Annotated[str, typer.Option(help="Batch sizes, in rows.")] = "2,4,8,16",
    start: Annotated[
        list[str] | None,
        typer.Option(help="A setting to try first, like 1e-2x16; repeatable. Default: that of specialize."),
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
        catalog_of(store),
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

    The worst come first, by nats per token. Rows join with the views documents, cells and texts by id. With --weights
    then, the steps before it are trained again.
    """
    from catalog.query import print_result
    from training.replay import replay as replay_step

    check_format(output_format)
    catalog = catalog_of(store)
    found = replay_step(catalog, catalog.snapshot(model), step, weights=weights)
    print_result(found.segments, output_format)
    typer.echo(
        f"step {step}: recorded loss {found.recorded_loss:.4f} nats per token; shard and start are those of "
        f"{found.documents}",
        err=True,
    )


@app.command()
def metrics(
    model: Annotated[str, typer.Argument(help="A model that pretrain or finetune made.")],
    store: StoreOption = STORE,
    output_format: Annotated[str, typer.Option("--format", help="table, json, csv or parquet.")] = "table",
) -> None:
    """Print a training run's numbers, a row a step.

    Loss, learning rate, gradient norm, bits per byte on validation, speed, share of the peak (mfu), share of time that
    waited for data (stall), cost.
    """
    from catalog.query import print_result
    from clusters.metrics import metrics_of

    check_format(output_format)
    print_result(metrics_of(catalog_of(store), model), output_format)


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


@app.command()
def drift(
    model: Annotated[str, typer.Argument(help="A fine-tuned model: name or name@version.")],
    paths: Annotated[list[str], typer.Argument(help="New text: files, folders or globs.")],
    store: StoreOption = STORE,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="Exit status 3 where it says to retrain; for cron.")
    ] = False,
    executor: ExecutorOption = "auto",
    workers: WorkersOption = WORKERS,
    assignments: SetOption = None,
    print_recipe: PrintRecipeOption = False,
) -> None:
    """Say whether new text calls for a new model.

    Cells, distances and bits per byte of the new text beside those of the text that the model was made for, each with
    what chance alone makes of it.
    """
    from clusters.drift import drift_now, drift_recipe, serving
    from clusters.recipes import override

    if print_recipe:
        catalog = catalog_of(store)
        recipe = drift_recipe(catalog, serving(catalog, model).ref, absolute(paths))
        sys.stdout.write(override(recipe, assignments or []).to_yaml())
        return
    verdict, said = drift_now(
        model,
        absolute(paths),
        store=store,
        executor=executor,
        workers=workers,
        assignments=assignments or [],
        shown=paths,
        at=store_option(store),
    )
    typer.echo(said)
    if fail_on_drift and verdict == "retrain":
        raise typer.Exit(Declined.exit_status)


@app.command()
def refresh(
    model: Annotated[str, typer.Argument(help="A fine-tuned model: name or name@version.")],
    add: Annotated[
        list[str], typer.Option("--add", help="New text of the target: files, folders or globs; repeatable.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for recipe and winner.")],
    store: StoreOption = STORE,
    pool: Annotated[list[str] | None, typer.Option("--pool", help="New generic text; repeatable.")] = None,
    feedback: Annotated[
        list[str] | None,
        typer.Option(
            "--feedback",
            help='Lines of {"text": ..., "accepted": true or false}; default: those that MODEL was made with.',
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1000, help="Tokens to train on; default: as many as the last fine-tuning.")
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0.0, help="Bits per byte that a new model may lose on the old test text.")
    ] = 0.02,
    executor: ExecutorOption = "auto",
    workers: WorkersOption = WORKERS,
    assignments: SetOption = None,
    print_recipe: PrintRecipeOption = False,
) -> None:
    """Let a model learn from new text, and keep the better one.

    The name MODEL-champion points to the new model if it is better on held-out new text and not worse than --margin on
    the old test text, at least 8 documents of each, else to the old one.
    """
    from clusters.console import Console
    from clusters.refresh import Additions, recipe_of_what_serves, refresh_now

    new = Additions(
        add=absolute(add), pool=absolute(pool or []), feedback=absolute(feedback or []), tokens=tokens, margin=margin
    )
    if print_recipe:
        _, recipe = recipe_of_what_serves(catalog_of(store), model, new, assignments or [])
        sys.stdout.write(recipe.to_yaml())
        return
    typer.echo(
        refresh_now(
            model,
            new,
            out=out,
            store=store,
            executor=executor,
            workers=workers,
            assignments=assignments or [],
            console=Console(),
        )
    )

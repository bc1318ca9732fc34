"""Commands about models: tune one, replay a step of its training, let it write."""

from __future__ import annotations

from typing import Annotated

import typer

from clusters.commands.options import (
    STORE,
    WORKERS,
    StoreOption,
    WorkersOption,
    catalog_of,
    check_format,
)

app = typer.Typer()


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

    The worst come first. Rows join with the views documents, cells and texts by id. With --weights then, the steps
    before it are trained again.
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

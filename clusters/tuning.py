"""`tamis tune`: from snapshots and the words of a command line to a search and its table."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.pack import Packs, cell_weights
from clusters.console import Console
from training.config import TrainConfig, batch_rows_for, rate_for
from training.inputs import check_tokenizers, pack_paths, scored_documents
from training.steps import fresh_shape
from training.tune import Setting, Space, Task, Trial, settings_to_try, table
from training.worker import search_with_ray


def search(
    catalog: Catalog,
    packs: str,
    validation: str,
    *,
    tokens: int,
    params: int,
    trials: int,
    rates: str,
    batch_rows: str,
    start: Sequence[str],
    seed: int,
    workers: int,
) -> pa.Table:
    """The table of trials, best first. Raises UsageError for what can't be read as a setting."""
    given, documents = catalog.snapshot(packs).require("packs"), catalog.snapshot(validation)
    check_tokenizers(given, documents)
    paths, summary = pack_paths(catalog.store, given), given.contents.summary
    rows = batch_rows_for(tokens, context=summary["context"])
    known = [parse_setting(text) for text in start] or [Setting(learning_rate=rate_for(rows), batch_rows=rows)]
    settings = settings_to_try(parse_space(rates, batch_rows), trials, known=known, seed=seed)
    task = Task(
        packs=paths,
        weights=cell_weights(catalog.store, given, Packs(paths).rows_per_cell),
        model=fresh_shape(given, params),
        train=TrainConfig(tokens=tokens, seed=seed),
        validation=scored_documents(catalog.store, documents),
    )
    console = Console()
    console.started("tune")
    heard = 0

    def on_report(trial: Trial) -> None:
        nonlocal heard
        heard += 1
        console.update(
            f"report {heard}  rate {trial.learning_rate:g}  {trial.batch_rows} rows  {trial.tokens:,} tokens  "
            f"{trial.bits_per_byte:.4f} bits/byte"
        )

    with tempfile.TemporaryDirectory() as folder:
        found = search_with_ray(task, settings, folder=Path(folder), concurrent=workers, on_report=on_report)
    finished = sum(trial.finished for trial in found)
    console.done(f"{len(found)} trials, {finished} to the end, {len(found) - finished} stopped early", reused=False)
    return table(found)


def parse_space(rates: str, batch_rows: str) -> Space:
    """`5e-4:2e-2` and `2,4,8,16`."""
    try:
        low, high = map(float, rates.split(":"))
        return Space(learning_rates=(low, high), batch_rows=tuple(map(int, batch_rows.split(","))))
    except ValueError as error:
        raise UsageError(
            f"rates {rates!r} and batch rows {batch_rows!r}: expected LOW:HIGH like 1e-3:5e-2, and sizes like 2,4,8,16"
        ) from error


def parse_setting(text: str) -> Setting:
    """`1e-2x16`."""
    try:
        rate, rows = text.split("x")
        return Setting(learning_rate=float(rate), batch_rows=int(rows))
    except ValueError as error:
        raise UsageError(f"{text!r} is not a setting: expected LEARNING_RATExBATCH_ROWS, like 1e-2x16") from error

"""Options that several commands have, and what they do with them."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.errors import UsageError

if TYPE_CHECKING:
    from catalog.catalog import Catalog

STORE = "store"
WORKERS = os.cpu_count() or 1

StoreOption = Annotated[str, typer.Option("--store", envvar="TAMIS_STORE", help="Folder of the store.")]
ExecutorOption = Annotated[
    str,
    typer.Option(
        "--executor", help="local, ray or auto (ray for training, from 512 MB of input on, or by RAY_ADDRESS)."
    ),
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Tasks at a time; never changes a result.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Setting of an entry: name.setting=value in YAML; repeatable.")
]

PoolOption = Annotated[list[str], typer.Option("--pool", help="Generic text: files, folders or globs; repeatable.")]
TargetOption = Annotated[list[str], typer.Option("--target", help="Text of the specialty; repeatable.")]
TokensOption = Annotated[
    int | None, typer.Option(min=1000, help="Tokens of each pretraining stream; default: what --minutes allow.")
]
ParamsOption = Annotated[
    int,
    typer.Option(min=10_000, help="Parameters of each model, about; of few, most are the vocabulary's."),
]
MinutesOption = Annotated[
    float, typer.Option(min=0.1, help="Training time, on two cores, to plan for where --tokens is not given.")
]
CellsOption = Annotated[int, typer.Option(min=2, help="Number of k-means cells.")]
ContextOption = Annotated[int, typer.Option(min=2, help="Tokens of a window, and of the model's context.")]
VocabSizeOption = Annotated[int, typer.Option(min=257, max=65_536, help="Entries of the vocabulary.")]
SelectorOption = Annotated[
    str,
    typer.Option(
        help="What the pool is drawn by: weigh (cells), weigh-two-stage (both), or windows: weigh-stacked, "
        "weigh-ngrams, weigh-cross-entropy, weigh-classifier."
    ),
]
DeviceOption = Annotated[
    str, typer.Option(help="What trains: cpu or cuda (a GPU; set --tokens then, as --minutes are of two CPU cores).")
]
PrintRecipeOption = Annotated[bool, typer.Option("--print-recipe", help="Write the recipe instead of running it.")]
TextColumnOption = Annotated[str, typer.Option(help="Column that holds the text.")]
IdColumnOption = Annotated[str | None, typer.Option(help="Column that holds your own ids.")]
DomainColumnOption = Annotated[str | None, typer.Option(help="Column that holds domain labels.")]


def catalog_of(store: str) -> Catalog:
    """The catalog of the store at `store`."""
    from catalog.catalog import Catalog

    return Catalog.open(store)


def store_option(store: str) -> str:
    """What a command that is shown to the user needs to find this store: nothing where it is the one that it takes."""
    return "" if store == os.environ.get("TAMIS_STORE", STORE) else f"--store {shlex.quote(store)}"


def print_sql(
    store: str, query: str, output_format: str, *, max_seconds: float = 300.0, max_memory: str = "2GB"
) -> None:
    """Print what the catalog answers to `query`."""
    from catalog import query as queries

    check_format(output_format)
    limits = queries.Limits(memory=max_memory, seconds=max_seconds)
    queries.print_result(queries.sql(catalog_of(store), query, limits=limits), output_format)


def check_format(output_format: str) -> None:
    """Raise UsageError for an output format that does not exist or does not belong on a terminal."""
    from catalog.query import FORMATS

    if output_format not in FORMATS:
        raise UsageError(f"no output format {output_format!r}; the formats are {', '.join(FORMATS)}")
    if output_format == "parquet" and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal: write it to a file, like --format parquet > rows.parquet")


def absolute(paths: list[str]) -> tuple[str, ...]:
    """Local paths made absolute; addresses with a scheme as they are."""
    return tuple(path if "://" in path else os.path.abspath(path) for path in paths)

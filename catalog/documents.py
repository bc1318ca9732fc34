"""The live documents of a snapshot in the forms that other libraries take.

    catalog.snapshot("clean").documents(["id", "source", "text"]).to_arrow()

Columns are those of the `documents` table, and `n_tokens` and `tokens` where it was tokenized. `batches` holds one
shard at a time; the rest hold all rows. polars, pandas and datasets are imported when they are asked for;
`dataops.datasets` makes a Ray Dataset.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from catalog import schema
from catalog.errors import UsageError
from catalog.manifest import Shard
from catalog.store import Store
from catalog.tables import read_live

USUAL = ("id", "source", "url", "domain", "text")
OF_TOKENS = ("n_tokens", "tokens")


@dataclass(frozen=True, kw_only=True)
class Documents:
    """Chosen columns of the live documents of some shards, in order. Raises UsageError for a column there is not."""

    store: Store
    shards: Sequence[Shard] = field(repr=False)  # thousands of files
    layers: tuple[str, ...]
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        known = (*schema.DOCUMENTS.names, *OF_TOKENS)
        unknown = [name for name in self.columns if name not in known]
        if unknown:
            raise UsageError(f"documents have no column {unknown[0]!r}; their columns: {', '.join(known)}")

    def batches(self) -> Iterator[pa.Table]:
        """A table for each shard."""
        for shard in self.shards:
            yield read_documents(self.store, shard, self.layers, self.columns)

    def to_arrow(self) -> pa.Table:
        """All rows as one table."""
        return pa.concat_tables(list(self.batches()))

    def to_pandas(self) -> Any:
        """A pandas DataFrame. Raises UsageError when pandas is not installed."""
        _need("pandas")
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """A polars DataFrame. Raises UsageError when polars is not installed."""
        return _need("polars").from_arrow(self.to_arrow())

    def to_datasets(self) -> Any:
        """A Dataset of Hugging Face's `datasets`. Raises UsageError when that is not installed."""
        return _need("datasets").Dataset(self.to_arrow())


def read_documents(store: Store, shard: Shard, layers: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """`columns` of the live documents of one shard."""
    own = [name for name in columns if name not in OF_TOKENS]
    table = read_live(store, shard, layers, ["row", *own])
    if set(columns) & set(OF_TOKENS):
        counted = [name for name in columns if name in OF_TOKENS]
        tokens = read_live(store, shard, layers, ["row", *counted], table="tokens")
        table = _beside(table, tokens, counted)
    return table.select(list(columns))


def _beside(table: pa.Table, tokens: pa.Table, names: Sequence[str]) -> pa.Table:
    """Columns of `tokens` beside those of `table`: both have the live rows in order."""
    assert table["row"].equals(tokens["row"])
    for name in names:
        table = table.append_column(name, tokens[name])
    return table


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{module} is not installed: pip install {module}, or take to_arrow()") from error

"""What training reads of snapshots (packs, weights of cells, models, documents to score) and which go together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import UsageError
from catalog.snapshot import Snapshot
from catalog.store import Store
from catalog.tables import read_live, read_table

MODEL_FILES = ("model.safetensors", "config.json")


def check_tokenizers(*snapshots: Snapshot) -> None:
    """Raise UsageError, naming two of them, unless the snapshots share one tokenizer."""
    first, *others = snapshots
    for other in others:
        if other.artifact("tokenizer").sha256 != first.artifact("tokenizer").sha256:
            raise UsageError(
                f"{first.ref} and {other.ref} have different tokenizers where one was expected: tokenize the text of "
                "both with the same"
            )


def check_names(models: Sequence[Snapshot]) -> None:
    """Raise UsageError, naming two of them, where models share a name."""
    seen: dict[str, Snapshot] = {}
    for model in models:
        if model.name in seen:
            raise UsageError(
                f"{seen[model.name].ref} and {model.ref} share a name where models of different names were expected: "
                "run the step of one again into another name, which costs nothing"
            )
        seen[model.name] = model


def pack_paths(store: Store, packs: Snapshot) -> tuple[Path, ...]:
    """The local files of a packs snapshot, in order."""
    return tuple(store.local(shard.tables["pack"]) for shard in packs.require("packs").contents.shards)


def mixture_weights(store: Store, packs: Snapshot, rows_per_cell: np.ndarray) -> tuple[float, ...] | None:
    """The mixture's weight of each cell that has rows, None for packs without a mixture.

    A cell whose budget was too small for a single window has no rows; its weight goes to the others in proportion.
    """
    if "weights" not in packs.contents.artifacts:
        return None
    weights = read_table(store, packs.artifact("weights"), ["weight"])["weight"].to_numpy()
    rows = np.zeros(len(weights), np.int64)
    rows[: len(rows_per_cell)] = rows_per_cell
    alive = np.where(rows > 0, weights, 0.0)[: len(rows_per_cell)]
    return tuple((alive / alive.sum()).tolist())


def model_folder(store: Store, model: Snapshot, folder: Path) -> Path:
    """A folder with the files of a model snapshot, as the functions of this package read them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        path = folder / name
        path.unlink(missing_ok=True)
        path.symlink_to(store.local(model.require("model").artifact(name)))
    return folder


def scored_documents(store: Store, snapshot: Snapshot) -> pa.Table:
    """id, tokens and n_bytes of the live documents of a tokenized snapshot."""
    contents = snapshot.require("documents", "tokens").contents
    tables = []
    for shard in contents.shards:
        tokens = read_live(store, shard, contents.layers, ["id", "tokens"], table="tokens")
        sizes = read_live(store, shard, contents.layers, ["n_bytes"])
        tables.append(tokens.append_column("n_bytes", sizes["n_bytes"]))
    table = pa.concat_tables(tables).combine_chunks()
    if not table.num_rows:
        raise UsageError(f"{snapshot.ref} has no documents to score: give the target more text")
    return table.filter(pc.greater(table["n_bytes"], 0))

"""What training reads of snapshots (packs, models, documents to score) and which go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import UsageError
from catalog.run import Work
from catalog.snapshot import Contents, Snapshot
from catalog.store import FileRef, Store
from catalog.tables import read_live
from training.evaluate import NO_WINDOWS, Windows
from training.folder import hf_config, model_config

MODEL_FILES = ("model.safetensors", "config.json")


def model_contents(
    work: Work, folder: Path, tokenizer: FileRef, counts: Mapping[str, FileRef] = MappingProxyType({}), **figures: Any
) -> Contents:
    """A model snapshot of the model in `folder`: what every one says about itself, and `figures` of its own."""
    shape = model_config(folder)
    summary = {
        "family": shape.family.kind,
        "architecture": hf_config(shape, end_of_text=0)["architectures"][0],
        "parameters": shape.num_parameters,
        "flops_per_token": shape.flops_per_token,
        **figures,
    }
    artifacts = {name: work.store.put_copy(folder / name) for name in MODEL_FILES} | {"tokenizer": tokenizer}
    return Contents(kind="model", artifacts=artifacts, summary=summary, counts=counts)


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


def model_folder(store: Store, model: Snapshot, folder: Path) -> Path:
    """A folder with the files of a model snapshot, as the functions of this package read them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        path = folder / name
        path.unlink(missing_ok=True)
        path.symlink_to(store.local(model.require("model").artifact(name)))
    return folder


def lesson_paths(work: Work, lessons: Snapshot, packs: Snapshot) -> tuple[Path, ...]:
    """The local files of lessons, in the order of the packs they are about; UsageError when these are others."""
    about = work.catalog.inputs(lessons)[0]
    if about.id != packs.id:
        raise UsageError(
            f"{lessons.ref} are lessons about {about.ref} where {packs.ref} was expected: run `teach` on {packs.ref}"
        )
    return tuple(work.store.local(shard.tables["lessons"]) for shard in lessons.contents.shards)


def scored_documents(store: Store, snapshot: Snapshot, *, most: int = 0) -> pa.Table:
    """id, tokens and n_bytes of the live documents of a tokenized snapshot, or of the `most` with the lowest ids.

    Ids are hashes, so those are a sample that does not depend on shards.
    """
    contents = snapshot.require("documents", "tokens").contents
    last = _last_id(store, contents, most) if most and contents.shards else None
    tables = []
    for shard in contents.shards:
        tokens = read_live(store, shard, contents.layers, ["id", "tokens"], table="tokens")
        sizes = read_live(store, shard, contents.layers, ["n_bytes"])
        table = tokens.append_column("n_bytes", sizes["n_bytes"])
        tables.append(table if last is None else table.filter(pc.less_equal(table["id"], last)))
    table = pa.concat_tables(tables).combine_chunks()
    if not table.num_rows:
        raise UsageError(f"{snapshot.ref} has no documents to score: give the target more text")
    return table.filter(pc.greater(table["n_bytes"], 0))


def _last_id(store: Store, contents: Contents, most: int) -> pa.Scalar | None:
    """The id that `most` documents are not above; None where there are no more than that."""
    ids = [read_live(store, shard, contents.layers, ["id"])["id"] for shard in contents.shards]
    lowest = pa.chunked_array([chunk for column in ids for chunk in column.chunks], pa.string())
    if len(lowest) <= most:
        return None
    chosen = pc.select_k_unstable(lowest, most, [("id", "ascending")])
    return pc.max(lowest.take(chosen))


def scored_windows(store: Store, snapshot: Snapshot, ids: Sequence[str]) -> Windows:
    """The windows of the documents `ids`, none where the snapshot has no cells."""
    contents = snapshot.contents
    if any("cells" not in shard.tables for shard in contents.shards):
        return NO_WINDOWS
    columns = ["id", "start", "cell"]
    tables = [read_live(store, shard, contents.layers, columns, table="cells") for shard in contents.shards]
    table, place = pa.concat_tables(tables), {name: index for index, name in enumerate(ids)}
    table = table.filter(pc.is_in(table["id"], pa.array(ids, pa.string())))
    document = np.fromiter((place[name] for name in table["id"].to_pylist()), np.int64, table.num_rows)
    start, cell = (table[name].to_numpy().astype(np.int64) for name in ("start", "cell"))
    by_place = np.lexsort((start, document))
    return Windows(document=document[by_place], start=start[by_place], cell=cell[by_place])


def scored_domains(store: Store, snapshot: Snapshot, ids: Sequence[str]) -> list[str]:
    """The domain of each of the documents `ids`: predicted, else declared, else `unknown`."""
    contents, found = snapshot.contents, dict[str, str]()
    for shard in contents.shards:
        for table in ("documents", "domain"):
            if table in shard.tables:
                rows = read_live(store, shard, contents.layers, ["id", "domain"], table=table)
                rows = rows.filter(pc.is_in(rows["id"], pa.array(ids, pa.string())))
                found.update((row["id"], row["domain"]) for row in rows.to_pylist() if row["domain"])
    return [found.get(name, "unknown") for name in ids]

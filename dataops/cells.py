"""Cells: k-means clusters of windows, on an embedding computed from the corpus itself, on CPUs.

    count   windows of each source, document frequencies of hashed n-grams
    sample  windows drawn by their key: each source in proportion, small ones up to a floor, so that they are seen too
    fit     an embedder (dataops.embedders) and a tree of spherical k-means (kernels.tree) on the sample
    assign  every window to its nearest leaf

`FitCells` fits on its input and assigns it; with an older fit as second input it keeps that embedding and moves its
cells, whose numbers stay. `AssignCells` assigns another snapshot by the same centroids, without fitting. The table
`cells` has one row per window: cell, and the cosine similarity to its centroid, which coverage reads.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from safetensors import safe_open
from safetensors.numpy import save_file

from catalog import schema
from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Snapshot
from catalog.store import FileRef, Store
from catalog.tables import read_live, write_table
from catalog.tokenizer import BpeTokenizer
from dataops.cards import card_table, summarize_shard, typical_words
from dataops.embedders import Embedder, Kind, fit_embedder, folder_digest, network_folder, restored
from dataops.kernels.embed import document_frequency
from dataops.kernels.hashing import mix64, uniform
from dataops.kernels.kmeans import LANES
from dataops.kernels.tree import Tree, assign, fit_tree, refit_tree
from dataops.step import extend, shard_tasks
from dataops.windows import Windows, windows_of

FLOOR = 4  # a source gets at least 1 / FLOOR of an even share of the sample, if it has that many windows


@dataclass(frozen=True, kw_only=True)
class FitCells:
    """Embed windows of `context` tokens and cluster them into about `cells` cells."""

    verb: ClassVar[str] = "fit-cells"
    revision: ClassVar[int] = 3

    context: int = 256
    cells: int = 64
    embedder: Kind = "tfidf-svd"
    network: str = ""  # folder of the sentence-transformer; "" is all-MiniLM-L6-v2
    dimension: int = 64
    buckets: int = 1 << 16
    sample_windows: int = 20_000
    iterations: int = 15
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("context", "cells", "dimension", "buckets", "sample_windows", "iterations"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)}: expected at least 1")

    def evidence(self, *inputs: Snapshot) -> Any:  # noqa: ARG002 (the network is no snapshot)
        """Digest of the pretrained network's files, where there is one."""
        return folder_digest(network_folder(self.network)) if self.embedder == "sentence-transformer" else None

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """The first input, tokenized, with the table `cells`, and the artifacts `cell-model` and `cards`."""
        snapshot, *older = inputs
        snapshot.require("documents", "documents", "tokens")
        settings = {"step": self, "folder": str(work.folder), "tokenizer": snapshot.artifact("tokenizer")}
        settings["older"] = older[0].artifact("cell-model") if older else None
        counted = work.stage("count", _count, shard_tasks(snapshot, **settings), unit="windows")
        sources = sum((Counter(receipt["sources"]) for receipt in counted), Counter[str]())
        if not sources:
            raise UsageError(f"{snapshot.ref} has no live documents for cells; `tamis show` says what took them")
        rates = sample_rates(sources, self.sample_windows)
        sampled = work.stage("sample", _sample, shard_tasks(snapshot, rates=rates, **settings), unit="windows")
        counts, samples = [r["path"] for r in counted], [r["path"] for r in sampled]
        task = {"counts": counts, "samples": samples, "windows": sources.total(), **settings}
        (fitted,) = work.stage("fit", _fit, [task], unit="windows")
        model = file_ref(fitted["model"])
        receipts = work.stage("assign", _assign, shard_tasks(snapshot, model=model, **settings), unit="windows")
        placed = extend(snapshot, receipts)
        tasks = [
            {"shard": shard, "number": number, "layers": placed.layers, "folder": str(work.folder)}
            for number, shard in enumerate(placed.shards)
        ]
        described = work.stage("describe", summarize_shard, tasks, unit="windows")
        task = {"model": model, "words": fitted["words"], "parts": [each["path"] for each in described]}
        (card,) = work.stage("cards", _cards, [task], unit="cells")
        similarities = np.concatenate([np.load(receipt["similarities"]) for receipt in receipts])
        summary = {
            "windows": sources.total(),
            "cells": fitted["cells"],
            "levels": fitted["levels"],
            "context": fitted["context"],
            "similarity_1st_percentile": float(np.percentile(similarities, 1)) if len(similarities) else 0.0,
        }
        artifacts = {"cell-model": model, "cards": file_ref(card["cards"])}
        return extend(snapshot, receipts, artifacts=artifacts, summary=summary)


@dataclass(frozen=True, kw_only=True)
class AssignCells:
    """Put the windows of a tokenized snapshot into the cells fitted on another."""

    verb: ClassVar[str] = "assign-cells"
    revision: ClassVar[int] = 1

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """The first input with the table `cells`; the second carries the fitted cells."""
        snapshot, fitted = inputs
        snapshot.require("documents", "documents", "tokens")
        model = fitted.artifact("cell-model")
        settings = {"folder": str(work.folder), "tokenizer": snapshot.artifact("tokenizer")}
        receipts = work.stage("assign", _assign, shard_tasks(snapshot, model=model, **settings), unit="windows")
        summary = {"windows": sum(receipt["windows"] for receipt in receipts)}
        placed = extend(snapshot, receipts, artifacts={"cell-model": model}, summary=summary)
        kept = {name: ref for name, ref in placed.artifacts.items() if name != "cards"}  # those of cells it had before
        return replace(placed, artifacts=kept)


@dataclass(frozen=True, kw_only=True)
class Cells:
    """What `FitCells` learned: windows of `context` tokens -> embedding -> leaf of the tree."""

    context: int
    embedder: Embedder
    tree: Tree

    @property
    def num_cells(self) -> int:
        """Leaves of the tree."""
        return self.tree.num_cells[-1]

    def place(self, texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
        """The cell of each text, int32[n], and its similarity to that centroid, float32[n]."""
        return assign(self.tree, self.embedder.embed(texts))


def load_cells(store: Store, ref: FileRef) -> Cells:
    """Read the artifact `cell-model` of a snapshot."""
    with safe_open(store.local(ref), framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        labels = json.loads(file.metadata()["cells"])
    levels = range(sum(name.startswith("centroids.") for name in arrays))
    tree = Tree(
        centroids=tuple(arrays[f"centroids.{level}"] for level in levels),
        parents=tuple(arrays[f"parents.{level}"] for level in levels),
        searched=tuple(arrays["searched"].tolist()),
    )
    return Cells(context=int(labels["context"]), embedder=restored(arrays, labels), tree=tree)


def level_of(tree: Tree, most: int) -> int:
    """The finest level with at most so many cells. Raises UsageError where even the coarsest has more."""
    levels = [level for level, cells in enumerate(tree.num_cells) if cells <= most]
    if not levels:
        raise UsageError(f"at most {most} cells asked for: the tree has {', '.join(map(str, tree.num_cells))}")
    return levels[-1]


def write_cells(store: Store, cells: Cells) -> FileRef:
    """Put a fit into the store, as `load_cells` reads it."""
    arrays = {**cells.embedder.arrays, "searched": np.asarray(cells.tree.searched, np.int64)}
    for level, (centroids, parents) in enumerate(zip(cells.tree.centroids, cells.tree.parents, strict=True)):
        arrays |= {f"centroids.{level}": centroids, f"parents.{level}": parents}
    with store.writing(suffix="safetensors") as (path, refs):
        labels = {"context": str(cells.context), **cells.embedder.labels}
        # one entry: safetensors writes several in an order that changes from run to run
        save_file(arrays, path, metadata={"cells": json.dumps(labels, sort_keys=True)})
    return refs[0]


def window_keys(h64: np.ndarray, window: np.ndarray) -> np.ndarray:
    """One uint64 per window that depends on the document's id and the window's number alone."""
    return mix64(h64 ^ mix64(window.astype(np.uint64)))


def sample_rates(windows_by_source: Counter[str], sample_windows: int) -> dict[str, float]:
    """The share of its windows that each source gives to the sample of about `sample_windows`.

    In proportion, but no source gives less than 1 / `FLOOR` of an even share while it has more.
    """
    proportional = sample_windows / max(windows_by_source.total(), 1)
    floor = sample_windows / FLOOR / max(len(windows_by_source), 1)
    return {
        source: min(1.0, max(proportional, floor / windows)) for source, windows in sorted(windows_by_source.items())
    }


def cut(store: Store, task: Task, context: int) -> Windows:
    """The windows of a task's shard; the task names its `tokenizer`."""
    byte_lengths = BpeTokenizer(store.local(task["tokenizer"])).byte_lengths
    return windows_of(store, task["shard"], task["layers"], context=context, byte_lengths=byte_lengths)


def _context(store: Store, task: Task) -> int:
    step: FitCells = task["step"]
    return load_cells(store, task["older"]).context if task["older"] else step.context


def _sources(store: Store, task: Task, windows: Windows) -> pa.Array:
    """The source of each window."""
    live = read_live(store, task["shard"], task["layers"], ["row", "source"])
    at = np.searchsorted(live["row"].to_numpy(), windows.row)
    return live["source"].combine_chunks().take(pa.array(at))


def _count(store: Store, task: Task) -> Receipt:
    step: FitCells = task["step"]
    windows = cut(store, task, _context(store, task))
    path = Path(task["folder"]) / f"count-{task['number']}.npy"
    learns = task["older"] is None and step.embedder in ("tfidf-svd", "tfidf-random")
    np.save(path, document_frequency(windows.text, step.buckets) if learns else np.zeros(step.buckets, np.int64))
    sources = Counter(_sources(store, task, windows).to_pylist())
    return {"path": str(path), "windows": len(windows), "sources": dict(sources), "bytes": windows.text.nbytes}


def _sample(store: Store, task: Task) -> Receipt:
    step: FitCells = task["step"]
    windows = cut(store, task, _context(store, task))
    rate = np.array([task["rates"][source] for source in _sources(store, task, windows).to_pylist()], np.float64)
    chosen = uniform(step.seed, window_keys(windows.h64, windows.window)) < rate
    path = Path(task["folder"]) / f"sample-{task['number']}.arrow"
    table = pa.table({"text": windows.text.filter(pa.array(chosen)), "weight": 1 / rate[chosen]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return {"path": str(path), "windows": int(chosen.sum()), "bytes": windows.text.nbytes}


def _fit(store: Store, task: Task) -> Receipt:
    step: FitCells = task["step"]
    drawn = pa.concat_tables([pa.ipc.open_file(path).read_all() for path in task["samples"]]).combine_chunks()
    sample, weights = drawn["text"].combine_chunks(), drawn["weight"].to_numpy()
    if task["older"]:
        before = load_cells(store, task["older"])
        points = before.embedder.embed(sample)
        tree = refit_tree(before.tree, points, weights=weights, iterations=step.iterations)
        cells = Cells(context=before.context, embedder=before.embedder, tree=tree)
    else:
        embedder = fit_embedder(
            step.embedder,
            sample,
            frequency=np.sum([np.load(path) for path in task["counts"]], axis=0),
            num_windows=task["windows"],
            dims=step.dimension,
            seed=step.seed,
            folder=Path(task["folder"]),
            network=step.network,
        )
        points = embedder.embed(sample)
        leaves = min(step.cells, max(1, len(points) // 8))
        tree = fit_tree(
            points, branching=LANES, leaves=leaves, seed=step.seed, iterations=step.iterations, weights=weights
        )
        cells = Cells(context=step.context, embedder=embedder, tree=tree)
    words = Path(task["folder"]) / "words.arrow"
    typical_words(words, sample, assign(tree, points)[0], cells.num_cells)
    return {
        "model": as_json(write_cells(store, cells)),
        "cells": cells.num_cells,
        "levels": list(tree.num_cells),
        "context": cells.context,
        "words": str(words),
        "windows": len(points),
    }


def _assign(store: Store, task: Task) -> Receipt:
    model = load_cells(store, task["model"])
    windows = cut(store, task, model.context)
    cell, similarity = model.place(windows.text)
    columns = {
        "row": windows.row,
        "id": windows.id,
        "window": windows.window,
        "start": windows.start,
        "n_tokens": windows.n_tokens,
        "cell": cell,
        "similarity": similarity,
    }
    path = Path(task["folder"]) / f"similarity-{task['number']}.npy"
    np.save(path, similarity)
    return {
        "tables": {"cells": as_json(write_table(store, pa.table(columns).cast(schema.CELLS)))},
        "similarities": str(path),
        "windows": len(windows),
        "bytes": windows.text.nbytes,
    }


def _cards(store: Store, task: Task) -> Receipt:
    tree = load_cells(store, task["model"]).tree
    table = card_table(tree, task["parts"], task["words"])
    return {"cards": as_json(write_table(store, table)), "cells": table.num_rows}

"""Cells: k-means clusters of windows, on an embedding computed from the corpus itself, on CPUs.

    fit     document frequencies of hashed n-grams over all windows -> idf; a sample drawn by window id -> projection
            (kernels.embed) and tree of spherical k-means (kernels.kmeans)
    assign  every window to its nearest leaf

`FitCells` fits on its input and assigns it; `AssignCells` assigns another snapshot, the target, by the same centroids.
The table `cells` has one row per window: cell, and the cosine similarity to its centroid, which coverage reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
from safetensors import safe_open
from safetensors.numpy import save_file

from catalog import schema
from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Snapshot
from catalog.store import FileRef, Store
from catalog.tables import write_table
from catalog.tokenizer import BpeTokenizer
from dataops.kernels.embed import document_frequency, embed, fit_projection, inverse_document_frequency
from dataops.kernels.hashing import mix64, uniform
from dataops.kernels.kmeans import Tree, assign, fit_tree
from dataops.step import extend, shard_tasks
from dataops.windows import Windows, windows_of


@dataclass(frozen=True, kw_only=True)
class FitCells:
    """Embed windows of `context` tokens and cluster them into about `cells` cells."""

    verb: ClassVar[str] = "fit-cells"
    revision: ClassVar[int] = 1

    context: int = 256
    cells: int = 64
    branching: int = 64
    dimension: int = 64
    buckets: int = 1 << 16
    sample_windows: int = 20_000
    iterations: int = 15
    seed: int = 1

    def __post_init__(self) -> None:
        if self.context < 1 or self.cells < 1 or self.branching < 2:
            raise UsageError(
                f"context {self.context}, cells {self.cells}, branching {self.branching}: "
                "expected context and cells of at least 1 and branching of at least 2"
            )

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """The one input, tokenized, with the table `cells` and the fitted arrays as artifact `cell-model`."""
        (snapshot,) = inputs
        snapshot.require("documents", "documents", "tokens")
        settings = {"step": self, "folder": str(work.folder), "tokenizer": snapshot.artifact("tokenizer")}
        counted = work.stage("count", _count, shard_tasks(snapshot, **settings), unit="windows")
        num_windows = sum(receipt["windows"] for receipt in counted)
        if not num_windows:
            raise UsageError(f"{snapshot.ref} has no live documents for cells; `tamis show` says what took them")
        rate = min(1.0, self.sample_windows / max(num_windows, 1))
        sampled = work.stage("sample", _sample, shard_tasks(snapshot, rate=rate, **settings), unit="windows")
        counts, samples = [r["path"] for r in counted], [r["path"] for r in sampled]
        task = {"counts": counts, "samples": samples, "windows": num_windows, **settings}
        (fitted,) = work.stage("fit", _fit, [task], unit="windows")
        model = file_ref(fitted["model"])
        receipts = work.stage("assign", _assign, shard_tasks(snapshot, model=model, **settings), unit="windows")
        similarities = np.concatenate([np.load(receipt["similarities"]) for receipt in receipts])
        summary = {
            "windows": num_windows,
            "cells": fitted["cells"],
            "context": self.context,
            "similarity_1st_percentile": float(np.percentile(similarities, 1)) if len(similarities) else 0.0,
        }
        return extend(snapshot, receipts, artifacts={"cell-model": model}, summary=summary)


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
        return extend(snapshot, receipts, artifacts={"cell-model": model}, summary=summary)


def _cut(store: Store, task: Task, context: int) -> Windows:
    byte_lengths = BpeTokenizer(store.local(task["tokenizer"])).byte_lengths
    return windows_of(store, task["shard"], task["layers"], context=context, byte_lengths=byte_lengths)


def _count(store: Store, task: Task) -> Receipt:
    step: FitCells = task["step"]
    windows = _cut(store, task, step.context)
    path = Path(task["folder"]) / f"count-{task['number']}.npy"
    np.save(path, document_frequency(windows.text, step.buckets))
    return {"path": str(path), "windows": len(windows), "bytes": windows.text.nbytes}


def _sample(store: Store, task: Task) -> Receipt:
    step: FitCells = task["step"]
    windows = _cut(store, task, step.context)
    chosen = uniform(step.seed, window_keys(windows.h64, windows.window)) < task["rate"]
    path = Path(task["folder"]) / f"sample-{task['number']}.arrow"
    table = pa.table({"text": windows.text.filter(pa.array(chosen))})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return {"path": str(path), "windows": int(chosen.sum())}


def window_keys(h64: np.ndarray, window: np.ndarray) -> np.ndarray:
    """One uint64 per window that depends on the document's id and the window's number alone."""
    return mix64(h64 ^ mix64(window.astype(np.uint64)))


def _fit(store: Store, task: Task) -> Receipt:
    step: FitCells = task["step"]
    frequency = sum(np.load(path) for path in task["counts"])
    idf = inverse_document_frequency(np.asarray(frequency), task["windows"])
    sample = pa.concat_tables([pa.ipc.open_file(path).read_all() for path in task["samples"]])["text"].combine_chunks()
    projection = fit_projection(sample, idf, dims=step.dimension, seed=step.seed)
    points = embed(sample, idf, projection)
    leaves = min(step.cells, max(1, len(points) // 8))
    tree = fit_tree(points, branching=step.branching, leaves=leaves, seed=step.seed, iterations=step.iterations)
    with store.writing(suffix="safetensors") as (path, refs):
        arrays: dict[str, np.ndarray] = {"idf": idf, "projection": projection}
        for level, (centroids, parents) in enumerate(zip(tree.centroids, tree.parents, strict=True)):
            arrays |= {f"centroids.{level}": centroids, f"parents.{level}": parents}
        save_file(arrays, path, metadata={"context": str(step.context)})
    return {"model": as_json(refs[0]), "cells": tree.num_cells[-1], "windows": len(points)}


def _assign(store: Store, task: Task) -> Receipt:
    model = load_cells(store, task["model"])
    windows = _cut(store, task, model.context)
    cell, similarity = assign(model.tree, embed(windows.text, model.idf, model.projection))
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


@dataclass(frozen=True, kw_only=True)
class Cells:
    """What `FitCells` learned: windows of `context` tokens -> embedding -> leaf of the tree."""

    context: int
    idf: np.ndarray  # float32[buckets]
    projection: np.ndarray  # float32[buckets, dimension]
    tree: Tree

    @property
    def num_cells(self) -> int:
        """Leaves of the tree."""
        return self.tree.num_cells[-1]


def load_cells(store: Store, ref: FileRef) -> Cells:
    """Read the artifact `cell-model` of a snapshot."""
    with safe_open(store.local(ref), framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        context = int(file.metadata()["context"])
    levels = range(sum(name.startswith("centroids.") for name in arrays))
    tree = Tree(
        centroids=tuple(arrays[f"centroids.{level}"] for level in levels),
        parents=tuple(arrays[f"parents.{level}"] for level in levels),
    )
    return Cells(context=context, idf=arrays["idf"], projection=arrays["projection"], tree=tree)

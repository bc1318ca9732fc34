"""Weights of windows: a score, calibrated to a ratio of densities, becomes how often each window is drawn.

    sample      windows of pool and target, drawn by key
    fit         the scorer: from each half of the sample's documents, and from all of the target's and each half of the
                pool's; a target of one document can't be halved and is calibrated on what it taught
    calibrate   on scores of windows by the half that had not seen them: the slopes from scores to
                ln P(x | target) / P(x | pool), and the AUC
    score       every window of the pool, by the scorer that had not seen its half of the documents: one that had
                learned a window as the pool's would not draw it
    weigh       q(x) in proportion to tokens times that ratio, tempered, defended and capped as the weights of cells are

The result is a mixture like that of `weigh`; how windows of one cell differ is its table `factors`, which `resample`
turns into draws. Feedback acts on cells, as in `weigh`: the log ratio of a window grows by ln p'_c / p_c, where p_c is
the smoothed share of its cell in the target and p'_c that share with the verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from catalog import schema
from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import Store
from catalog.tables import read_live, write_table
from catalog.tokenizer import BpeTokenizer
from dataops.cells import cut, load_cells, window_keys
from dataops.importance import (
    Weigh,
    check_sampling,
    coverage,
    has_quality_gate,
    mixture_summary,
    parts_of,
    read_placed,
    same_cells,
    votes_of,
    weigh,
    weight_table,
)
from dataops.kernels.hashing import mix64, uniform
from dataops.kernels.histogram import ImportanceWeights, importance_weights, token_histogram
from dataops.kernels.ranking import auc, auc_by_cell, calibrate
from dataops.scorers import Sample, Scorer
from dataops.step import shard_tasks

HALVES = (0, 1)  # of the documents of a side
NEITHER = 2
# What scorers leave out of (target, pool) as they learn, one for each half
SCORING = tuple((NEITHER, half) for half in HALVES)
CALIBRATING = tuple((half, half) for half in HALVES)
_OF_SAMPLES = np.uint64(0x73616D706C65)  # makes keys other numbers than those that `resample` draws by
LEAST = 20  # windows of each side that a cell needs before its AUC says something


@dataclass(frozen=True, kw_only=True)
class Selecting:
    """Settings of every selector of windows. `keeps_cells`: weights of cells stand, scores divide them.

    Inputs are the pool, the target and, if any, feedback in the same cells; see `dataops.importance.Weigh`.
    """

    verb: ClassVar[str]
    revision: ClassVar[int] = 4
    keeps_cells: ClassVar[bool] = False

    tokens: int
    temperature: float = 1.0
    defence: float = 0.1
    max_epochs: float = 4.0
    feedback_weight: float = 1.0
    sample_windows: int = 20_000
    seed: int = 1

    def __post_init__(self) -> None:
        check_sampling(self.tokens, self.temperature, self.defence, self.max_epochs, self.feedback_weight)
        if self.sample_windows < 1:
            raise UsageError(f"sample_windows {self.sample_windows}: expected at least 1")


def weigh_by_score(step: Selecting, scorer: Scorer, work: Work, *inputs: Snapshot) -> Contents:
    """The mixture of a selector over (pool, target, feedback if any); `scorer` gives a window its score."""
    pool, target, *feedback = same_cells(*inputs)
    model = pool.artifact("cell-model")
    settings = {
        "step": step,
        "scorer": scorer,
        "folder": str(work.folder),
        "cell-model": model,
        "tokenizer": pool.artifact("tokenizer"),
    }
    tasks = [
        {**task, "side": side, "index": index}
        for side, snapshot in (("pool", pool), ("target", target))
        for index, task in enumerate(shard_tasks(snapshot, **settings))
    ]
    measured = work.stage("measure", _measure, tasks, unit="windows")
    totals = {side: _total(measured, tasks, side) for side in ("pool", "target")}
    if not all(totals.values()):
        raise UsageError(f"the pool has {totals['pool']} windows and the target {totals['target']}: both need some")
    rates = {side: min(1.0, step.sample_windows / total) for side, total in totals.items()}
    sampled = work.stage("sample", _sample, [{**t, "rate": rates[t["side"]]} for t in tasks], unit="windows")
    for side in ("pool", "target"):
        if not _total(sampled, tasks, side):
            raise UsageError(f"no window of the {side} was drawn for {step.sample_windows} sample_windows: take more")
    paths = {
        side: [each["path"] for each, task in zip(sampled, tasks, strict=True) if task["side"] == side]
        for side in ("pool", "target")
    }
    of_pool, of_target = parts_of((pool, target))
    task = {**settings, "pool": of_pool, "target": of_target, "feedback": parts_of(feedback), "paths": paths}
    lessons = [{**task, "number": number, "without": each} for number, each in enumerate(SCORING + CALIBRATING)]
    models = [each["model"] for each in work.stage("fit", _learn, lessons, unit="windows")]
    scoring, calibrating = models[: len(SCORING)], models[len(SCORING) :]
    (fitted,) = work.stage("calibrate", _calibrate, [{**task, "models": calibrating}], unit="windows")
    learned = {"models": scoring, "slopes": fitted["slopes"]}
    scored = work.stage("score", _score, [{**t, **learned} for t in tasks if t["side"] == "pool"], unit="windows")
    task |= {"scores": [each["path"] for each in scored]}
    (weighed,) = work.stage("weigh", _weigh, [task], unit="windows")
    shards = tuple(
        Shard(rows=rows, tables={"factors": file_ref(ref)})
        for rows, ref in zip(weighed["rows"], weighed["factors"], strict=True)
    )
    summary = {**weighed["summary"], **fitted["report"], "quality_gate": has_quality_gate(pool, target)}
    artifacts = {"weights": file_ref(weighed["weights"]), "cell-model": model}
    return Contents(kind="mixture", shards=shards, artifacts=artifacts, summary=summary)


def _total(measured: list[Receipt], tasks: list[dict[str, Any]], side: str) -> int:
    return sum(each["windows"] for each, task in zip(measured, tasks, strict=True) if task["side"] == side)


def _measure(store: Store, task: Task) -> Receipt:
    return {"windows": read_live(store, task["shard"], task["layers"], ["row"], table="cells").num_rows}


def sample_numbers(seed: int, h64: np.ndarray, window: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each window, float64[n]: those below the rate are in the sample."""
    return uniform(seed, mix64(window_keys(h64, window) ^ _OF_SAMPLES))


def _sample(store: Store, task: Task) -> Receipt:
    step: Selecting = task["step"]
    cells = load_cells(store, task["cell-model"])
    windows = cut(store, task, cells.context)
    placed = read_live(store, task["shard"], task["layers"], ["cell"], table="cells")["cell"].to_numpy()
    chosen = sample_numbers(step.seed, windows.h64, windows.window) < task["rate"]
    lengths = windows.n_tokens.astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths[chosen])])
    table = pa.table(
        {
            "text": windows.text.filter(pa.array(chosen)),
            "tokens": pa.LargeListArray.from_arrays(offsets, pa.array(windows.tokens[np.repeat(chosen, lengths)])),
            "h64": windows.h64[chosen],
            "cell": placed[chosen],
        }
    )
    path = Path(task["folder"]) / f"{task['side']}-{task['index']}.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return {"path": str(path), "windows": table.num_rows, "bytes": windows.text.nbytes}


def _learn(store: Store, task: Task) -> Receipt:
    """A scorer from the samples of target and pool, without the halves that the task names.

    A side whose documents are all in such a half teaches all the same: there is nothing else to learn from.
    """
    scorer: Scorer = task["scorer"]
    sides = []
    for side, half in zip(("target", "pool"), task["without"], strict=True):
        sample, table = _read_sample(store, task, side)
        taught = _halves(table["h64"].to_numpy(), few=side == "target") != half
        sides.append(sample.part(taught) if taught.any() else sample)
    target, pool = sides
    path = Path(task["folder"]) / f"scorer-{task['number']}.model"
    scorer.fit(target, pool, path)
    return {"model": str(path), "windows": len(target) + len(pool)}


def _calibrate(store: Store, task: Task) -> Receipt:
    scorer: Scorer = task["scorer"]
    target, of_target = _read_sample(store, task, "target")
    pool, of_pool = _read_sample(store, task, "pool")
    halves = _halves(of_target["h64"].to_numpy(), few=True)
    ours = _held_out_scores(scorer, target, halves, task["models"])
    theirs = _held_out_scores(scorer, pool, _halves(of_pool["h64"].to_numpy()), task["models"])
    target_cells, pool_cells = of_target["cell"].to_numpy(), of_pool["cell"].to_numpy()
    offsets = _cell_ratios(store, task)
    slopes = calibrate(ours, theirs, target_offsets=offsets[target_cells], pool_offsets=offsets[pool_cells])
    alone = calibrate(ours, theirs)  # what the scores say where cells are not known
    ours, theirs = log_ratio(ours, alone), log_ratio(theirs, alone)
    inside = auc_by_cell(ours, target_cells, theirs, pool_cells, num_cells=len(offsets), least=LEAST)
    share = np.bincount(target_cells, minlength=len(offsets)) * ~np.isnan(inside)
    report = {
        "slopes": slopes.tolist(),
        "auc": auc(ours, theirs),
        "auc_inside_cells": float((np.nan_to_num(inside) * share).sum() / share.sum()) if share.sum() else None,
        "cells_with_auc": int((share > 0).sum()),
        **({} if len(set(halves.tolist())) == len(HALVES) else {"held_out": False}),
    }
    return {
        "slopes": slopes.tolist(),
        "report": report,
        "windows": len(target) + len(pool),
    }


def _read_sample(store: Store, task: Task, side: str) -> tuple[Sample, pa.Table]:
    table = pa.concat_tables([pa.ipc.open_file(path).read_all() for path in task["paths"][side]]).combine_chunks()
    tokens = table["tokens"].combine_chunks()
    sample = Sample(
        texts=table["text"].combine_chunks(),
        offsets=np.concatenate([[0], np.cumsum(tokens.value_lengths().to_numpy())]).astype(np.int64),
        tokens=tokens.flatten().to_numpy(),
        vocab_size=BpeTokenizer(store.local(task["tokenizer"])).vocab_size,
    )
    return sample, table


def _halves(h64: np.ndarray, *, few: bool = False) -> np.ndarray:
    """Which half of the documents each window belongs to, int[n]. Where `few` all fell into one, every second moves."""
    halves = (mix64(h64) & np.uint64(1)).astype(np.int64)
    if few and len(halves) and halves.min() == halves.max():
        halves = np.unique(h64, return_inverse=True)[1].astype(np.int64) % len(HALVES)
    return halves


def _held_out_scores(scorer: Scorer, sample: Sample, halves: np.ndarray, models: Sequence[str]) -> np.ndarray:
    """Scores of windows of documents in these halves, each by the model that learned without theirs, in their order."""
    parts = [scorer.score(Path(models[half]), sample.part(halves == half)) for half in HALVES]
    scores = np.concatenate(parts)
    scores[np.argsort(halves, kind="stable")] = scores.copy()
    return scores


def log_ratio(scores: np.ndarray, slopes: ArrayLike) -> np.ndarray:
    """ln P(x | target) / P(x | pool) but for a constant, float32[n], from scores [n] or [n, k] and their k slopes."""
    slopes = np.asarray(slopes)
    return (scores.reshape(len(scores), len(slopes)).astype(np.float64) @ slopes).astype(np.float32)


def _cell_ratios(store: Store, task: Task) -> np.ndarray:
    """ln of the target's share over the pool's for each cell, where the selector keeps cells; else 0."""
    step: Selecting = task["step"]
    tree = load_cells(store, task["cell-model"]).tree
    if not step.keeps_cells:
        return np.zeros(tree.num_cells[-1])
    pool, target = read_placed(store, task["pool"], documents=False), read_placed(store, task["target"])
    weights = weigh(_alone(step), pool, target, tree).weights
    return _log_of_shares(weights.target, weights.generic)


def _alone(step: Selecting) -> Weigh:
    """The step that weighs cells with these settings."""
    names = ("tokens", "temperature", "defence", "max_epochs", "feedback_weight")
    return Weigh(**{name: getattr(step, name) for name in names})


def _log_of_shares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """ln one / other for shares of cells; 0 for cells that the other has no share in."""
    ratio = np.divide(one, other, out=np.ones_like(one), where=other > 0)
    return np.log(np.maximum(ratio, 1e-9))


def _score(store: Store, task: Task) -> Receipt:
    scorer: Scorer = task["scorer"]
    windows = cut(store, task, load_cells(store, task["cell-model"]).context)
    sample = Sample(
        texts=windows.text,
        offsets=np.concatenate([[0], np.cumsum(windows.n_tokens)]).astype(np.int64),
        tokens=windows.tokens,
        vocab_size=BpeTokenizer(store.local(task["tokenizer"])).vocab_size,
    )
    path = Path(task["folder"]) / f"score-{task['number']}.npy"
    scores = _held_out_scores(scorer, sample, _halves(windows.h64), task["models"])
    np.save(path, log_ratio(scores, task["slopes"]))
    return {"path": str(path), "windows": len(windows), "bytes": windows.text.nbytes}


def _weigh(store: Store, task: Task) -> Receipt:
    step: Selecting = task["step"]
    shards, layers = task["pool"]
    pool, target = read_placed(store, task["pool"], documents=False), read_placed(store, task["target"])
    scores = np.concatenate([np.load(path) for path in task["scores"]])
    cells = load_cells(store, task["cell-model"])
    num_cells, votes = cells.num_cells, votes_of(store, task, target, cells.tree)
    size = token_histogram(pool.cell, pool.tokens, num_cells)
    of_cells = partial(weigh, _alone(step), pool, target, cells.tree)
    heard = of_cells(votes=votes.windows).weights.target if votes else None
    shares, ratios = None, scores
    if step.keeps_cells:
        shares = of_cells().weights.target if heard is None else heard
    elif heard is not None:
        ratios = scores + _log_of_shares(heard, of_cells().weights.target)[pool.cell]
    share = window_shares(ratios, pool.cell, pool.tokens, temperature=step.temperature, shares=shares)
    windows = importance_weights(
        share, pool.tokens, budget=step.tokens, temperature=1.0, defence=step.defence, max_epochs=step.max_epochs
    )
    weights = _by_cell(windows, pool.cell, size, budget=step.tokens, max_epochs=step.max_epochs)
    of_cell = weights.epochs[pool.cell]
    factor = np.divide(windows.epochs, of_cell, out=np.ones(len(scores)), where=of_cell > 0)
    ids = [read_live(store, shard, layers, ["row", "id", "window", "cell"], table="cells") for shard in shards]
    written, begin = [], 0
    for table in ids:
        part = slice(begin, begin + table.num_rows)
        columns = {name: table[name] for name in table.column_names}
        columns |= {"score": pa.array(scores[part], pa.float32()), "factor": pa.array(factor[part], pa.float32())}
        written.append(as_json(write_table(store, pa.table(columns).cast(schema.FACTORS))))
        begin = part.stop
    unknown = pa.nulls(num_cells, pa.float64())
    table = weight_table(
        weights, size, token_histogram(target.cell, target.tokens, num_cells), low=unknown, high=unknown
    )
    summary = {
        "method": step.verb,
        **mixture_summary(weights, table, tokens=step.tokens),
        "capped_windows": len(windows.capped),
        "effective_tokens": windows.effective_tokens,
        "coverage": coverage(pool, target),
        **({"feedback": votes.summary} if votes else {}),
    }
    return {
        "weights": as_json(write_table(store, table)),
        "factors": written,
        "rows": [each.num_rows for each in ids],
        "summary": summary,
        "windows": len(scores),
    }


def window_shares(
    ratios: np.ndarray, cells: np.ndarray, tokens: np.ndarray, *, temperature: float, shares: np.ndarray | None
) -> np.ndarray:
    """The target's share of each pool window, float64[n], in proportion to tokens times exp(temperature * ratio).

    With `shares` of cells float64[k], in proportion to that inside each cell, and the cells as they say, tempered too.
    """
    exponent = temperature * ratios.astype(np.float64)
    share = tokens * np.exp(exponent - exponent.max())
    if shares is not None:
        inside = np.bincount(cells, share, len(shares))
        alive = inside > 0
        if temperature != 1:
            shares = (np.maximum(shares, 0.0) / shares.max()) ** temperature  # of the largest: no underflow
        share = share * np.divide(shares, inside, out=np.zeros_like(shares), where=alive)[cells]
    return share / share.sum()


def _by_cell(
    windows: ImportanceWeights, cells: np.ndarray, size: np.ndarray, *, budget: int, max_epochs: float
) -> ImportanceWeights:
    """The weights of windows summed over cells."""
    sampling = np.bincount(cells, windows.sampling, len(size)).astype(np.float64)
    generic = size / size.sum()
    alive = size > 0
    epochs = np.divide(budget * sampling, size, out=np.zeros(len(size)), where=alive)
    return ImportanceWeights(
        generic=generic,
        target=np.bincount(cells, windows.target, len(size)).astype(np.float64),
        sampling=sampling,
        ratio=np.divide(sampling, generic, out=np.ones(len(size)), where=alive),
        epochs=epochs,
        capped=np.flatnonzero(alive & (epochs >= max_epochs * (1 - 1e-9))),
        effective_sample_size=float(1 / (sampling**2).sum()),
        effective_tokens=windows.effective_tokens,
        over_cap=windows.over_cap,
    )

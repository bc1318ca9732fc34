"""Decontamination: pool documents that repeat evaluation text are dropped before anything is learned from the pool.

Word 13-grams of the evaluation documents are looked up in the pool (GPT-3, 2005.14165 appendix C). A 13-gram that many
pool documents share is boilerplate, a licence or a greeting, and convicts nobody: those above `common_from` documents
are set aside first. A document goes when at least `min_matches` of its remaining 13-grams, or at least `min_share`, are
evaluation text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json
from catalog.schema import MATCHES
from catalog.snapshot import Contents, Snapshot
from catalog.store import Store
from catalog.tables import read_live, write_table
from dataops.kernels.hashing import distinct
from dataops.kernels.ngrams import contained_ngrams, ngram_hashes, shingles, texts_with_ngrams
from dataops.kernels.text import matching_form, words
from dataops.step import counts, decide, drops, extend, layer_name, shard_tasks

PASSAGE_WORDS = 80
_NONE = np.empty(0, np.uint64)


@dataclass(frozen=True, kw_only=True)
class Decontaminate:
    """Drop documents of the first snapshot that share word n-grams with the others, the evaluation sets."""

    verb: ClassVar[str] = "decontaminate"
    revision: ClassVar[int] = 2

    ngram: int = 13
    common_from: int = 10
    min_matches: int = 20
    min_share: float = 0.1

    def __post_init__(self) -> None:
        if self.ngram < 1:
            raise UsageError(f"n-grams of {self.ngram} words: expected at least 1")

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A decision layer `contaminated` on the first input, and the table `matches`: what was found of which set."""
        pool, *evaluation = inputs
        pool.require("documents")
        settings = {"step": self, "folder": str(work.folder)}
        tasks = [
            {**task, "set": number}
            for number, each in enumerate(evaluation)
            for task in shard_tasks(each.require("documents"), **settings)
        ]
        collected = work.stage("evaluation n-grams", _collect, [{**t, "index": i} for i, t in enumerate(tasks)])
        vocabularies = [
            distinct(_NONE, *(np.load(receipt["path"]) for receipt in collected if receipt["set"] == number))
            for number in range(len(evaluation))
        ]
        vocabulary = distinct(_NONE, *vocabularies)
        telling = _telling(work, shard_tasks(pool, **settings), vocabulary, common_from=self.common_from)
        belongs = np.array([np.isin(telling, each, assume_unique=True) for each in vocabularies])
        np.save(work.folder / "belongs.npy", belongs)
        layer = layer_name(pool, "contaminated")
        receipts = work.stage("decide", _decide, shard_tasks(pool, layer=layer, **settings))
        summary = {
            **counts(receipts),
            "evaluation_documents": sum(receipt["documents"] for receipt in collected),
            "ngrams": len(vocabulary),
            "common_ngrams": len(vocabulary) - len(telling),
            "evaluation_sets": [
                _of_set(number, collected, receipts, ngrams=len(each), telling=int(belongs[number].sum()))
                for number, each in enumerate(vocabularies)
            ],
        }
        return extend(pool, receipts, layer=layer, summary=summary)


def _telling(work: Work, tasks: Sequence[Task], vocabulary: np.ndarray, *, common_from: int) -> np.ndarray:
    """The evaluation n-grams that fewer than `common_from` documents of the pool hold, ascending; written for tasks."""
    np.save(work.folder / "vocabulary.npy", vocabulary)
    documents_with = np.zeros(len(vocabulary), np.int64)
    for receipt in work.stage("look up", _look_up, tasks):
        with np.load(receipt["path"]) as found:
            documents_with[found["at"]] += found["documents"]
    telling = vocabulary[documents_with < common_from]
    np.save(work.folder / "telling.npy", telling)
    return telling


def _of_set(
    number: int, collected: Sequence[Receipt], decided: Sequence[Receipt], *, ngrams: int, telling: int
) -> dict[str, int]:
    """The figures of one evaluation set."""
    return {
        "documents": sum(receipt["documents"] for receipt in collected if receipt["set"] == number),
        "ngrams": ngrams,
        "common_ngrams": ngrams - telling,
        "pool_documents_dropped": sum(receipt["by_set"][number] for receipt in decided),
    }


def _collect(store: Store, task: Task) -> Receipt:
    live = read_live(store, task["shard"], task["layers"], ["text"])
    _, values = shingles(live["text"], task["step"].ngram)
    path = Path(task["folder"]) / f"evaluation-{task['index']}.npy"
    np.save(path, distinct(values))
    return {"path": str(path), "set": task["set"], "documents": live.num_rows}


def _look_up(store: Store, task: Task) -> Receipt:
    """How many documents of the shard hold each evaluation n-gram, and which documents hold any."""
    vocabulary = np.load(Path(task["folder"]) / "vocabulary.npy", mmap_mode="r")
    live = read_live(store, task["shard"], task["layers"], ["text"])
    documents, holds = texts_with_ngrams(live["text"], task["step"].ngram, vocabulary)
    at = np.flatnonzero(documents)
    path = _counts_path(task)
    np.savez(path, at=at, documents=documents[at], holds=holds)
    return {"path": str(path), "documents": live.num_rows, "bytes": live["text"].nbytes}


def _counts_path(task: Task) -> Path:
    """What `_look_up` found in the task's shard."""
    return Path(task["folder"]) / f"count-{task['number']}.npz"


def _decide(store: Store, task: Task) -> Receipt:
    step: Decontaminate = task["step"]
    telling = np.load(Path(task["folder"]) / "telling.npy", mmap_mode="r")
    live = read_live(store, task["shard"], task["layers"], ["row", "id", "text"])
    with np.load(_counts_path(task)) as counted:
        held = np.flatnonzero(counted["holds"])
    hits, total, first = np.zeros((3, live.num_rows), np.int64)
    hits[held], total[held], first[held] = contained_ngrams(live["text"].take(pa.array(held)), step.ngram, telling)
    share = hits / np.maximum(total, 1)
    gone = np.flatnonzero((hits > 0) & ((hits >= step.min_matches) | (share >= step.min_share)))
    reasons = [
        f"{hits[i]} of {total[i]} word {step.ngram}-grams are evaluation text, from word {first[i]}" for i in gone
    ]
    rows = live["row"].to_numpy()[gone]
    dropped = drops(rows, "contaminated", reasons, similarity=share[gone])
    receipt = decide(store, live.select(["row", "id"]), dropped, layer=task["layer"])
    belongs = np.load(Path(task["folder"]) / "belongs.npy")
    matches = _matches(live.take(pa.array(gone)), step.ngram, telling, belongs)
    receipt["tables"]["matches"] = as_json(write_table(store, matches))
    by_set = np.bincount(matches["evaluation"].to_numpy(), minlength=len(belongs)).tolist()
    return {**receipt, "by_set": by_set, "bytes": live["text"].nbytes}


def _matches(documents: pa.Table, n: int, telling: np.ndarray, belongs: np.ndarray) -> pa.Table:
    """MATCHES of documents (row, id, text): for each set that they share n-grams with, how many, and the longest run.

    telling: hashes, ascending; belongs: bool[sets, telling], which of them each evaluation set holds.
    """
    grams = ngram_hashes(documents["text"], n)
    spelled = words(matching_form(documents["text"]))
    found = []
    for number, (row, name) in enumerate(zip(documents["row"].to_pylist(), documents["id"].to_pylist(), strict=True)):
        own = grams.row(number)
        at = np.minimum(np.searchsorted(telling, own), len(telling) - 1)
        known = telling[at] == own
        for evaluation in range(len(belongs)):
            hit = known & belongs[evaluation, at]
            if hit.any():
                start, length = _longest_run(hit)
                passage = " ".join(spelled[number][start : start + length + n - 1][:PASSAGE_WORDS])
                found.append((row, name, evaluation, int(hit.sum()), passage))
    return pa.Table.from_pylist([dict(zip(MATCHES.names, each, strict=True)) for each in found], schema=MATCHES)


def _longest_run(hit: np.ndarray) -> tuple[int, int]:
    """Start and length of the longest run of True, the first of equals."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hit, [False]])))
    starts, stops = edges[::2], edges[1::2]
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]), int(stops[longest] - starts[longest])

"""What came of each row, kept beside the benchmark, so that the table goes on on another machine and in another store.

A row is minutes of training and one line here: bits of every test document before and after fine-tuning, what it cost,
and what made it. A file holds the rows of one target and one share of the pool; its first line holds what all of them
share, the bytes and tokens of the test documents. Numbers only, no text. A line counts as long as the revisions of its
steps and of the benchmark are those of the code; the row is made again after that, and the old line stays.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reproduce_rows import REVISION, Row, Table

from catalog.catalog import Catalog
from catalog.lineage import ancestors
from catalog.tables import read_table
from clusters.registry import STEPS, step_class

RECORDS = Path(__file__).parent / "reproduced"
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True, kw_only=True, eq=False)
class Documents:
    """Test documents in the order of their ids: float64[n] each; `digest` names ids, bytes and tokens together."""

    num_bytes: np.ndarray
    num_tokens: np.ndarray
    digest: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """A model on test documents: their bits, float64[n]."""

    bits: np.ndarray
    documents: Documents

    @property
    def bits_per_byte(self) -> float:
        """Of all documents together."""
        return float(self.bits.sum() / self.documents.num_bytes.sum())

    @property
    def perplexity(self) -> float:
        """Per token."""
        return float(2 ** (self.bits.sum() / self.documents.num_tokens.sum()))


Results = Mapping[tuple[Row, str], Scored]  # (row, before or after)


@dataclass(frozen=True, kw_only=True)
class Records:
    """The rows of one size of pool and models: `share` of the pool's documents, `tokens` of a stream, `params`."""

    share: float
    tokens: int
    params: int
    folder: Path = RECORDS

    @cached_property
    def lines(self) -> dict[Row, dict[str, Any]]:
        """The newest line of each row that still counts."""
        revisions = {verb: step_class(verb).revision for verb in STEPS}
        found = {}
        for path in sorted(self.folder.glob(f"*-{self.share:g}.jsonl")):
            for line in path.read_text().splitlines()[1:]:
                each = json.loads(line)
                if (
                    each["steps"] == {verb: revisions.get(verb) for verb in each["steps"]}
                    and each["revision"] == REVISION
                    and each["size"] == [self.tokens, self.params]
                ):
                    found[Row(**each["row"])] = each
        return found

    def results(self, rows: Collection[Row]) -> Results:
        """The scores of all of these rows that are there."""
        documents = {target: self._documents(target) for target in {row.target for row in rows}}
        return {
            (row, when): Scored(bits=np.asarray(self.lines[row][when]), documents=documents[row.target])
            for row in rows
            if row in self.lines
            for when in (BEFORE, AFTER)
            if self.lines[row][when]
        }

    def add(self, table: Table, row: Row, code: str) -> None:
        """Write down a row that the store of `table` has, made by `code`.

        Raises ValueError where it was scored on other documents than the file's other rows.
        """
        catalog = table.bench.catalog
        scores = read_table(catalog.store, catalog.snapshot(row.scores).artifact("scores")).sort_by("id")
        models = scores["model"].to_numpy(zero_copy_only=False)
        bits = scores["nll_nats"].to_numpy() / np.log(2)
        first = scores.filter(models == row.name)
        known, path = self._documents(row.target), self._path(row.target)
        digest = hashlib.sha256(
            json.dumps(first.select(["id", "n_bytes", "n_tokens"]).to_pydict()).encode()
        ).hexdigest()
        if known and known.digest != digest:
            raise ValueError(f"{row.name} was scored on other documents than those of {path}: move that file away")
        line = {
            "row": asdict(row),
            "size": [self.tokens, self.params],
            "revision": REVISION,
            "steps": _steps(catalog, row),
            "made": {"code": code, **_circumstances(catalog, row)},
            "cost": _cost(catalog, row),
            "gain": _gain(catalog, row),
            BEFORE: np.round(bits[models != row.name], 1).tolist(),
            AFTER: np.round(bits[models == row.name], 1).tolist(),
        }
        head = {"digest": digest, "bytes": first["n_bytes"].to_pylist(), "tokens": first["n_tokens"].to_pylist()}
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            file.write("" if known else json.dumps(head, separators=(",", ":")) + "\n")
            file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self.lines[row] = line

    def _path(self, target: str) -> Path:
        return self.folder / f"{target}-{self.share:g}.jsonl"

    def _documents(self, target: str) -> Documents | None:
        path = self._path(target)
        if not path.exists():
            return None
        with open(path) as file:
            head = json.loads(file.readline())
        return Documents(
            num_bytes=np.asarray(head["bytes"], np.float64),
            num_tokens=np.asarray(head["tokens"], np.float64),
            digest=head["digest"],
        )


def _steps(catalog: Catalog, row: Row) -> dict[str, int]:
    """Verb and revision of every step behind the row's scores, which this code has just made or found unchanged."""
    verbs = {catalog.computed_by(each).step for each in ancestors(catalog, catalog.snapshot(row.scores))}
    return {verb: step_class(verb).revision for verb in sorted(verbs)}


def code_here() -> str:
    """The commit of this checkout, with `-dirty` where more than rows has changed since."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=RECORDS.parents[1], capture_output=True, text=True, check=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", f":!{RECORDS.relative_to(RECORDS.parents[1])}")
    return git("rev-parse", "--short", "HEAD") + ("-dirty" if changed else "")


def _circumstances(catalog: Catalog, row: Row) -> dict[str, str]:
    """When and with what the row was made: numbers of processors that round differently are not the same bytes."""
    tuned = catalog.snapshot(row.name)
    return {
        "day": time.strftime("%Y-%m-%d", time.gmtime(catalog.computed_by(tuned).started)),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
        "precision": tuned.contents.summary["precision"],
    }


def _cost(catalog: Catalog, row: Row) -> dict[str, float]:
    """TFLOP of training, shared by a pool's targets and of this one, and seconds of the row's other steps."""
    cost = {"shared": 0.0, "own": 0.0, "seconds": 0.0}
    for each in ancestors(catalog, catalog.snapshot(row.name)):
        run, summary = catalog.computed_by(each), each.contents.summary
        if run.step in ("pretrain", "finetune"):
            kind = "own" if each.name.startswith(row.target) else "shared"
            cost[kind] += summary["tokens"] * summary["flops_per_token"] / 1e12
        elif each.name.startswith(f"{replace(row, seed=0).name}-"):
            cost["seconds"] += run.seconds
    return {kind: round(value, 1) for kind, value in cost.items()}


def _gain(catalog: Catalog, row: Row) -> dict[str, float]:
    """What held-out target documents gain by a mixture over cells, nats a window, its error and the cells chosen."""
    if row.mixture not in catalog.snapshots:
        return {}
    summary = catalog.snapshot(row.mixture).contents.summary
    for each in summary.get("levels", ()):
        if each["cells"] == summary["resolution"]:
            return {"gain": round(each["gain"], 3), "error": round(each["error"], 3), "cells": each["cells"]}
    return {}

"""What users thought of texts: lines of {"text": ..., "accepted": true or false} become documents.

The verdict is the document's domain, `accepted` or `rejected`, so it can be seen and counted like any other. Put into
cells, they are the third input of `weigh`: accepted text is counted with the target's, rejected text against it. Every
line is a vote, so feedback is not deduplicated, and no model is trained on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow.compute as pc

from catalog.errors import BadInput, UsageError
from catalog.run import Work
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import Store
from catalog.tables import read_live
from dataops.ingest import ingested
from dataops.input_check import check
from dataops.inputs import Input, digests, discover
from dataops.records import ACCEPTED, REJECTED, ReadOptions

FORMATS = ("jsonl", "parquet")  # those that tell true from the word "true"


@dataclass(frozen=True, kw_only=True)
class IngestFeedback:
    """Documents from files of feedback; a line without text or without a verdict is quarantined with its reason."""

    verb: ClassVar[str] = "ingest-feedback"
    revision: ClassVar[int] = 2

    paths: tuple[str, ...] = field(compare=False)
    text_column: str = "text"
    accepted_column: str = "accepted"
    shard_bytes: int = 64 << 20

    @property
    def options(self) -> ReadOptions:
        """The columns to read."""
        return ReadOptions(text_column=self.text_column, accepted_column=self.accepted_column)

    def inputs(self) -> list[Input]:
        """The files behind `paths`. Raises BadInput for what can't be read or can't hold a verdict."""
        found = discover(self.paths, source=None)
        for each in found:
            if each.format not in FORMATS:
                raise BadInput(
                    f"{each.path}: feedback is JSON Lines or Parquet with the columns {self.text_column} and "
                    f"{self.accepted_column} (true or false)"
                )
        check(found, self.options)
        return found

    def evidence(self, *_: Snapshot) -> Any:
        """Name, source and digest of every input file."""
        return digests(self.inputs())

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """One shard a slice, with the tables `documents` and `quarantine`."""
        assert not inputs
        return ingested(work, self.inputs(), self.options, shard_bytes=self.shard_bytes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Votes:
    """Feedback by leaf: windows of accepted less rejected text, float64[cells], and how many documents of each."""

    windows: np.ndarray
    accepted: int
    rejected: int

    @property
    def summary(self) -> dict[str, int]:
        """Documents by verdict."""
        return {ACCEPTED: self.accepted, REJECTED: self.rejected}


def read_votes(
    store: Store, shards: Sequence[Shard], layers: Sequence[str], *, window_tokens: float, num_cells: int
) -> Votes:
    """The verdicts of feedback, in windows of `window_tokens` tokens. Raises UsageError where there are none."""
    windows, count = np.zeros(num_cells), dict.fromkeys((ACCEPTED, REJECTED), 0)
    for shard in shards:
        documents = read_live(store, shard, layers, ["row", "domain"])
        placed = read_live(store, shard, layers, ["row", "cell", "n_tokens"], table="cells")
        for verdict, sign in ((ACCEPTED, 1), (REJECTED, -1)):
            rows = documents.filter(pc.equal(documents["domain"], verdict))["row"].combine_chunks()
            chosen = placed.filter(pc.is_in(placed["row"], value_set=rows))
            mass = sign * chosen["n_tokens"].to_numpy() / window_tokens
            windows += np.bincount(chosen["cell"].to_numpy(), mass, num_cells)
            count[verdict] += len(rows)
    if not any(count.values()):
        raise UsageError(
            'no verdict in the feedback: expected lines of {"text": ..., "accepted": true or false}, ingested with '
            "`ingest-feedback`; `select reason, excerpt from quarantine` says what was wrong with those it left out"
        )
    return Votes(windows=windows, accepted=count[ACCEPTED], rejected=count[REJECTED])

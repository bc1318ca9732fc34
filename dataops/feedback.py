"""What users thought of texts: lines of {"text": ..., "accepted": true or false} become documents.

The verdict is the document's domain, `accepted` or `rejected`, so it can be seen and counted like any other. Put into
cells, they are the third input of `weigh`: accepted text is counted with the target's, rejected text against it. Every
line is a vote, so feedback is not deduplicated, and no model is trained on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from catalog.errors import BadInput
from catalog.fingerprint import sha256_file
from catalog.run import Work
from catalog.snapshot import Contents, Snapshot
from dataops.ingest import ingested
from dataops.input_check import check
from dataops.inputs import Input, discover
from dataops.records import ReadOptions

FORMATS = ("jsonl", "parquet")  # those that tell true from the word "true"


@dataclass(frozen=True, kw_only=True)
class IngestFeedback:
    """Documents from files of feedback; a line without text or without a verdict is quarantined with its reason."""

    verb: ClassVar[str] = "ingest-feedback"
    revision: ClassVar[int] = 1

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
        return [[each.name, each.source, sha256_file(each.path)] for each in self.inputs()]

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """One shard a slice, with the tables `documents` and `quarantine`."""
        assert not inputs
        return ingested(work, self.inputs(), self.options, shard_bytes=self.shard_bytes)

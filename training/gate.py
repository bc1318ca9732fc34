"""The gate: whether a challenger takes the place of a champion.

The challenger must be better on new text: the whole 95% interval of its paired difference in bits per byte below zero.
And it must not be worse on old text by more than `margin`: the whole interval below that (a test of non-inferiority).
What can't be told is not promoted: a small new set keeps the champion, and a set below `fewest_documents` always, as a
bootstrap over so few is too sure of itself. Both sets are held out and frozen; the intervals are those of `evaluate`, a
paired bootstrap over documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from catalog.errors import UsageError
from catalog.run import Work
from catalog.snapshot import Contents, Snapshot
from catalog.tables import write_table


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Judge by two evaluations of a champion and a challenger, in this order: on old text, and on new text."""

    verb: ClassVar[str] = "gate"
    revision: ClassVar[int] = 3

    margin: float = 0.02
    fewest_documents: int = 8

    def __post_init__(self) -> None:
        if self.margin < 0 or self.fewest_documents < 1:
            raise UsageError(
                f"margin {self.margin}, fewest_documents {self.fewest_documents}: expected 0 or more bits per byte, "
                "and at least 1"
            )

    def evidence(self, *inputs: Snapshot) -> list[list[str]]:
        """The references of the models that the evaluations scored, which the verdict names."""
        return [list(_models(each)) for each in inputs]

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A verdict snapshot: champion, challenger and winner as name@version, and what was asked on each set."""
        old, new = inputs
        scored = [_models(each) for each in (old, new)]
        if _ids(work, old) != _ids(work, new):
            raise UsageError(
                f"{old.ref} scored {', '.join(scored[0])}, {new.ref} {', '.join(scored[1])}: expected the same two "
                "models, the champion first"
            )
        champion, challenger = scored[1]
        sets = [self._row("old", old, at_most=self.margin), self._row("new", new, at_most=0.0)]
        winner = challenger if all(row["holds"] for row in sets) else champion
        fewest = {"fewest_documents": self.fewest_documents}
        summary = {"champion": champion, "challenger": challenger, "winner": winner, **fewest, "sets": sets}
        table = pa.Table.from_pylist([{**row, "winner": winner} for row in sets])
        return Contents(kind="verdict", artifacts={"gate": write_table(work.store, table)}, summary=summary)

    def _row(self, text: str, evaluation: Snapshot, *, at_most: float) -> dict[str, Any]:
        """What one evaluation says; `at_most` bounds the interval of challenger minus champion from above."""
        summary: Mapping[str, Any] = evaluation.contents.summary
        champion, challenger = summary["results"]
        (pair,) = summary["comparisons"]
        return {
            "text": text,
            "documents": champion["documents"],
            "champion": champion["bits_per_byte"],
            "challenger": challenger["bits_per_byte"],
            **{name: pair[name] for name in ("difference", "low", "high")},
            "at_most": at_most,
            "holds": pair["high"] < at_most and champion["documents"] >= self.fewest_documents,
        }


def _models(evaluation: Snapshot) -> tuple[str, ...]:
    """The references of the two models that an evaluation scored, the champion first. Raises UsageError."""
    _, *models = evaluation.require("evaluation").inputs
    if len(models) != 2:
        raise UsageError(f"{evaluation.ref} scored {', '.join(models)}: expected a champion and a challenger")
    return tuple(models)


def _ids(work: Work, evaluation: Snapshot) -> list[tuple[str, str]]:
    """Name and id of what it scored: of equal bytes two versions are one model."""
    return [(each.name, each.id) for each in work.catalog.inputs(evaluation)[1:]]

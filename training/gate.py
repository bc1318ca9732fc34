"""The gate: whether a challenger takes the place of a champion.

The challenger must be better on new text: the whole 95% interval of its paired difference in bits per byte below zero.
And it must not be worse on old text by more than `margin`: the whole interval below that (a test of non-inferiority).
What can't be told is not promoted, so a small new set keeps the champion. Both sets are held out and frozen; the
intervals are those of `evaluate`, a paired bootstrap over documents.
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
    revision: ClassVar[int] = 1

    margin: float = 0.02

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise UsageError(f"margin {self.margin}: expected 0 or more bits per byte")

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A verdict snapshot: the winner, and what was asked of the challenger on each set."""
        old, new = inputs
        names = [_names(each) for each in (old, new)]
        if names[0] != names[1]:
            raise UsageError(
                f"{old.ref} scored {', '.join(names[0])}, {new.ref} {', '.join(names[1])}: expected the same two "
                "models, the champion first"
            )
        champion, challenger = names[0]
        sets = [_row("old", old, at_most=self.margin), _row("new", new, at_most=0.0)]
        winner = challenger if all(row["holds"] for row in sets) else champion
        summary = {"champion": champion, "challenger": challenger, "winner": winner, "sets": sets}
        table = pa.Table.from_pylist([{**row, "winner": winner} for row in sets])
        return Contents(kind="verdict", artifacts={"gate": write_table(work.store, table)}, summary=summary)


def _names(evaluation: Snapshot) -> list[str]:
    names = [row["model"] for row in evaluation.require("evaluation").contents.summary["results"]]
    if len(names) != 2:
        raise UsageError(f"{evaluation.ref} scored {', '.join(names)}: expected a champion and a challenger")
    return names


def _row(text: str, evaluation: Snapshot, *, at_most: float) -> dict[str, Any]:
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
        "holds": pair["high"] < at_most,
    }

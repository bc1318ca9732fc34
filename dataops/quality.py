"""Quality rules: named thresholds on text statistics, one reason each.

The statistics are those of Gopher (2112.11446, appendix A.1) and C4; they are stored for every document, so another
threshold is a SQL query before it is a run. A document is dropped under the first rule it fails, in the order given.
Defaults are wider than Gopher's because technical documentation is not web text: it is full of lists and code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from catalog import schema
from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json
from catalog.snapshot import Contents, Snapshot
from catalog.store import Store
from catalog.tables import read_live, write_table
from dataops.kernels.statistics import text_statistics
from dataops.step import counts, decide, drops, extend, layer_name, shard_tasks


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Keep documents whose `statistic` lies in [low, high]; None is no bound."""

    name: str
    statistic: str
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        known = schema.STATISTICS.names[2:]
        if self.statistic not in known:
            raise UsageError(f"rule {self.name}: no statistic {self.statistic!r}; there are {', '.join(known)}")


RULES = (
    Rule(name="too-short", statistic="n_words", low=20),
    Rule(name="too-long", statistic="n_words", high=200_000),
    Rule(name="word-length", statistic="mean_word_length", low=2.0, high=12.0),
    Rule(name="few-letters", statistic="alphabetic_share", low=0.5),
    Rule(name="symbols", statistic="symbol_share", high=0.2),
    Rule(name="repeated-lines", statistic="duplicate_line_share", high=0.5),
    Rule(name="repeated-2-grams", statistic="top_2gram_share", high=0.3),
    Rule(name="repeated-10-grams", statistic="duplicate_10gram_share", high=0.6),
)


@dataclass(frozen=True, kw_only=True)
class QualityFilter:
    """Drop documents that fail a rule; add the table `statistics`."""

    verb: ClassVar[str] = "quality-filter"
    revision: ClassVar[int] = 1

    rules: tuple[Rule, ...] = RULES

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A decision layer `quality` on the one snapshot given."""
        (snapshot,) = inputs
        snapshot.require("documents")
        layer = layer_name(snapshot, "quality")
        receipts = work.stage("filter", _filter, shard_tasks(snapshot, rules=self.rules, layer=layer))
        by_rule = {rule.name: sum(receipt["failed"][rule.name] for receipt in receipts) for rule in self.rules}
        return extend(snapshot, receipts, layer=layer, summary={**counts(receipts), "dropped_by_rule": by_rule})


def _filter(store: Store, task: Task) -> Receipt:
    live = read_live(store, task["shard"], task["layers"], ["row", "id", "text"])
    statistics = text_statistics(live["text"])
    failed = first_failure(statistics, task["rules"])
    gone = np.flatnonzero(failed >= 0)
    rules = [task["rules"][index] for index in failed[gone]]
    values = [statistics[rule.statistic][int(i)].as_py() for rule, i in zip(rules, gone, strict=True)]
    dropped = drops(
        live["row"].to_numpy()[gone],
        [f"quality:{rule.name}" for rule in rules],
        [reason(rule, value) for rule, value in zip(rules, values, strict=True)],
    )
    receipt = decide(store, live.select(["row", "id"]), dropped, layer=task["layer"])
    columns = {name: statistics[name] for name in schema.STATISTICS.names[2:]}
    table = pa.table({"row": live["row"], "id": live["id"], **columns}).cast(schema.STATISTICS)
    receipt["tables"]["statistics"] = as_json(write_table(store, table))
    receipt["failed"] = {rule.name: rules.count(rule) for rule in task["rules"]}
    receipt["bytes"] = live["text"].nbytes
    return receipt


def first_failure(statistics: pa.Table, rules: tuple[Rule, ...]) -> np.ndarray:
    """Index of the first rule that each document fails, -1 for none; int64[n]."""
    failed = np.full(statistics.num_rows, -1)
    for index, rule in reversed(list(enumerate(rules))):
        values = statistics[rule.statistic].to_numpy()
        low, high = rule.low, rule.high
        failed[(values < (-np.inf if low is None else low)) | (values > (np.inf if high is None else high))] = index
    return failed


def reason(rule: Rule, value: float) -> str:
    """The decision in words: what was measured and the bound it missed."""
    bound = f"< {rule.low:g}" if rule.low is not None and value < rule.low else f"> {rule.high:g}"
    return f"{rule.statistic} {value:.4g} {bound}"

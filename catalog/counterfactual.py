"""What would have become of documents that a rule dropped, had that rule alone not been there.

Only what stored decisions and statistics settle is said; the rest is counted as unknown. For a document that a rule
dropped, every decision on other documents being as it was:

- a quality rule: the rules after it in the same step are applied to the stored statistics; what passes them all went
  on, and no later step has looked at it, so it is *left* where there is no later judging step and *unknown* otherwise;
- an exact repeat: it is the text of the document kept instead, so later quality rules and decontamination judge both
  alike; a later near-duplicate step meets two documents of similarity 1 and keeps one of them, as it did;
- a near-duplicate: no later step has looked at it.

Steps that divide or draw (`split`, `resample`) do not judge; what they do with a document is not asked here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.query import Ask, session
from catalog.snapshot import Snapshot
from catalog.takedown import RULE as TAKEDOWN

NO_JUDGEMENT = ("split", "resample", TAKEDOWN)  # layers of no rule that could have been left out


@dataclass(frozen=True, kw_only=True)
class Alone:
    """Of the documents that a rule dropped: how many another rule takes anyway, are left, and can't be told."""

    snapshot: str
    rule: str
    dropped: int
    taken_anyway: int
    left: int
    unknown: int


def alone(catalog: Catalog, snapshot: Snapshot) -> list[Alone]:
    """For each rule on the way to `snapshot`, in order, what its absence would have left, as far as it is known."""
    if not snapshot.contents.layers:
        raise UsageError(f"{snapshot.ref} went through no deciding step, so there is nothing to show")
    with session(catalog) as ask:
        losses = ask("FROM waterfall(?)", [snapshot.ref]).to_pylist()
        judging = list(dict.fromkeys(loss["layer"] for loss in losses if not loss["layer"].startswith(NO_JUDGEMENT)))
        return [
            _alone(catalog, ask, loss, losses, later=judging[judging.index(loss["layer"]) + 1 :])
            for loss in losses
            if loss["layer"] in judging
        ]


def _alone(
    catalog: Catalog, ask: Ask, loss: Mapping[str, Any], losses: list[dict[str, Any]], *, later: list[str]
) -> Alone:
    dropped = loss["dropped_documents"]
    if loss["rule"].startswith("quality:"):
        settings = catalog.computed_by(catalog.snapshot(loss["snapshot"])).parameters
        if "rules" not in settings:  # the snapshot with these decisions expired: a later one lists them
            return _told(loss, taken=0, left=0, unknown=dropped)
        taken = _by_later_rules(ask, loss, settings["rules"])
    elif loss["rule"] == "exact":
        taken, unknown = _as_what_was_kept(ask, loss, [each for each in losses if each["layer"] in later])
        return _told(loss, taken=taken, left=dropped - taken - unknown, unknown=unknown)
    else:
        taken = 0
    rest = dropped - taken
    return _told(loss, taken=taken, left=0 if later else rest, unknown=rest if later else 0)


def _told(loss: Mapping[str, Any], *, taken: int, left: int, unknown: int) -> Alone:
    return Alone(
        snapshot=loss["snapshot"],
        rule=loss["rule"],
        dropped=loss["dropped_documents"],
        taken_anyway=taken,
        left=left,
        unknown=unknown,
    )


def _by_later_rules(ask: Ask, loss: Mapping[str, Any], rules: Sequence[Mapping[str, Any]]) -> int:
    """How many documents of a quality rule fail another one of the same step, by their stored statistics."""
    others = [rule for rule in rules if f"quality:{rule['name']}" != loss["rule"]]
    bounds = [
        f's."{rule["statistic"]}" {sign} {json.dumps(rule[side])}'
        for rule in others
        for side, sign in (("low", "<"), ("high", ">"))
        if rule[side] is not None
    ]
    found = ask(
        f"""SELECT count(*) AS documents FROM decisions d JOIN statistics s USING (snapshot, id)
        WHERE d.snapshot = ? AND d.rule = ? AND ({" OR ".join(bounds) or "false"})""",
        [loss["snapshot"], loss["rule"]],
    )
    return int(found["documents"][0].as_py())


def _as_what_was_kept(ask: Ask, loss: Mapping[str, Any], later: list[dict[str, Any]]) -> tuple[int, int]:
    """Of exact repeats: how many a later step takes (whatever took what was kept, or nearness to it), and unknown.

    Unknown are those whose kept document came through where a later near-duplicate step could not see that both are the
    same: documents shorter than a shingle are not compared there.
    """
    if not later:
        return 0, 0
    names = ", ".join(f"'{each}'" for each in {each["snapshot"] for each in later})
    (row,) = ask(
        f"""WITH gone AS (SELECT id FROM decisions WHERE snapshot IN ({names}) AND NOT kept)
        SELECT count(*) FILTER (WHERE g.id IS NOT NULL) AS taken, count(*) AS documents
        FROM decisions d LEFT JOIN gone g ON g.id = d.kept_id
        WHERE d.snapshot = ? AND d.rule = 'exact'""",
        [loss["snapshot"]],
    ).to_pylist()
    passed = row["documents"] - row["taken"]
    near = any(each["layer"].startswith("near-duplicate") for each in later)
    return (row["taken"], passed) if near else (row["taken"], 0)

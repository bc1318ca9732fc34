"""`tamis dedup`: which steps a request means, and what they cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from catalog.catalog import Catalog
from catalog.snapshot import Run, Snapshot
from clusters.recipes import Recipe, Stated

INHERITED = ("threshold", "prefer", "shingle", "permutations", "seed", "verify_from")


def dedup_recipe(
    catalog: Catalog, reference: str, *, into: str, settings: Mapping[str, Any], against: str | None, replace: bool
) -> Recipe:
    """What deduplicating `reference` means.

    A snapshot that ends with near-duplicate decisions is decided again from its stored edges. Any other goes through
    exact and fuzzy deduplication; beside the documents of `against` when that is given, with the settings that made it
    unless `settings` says otherwise. Its documents stay unless `replace`.
    """
    snapshot = catalog.snapshot(reference)
    if against is not None:
        old = catalog.snapshot(against)
        before = _inherited(catalog, old)
        first_come = {"first_come": not replace}
        return Recipe(
            entries=(
                Stated(name=f"{into}-all", step="append", inputs=(old.ref, snapshot.ref)),
                Stated(name=f"{into}-unique", step="exact-dedup", inputs=(f"{into}-all",), settings=first_come),
                Stated(
                    name=into,
                    step="fuzzy-dedup",
                    inputs=(f"{into}-unique",),
                    settings={**before, **settings, **first_come},
                ),
            )
        )
    layers = snapshot.contents.layers
    if layers and layers[-1].startswith("near-duplicate") and snapshot.contents.has("edges"):
        decided = {**_settings(catalog, snapshot, ("threshold", "prefer")), **settings}
        return Recipe(entries=(Stated(name=into, step="redecide", inputs=(snapshot.ref,), settings=decided),))
    entries, source = [], snapshot.ref
    if not any(layer.startswith("exact") for layer in layers):
        entries.append(Stated(name=f"{into}-unique", step="exact-dedup", inputs=(source,)))
        source = f"{into}-unique"
    return Recipe(entries=(*entries, Stated(name=into, step="fuzzy-dedup", inputs=(source,), settings=settings)))


def _inherited(catalog: Catalog, snapshot: Snapshot) -> dict[str, Any]:
    """Those of the `fuzzy-dedup` behind a snapshot, and over them what `redecide` changed since."""
    own = _settings(catalog, snapshot, INHERITED)
    if catalog.computed_by(snapshot).step != "redecide":
        return own
    return {**_inherited(catalog, catalog.inputs(snapshot)[0]), **own}


def _settings(catalog: Catalog, snapshot: Snapshot, names: Collection[str]) -> dict[str, Any]:
    """Those of the run that computed a snapshot."""
    return {name: value for name, value in catalog.computed_by(snapshot).parameters.items() if name in names}


def cost_table(catalog: Catalog, made: Mapping[str, Snapshot]) -> str:
    """Seconds and rates of every phase."""
    lines = [f"  {'step':<14} {'phase':<10} {'seconds':>8} {'went through':>24} {'MB/s':>8}"]
    for snapshot in made.values():
        run: Run = catalog.runs[snapshot.run]
        for stage in run.stages:
            seconds = max(stage["seconds"], 1e-9)
            rate = f"{stage['bytes'] / 1e6 / seconds:>8.1f}" if stage["bytes"] else ""
            through = f"{stage['rows']:,} {stage['unit']}"
            lines.append(f"  {run.step:<14} {stage['stage']:<10} {seconds:>8.2f} {through:>24} {rate}".rstrip())
    return "\n".join(lines)


def audit_table(summary: Mapping[str, Any]) -> str:
    """Recall by similarity and precision, with 95% intervals."""

    def share(row: Mapping[str, Any]) -> str:
        if row["share"] is None:
            return f"{'-':>10}"
        return f"{row['share']:>10.4f}  [{row['low']:.4f}, {row['high']:.4f}]"

    lines = [f"  {'Jaccard':<12} {'planted':>8} {'found':>8} {'share':>10}  95% interval"]
    for row in summary["levels"]:
        mark = "" if row["from"] >= summary["threshold"] else "  (below the threshold: should stay)"
        lines.append(f"  {row['from']:.2f}-{row['to']:.2f}    {row['of']:>8,} {row['found']:>8,} {share(row)}{mark}")
    precision = summary["precision"]
    lines.append(
        f"  of {precision['of']:,} removals looked at {precision['found']:,} were right: precision "
        f"{share(precision).strip()}"
    )
    return "\n".join(lines)

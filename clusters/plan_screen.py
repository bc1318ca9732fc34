"""Text about plans: the report of `tamis plan`, and what became of its prediction."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from catalog.catalog import Catalog
from catalog.snapshot import Snapshot
from clusters.advice import with_bounds
from clusters.console import duration
from clusters.screens import AFTER, BEFORE, waterfall_table
from training.routes import Rates

if TYPE_CHECKING:
    from clusters.plan_report import Refusal, Report, Selection, Side
    from training.forecast import Prediction

STAGES = {"before": "before fine-tuning", "after": "after fine-tuning"}


def plan_screen(report: Report) -> str:
    """Everything a plan says, for a person."""
    lines = _curation(report, f"{report.validation:,} documents for validation and {report.test:,} for the test")
    lines += ["", f"Selection, for a stream of {report.tokens:,} tokens", *_selection(report.selection)]
    lines += ["", f"Gain of resampling, bits/byte on {report.validation:,} documents (above 0: it helps)"]
    lines += _gains(report.pairs)
    lines += [_errors(STAGES["before"], report.before), _errors(STAGES["after"], report.after)]
    lines += ["", f"Cost for {report.tasks} task{'s' * (report.tasks > 1)}", *_costs(report)]
    if report.refused:
        return "\n".join([*lines, "", "Recommended: nothing"])
    reason = textwrap.wrap(report.advice.reason, 110, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*lines, "", f"Recommended: {report.advice.route}", *reason])


def refusal_screen(found: Refusal) -> str:
    """What a plan that ends early found out, for a person; the reason follows as an error."""
    lines = _curation(found, f"{found.validation:,} documents for validation")
    if found.selection:
        lines += ["", "Selection", *_selection(found.selection)]
    return "\n".join([*lines, "", "Recommended: nothing"])


def _curation(found: Report | Refusal, held_out: str) -> list[str]:
    sides = ["Pool", _side(found.pool), "Target", _side(found.target)]
    return ["", *sides, f"  of these, {held_out}", _leakage(found)]


def _side(side: Side) -> str:
    if side.losses:
        return waterfall_table(list(side.losses))
    return f"  {side.documents:,} documents, {side.tokens:,} tokens; nothing was dropped"


def _leakage(report: Report | Refusal) -> str:
    if not report.leaked:
        return "Leakage: no pool document shares a long passage with the target, validation and test included"
    return (
        f"Leakage: {report.leaked:,} pool document{'s' * (report.leaked > 1)} with passages of the target, validation "
        f"and test included; {report.near_leaked:,} nearly copies of it; all removed"
    )


def _selection(found: Selection) -> list[str]:
    sample, at_cap = f"{found.sample_cells:.1f} cells", f"{found.capped_cells} of {found.cells} cells at the cap"
    if found.sample_tokens is not None:
        sample += f"; as much as {found.sample_tokens:,.0f} tokens drawn alike"
        at_cap += f", {found.capped_windows:,} windows"
    rows = {
        "outside": f"{found.outside:.1%} of the target's windows are further from their cell than 99% of the pool's",
        "effective cells": f"pool {found.effective_pool:.1f}, target {found.effective_target:.1f} of {found.cells}",
        "weighed": f"{found.chosen_cells} cells" if found.auc is None else f"windows; AUC, held out: {found.auc:.3f}",
        "effective sample": sample,
        "epochs of a cell": f"median {found.median_epochs:.2f}, most {found.most_epochs:.2f}; {at_cap}",
    }
    return [f"  {name:<18} {text}" for name, text in rows.items()]


def _gains(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each pair of proxies, the prediction last."""
    lines = [f"  {'tokens':>12} {'parameters':>12}  {STAGES['before']:<26} {STAGES['after']:<26}"]
    before, after = ([row for row in pairs if row["stage"] == stage] for stage in STAGES)
    for one, two in zip(before, after, strict=True):
        gains = "  ".join(f"{_gain(row):<25}" for row in (one, two))
        lines.append(f"  {one['tokens']:>12,} {one['parameters']:>12,}  {gains}" + "predicted" * (not one["measured"]))
    return [line.rstrip() for line in lines]


def _gain(row: Mapping[str, Any]) -> str:
    return with_bounds(row["gain"], row["low"], row["high"])


def _errors(title: str, found: Prediction) -> str:
    parts = f"documents {found.documents:.3f}, seeds {found.seeds:.3f}, curve {found.curve:.3f}"
    return f"  standard errors of the prediction {title}: {parts}"


def _costs(report: Report) -> list[str]:
    parts = ("shared", "each task", "all tasks")
    lines = [f"  {'':<12} {'':>11}  {'FLOPs':<29}  time here"]
    lines += ["  " + " ".join([f"{'route':<12} {'parameters':>11}", *(f"{part:>9}" for part in (*parts, *parts))])]
    for route in report.routes:
        flops, seconds = ((each.generic, each.task, each.total(report.tasks)) for each in (route.flops, route.seconds))
        cells = [*(f"{each:>9.1e}" for each in flops), *(f"{_time(each):>9}" for each in seconds)]
        lines.append("  " + " ".join([f"{route.name:<12} {route.served:>11,}", *cells]))
    small = report.speeds["small"]
    where = "a GPU" if small.device == "cuda" else f"{small.threads} thread{'s' * (small.threads > 1)}"
    speeds = ", ".join(f"{name} {speed.flops_per_second / 1e9:,.0f}" for name, speed in report.speeds.items())
    unknown = [field.name for field in fields(Rates) if field.name not in report.speeds]
    taken = f"; {' and '.join(unknown)} taken to be as fast as small" if unknown else ""
    lines += [
        f"  time: one run at a time, {where}, this machine as busy as it is",
        f"  GFLOP/s, medians of a few steps: {speeds}{taken}",
        f"  curation, selection and proxies are done and took {duration(report.preparing_seconds)}",
    ]
    return lines


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def forecast_of(catalog: Catalog, made: Mapping[str, Snapshot]) -> Snapshot | None:
    """The newest forecast of the models that the main job made: on the same packs, of the same size."""
    planned = catalog.runs[made["specialized"].run].parameters
    size = {name: planned[name] for name in ("tokens", "params")}
    for forecast in reversed([each for each in catalog.live() if each.contents.kind == "forecast"]):
        models = [each for each in catalog.inputs(forecast) if each.contents.kind == "model"]
        packs = {each.id for model in models for each in catalog.inputs(model) if each.contents.kind == "packs"}
        summary = forecast.contents.summary
        if made["specialized-packs"].id in packs and size == {name: summary[name] for name in size}:
            return forecast
    return None


def prediction_lines(catalog: Catalog, made: Mapping[str, Snapshot]) -> list[str]:
    """What a plan predicted for the models of the main job beside what was measured; nothing without a plan."""
    forecast = forecast_of(catalog, made)
    if forecast is None:
        return []
    rows = {(row["model"], row["baseline"]): row for row in made["test-scores"].contents.summary["comparisons"]}
    lines = ["", f"Predicted by {forecast.ref}, and what came true: gain of resampling in bits/byte"]
    for (stage, title), pair in zip(STAGES.items(), (BEFORE, AFTER), strict=True):
        found, actual = forecast.contents.summary[stage], rows[pair]
        where = "inside" if found["low"] <= -actual["difference"] <= found["high"] else "outside"
        measured = {"gain": -actual["difference"], "low": -actual["high"], "high": -actual["low"]}
        lines.append(f"  {title}: predicted {_gain(found)}, measured {_gain(measured)}: {where} the prediction")
    return lines

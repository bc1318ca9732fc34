"""`tamis plan`: what a specialization would bring and cost, before it is paid for.

It runs the recipe of `tamis specialize` up to its packs, then pairs of small models on these packs, the proxies, and
their forecast. All of it is in the store, so `specialize` on the same store begins where the plan ended.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from catalog.catalog import Catalog
from catalog.errors import Declined, UsageError
from catalog.snapshot import Snapshot
from clusters.advice import too_short, too_small, uncovered
from clusters.console import Console
from clusters.plan_report import outside, refusal_of, report_of
from clusters.plan_screen import plan_screen, refusal_screen
from clusters.recipes import Recipe, Stated, override
from clusters.runner import run_recipe
from clusters.specialize import MODELS, Request, recipe_for, recipe_with, tuning_tokens
from training.config import batch_rows_for, scaled_rate, smallest
from training.context import check_gpu
from training.forecast import doublings_of

LAST = "target-packs"  # of the main job's recipe: what the proxies learn from is made
SHARES = (8, 4, 2)  # planned tokens per token of each proxy


@dataclass(frozen=True, kw_only=True)
class Proxies:
    """Pairs of small models: tokens of each pair, and the parameters that all have."""

    tokens: tuple[int, ...]
    params: int

    def __post_init__(self) -> None:
        if not self.tokens or list(self.tokens) != sorted(set(self.tokens)) or self.tokens[0] < 1:
            raise UsageError(f"proxies of {list(self.tokens)} tokens: expected different sizes, from small to large")


def proxies_for(recipe: Recipe, *, tokens: Sequence[int], params: int | None) -> Proxies:
    """The proxies asked for; by default a quarter of the parameters, or the smallest shape of this vocabulary.

    Raises UsageError for proxies that are not smaller than the planned run, or too small for the vocabulary.
    """
    settings = {entry.name: entry.settings for entry in recipe.entries}
    size = {name: int(settings[MODELS[1]][name]) for name in ("tokens", "params")}
    vocab_size = int(settings["tokenizer"]["vocab_size"])
    least = smallest(vocab_size=vocab_size, context=int(settings[LAST]["context"])).num_parameters
    if params is not None and params < least:
        raise UsageError(
            f"--proxy-params {params:,} is too small for a vocabulary of {vocab_size:,}: expected at least {least:,}"
        )
    by_share = sorted({max(1, size["tokens"] // share) for share in SHARES})
    proxies = Proxies(tokens=tuple(tokens or by_share), params=params or max(size["params"] // 4, least))
    doublings_of([(each, proxies.params) for each in proxies.tokens], **size)
    return proxies


def plan_recipe(recipe: Recipe, proxies: Proxies) -> Recipe:
    """The recipe of the main job up to its packs, then the proxies, their evaluation and the forecast.

    A proxy has the settings of the planned run that it stands for, but for its size and the batch that goes with it:
    of as many rows it would take too few steps to learn more than how often each word comes.
    """
    entries = {entry.name: entry for entry in recipe.entries}
    before, after, scored = [], [], []
    for number, tokens in enumerate(proxies.tokens, 1):
        names = {name: f"proxy-{name}-{number}" for name in MODELS}
        rows = batch_rows_for(tokens, context=int(entries[LAST].settings["context"]))
        size = {"tokens": tokens, "params": proxies.params}
        before += [_in_batches(rows, _smaller(entries[name], names[name], **size)) for name in MODELS]
        tuned = [
            _smaller(entries[f"{name}-tuned"], f"{names[name]}-tuned", tokens=tuning_tokens(tokens)) for name in MODELS
        ]
        after += [
            dataclasses.replace(entry, inputs=(*entry.inputs[:2], names[name]))
            for entry, name in zip(tuned, MODELS, strict=True)
        ]
        scored += [*names.values(), *(entry.name for entry in tuned)]
    planned = {key: entries[MODELS[1]].settings[key] for key in ("tokens", "params")}
    head = list(recipe.entries)[: [entry.name for entry in recipe.entries].index(LAST) + 1]
    scores = Stated(name="proxy-scores", step="evaluate", inputs=("validation", *scored))
    forecast = Stated(name="forecast", step="forecast", inputs=(scores.name, "test", *scored), settings=planned)
    return Recipe(entries=(*head, *before, *after, scores, forecast))


def _smaller(entry: Stated, name: str, **size: int) -> Stated:
    return dataclasses.replace(entry, name=name, settings={**entry.settings, **size})


def _in_batches(most: int, entry: Stated) -> Stated:
    """The entry with at most so many rows a step, and the rate that goes with them."""
    planned = int(entry.settings["batch_rows"])
    rows = min(most, planned)
    rate = scaled_rate(float(entry.settings["learning_rate"]), rows / planned)
    return dataclasses.replace(entry, settings={**entry.settings, "batch_rows": rows, "learning_rate": rate})


def check(made: Mapping[str, Snapshot]) -> None:
    """Raise Declined as soon as what was made shows that the pool can't help."""
    newest = list(made)[-1]
    why = ""
    if newest == "validation":
        why = too_small(made["target-clean"].contents.rows, made["validation"].contents.rows)
    elif newest == "mixture":
        found = made["mixture"].contents.summary
        why = too_short(found["tokens"], found["pool_tokens"]) if found["pool_too_small"] else uncovered(outside(made))
    if why:
        raise Declined(why)


def prepared(
    request: Request, *, proxy_tokens: Sequence[int], proxy_params: int | None, assignments: Sequence[str]
) -> tuple[Stated, Recipe]:
    """The run that is planned, and the recipe of the plan; `assignments` speak of entries of the main job or of it."""
    names = {entry.name for entry in recipe_for(request).entries}
    of_job = [each for each in assignments if each.partition(".")[0] in names]
    recipe = recipe_with(request, of_job)
    planned = next(entry for entry in recipe.entries if entry.name == MODELS[1])
    proxies = proxies_for(recipe, tokens=proxy_tokens, params=proxy_params)
    return planned, override(plan_recipe(recipe, proxies), [each for each in assignments if each not in of_job])


def plan_now(
    planned: Stated,
    recipe: Recipe,
    *,
    max_params: int | None,
    tasks: int,
    hours: float | None,
    store: str,
    executor: str,
    workers: int,
    output_format: str,
) -> None:
    """Make the plan and print it. Raises Declined, after printing, when the pool can't help."""
    params = int(planned.settings["params"])
    if max_params is not None and max_params < params:
        raise UsageError(
            f"--max-params {max_params:,} is below the {params:,} parameters of the plan: raise it or lower --params"
        )
    if planned.settings.get("device") == "cuda":
        check_gpu()  # its speed is measured in this process, whatever cluster trains
    console = Console()
    console.title(f"tamis plan: {planned.settings['tokens']:,} tokens and {planned.settings['params']:,} parameters")
    made: dict[str, Snapshot] = {}

    def look(so_far: Mapping[str, Snapshot]) -> None:
        made.update(so_far)
        check(so_far)

    try:
        run_recipe(recipe, store=store, executor=executor, workers=workers, console=console, check=look)
    except Declined as declined:
        refusal = refusal_of(Catalog.open(store), made, refused=str(declined))
        _print(refusal, refusal_screen, output_format)
        raise
    report = report_of(Catalog.open(store), made, planned, max_params=max_params, tasks=tasks, hours=hours)
    _print(report, plan_screen, output_format)
    if report.refused:
        raise Declined(report.refused)


def _print(found: Any, screen: Callable[[Any], str], output_format: str) -> None:
    """A report for a program or for a person."""
    print(json.dumps(dataclasses.asdict(found), indent=1) if output_format == "json" else screen(found))

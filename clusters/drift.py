"""`tamis drift`: which steps it means, and what it prints."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.lineage import waterfall
from catalog.snapshot import Snapshot
from clusters.console import Console
from clusters.origins import Origins, curation, last_made_by, origins_of, settings_of
from clusters.recipes import Recipe, Stated, override, pinned, stated, validate
from clusters.runner import executor_for, run_recipe

CHAMPION = "-champion"
BLIND = 0.25  # above chance: where a shift so large could be chance, the screen says so
MUCH_OUTSIDE = 0.1  # share of new windows further out than 99% of the pool's, from which on the pool is to blame
ADVICE = {
    "retrain": "Retrain: `tamis refresh {model} --add {paths} --out DIR{store}`",
    "watch": "Do not retrain yet: the text changed, but this much of it shows neither a large shift nor a worse model",
    "no-drift": "Do not retrain",
}


def base_name(model: str) -> str:
    """What names of snapshots about a model begin with."""
    return model.removesuffix(CHAMPION)


def serving(catalog: Catalog, reference: str) -> Snapshot:
    """The model that is meant: by a name without a version the champion of its refreshes, where it has one."""
    asked = catalog.current(catalog.snapshot(reference))
    champion = f"{base_name(asked.name)}{CHAMPION}"
    if "@" in reference or champion not in catalog.snapshots:
        return asked
    return catalog.current(catalog.snapshot(champion))


def drift_recipe(catalog: Catalog, reference: str, paths: Sequence[str]) -> Recipe:
    """New text through the steps of the target, into its cells, scored by the model, and measured.

    Raises UsageError where the lineage of the model does not say how.
    """
    made_with = origins_of(catalog, reference)
    base = base_name(made_with.model.name)
    entries = [*reading(catalog, made_with.target, f"{base}-new", paths)]
    for step in curation(catalog, made_with.target):
        settings = dict(step.settings)
        if step.step == "fuzzy-dedup":  # a measurement loses nothing, so it needs no ceiling
            settings |= {"max_drop_per_source": 1.0, "first_come": False}
        if step.step == "exact-dedup":
            settings["first_come"] = False
        entries.append(next_entry(entries, f"{base}-new-{step.name}", step.step, *step.inputs, **settings))
    entries += [
        next_entry(entries, f"{base}-new-tokens", "tokenize", made_with.tokenizer.ref),
        stated(f"{base}-new-cells", "assign-cells", f"{base}-new-tokens", made_with.fitted.ref),
        stated(f"{base}-new-scores", "evaluate", f"{base}-new-cells", made_with.model.ref),
    ]
    held_out, joined = held_out_text(made_with, base)
    entries += joined
    return Recipe(
        entries=(
            *entries,
            stated(f"{base}-held-out-scores", "evaluate", held_out, made_with.model.ref),
            stated(
                f"{base}-drift",
                "measure-drift",
                f"{base}-new-cells",
                made_with.target.ref,
                made_with.fitted.ref,
                f"{base}-new-scores",
                f"{base}-held-out-scores",
            ),
        )
    )


def reading(catalog: Catalog, text: Snapshot, name: str, paths: Sequence[str]) -> list[Stated]:
    """Ingestion of files as those of `text` were read."""
    before = settings_of(catalog, last_made_by(catalog, text, "ingest"))
    before = {name: value for name, value in before.items() if name != "source" and value is not None}
    return [stated(name, "ingest", paths=list(paths), **before)]


def next_entry(entries: Sequence[Stated], name: str, step: str, *others: str, **settings: Any) -> Stated:
    """An entry that reads the last one."""
    return stated(name, step, entries[-1].name, *others, **settings)


def held_out_text(made_with: Origins, base: str) -> tuple[str, list[Stated]]:
    """The frozen documents to judge by: one snapshot, or several joined by the entry returned beside the name."""
    refs = [each.ref for each in made_with.held_out]
    if len(refs) == 1:
        return refs[0], []
    return f"{base}-held-out", [stated(f"{base}-held-out", "join", *refs)]


def drift_now(
    reference: str,
    paths: Sequence[str],
    *,
    store: str,
    executor: str,
    workers: int,
    assignments: Sequence[str],
    console: Console | None = None,
    shown: Sequence[str] = (),
    at: str = "",
) -> tuple[str, str]:
    """Run the recipe: the verdict, "" where no text is new, and what to tell the user.

    `shown` are the paths as the user gave them, `at` the option that names the store. Raises UsageError where so few
    documents are left that nothing can be told.
    """
    from dataops.drift import fresh_documents

    catalog = Catalog.open(store)
    model = serving(catalog, reference)
    recipe = override(drift_recipe(catalog, model.ref, paths), assignments)
    executor_for(validate(recipe), executor, workers=workers)  # all of it, before anything is stored
    base, run = base_name(model.name), partial(run_recipe, store=store, executor=executor, workers=workers)
    last = [entry.name for entry in recipe.entries].index(f"{base}-new-cells")
    read = run(Recipe(entries=recipe.entries[: last + 1]), console=console)
    new, target = read[f"{base}-new-cells"].contents, origins_of(catalog, model.ref).target.contents
    fresh = fresh_documents(catalog.store, (new.shards, new.layers), (target.shards, target.layers))
    dropped = _dropped(catalog.refresh(), read[f"{base}-new-tokens"])
    if new.rows and not fresh:
        return "", f"nothing to measure: all {new.rows:,} documents are in the target already{dropped}"
    if not new.rows:
        raise UsageError(f"0 new documents{dropped}: expected at least 2 to compare with the target")
    made = run(Recipe(entries=tuple(pinned(entry, read) for entry in recipe.entries[last + 1 :])), console=console)
    found = made[f"{base}-drift"].contents.summary
    advised = reference.partition("@")[0]  # a version may not serve, and refresh begins with what does
    return found["verdict"], drift_screen(found, model=advised, paths=shown or paths, dropped=dropped, at=at)


def _dropped(catalog: Catalog, text: Snapshot) -> str:
    """What the rules took of new text, in words; "" when nothing."""
    losses = waterfall(catalog, text) if text.contents.layers else []
    rules = ", ".join(f"{loss.rule} {loss.dropped_documents:,}" for loss in losses if loss.dropped_documents)
    if not rules:
        return ""
    read = losses[0].documents
    return f" ({read - text.contents.rows:,} of {read:,} did not pass the target's rules: {rules})"


def drift_screen(found: Mapping[str, Any], *, model: str, paths: Sequence[str], dropped: str = "", at: str = "") -> str:
    """The measures, each beside what chance makes of it, and what follows; `model` is what a refresh is advised of."""
    known = f" ({found['known_documents']:,} more are in the target already)" if found["known_documents"] else ""
    seen_from, cells = found["psi_limit"] - found["psi_expected"], f"PSI over {found['cells']} cells"
    lines = [
        f"{found['documents']:,} new documents{known} against {found['target_documents']:,} of the target of "
        f"{found['model']}{dropped}",
        "",
        f"  {'measure':<34} {'new':>8} {'without drift':>14} {'by chance below':>16} {'p':>7}",
        f"  {cells:<34} {found['psi']:>8.3f} {found['psi_expected']:>14.3f} "
        f"{found['psi_limit']:>16.3f} {found['psi_p']:>7.3f}",
        f"    less chance, 95% interval        [{found['psi_low']:.3f}, {found['psi_high']:.3f}]",
        f"  {'distance to centroid, KS gap':<34} {found['ks']:>8.3f} {found['ks_expected']:>14.3f} "
        f"{found['ks_limit']:>16.3f} {found['ks_p']:>7.3f}",
        f"  {'further out than 99% of the pool':<34} {found['outside']:>8.1%} {found['target_outside']:>14.1%}   "
        f"difference 95% [{found['outside_low']:+.1%}, {found['outside_high']:+.1%}]",
        f"  {'bits per byte':<34} {found['bits_per_byte']:>8.3f} {found['held_out_bits_per_byte']:>14.3f}   "
        f"difference 95% [{found['low']:+.3f}, {found['high']:+.3f}]",
        "",
        *(f"  {reason}" for reason in found["reasons"]),
    ]
    if seen_from > BLIND and found["verdict"] != "retrain":
        lines.append(f"  so few documents: a shift below {seen_from:.2f} above chance could not be told from chance")
    if found["outside_low"] > 0 and found["outside"] > MUCH_OUTSIDE:
        lines.append("  much of it is like nothing in the pool: retraining needs pool text that is, `--pool PATH`")
    advice = ADVICE[found["verdict"]].format(model=model, paths=shlex.join(paths), store=f" {at}" if at else "")
    return "\n".join([*lines, "", advice])

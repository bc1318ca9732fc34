"""`tamis refresh`: a model learns from text that came later, and takes the old one's place only if it is better.

New text is ingested, deduplicated against what is there (which is not read again), and freed of what is frozen for
judging; then it joins the target, the target is weighed anew, and the model itself is fine-tuned on the larger target
with replay: a share of its stream is pool text by the new mixture. Continued pretraining on the mixture followed by
fine-tuning was not chosen: it takes two runs, and the first of them unlearns the target that the second must teach
again. Champion and challenger are compared on the frozen test text and on a held-out part of the new text.

All of it is a recipe. Only the name of the winner, MODEL-champion, is given afterwards, because no recipe knows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from catalog.catalog import Catalog
from catalog.errors import Declined, UsageError
from catalog.projection import publish
from catalog.snapshot import Snapshot
from clusters.console import Console
from clusters.drift import CHAMPION, base_name, held_out_text, next_entry, reading
from clusters.origins import (
    WEIGHING,
    Origins,
    all_made_by,
    curation,
    inputs_of,
    last_made_by,
    made_by,
    origins_of,
    settings_of,
    undone_before,
)
from clusters.recipes import Recipe, Stated, make_step, override, pinned, stated, validate
from clusters.registry import SELECTOR
from clusters.runner import executor_for, known_run, run_recipe
from clusters.specialize import write_export

REPLAY = 0.3  # of the stream is pool text
PARTS = {"train": (0.0, 0.7), "validation": (0.7, 0.8), "test": (0.8, 1.0)}  # of the new text
# What is there stays. Text that comes again, like a whole folder with a few new files, is no sign of a broken step.
JOINING = {"first_come": True, "max_drop_per_source": 1.0}
DUPLICATES = ("exact-dedup", "fuzzy-dedup")  # new text goes through the last of them beside what is there
SHAPED = ("tokens", "params", "expert", "lora_rank", "label_share")  # settings of fine-tuning that are not taken over


@dataclass(frozen=True, kw_only=True)
class Additions:
    """What came since: files of target text, of pool text, of feedback. `tokens` None: as many as the last tuning."""

    add: tuple[str, ...]
    pool: tuple[str, ...] = ()
    feedback: tuple[str, ...] = ()
    tokens: int | None = None
    margin: float = 0.02


def refresh_recipe(catalog: Catalog, reference: str, new: Additions) -> Recipe:
    """The steps of a refresh, in order, up to the gate. Raises UsageError where lineage does not say how."""
    made_with = origins_of(catalog, reference)
    base = base_name(made_with.model.name)
    held_out, joined = held_out_text(made_with, base)
    return Recipe(
        entries=(
            *joined,
            *_target(catalog, made_with, base, new, frozen=(made_with.validation.ref, held_out)),
            *_pool(catalog, made_with, base, new),
            *_training(catalog, made_with, base, new, held_out=held_out),
        )
    )


def _target(
    catalog: Catalog, made_with: Origins, base: str, new: Additions, *, frozen: tuple[str, ...]
) -> list[Stated]:
    """New target text in three parts, the first of which joins the target."""
    name = f"{base}-added"
    entries = _newcomers(catalog, made_with.target, name, new.add)
    evaluation = tuple(dict.fromkeys(frozen))
    entries.append(next_entry(entries, f"{name}-pure", "decontaminate", *evaluation))
    entries.append(next_entry(entries, f"{name}-tokens", "tokenize", made_with.tokenizer.ref))
    for part, (start, stop) in PARTS.items():
        entries.append(stated(f"{name}-{part}", "split", f"{name}-tokens", start=start, stop=stop))
    return [
        *entries,
        stated(f"{name}-cells", "assign-cells", f"{name}-train", made_with.fitted.ref),
        stated(f"{base}-target", "join", made_with.target.ref, f"{name}-cells"),
        stated(f"{base}-validation", "join", made_with.validation.ref, f"{name}-validation"),
    ]


def _pool(catalog: Catalog, made_with: Origins, base: str, new: Additions) -> list[Stated]:
    """The pool, with new text where there is some, without any of the new target text."""
    entries, pool = [], made_with.pool.ref
    if new.pool:
        name = f"{base}-pool-added"
        entries = _newcomers(catalog, made_with.pool, name, new.pool)
        judged = all_made_by(catalog, made_with.pool, "decontaminate")
        known = dict.fromkeys(other.ref for each in judged for other in inputs_of(catalog, each)[1:])
        if known:
            entries.append(next_entry(entries, f"{name}-pure", "decontaminate", *known))
        entries.append(next_entry(entries, f"{name}-tokens", "tokenize", made_with.tokenizer.ref))
        entries.append(next_entry(entries, f"{name}-cells", "assign-cells", made_with.fitted.ref))
        entries.append(stated(f"{base}-pool", "join", pool, f"{name}-cells"))
        pool = f"{base}-pool"
    return [*entries, stated(f"{base}-pool-pure", "decontaminate", pool, f"{base}-added-tokens")]


def _newcomers(catalog: Catalog, text: Snapshot, name: str, paths: Sequence[str]) -> list[Stated]:
    """Files as far as those of `text` went before tokens: deduplicated against it, then judged by themselves."""
    old = last_made_by(catalog, text, "fuzzy-dedup")
    undone = undone_before(catalog, old)
    if undone:
        raise UsageError(
            f"{made_by(catalog, undone[0])} made {undone[0].ref} before fuzzy-dedup made {old.ref}, and new text can't "
            f"be treated like it: deduplicate before that, make {text.ref} of it and train on it"
        )
    steps = curation(catalog, text)
    verbs = [step.step for step in steps]
    last = len(verbs) - 1 - verbs[::-1].index("fuzzy-dedup")
    first = last
    while first and verbs[first - 1] in DUPLICATES:
        first -= 1
    entries = reading(catalog, text, name, paths)
    for step in steps[:first]:
        entries.append(next_entry(entries, f"{name}-{step.name}", step.step, *step.inputs, **step.settings))
    entries += [
        stated(f"{name}-all", "append", old.ref, entries[-1].name),
        stated(f"{name}-unique", "exact-dedup", f"{name}-all", first_come=True),
        stated(f"{name}-dedup", "fuzzy-dedup", f"{name}-unique", **{**steps[last].settings, **JOINING}),
        stated(f"{name}-only", "newcomers", f"{name}-dedup", old.ref),
    ]
    for step in steps[last + 1 :]:
        entries.append(next_entry(entries, f"{name}-{step.name}", step.step, *step.inputs, **step.settings))
    return entries


def _training(catalog: Catalog, made_with: Origins, base: str, new: Additions, *, held_out: str) -> list[Stated]:
    """Mixture, packs, the challenger, both models' scores, and the gate."""
    before = settings_of(catalog, made_with.tuned)
    tokens = before["tokens"] if new.tokens is None else new.tokens
    budget = max(1, round(REPLAY * tokens))
    context = inputs_of(catalog, made_with.tuned)[0].contents.summary["context"]
    tuning = {name: value for name, value in before.items() if name not in SHAPED}
    selector, weighing = _selector(catalog, made_with)
    champion, challenger = made_with.model.ref, f"{base}-challenger"
    feedback, votes = _feedback(catalog, made_with, base, new)
    return [
        *feedback,
        stated(
            f"{base}-mixture",
            selector,
            f"{base}-pool-pure",
            f"{base}-target",
            *votes,
            **weighing | {"tokens": budget},
        ),
        stated(f"{base}-replay", "resample", f"{base}-pool-pure", f"{base}-mixture", tokens=budget),
        stated(f"{base}-replay-packs", "pack", f"{base}-replay", context=context),
        stated(f"{base}-target-packs", "pack", f"{base}-target", context=context),
        stated(f"{base}-packs", "blend", f"{base}-target-packs", f"{base}-replay-packs", shares=[1 - REPLAY, REPLAY]),
        stated(challenger, "finetune", f"{base}-packs", f"{base}-validation", champion, **tuning | {"tokens": tokens}),
        stated(f"{base}-old-scores", "evaluate", held_out, champion, challenger),
        stated(f"{base}-added-scores", "evaluate", f"{base}-added-test", champion, challenger),
        stated(f"{base}-gate", "gate", f"{base}-old-scores", f"{base}-added-scores", margin=new.margin),
    ]


def _selector(catalog: Catalog, made_with: Origins) -> tuple[str, dict[str, Any]]:
    """The step that weighs the target anew, and its settings: those of the model's mixture. Raises UsageError."""
    if not made_with.mixture:
        return SELECTOR, {}
    (mixture,), model = made_with.mixture, made_with.model.ref
    selector = made_by(catalog, mixture)
    if selector not in WEIGHING:
        raise UsageError(
            f"{model} was made by the mixture {mixture.ref} of {selector}, which can't be weighed anew for one target: "
            "make its mixtures, the model and its packs again with the new text among the files, by `tamis run`"
        )
    return selector, settings_of(catalog, mixture)


def _feedback(catalog: Catalog, made_with: Origins, base: str, new: Additions) -> tuple[list[Stated], list[str]]:
    """Feedback in cells, and its name as an input of the selector: without any new, that of the model's own mixture."""
    if not new.feedback:
        return [], [each.ref for mixture in made_with.mixture for each in inputs_of(catalog, mixture)[2:]]
    name = f"{base}-feedback"
    return [
        stated(name, "ingest-feedback", paths=list(new.feedback)),
        stated(f"{name}-tokens", "tokenize", name, made_with.tokenizer.ref),
        stated(f"{name}-cells", "assign-cells", f"{name}-tokens", made_with.fitted.ref),
    ], [f"{name}-cells"]


def refresh_now(
    reference: str,
    new: Additions,
    *,
    out: Path,
    store: str,
    executor: str,
    workers: int,
    assignments: Sequence[str],
    console: Console,
) -> str:
    """Run the recipe, name the winner, write it to `out`/model; what to tell the user. Raises UsageError, Declined."""
    catalog = Catalog.open(store)
    sequence = catalog.sequence
    base, recipe = recipe_of_what_serves(catalog, reference, new, assignments)
    executor_for(validate(recipe), executor, workers=workers)  # all of it: nothing is stored before settings are right
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: a file is in the way, expected a folder")
    run = partial(run_recipe, store=store, executor=executor, workers=workers, console=console)
    parts = [f"{base}-added-{part}" for part in PARTS]
    last = [entry.name for entry in recipe.entries].index(parts[-1])
    read = run(Recipe(entries=recipe.entries[: last + 1]))
    if not _is_enough({name: read[name].contents.rows for name in parts}):
        waiting = " and ".join(name for name, given in (("feedback", new.feedback), ("pool text", new.pool)) if given)
        return f"nothing to do: no document is new and passes the rules; `tamis show {base}-added-pure` says why" + (
            f"; not read, as it counts with new text only: {waiting}" if waiting else ""
        )
    _check_judges(catalog.refresh(), recipe, read, base)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.yaml").write_text(recipe.to_yaml())
    made = run(Recipe(entries=tuple(pinned(entry, read) for entry in recipe.entries[last + 1 :])))
    gate = made[f"{base}-gate"].contents.summary
    winner = catalog.current(catalog.refresh().snapshot(gate["winner"]))
    scores = [made[f"{base}-{text}-scores"].ref for text in ("old", "added")]
    exported = Recipe(entries=(stated(f"{base}-export", "export", *scores, winner.ref),))
    written = run(exported)[f"{base}-export"]
    write_export(catalog.refresh(), written, out / "model")
    named = name_champion(catalog, base, winner)
    done = "" if catalog.sequence > sequence else "nothing to do: all of this was in the catalog\n\n"
    return done + gate_screen(gate, named=named, model=out / "model")


def recipe_of_what_serves(
    catalog: Catalog, reference: str, new: Additions, assignments: Sequence[str]
) -> tuple[str, Recipe]:
    """What the names of a refresh begin with, and its recipe, which begins with the model that serves.

    A refresh that was done before is found in the catalog, though its challenger serves now. Raises UsageError where a
    version is named that does not serve: its challenger would take the place of one that it was never compared with.
    """
    asked = catalog.current(catalog.snapshot(reference))
    base = base_name(asked.name)
    name = f"{base}{CHAMPION}"
    recipe = override(refresh_recipe(catalog, reference, new), assignments)
    served = catalog.current(catalog.snapshot(name)) if name in catalog.snapshots else asked
    if served.id == asked.id:
        return base, recipe
    done = known_run(recipe, catalog)
    if done and catalog.snapshot(done[f"{base}-gate"].contents.summary["winner"]).id == served.id:
        return base, recipe
    if "@" in reference:
        raise UsageError(f"{asked.ref} does not serve, {served.ref} does: refresh {name}, or name the model without @")
    return base, override(refresh_recipe(catalog, name, new), assignments)


def _check_judges(catalog: Catalog, recipe: Recipe, read: Mapping[str, Snapshot], base: str) -> None:
    """Raise Declined where the gate would refuse any challenger: too few documents are held out to judge by."""
    entries = {entry.name: entry for entry in recipe.entries}
    old, added = (entries[f"{base}-{text}-scores"].inputs[0] for text in ("old", "added"))
    documents = {name: (read.get(name) or catalog.snapshot(name)).contents.rows for name in (old, added)}
    fewest = make_step("gate", entries[f"{base}-gate"].settings).fewest_documents  # type: ignore[attr-defined]
    if min(documents.values()) < fewest:
        raise Declined(
            f"too little text to judge a new model by: {documents[added]} of the new documents and {documents[old]} of "
            f"before are held out, the gate wants {fewest} of each; give more, or --set {base}-gate.fewest_documents=N"
        )


def _is_enough(documents: Mapping[str, int]) -> bool:
    """Whether there is new text, by part. Raises UsageError where some parts of it are empty."""
    empty = [name for name, count in documents.items() if not count]
    if empty and len(empty) < len(documents):
        raise UsageError(
            f"too little new text: no document is left for {', '.join(empty)}; expected some in each of the parts "
            "that train, validate and test"
        )
    return not empty


def name_champion(catalog: Catalog, base: str, winner: Snapshot) -> Snapshot:
    """`base`-champion as what the winner is: a new version, made by the winner's own run, unless it is that already."""
    name = f"{base}{CHAMPION}"
    if name in catalog.snapshots and catalog.snapshot(name).id == winner.id:
        return catalog.snapshot(name)
    named = catalog.commit(name, winner.contents, catalog.runs[winner.run], inputs=catalog.inputs(winner))
    publish(catalog)
    return named


def gate_screen(gate: Mapping[str, Any], *, named: Snapshot, model: Path) -> str:
    """Champion and challenger, what they reach on both sets, and which of them serves."""
    lines = [
        f"champion {gate['champion']}, challenger {gate['challenger']}",
        "",
        f"  {'bits per byte on':<26} {'champion':>10} {'challenger':>11}   challenger - champion, 95%     asked for",
    ]
    titles = {"old": "held-out text of before", "new": "held-out new text"}
    for row in gate["sets"]:
        few = f", fewer than {fewest}" if row["documents"] < (fewest := gate["fewest_documents"]) else ""
        lines.append(
            f"  {titles[row['text']]:<26} {row['champion']:>10.4f} {row['challenger']:>11.4f}   "
            f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]   all below {row['at_most']:+.4f}: "
            f"{'yes' if row['holds'] else 'no'} ({row['documents']:,} documents{few})"
        )
    if all(row["low"] == row["difference"] == row["high"] == 0 for row in gate["sets"]):
        lines += ["", "The two score alike: no step lowered the loss on validation, so the weights are those of before"]
    is_promoted = gate["winner"] == gate["challenger"]
    said = "The challenger takes over" if is_promoted else "The champion stays"
    return "\n".join(
        [*lines, "", f"{said}: {gate['winner']} is {named.ref}, exported to {model}; the other stays in the catalog"]
    )

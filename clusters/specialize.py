"""The main job as a recipe: from files of a pool and of a target to an exported model and its evidence.

Nothing happens here that a recipe can't say: `tamis specialize --print-recipe` writes the file that `tamis run` runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.snapshot import Snapshot
from clusters.console import Console
from clusters.plan_screen import prediction_lines
from clusters.recipes import Recipe, Stated, override, validate
from clusters.runner import executor_for, run_recipe
from clusters.screens import last_screen

# Sustained training rate of two cores with AVX-512 BF16 (benchmarks/train.py). It turns minutes into tokens the same
# way everywhere, so that a recipe does not depend on how busy the machine was when it was written.
FLOPS_PER_SECOND = 2.0e11
MODELS = ("generic", "specialized")
WITH_EXPERTS = ("projected", "soup", "mixture")  # families of which one expert is served
MOST_EXPERTS = 32  # best per cost in the method's paper
TUNING_SHARE = 4  # pretraining tokens per fine-tuning token
TARGET_ONLY_SHARE = 2  # and per token of the model that learns from the target alone
POOL_DOCUMENTS = 100  # of the pool, on which models are scored before and after fine-tuning


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the user asks for. `tokens` None: as many as `minutes` of training allow at this size.

    A `family` with experts adds a third model beside the two decoders: pretrained on the pool, projected for the
    target.
    """

    pool: tuple[str, ...]
    target: tuple[str, ...]
    tokens: int | None = None
    params: int = 1_000_000
    minutes: float = 5.0
    cells: int = 64
    context: int = 256
    vocab_size: int = 4096
    columns: Mapping[str, str] = field(default_factory=dict)
    classify: bool = False
    family: str = "decoder"


def columns(*, text: str, identity: str | None, domain: str | None) -> dict[str, str]:
    """Ingest settings for the columns that were named."""
    named = {"text_column": text, "id_column": identity, "domain_column": domain}
    return {key: value for key, value in named.items() if value is not None}


def training_tokens(plan: Plan) -> int:
    """Tokens of each pretraining stream; all runs together (2 + 1/2 + 2/4 streams, and 1 + 1/4 for a family with
    experts) take `minutes` of training."""
    if plan.tokens is not None:
        return plan.tokens
    models = len(MODELS) + (plan.family in WITH_EXPERTS)
    streams = models + 1 / TARGET_ONLY_SHARE + models / TUNING_SHARE
    tokens = plan.minutes * 60 * FLOPS_PER_SECOND / (6 * plan.params * streams)
    return max(100_000, round(tokens / 10_000) * 10_000)


def recipe_for(plan: Plan) -> Recipe:
    """The steps of the main job, in order. Raises UsageError for a size or a family that can't be."""
    if plan.family not in ("decoder", "recurrent", *WITH_EXPERTS):
        raise UsageError(f"no family {plan.family!r}: expected decoder, recurrent, {', '.join(WITH_EXPERTS)}")
    if plan.params < plan.vocab_size * 64 * 2:
        raise UsageError(
            f"--params {plan.params:,} is too small for a vocabulary of {plan.vocab_size:,}: "
            f"expected at least {plan.vocab_size * 64 * 2:,}"
        )
    return Recipe(entries=(*_curation(plan), *_selection(plan), *_training(plan)))


def _entry(name: str, step: str, *inputs: str, **settings: Any) -> Stated:
    return Stated(name=name, step=step, inputs=inputs, settings=settings)


def _curation(plan: Plan) -> list[Stated]:
    """A clean pool without any text of the target, and a clean target; its training part teaches the tokenizer."""
    entries = [
        _entry("pool", "ingest", paths=list(plan.pool), **plan.columns),
        _entry("pool-unique", "exact-dedup", "pool"),
        _entry("pool-dedup", "fuzzy-dedup", "pool-unique"),
        _entry("pool-quality", "quality-filter", "pool-dedup"),
    ]
    if plan.classify:
        entries += [
            _entry("domains", "train-classifier", "pool-quality"),
            _entry("pool-domains", "classify", "pool-quality", "domains"),
        ]
    entries += [
        _entry("target", "ingest", paths=list(plan.target), **plan.columns),
        _entry("target-unique", "exact-dedup", "target"),
        _entry("target-dedup", "fuzzy-dedup", "target-unique"),
        _entry("target-clean", "quality-filter", "target-dedup"),
        _entry("target-train", "split", "target-clean", start=0.0, stop=0.85),
        _entry("clean", "decontaminate", entries[-1].name, "target-clean"),
    ]
    return entries


def _selection(plan: Plan) -> list[Stated]:
    """Tokens, the target's three parts, cells, weights, the resampled snapshot, and packs."""
    tokens = training_tokens(plan)
    return [
        _entry("tokenizer", "train-tokenizer", "clean", "target-train", vocab_size=plan.vocab_size),
        _entry("clean-tokens", "tokenize", "clean", "tokenizer"),
        _entry("target-tokens", "tokenize", "target-clean", "tokenizer"),
        _entry("train", "split", "target-tokens", start=0.0, stop=0.85),
        _entry("validation", "split", "target-tokens", start=0.85, stop=0.9),
        _entry("test", "split", "target-tokens", start=0.9, stop=1.0),
        _entry("clean-cells", "fit-cells", "clean-tokens", cells=plan.cells, context=plan.context),
        _entry("train-cells", "assign-cells", "train", "clean-cells"),
        _entry("mixture", "weigh", "clean-cells", "train-cells", tokens=tokens),
        _entry("resampled", "resample", "clean-cells", "mixture", tokens=tokens),
        _entry("generic-packs", "pack", "clean-cells", context=plan.context),
        _entry("specialized-packs", "pack", "resampled", context=plan.context),
        _entry("target-packs", "pack", "train-cells", context=plan.context),
    ]


def _training(plan: Plan) -> list[Stated]:
    """Two equal models on equal tokens, both fine-tuned; one on the target alone; evaluation; the best one exported."""
    tokens = training_tokens(plan)
    tuning = {"tokens": max(1, tokens // TUNING_SHARE)}
    tuned = [f"{name}-tuned" for name in MODELS]
    experts = _experts(plan, tuning) if plan.family in WITH_EXPERTS else []
    served = [entry.name for entry in experts[1:]]
    every = (*MODELS, *tuned, "target-only", *served)
    own = {"family": plan.family} if plan.family == "recurrent" else {}
    return [
        *(_entry(name, "pretrain", f"{name}-packs", params=plan.params, tokens=tokens, **own) for name in MODELS),
        _entry(
            "target-only",
            "finetune",
            "target-packs",
            "validation",
            params=plan.params,
            tokens=max(1, tokens // TARGET_ONLY_SHARE),
            learning_rate=4e-3,
        ),
        *(
            _entry(new, "finetune", "target-packs", "validation", old, **tuning)
            for new, old in zip(tuned, MODELS, strict=True)
        ),
        *experts,
        _entry("validation-scores", "evaluate", "validation", *every),
        _entry("test-scores", "evaluate", "test", *every),
        _entry("pool-scores", "evaluate", "clean-tokens", *MODELS, *tuned, *served, most_documents=POOL_DOCUMENTS),
        _entry("export", "export", "validation-scores", "test-scores", *every),
    ]


def _experts(plan: Plan, tuning: Mapping[str, Any]) -> list[Stated]:
    """A model of several experts on the pool, the one that fits the target, and that one tuned."""
    settings = {"family": plan.family, "experts": min(MOST_EXPERTS, plan.cells), "params": plan.params}
    rule = "histogram" if plan.family == "soup" else "lowest-loss"
    return [
        _entry("experts", "pretrain", "generic-packs", tokens=training_tokens(plan), **settings),
        _entry("expert", "project", "experts", "target-packs", expert=rule),
        _entry("expert-tuned", "finetune", "target-packs", "validation", "expert", **tuning),
    ]


def specialize_now(
    plan: Plan, *, out: Path, store: str, executor: str, workers: int, assignments: Sequence[str]
) -> None:
    """`tamis specialize`: run the plan, write recipe and model under `out`, print the last screen.

    Settings and inputs are looked at before anything is written. Raises UsageError or BadInput.
    """
    recipe = override(recipe_for(plan), assignments)
    executor_for(validate(recipe), executor, workers=workers)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.yaml").write_text(recipe.to_yaml())
    console = Console()
    console.title(f"tamis specialize: {training_tokens(plan):,} tokens a model; the recipe is {out / 'recipe.yaml'}")
    run_and_export(recipe, out / "model", store=store, executor=executor, workers=workers, console=console)


def run_and_export(recipe: Recipe, model: Path, *, store: str, executor: str, workers: int, console: Console) -> None:
    """Run the recipe of a plan, write the best model to the folder `model`, print the last screen."""
    made = run_recipe(recipe, store=store, executor=executor, workers=workers, console=console)
    catalog = Catalog.open(store)
    write_export(catalog, made["export"], model)
    print("\n".join([last_screen(catalog, made, model, store=store), *prediction_lines(catalog, made)]))


def write_export(catalog: Catalog, exported: Snapshot, folder: Path) -> None:
    """Copy the files of an export snapshot to a folder, replacing an older export there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, ref in exported.contents.artifacts.items():
        partial = folder / f".{name}.partial"
        shutil.copyfile(catalog.store.local(ref), partial)
        partial.replace(folder / name)

"""The main job as a recipe: from files of a pool and of a target to an exported model and its evidence.

Nothing happens here that a recipe can't say: `tamis specialize --print-recipe` writes the file that `tamis run` runs.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.snapshot import Snapshot
from clusters.console import Console
from clusters.origins import WEIGHING
from clusters.plan_screen import prediction_lines
from clusters.recipes import Recipe, Stated, override, stated, validate
from clusters.registry import SELECTOR
from clusters.runner import executor_for, run_recipe
from clusters.screens import last_screen
from training.config import Device, TrainConfig, family_rows_for, rate_for, smallest
from training.family import FAMILIES

# Sustained training rate of two cores with AVX-512 BF16, by AdamW (benchmarks/train.py). It turns minutes into tokens
# the same way everywhere, so that a recipe does not depend on how busy the machine was when it was written.
FLOPS_PER_SECOND = 2.0e11
MODELS = ("generic", "specialized")
WITH_EXPERTS = tuple(name for name, kind in FAMILIES.items() if "experts" in kind.__dataclass_fields__)  # one is served
MOST_EXPERTS = 32  # best per cost in the method's paper
TUNING_SHARE = 2  # pretraining tokens per token read of the target, with pretraining or without
ROWS_PER_LOOK = 640  # between two looks at validation, as in fine-tuning: 40 steps of 16 rows
BRANCH_SEED = 1  # of what follows a trunk: another order of the rows than the trunk's
POOL_DOCUMENTS = 100  # of the pool, on which models are scored before and after fine-tuning


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for. `tokens` None: as many as `minutes` of training allow at this size.

    A `family` with experts adds a third model beside the two decoders: pretrained on the pool, projected for the
    target. `trunk` is the share of their tokens that both decoders read of the pool, as one model, before they part.
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
    trunk: float = 0.0
    selector: str = SELECTOR
    device: str = "cpu"


def columns(*, text: str, identity: str | None, domain: str | None) -> dict[str, str]:
    """Ingest settings for the columns that were named."""
    named = {"text_column": text, "id_column": identity, "domain_column": domain}
    return {key: value for key, value in named.items() if value is not None}


def training_tokens(request: Request) -> int:
    """Tokens of each pretraining stream; all runs together take `minutes` of training.

    They are 2 + 3/2 streams, less what a trunk shares, and 1 + 1/2 more for a family with experts.
    """
    if request.tokens is not None:
        return request.tokens
    models = len(MODELS) + (request.family in WITH_EXPERTS)
    streams = models - request.trunk + (models + 1) / TUNING_SHARE
    tokens = request.minutes * 60 * FLOPS_PER_SECOND / (6 * request.params * streams)
    return max(100_000, round(tokens / 10_000) * 10_000)


def trunk_tokens(request: Request) -> int:
    """How many of these the decoders read as one."""
    return round(request.trunk * training_tokens(request))


def tuning_tokens(tokens: int) -> int:
    """Tokens read of the target beside so many of a stream of pretraining."""
    return max(1, tokens // TUNING_SHARE)


def recipe_for(request: Request) -> Recipe:
    """The steps of the main job, in order. Raises UsageError for settings that can't be."""
    if request.family not in FAMILIES:
        raise UsageError(f"no family {request.family!r}: expected {', '.join(FAMILIES)}")
    if request.selector not in WEIGHING:
        raise UsageError(f"no selector {request.selector!r}: expected {', '.join(WEIGHING)}")
    if not 0 <= request.trunk < 1:
        raise UsageError(f"--trunk {request.trunk:g}: expected a share of the tokens, 0 to below 1")
    if request.device not in get_args(Device):
        raise UsageError(f"no device {request.device!r}: expected {', '.join(get_args(Device))}")
    if not math.isfinite(request.minutes):
        raise UsageError(f"--minutes {request.minutes:g}: expected a number of minutes, or --tokens")
    recipe = Recipe(entries=(*_curation(request), *_selection(request), *_training(request)))
    _check_size(recipe)
    return recipe


def recipe_with(request: Request, assignments: Sequence[str]) -> Recipe:
    """The recipe with settings changed by `name.setting=value`. Raises UsageError for those that can't be."""
    recipe = override(recipe_for(request), assignments)
    if assignments:
        validate(recipe)
        _check_size(recipe)
    return recipe


def _check_size(recipe: Recipe) -> None:
    """Raise UsageError where a model is too small for the vocabulary: half of it embeddings is the most."""
    settings = {entry.name: entry.settings for entry in recipe.entries}
    vocab_size, context = int(settings["tokenizer"]["vocab_size"]), int(settings["target-packs"]["context"])
    least = max(vocab_size * 64 * 2, smallest(vocab_size=vocab_size, context=context).num_parameters)
    for params in (int(each["params"]) for each in settings.values() if "params" in each):
        if params < least:
            raise UsageError(
                f"--params {params:,} is too small for a vocabulary of {vocab_size:,}: expected at least {least:,}, or "
                "a smaller --vocab-size"
            )


def _curation(request: Request) -> list[Stated]:
    """A clean pool without any text of the target, and a clean target; its training part teaches the tokenizer."""
    entries = [
        stated("pool", "ingest", paths=list(request.pool), **request.columns),
        stated("pool-unique", "exact-dedup", "pool"),
        stated("pool-dedup", "fuzzy-dedup", "pool-unique"),
        stated("pool-quality", "quality-filter", "pool-dedup"),
    ]
    if request.classify:
        entries += [
            stated("domains", "train-classifier", "pool-quality"),
            stated("pool-domains", "classify", "pool-quality", "domains"),
        ]
    entries += [
        stated("target", "ingest", paths=list(request.target), **request.columns),
        stated("target-unique", "exact-dedup", "target"),
        stated("target-dedup", "fuzzy-dedup", "target-unique"),
        stated("target-clean", "quality-filter", "target-dedup"),
        stated("target-train", "split", "target-clean", start=0.0, stop=0.85),
        stated("clean", "decontaminate", entries[-1].name, "target-clean"),
    ]
    return entries


def _selection(request: Request) -> list[Stated]:
    """Tokens, the target's three parts, cells, weights, the resampled snapshot, and packs."""
    tokens = training_tokens(request) - trunk_tokens(request)
    return [
        stated("tokenizer", "train-tokenizer", "clean", "target-train", vocab_size=request.vocab_size),
        stated("clean-tokens", "tokenize", "clean", "tokenizer"),
        stated("target-tokens", "tokenize", "target-clean", "tokenizer"),
        stated("train", "split", "target-tokens", start=0.0, stop=0.85),
        stated("validation", "split", "target-tokens", start=0.85, stop=0.9),
        stated("test", "split", "target-tokens", start=0.9, stop=1.0),
        stated("clean-cells", "fit-cells", "clean-tokens", cells=request.cells, context=request.context),
        stated("train-cells", "assign-cells", "train", "clean-cells"),
        stated("mixture", request.selector, "clean-cells", "train-cells", tokens=tokens),
        stated("resampled", "resample", "clean-cells", "mixture", tokens=tokens),
        stated("generic-packs", "pack", "clean-cells", context=request.context),
        stated("specialized-packs", "pack", "resampled", context=request.context),
        stated("target-packs", "pack", "train-cells", context=request.context),
    ]


def _training(request: Request) -> list[Stated]:
    """Two equal models on equal tokens, both fine-tuned; one on the target alone; evaluation; the best one exported.

    Where there is a trunk, the two go on from it.
    """
    tokens = training_tokens(request)
    tuning = {"tokens": tuning_tokens(tokens), **_device(request)}
    tuned = [f"{name}-tuned" for name in MODELS]
    experts = _experts(request, tuning) if request.family in WITH_EXPERTS else []
    served = [entry.name for entry in experts[1:]]
    every = (*MODELS, *tuned, "target-only", *served)
    own = {"family": request.family} if request.family == "recurrent" else {}
    shared, alone = trunk_tokens(request), _sized(request, tuning_tokens(tokens))
    trunk = [stated("trunk", "pretrain", "generic-packs", **_sized(request, shared), **own)] if shared else []
    size = _sized(request, tokens - shared) | ({"seed": BRANCH_SEED} if shared else {})
    alone |= {"evaluate_every": ROWS_PER_LOOK // alone["batch_rows"], "optimizer": TrainConfig.optimizer}
    return [
        *trunk,
        *(
            stated(name, "pretrain", f"{name}-packs", *(entry.name for entry in trunk), **size, **own)
            for name in MODELS
        ),
        stated("target-only", "finetune", "target-packs", "validation", **alone),
        *(
            stated(new, "finetune", "target-packs", "validation", old, **tuning)
            for new, old in zip(tuned, MODELS, strict=True)
        ),
        *experts,
        stated("validation-scores", "evaluate", "validation", *every),
        stated("test-scores", "evaluate", "test", *every),
        stated("pool-scores", "evaluate", "clean-tokens", *MODELS, *tuned, *served, most_documents=POOL_DOCUMENTS),
        stated("export", "export", "validation-scores", "test-scores", *every),
    ]


def _sized(request: Request, tokens: int, *, family: str = "decoder", experts: int = 1) -> dict[str, Any]:
    """What training from scratch on so many tokens takes."""
    rows = family_rows_for(tokens, context=request.context, family=family, experts=experts)
    size = {"params": request.params, "tokens": tokens, "batch_rows": rows, "learning_rate": rate_for(rows)}
    return size | _device(request)


def _device(request: Request) -> dict[str, Any]:
    """As a setting of training, where it is not the default."""
    return {} if request.device == "cpu" else {"device": request.device}


def _experts(request: Request, tuning: Mapping[str, Any]) -> list[Stated]:
    """A model of several experts on the pool, the one that fits the target, and that one tuned."""
    tokens, experts = training_tokens(request), min(MOST_EXPERTS, request.cells)
    size = _sized(request, tokens, family=request.family, experts=experts)
    rule = "histogram" if request.family == "soup" else "lowest-loss"
    return [
        stated("experts", "pretrain", "generic-packs", family=request.family, experts=experts, **size),
        stated("expert", "project", "experts", "target-packs", expert=rule),
        stated("expert-tuned", "finetune", "target-packs", "validation", "expert", **tuning),
    ]


def specialize_now(
    request: Request, *, out: Path, store: str, executor: str, workers: int, assignments: Sequence[str]
) -> None:
    """`tamis specialize`: run the request, write recipe and model under `out`, print the last screen.

    Settings and inputs are looked at before anything is written. Raises UsageError or BadInput.
    """
    recipe = recipe_with(request, assignments)
    executor_for(validate(recipe), executor, workers=workers)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.yaml").write_text(recipe.to_yaml())
    console = Console()
    console.title(f"tamis specialize: {training_tokens(request):,} tokens a model; the recipe is {out / 'recipe.yaml'}")
    run_and_export(recipe, out / "model", store=store, executor=executor, workers=workers, console=console)


def run_and_export(recipe: Recipe, model: Path, *, store: str, executor: str, workers: int, console: Console) -> None:
    """Run the recipe of a request, write the best model to the folder `model`, print the last screen."""
    made = run_recipe(recipe, store=store, executor=executor, workers=workers, console=console, check=_check_parts)
    catalog = Catalog.open(store)
    write_export(catalog, made["export"], model)
    print("\n".join([last_screen(catalog, made, model, store=store), *prediction_lines(catalog, made)]))


def _check_parts(made: Mapping[str, Snapshot]) -> None:
    """Raise UsageError as soon as a part of the target that judges turns out to be empty."""
    name = list(made)[-1]
    if name in ("validation", "test") and not made[name].contents.rows:
        raise UsageError(
            f"none of the target's {made['target-tokens'].contents.rows} clean documents fell into its part for "
            f"{name}: give more text of the target"
        )


def write_export(catalog: Catalog, exported: Snapshot, folder: Path) -> None:
    """Copy the files of an export snapshot to a folder, replacing an older export there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, ref in exported.contents.artifacts.items():
        partial = folder / f".{name}.partial"
        shutil.copyfile(catalog.store.local(ref), partial)
        partial.replace(folder / name)

"""The report of a plan: what its snapshots say, what the routes cost, and how fast this machine is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.catalog import Catalog
from catalog.lineage import Loss, waterfall
from catalog.snapshot import Snapshot
from catalog.store import Store
from catalog.tables import read_table
from clusters.advice import Advice, Budget, Evidence, recommend, without_gain
from clusters.recipes import Stated, make_step
from clusters.specialize import MOST_EXPERTS, tuning_tokens
from dataops.kernels.histogram import effective_cells
from training.config import ModelConfig, TrainConfig, family_rows_for, fitting, sized
from training.forecast import Prediction
from training.inputs import pack_paths
from training.routes import Rates, Route, Routes
from training.speed import Speed, is_quick, measure
from training.steps import Pretrain, train_settings

PAPERS = 6  # times the parameters: the larger model of the method's paper
LORA_RANK = 64
NEAR = 0.8  # share of a document's 13-grams from which on it counts as a near-duplicate


@dataclass(frozen=True, kw_only=True)
class Side:
    """Pool or target: clean documents and tokens, and what each rule took."""

    documents: int
    tokens: int
    losses: tuple[Loss, ...]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What the mixture is like. `outside`: the share of target windows beyond the pool's 99th percentile of distance;
    `effective`: exp(entropy) over cells; `sample_cells`: 1 / sum of squared weights; `epochs`: of cells that are drawn.
    Either `chosen_cells`, the level that was compared, or, where windows are weighed, `auc`, how well their scores tell
    target from pool, `sample_tokens`, the effective sample in them, and how many of them are at the cap.
    """

    outside: float
    cells: int
    chosen_cells: int | None
    auc: float | None
    effective_pool: float
    effective_target: float
    sample_cells: float
    median_epochs: float
    most_epochs: float
    capped_cells: int
    sample_tokens: float | None
    capped_windows: int | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that a plan says. `pairs` are the rows of the table `forecasts`; `refused` is "" unless it refuses."""

    tokens: int
    params: int
    tasks: int
    pool: Side
    target: Side
    leaked: int
    near_leaked: int
    validation: int
    test: int
    selection: Selection
    pairs: tuple[Mapping[str, Any], ...]
    before: Prediction
    after: Prediction
    routes: tuple[Route, ...]
    speeds: Mapping[str, Speed]
    preparing_seconds: float
    advice: Advice
    refused: str


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """What a plan knows when it ends early; `selection` is None where nothing was weighed yet."""

    pool: Side
    target: Side
    leaked: int
    near_leaked: int
    validation: int
    selection: Selection | None
    refused: str


def refusal_of(catalog: Catalog, made: Mapping[str, Snapshot], *, refused: str) -> Refusal:
    """What was made until it turned out that the pool can't help."""
    leaked, near = leaks_of(catalog.store, made["clean"])
    return Refusal(
        pool=_side(catalog, made["clean-tokens"]),
        target=_side(catalog, made["target-tokens"]),
        leaked=leaked,
        near_leaked=near,
        validation=made["validation"].contents.rows,
        selection=selection_of(catalog, made) if "mixture" in made else None,
        refused=refused,
    )


def report_of(
    catalog: Catalog,
    made: Mapping[str, Snapshot],
    planned: Stated,
    *,
    max_params: int | None,
    tasks: int,
    hours: float | None,
) -> Report:
    """The report of what a plan made; measures this machine's speed."""
    settings = make_step(planned.step, planned.settings)
    assert isinstance(settings, Pretrain)
    packs, forecast = made["generic-packs"], made["forecast"]
    stages = {name: Prediction(**forecast.contents.summary[name]) for name in ("before", "after")}
    possible = routes_of(packs, settings, max_params=max_params)
    speeds = _speeds(catalog, packs, possible, settings)
    rates = {field.name: speeds.get(field.name, speeds["small"]).flops_per_second for field in fields(Rates)}
    routes = possible.all(Rates(**rates))
    selection = selection_of(catalog, made)
    seconds = float("inf") if hours is None else hours * 3600
    budget = Budget(max_params=max_params or settings.params, tasks=tasks, seconds=seconds)
    leaked, near = leaks_of(catalog.store, made["clean"])
    return Report(
        tokens=settings.tokens,
        params=settings.params,
        tasks=tasks,
        pool=_side(catalog, made["clean-tokens"]),
        target=_side(catalog, made["target-tokens"]),
        leaked=leaked,
        near_leaked=near,
        validation=made["validation"].contents.rows,
        test=made["test"].contents.rows,
        selection=selection,
        pairs=tuple(read_table(catalog.store, forecast.artifact("forecasts")).to_pylist()),
        **stages,
        routes=routes,
        speeds=speeds,
        preparing_seconds=sum(catalog.runs[each.run].seconds for each in made.values()),
        advice=recommend(
            {route.name: route for route in routes}, _evidence(stages, selection, tokens=settings.tokens), budget
        ),
        refused=without_gain(**stages),
    )


def _evidence(stages: Mapping[str, Prediction], selection: Selection, *, tokens: int) -> Evidence:
    """What the advice rests on; `tokens` are those of the planned run."""
    return Evidence(
        **stages,
        spread=selection.effective_target / selection.effective_pool,
        tokens_per_expert=tokens / min(MOST_EXPERTS, selection.cells),
    )


def routes_of(packs: Snapshot, planned: Pretrain, *, max_params: int | None) -> Routes:
    """The routes to a model of the planned size on packs like these; `planned` is the step of the planned run.

    The larger model is as large as may be served, or, where that is not larger, as large as the paper's.
    """
    shape = _shape(packs)
    if max_params is not None and max_params > planned.params:
        large = fitting(max_params, **shape)
    else:
        large = sized(PAPERS * planned.params, **shape)
    return Routes(
        small=sized(planned.params, **shape),
        large=large,
        tokens=planned.tokens,
        tuning_tokens=tuning_tokens(planned.tokens),
        experts=MOST_EXPERTS,
        cells=len(packs.contents.summary["rows_per_cell"]),
        banks=planned.banks,
        lora_rank=LORA_RANK,
    )


def selection_of(catalog: Catalog, made: Mapping[str, Snapshot]) -> Selection:
    """The figures of the mixture that was made."""
    summary, weights = made["mixture"].contents.summary, read_table(catalog.store, made["mixture"].artifact("weights"))
    pool, target, epochs = (weights[name].to_numpy() for name in ("pool_tokens", "target_tokens", "epochs"))
    drawn = epochs[pool > 0]
    return Selection(
        outside=outside(made),
        cells=summary["cells"],
        chosen_cells=summary.get("resolution"),
        auc=summary.get("auc"),
        effective_pool=effective_cells(pool),
        effective_target=effective_cells(target),
        sample_cells=summary["effective_sample_size"],
        median_epochs=float(np.median(drawn)),
        most_epochs=float(drawn.max()),
        capped_cells=summary["capped_cells"],
        sample_tokens=summary.get("effective_tokens"),
        capped_windows=summary.get("capped_windows"),
    )


def outside(made: Mapping[str, Snapshot]) -> float:
    """The share of target windows that lie beyond the pool's 99th percentile of distance."""
    return 1.0 - float(made["mixture"].contents.summary["coverage"])


def _shape(packs: Snapshot) -> dict[str, int]:
    """What packs fix of the models that read them."""
    return {name: int(packs.contents.summary[name]) for name in ("vocab_size", "context")}


def _speeds(catalog: Catalog, packs: Snapshot, routes: Routes, planned: Pretrain) -> dict[str, Speed]:
    """How fast this machine trains what the routes train, by the names of `Rates`; what takes long is left out."""
    paths = pack_paths(catalog.store, packs)
    train = train_settings(planned)
    rows = family_rows_for(
        planned.tokens, context=routes.small.context, family="mixture", experts=min(routes.experts, routes.cells)
    )

    def speed(shape: ModelConfig, train: TrainConfig) -> Speed:
        return measure(paths, shape, train=train, threads=planned.threads, device=planned.device)

    small = speed(routes.small, train)
    others = {
        "mixture": (routes.small, replace(train, batch_rows=rows)),
        "projected": (routes.projected, train),
        "large": (routes.large, train),
    }
    return {"small": small} | {name: speed(*each) for name, each in others.items() if is_quick(*each, small)}


def _side(catalog: Catalog, tokenized: Snapshot) -> Side:
    return Side(
        documents=tokenized.contents.rows,
        tokens=tokenized.contents.summary["tokens"],
        losses=tuple(waterfall(catalog, tokenized)),
    )


def leaks_of(store: Store, clean: Snapshot) -> tuple[int, int]:
    """Pool documents that went because they hold text of the target, and how many of them were nearly copies of it."""
    layer = clean.contents.layers[-1]
    tables = [read_table(store, shard.tables[layer], ["kept", "similarity"]) for shard in clean.contents.shards]
    decided = pa.concat_tables(tables)
    gone = decided.filter(pc.invert(decided["kept"]))
    return len(gone), len(gone.filter(pc.greater_equal(gone["similarity"], NEAR)))

"""What the rows of the reproduction are: each a model pretrained in its way, served, fine-tuned and scored.

Every pretraining stream has the same number of tokens, whatever a token of it costs. What does not depend on the
target is made once for its pool, and every step is a snapshot of the catalog, so an interrupted table continues and no
part of it is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from reproduce_text import CELLS, CONTEXT, POOL_OF, Bench, Pool, Target, label

from catalog.run import Step
from catalog.snapshot import Snapshot
from dataops.cells import AssignCells, FitCells
from dataops.combine import Combine
from dataops.embedders import Kind
from dataops.importance import Weigh
from dataops.pack import Pack
from dataops.resample import Resample
from dataops.selectors import WeighClassifier, WeighCrossEntropy, WeighNgrams, WeighStacked, WeighTwoStage
from training.compare import Evaluate
from training.config import batch_rows_for, family_rows_for, rate_for
from training.expert import Project
from training.steps import FamilyName, Finetune, Pretrain

REVISION = 1  # raised when rows of the same name are made in another way: batches, rates, epochs, settings of selectors
STEP_TOKENS = 16 * CONTEXT  # of an optimiser step
LARGER = 5  # times the parameters: the upper bound
EXPERTS, MIXED, BANKS = 32, 16, 8  # of projected networks and soups; of mixtures; matrices summed from
EPOCHS = {"1:1000": 40, "1:100": 12, "1:30": 8}  # of fine-tuning, at most: validation stops it
OTHER_ROWS = 1000  # added to the seed of the second half of a grown model, which reads them in another order
LOOKS_PER_EPOCH = {"1:1000": 0.5, "1:100": 1.0, "1:30": 1.0}
PAPER = {"smoothing": "none", "defence": 0.0, "max_epochs": 1e9}  # 2402.01093: the ratio of two histograms

COMBINED = ("ours", "stacked")  # half of the stream each
EMBEDDED: dict[str, Kind] = {"ours-fasttext": "fasttext", "ours-random": "tfidf-random"}  # cells of another embedder


SELECTORS: dict[str, Callable[[int], Step]] = {
    "ours": lambda tokens: Weigh(tokens=tokens),
    **{f"plain-{k}": lambda tokens, k=k: Weigh(tokens=tokens, cells=k, **PAPER) for k in (16, 64, 256, 1024)},
    "stacked": lambda tokens: WeighStacked(tokens=tokens),
    "stacked-recurrent": lambda tokens: WeighStacked(tokens=tokens),
    "stacked-grown": lambda tokens: WeighStacked(tokens=tokens),
    "combined": lambda tokens: Combine(tokens=tokens),
    **{
        f"stacked-epochs-{n}": lambda tokens, n=n: WeighStacked(tokens=tokens, max_epochs=float(n))
        for n in (1, 2, 8, 16)
    },
    "two-stage": lambda tokens: WeighTwoStage(tokens=tokens),
    "dsir": lambda tokens: WeighNgrams(tokens=tokens),
    "ced": lambda tokens: WeighCrossEntropy(tokens=tokens),
    "classifier": lambda tokens: WeighClassifier(tokens=tokens),
    # ours with one setting changed
    **{f"ours-{k}": lambda tokens, k=k: Weigh(tokens=tokens, cells=k) for k in (16, 64, 256, 1024)},
    **{f"ours-epochs-{cap}": lambda tokens, cap=cap: Weigh(tokens=tokens, max_epochs=float(cap)) for cap in (1, 2, 16)},
    **dict.fromkeys(EMBEDDED, lambda tokens: Weigh(tokens=tokens)),
    "ours-unsmoothed": lambda tokens: Weigh(tokens=tokens, smoothing="none"),
    "ours-undefended": lambda tokens: Weigh(tokens=tokens, defence=0.0),
    "ours-cold": lambda tokens: Weigh(tokens=tokens, temperature=1.4),
    "ours-warm": lambda tokens: Weigh(tokens=tokens, temperature=0.7),
}
RECURRENT = ("stacked-recurrent",)  # selectors whose stream a recurrent model reads
SHARED = {  # made once for a pool
    "slm": Pretrain(tokens=1),
    "recurrent": Pretrain(tokens=1, family="recurrent"),
    "large": Pretrain(tokens=1),
    "pn": Pretrain(tokens=1, family="projected", experts=EXPERTS, banks=BANKS),
    "soup": Pretrain(tokens=1, family="soup", experts=EXPERTS, banks=BANKS),
    "mix": Pretrain(tokens=1, family="mixture", experts=MIXED),
    "pn-grown": Pretrain(tokens=1, family="projected", experts=EXPERTS, banks=BANKS),
    "mix-grown": Pretrain(tokens=1, family="mixture", experts=MIXED),
}
GROWN = ("pn-grown", "mix-grown", "stacked-grown")  # from a plain model that read half of the tokens
PROJECTED = {
    "pn": "lowest-loss",
    "mix": "lowest-loss",
    "soup": "histogram",
    "pn-grown": "lowest-loss",
    "mix-grown": "lowest-loss",
}
TUNED_OTHERWISE = {"large-lora": "large", "distilled": "slm"}  # fine-tuned in another way than all weights on labels
METHODS = ("nopt", *SHARED, *TUNED_OTHERWISE, *SELECTORS)


@dataclass(frozen=True, kw_only=True, order=True)
class Row:
    """One model of the table."""

    method: str
    target: str
    size: str = "1:1000"
    seed: int = 0

    @property
    def name(self) -> str:
        """Of the fine-tuned model's snapshot, and the start of all others of this row."""
        return f"{self.target}-{label(self.size)}-{self.method}-{self.seed}"

    @property
    def needs(self) -> set[str]:
        """The methods whose snapshots it may need too."""
        others = {"large"} if self.method == "distilled" else {"trunk"} if self.method in GROWN else set()
        return {self.method, TUNED_OTHERWISE.get(self.method, self.method)} | others

    @property
    def mixture(self) -> str:
        """Name of its weights: the draw is the same for every seed of training."""
        return f"{replace(self, seed=0).name}-mixture"

    @property
    def scores(self) -> str:
        """Name of the evaluation: before fine-tuning, where there is a before, and after."""
        return f"{self.name}-scores"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Everything that making rows needs."""

    bench: Bench
    pools: dict[str, Pool]
    targets: dict[tuple[str, str], Target]
    tokens: int
    params: int

    def make(self, row: Row) -> Snapshot:
        """The row's evaluation on the target's test documents."""
        target = self.targets[row.target, row.size]
        served = self._served(row)
        tuned = self.tuned(row, served)
        models = [each for each in (served, tuned) if each is not None]
        return self.bench.do(Evaluate(), target.test, *models, into=row.scores)

    def _served(self, row: Row) -> Snapshot | None:
        if row.method == "nopt":
            return None
        if row.method in SELECTORS:
            family: FamilyName = "recurrent" if row.method in RECURRENT else "decoder"
            step = Pretrain(tokens=1, params=self.params, family=family, seed=row.seed)
            if row.method in GROWN:
                trunk, half, step = self._grown_from(POOL_OF[row.target], step)
                return self.bench.do(step, half.drawn(row), trunk, into=f"{row.name}-served")
            return self.bench.do(self._in_batches(step), self.drawn(row), into=f"{row.name}-served")
        kind = TUNED_OTHERWISE.get(row.method, row.method)
        whole = self._shared(kind, POOL_OF[row.target], row.seed)
        if kind not in PROJECTED:
            return whole
        packs = self.targets[row.target, row.size].packs
        return self.bench.do(Project(expert=PROJECTED[kind]), whole, packs, into=f"{row.name}-served")

    def _shared(self, kind: str, pool: str, seed: int) -> Snapshot:
        params = self.params * (LARGER if kind == "large" else 1)
        packs, step = self.pools[pool].packs, replace(SHARED[kind], params=params, seed=seed)
        if kind not in GROWN:
            return self.bench.do(self._in_batches(step), packs, into=f"{pool}-{kind}-{seed}")
        trunk, _, step = self._grown_from(pool, step)
        return self.bench.do(step, packs, trunk, into=f"{pool}-{kind}-{seed}")

    def _grown_from(self, pool: str, step: Pretrain) -> tuple[Snapshot, Table, Pretrain]:
        """A plain model that read half of the tokens, the table of the other half, and the step that reads it."""
        half = replace(self, tokens=self.tokens // 2)
        plain = half._in_batches(replace(SHARED["slm"], params=step.params, seed=step.seed))
        trunk = self.bench.do(plain, self.pools[pool].packs, into=f"{pool}-trunk-{step.seed}")
        return trunk, half, half._in_batches(replace(step, seed=step.seed + OTHER_ROWS))

    def _in_batches(self, step: Pretrain) -> Pretrain:
        """On the tokens of a row, in the batches that `tamis specialize` takes for them."""
        rows = family_rows_for(self.tokens, context=CONTEXT, family=step.family, experts=step.experts)
        return replace(step, tokens=self.tokens, batch_rows=rows, learning_rate=rate_for(rows))

    def drawn(self, row: Row) -> Snapshot:
        """Packs of what the row's selector draws."""
        mixture, name = self._mixture(row), replace(row, seed=0).name
        cells = self._cells(row)
        drawn = self.bench.do(Resample(tokens=self.tokens), cells, mixture, into=f"{name}-drawn")
        return self.bench.do(Pack(context=CONTEXT), drawn, into=f"{name}-packs")

    def _mixture(self, row: Row) -> Snapshot:
        cells, target = self._cells(row), self.targets[row.target, row.size]
        step, train = SELECTORS[row.method](self.tokens), target.train
        if isinstance(step, Combine):
            parts = [self._mixture(replace(row, method=each)) for each in COMBINED]
            return self.bench.do(step, *parts, into=row.mixture)
        if row.method in EMBEDDED:
            train = self.bench.do(AssignCells(), target.tokens, cells, into=f"{replace(row, seed=0).name}-cells")
        return self.bench.do(step, cells, train, into=row.mixture)

    def _cells(self, row: Row) -> Snapshot:
        """The pool in cells, of the default embedder or of the row's."""
        pool, kind = self.pools[POOL_OF[row.target]], EMBEDDED.get(row.method)
        if kind is None:
            return pool.cells
        fit = FitCells(cells=CELLS, context=CONTEXT, embedder=kind)
        return self.bench.do(fit, pool.tokens, into=f"{POOL_OF[row.target]}-cells-{kind}")

    def tuned(
        self, row: Row, served: Snapshot | None, into: str = "", learning: Mapping[str, Any] = MappingProxyType({})
    ) -> Snapshot:
        """Fine-tuned on the row's target, without a served model trained on it alone; `learning` changes settings."""
        target = self.targets[row.target, row.size]
        size = target.packs.contents.summary["tokens"]
        step = Finetune(tokens=EPOCHS[row.size] * size, params=self.params, seed=row.seed)
        if row.method == "nopt":
            rows = batch_rows_for(step.tokens, context=CONTEXT)  # as models are pretrained: nothing is to be kept
            step = replace(step, optimizer=Pretrain.optimizer, batch_rows=rows, learning_rate=rate_for(rows))
        elif row.method == "large-lora":
            step = replace(step, lora_rank=64, learning_rate=3 * step.learning_rate)
        elif row.method == "distilled":
            step = replace(step, label_share=0.5)
        step = replace(step, **learning)
        looks = round(size / (step.batch_rows * CONTEXT) / LOOKS_PER_EPOCH[row.size])
        step = replace(step, evaluate_every=max(1, looks))
        inputs = [target.packs, target.validation, *([served] if served is not None else [])]
        if row.method == "distilled":
            inputs.append(self.make_model(replace(row, method="large")))
        return self.bench.do(step, *inputs, into=into or row.name)

    def make_model(self, row: Row) -> Snapshot:
        """The row's fine-tuned model alone."""
        return self.tuned(row, self._served(row))


def rows(targets: tuple[str, ...], *, seeds: int) -> list[Row]:
    """All rows, those first that say most: the smallest size, one seed, the contest; then what explains it."""
    contest = ("slm", "stacked", "ced", "ours", "plain-64", "dsir", "plain-256", "classifier", "nopt")
    families = ("recurrent", "pn", "mix", "mix-grown", "pn-grown", "large", "large-lora", "distilled", "soup")
    ablations = [name for name in SELECTORS if name not in contest]
    out = [Row(method=method, target=target) for method in contest for target in targets]
    out += [Row(method=method, target=target) for method in families for target in targets]
    out += [
        Row(method=method, target=target, seed=seed)
        for seed in range(1, seeds)
        for method in contest
        for target in targets
    ]
    out += [
        Row(method=method, target=target, size=size)
        for size in ("1:30", "1:100")
        for method in ("slm", "nopt", "ours", "stacked", "ced", "plain-64", "mix", "pn", "large")
        for target in targets
    ]
    return out + [
        Row(method=method, target=target, seed=seed)
        for method in ablations
        for target in targets
        for seed in range(seeds)
    ]

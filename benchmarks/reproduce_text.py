"""Pools and targets of the reproduction: text, curated, in cells, with everything that a row of the table starts from.

A pool is the generic corpora whole, and specialist corpora other than its targets as 2% of its bytes, deduplicated and
without the documents that `decontaminate` finds to repeat its targets. Two pools serve five targets: medical questions
are near to biomedical research and to nothing else, so the one can't be in the pool of the other. A target is the first
4,000 characters of each of its documents, deduplicated; test, validation and three nested training sets are parts of
it. The tokenizer learns from the pool alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog.catalog import Catalog
from catalog.run import Step, run
from catalog.snapshot import Snapshot
from dataops.cells import AssignCells, FitCells
from dataops.contamination import Decontaminate
from dataops.exact import ExactDedup
from dataops.executors import LocalExecutor
from dataops.fuzzy import FuzzyDedup
from dataops.ingest import Ingest
from dataops.pack import Pack
from dataops.quality import QualityFilter
from dataops.split import Split
from dataops.tokenize import Tokenize, TrainTokenizer

CORPORA = Path(__file__).parents[2] / "shared" / "corpora"
GENERIC = (
    "encyclopedia_wikipedia",
    "news_wikinews",
    "techdocs_versions",
    "dialogue_sgd",
    "code_python_stdlib",
)
FAR = ("math_word_problems", "geography_factbook", "religion_scripture")
NEAR_SHARE = 0.02
NEAR = {
    "without-medical-research": ("medical_qa", *FAR),
    "without-medical-questions": ("biomedical_research", *FAR),
}
POOL_OF = {
    "biomedical_research": "without-medical-research",
    "math_stacks": "without-medical-research",
    "literature_novels": "without-medical-research",
    "law_dc_code": "without-medical-research",
    "medical_qa": "without-medical-questions",
}
TARGETS = tuple(POOL_OF)
SIZES = {"1:1000": 1 / 1000, "1:100": 1 / 100, "1:30": 1 / 30}  # tokens of a training set to those of pretraining
TEST_TOKENS, VALIDATION_TOKENS = 150_000, 40_000
MOST_CHARACTERS = 4000
CELLS, CONTEXT, VOCABULARY = 1024, 256, 4096


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The store of a reproduction and how it runs steps: alone in this process, on `workers` threads.

    `share`: of the pool's documents and of the tokens that models learn from it, for trials; targets stay as they are.
    """

    folder: Path
    workers: int = 2
    share: float = 1.0

    @property
    def catalog(self) -> Catalog:
        """The catalog as it is now: other processes commit to it."""
        return Catalog.open(str(self.folder / "store"), create=True)

    def do(self, step: Step, *inputs: Snapshot, into: str) -> Snapshot:
        """A step, unless the catalog has it."""
        return run(step, *inputs, into=into, catalog=self.catalog, executor=LocalExecutor(workers=self.workers))


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A curated pool: its windows in cells, and all of them packed."""

    tokens: Snapshot
    cells: Snapshot
    packs: Snapshot


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target at one size."""

    tokens: Snapshot  # for training
    train: Snapshot  # the same in the pool's cells
    packs: Snapshot
    validation: Snapshot
    test: Snapshot


def curated(bench: Bench, *, tokens: int) -> tuple[dict[str, Pool], dict[tuple[str, str], Target]]:
    """Pools by name and targets by (name, size); what the store has is not done again.

    tokens: of each pretraining stream of the whole pool, of which the sizes are shares, at any share of the pool: at a
    quarter, 1:1000 is 1:250 of the tokens that a row reads.
    """
    unique = {name: _deduplicated(bench, name, _target_text(bench, name)) for name in TARGETS}
    pools, targets = {}, {}
    for pool, near in NEAR.items():
        names = [name for name in TARGETS if POOL_OF[name] == pool]
        raw = _deduplicated(bench, pool, _pool_text(bench, pool, near))
        clean = bench.do(Decontaminate(), raw, *(unique[name] for name in names), into=f"{pool}-clean")
        tokenizer = bench.do(TrainTokenizer(vocab_size=VOCABULARY), clean, into=f"{pool}-tokenizer")
        tokenized = bench.do(Tokenize(), clean, tokenizer, into=f"{pool}-tokens")
        cells = bench.do(FitCells(cells=CELLS, context=CONTEXT), tokenized, into=f"{pool}-cells")
        packs = bench.do(Pack(context=CONTEXT), cells, into=f"{pool}-packs")
        pools[pool] = Pool(tokens=tokenized, cells=cells, packs=packs)
        for name in names:
            own = bench.do(Tokenize(), unique[name], tokenizer, into=f"{name}-tokens")
            targets |= {(name, size): each for size, each in _parts(bench, name, own, cells, tokens)}
    return pools, targets


def _parts(bench: Bench, name: str, own: Snapshot, cells: Snapshot, tokens: int) -> Iterator[tuple[str, Target]]:
    """The target's parts by draw: test, then validation, then the training sets, each within the next."""
    total = own.contents.summary["tokens"]
    test = TEST_TOKENS / total
    validation = test + VALIDATION_TOKENS / total
    held_out = {
        "test": bench.do(Split(start=0.0, stop=test), own, into=f"{name}-test"),
        "validation": bench.do(Split(start=test, stop=validation), own, into=f"{name}-validation"),
    }
    for size, share in SIZES.items():
        stop = validation + share * tokens / total
        if stop > 1:
            raise SystemExit(f"{name} has {total:,} tokens: too few for test, validation and {share * tokens:,.0f}")
        train = bench.do(Split(start=validation, stop=stop), own, into=f"{name}-{label(size)}")
        placed = bench.do(AssignCells(), train, cells, into=f"{name}-{label(size)}-cells")
        packs = bench.do(Pack(context=CONTEXT), placed, into=f"{name}-{label(size)}-packs")
        yield size, Target(tokens=train, train=placed, packs=packs, **held_out)


def label(size: str) -> str:
    """A size as part of a snapshot's name."""
    return size.replace(":", "-")


def _deduplicated(bench: Bench, name: str, text: Path) -> Snapshot:
    raw = bench.do(Ingest(paths=(str(text),), source_column="source"), into=name)
    once = bench.do(ExactDedup(), raw, into=f"{name}-unique")
    # Versions of manuals and emergency acts are meant to lose most of their documents.
    once = bench.do(FuzzyDedup(max_drop_per_source=1.0), once, into=f"{name}-deduplicated")
    return bench.do(QualityFilter(), once, into=f"{name}-quality")


def _pool_text(bench: Bench, pool: str, near: tuple[str, ...]) -> Path:
    """The pool as one Parquet file, in the order of the corpora."""
    path = bench.folder / f"{pool}.parquet"
    if not path.exists():
        tables = [_read(name) for name in GENERIC]
        room = NEAR_SHARE / (1 - NEAR_SHARE) * sum(_bytes(table) for table in tables) / len(near)
        whole = pa.concat_tables([*tables, *(_shuffled(_read(name), room) for name in near)])
        chosen = np.random.default_rng(1).random(len(whole)) < bench.share
        _write(path, whole.filter(pa.array(chosen)))
    return path


def _target_text(bench: Bench, name: str) -> Path:
    """A target's documents, cut."""
    path = bench.folder / f"{name}.parquet"
    if not path.exists():
        table = _read(name)
        cut = pc.utf8_slice_codeunits(table["text"], 0, MOST_CHARACTERS)
        _write(path, pa.table({"source": table["source"], "text": cut}))
    return path


def _read(corpus: str) -> pa.Table:
    text = pq.read_table(CORPORA / f"{corpus}.parquet", columns=["text"])["text"]
    return pa.table({"source": pa.array([corpus] * len(text)), "text": text})


def _bytes(table: pa.Table) -> int:
    return int(pc.sum(pc.binary_length(table["text"])).as_py())


def _shuffled(table: pa.Table, room: float) -> pa.Table:
    """Documents in a fixed random order, as many as `room` bytes hold."""
    table = table.take(np.random.default_rng(0).permutation(len(table)))
    return table.slice(0, int((np.cumsum(pc.binary_length(table["text"]).to_numpy()) <= room).sum()))


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, row_group_size=4096)
    partial.replace(path)

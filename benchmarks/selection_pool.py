"""A pool with a little text near the target planted in it, and a judge of selections that trains no network.

Pool: generic corpora, and 2% text of specialist corpora other than the target (method, section 7), which one of them is
near to the target. Judge: a trigram model with Witten-Bell smoothing learns the selected stream of equal tokens, and
held-out target documents are scored in bits a byte. It sees local word order and topic, and no more: it cannot say what
a network does with more steps, with fine-tuning or with repeated text, so it compares ways of selecting, not models.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from catalog.catalog import Catalog
from catalog.run import Step, run
from catalog.snapshot import Snapshot
from catalog.tables import read_live, read_table
from catalog.tokenizer import BpeTokenizer
from dataops.cells import AssignCells, FitCells
from dataops.executors import LocalExecutor
from dataops.ingest import Ingest
from dataops.kernels.language_model import cross_entropy, fit_ngrams
from dataops.kernels.sampling import nested_copies
from dataops.quality import QualityFilter
from dataops.tokenize import Tokenize, TrainTokenizer
from dataops.windows import windows_of

GENERIC = {
    "encyclopedia_wikipedia": 0.42,
    "news_wikinews": 0.2,
    "techdocs_versions": 0.12,
    "dialogue_sgd": 0.12,
    "code_python_stdlib": 0.12,
}
NEAR = {
    "biomedical_research": "medical_qa",
    "medical_qa": "biomedical_research",
    "math_stacks": "math_word_problems",
    "literature_novels": "religion_scripture",
}
PLANTED = 0.02
NOISE = "noise"
HELD_OUT = 120  # target documents to score


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """Pool and target in their cells, with everything that judging needs as arrays of pool windows."""

    catalog: Catalog
    pool: Snapshot
    target: Snapshot
    tokens: Snapshot  # the pool before cells
    held_out: tuple[np.ndarray, np.ndarray]  # offsets and tokens
    held_out_bytes: int
    vocab_size: int
    near: str

    def judge(self, mixture: Snapshot, budget: int, *, seed: int) -> dict[str, float]:
        """Share of near text in the stream, the planted share being PLANTED at most, and bits a byte."""
        columns = _windows(self.catalog, self.pool)
        weights = read_table(self.catalog.store, mixture.artifact("weights"))
        size = np.maximum(weights["pool_tokens"].to_numpy(), 1)
        epochs = (budget * weights["weight"].to_numpy() / size)[columns["cell"]]
        if mixture.contents.shards:
            tables = [read_table(self.catalog.store, each.tables["factors"]) for each in mixture.contents.shards]
            epochs = epochs * pa.concat_tables(tables)["factor"].to_numpy()
        copies = nested_copies(seed, columns["h64"], columns["window"], epochs)
        stream = copies * columns["n_tokens"]
        order = np.repeat(np.arange(len(copies)), copies)
        lengths = columns["n_tokens"][order]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        first = np.repeat(columns["offsets"][order] - offsets[:-1], lengths)
        tokens = columns["tokens"][first + np.arange(offsets[-1])]
        model = fit_ngrams([(offsets, tokens)], vocab_size=self.vocab_size)
        held, ids = self.held_out
        nats = (cross_entropy(model, held, ids)[:, 0].astype(np.float64) * np.diff(held)).sum()
        near = columns["source"] == self.near
        return {
            "near": float(stream[near].sum() / stream.sum()),
            "noise": float(stream[columns["source"] == NOISE].sum() / stream.sum()),
            "recall": float((stream[near] > 0).sum() / max(near.sum(), 1)),
            "bits": float(nats / np.log(2) / self.held_out_bytes),
            "tokens": float(stream.sum()),
            "epochs": float(epochs.max()),
        }


def make(
    folder: Path,
    corpora: Path,
    *,
    megabytes: float,
    target: str,
    documents: int,
    fit: FitCells,
    workers: int = 1,
    noise: float = 0.0,
    gate: bool = False,
) -> Bench:
    """Pool, cells and a target of `documents` documents, in the store `folder`; what is there is not done again.

    noise: documents of noise in pool and target, a share of the others. gate: both go through `quality-filter`.
    """
    catalog = Catalog.open(str(folder / "store"), create=True)

    def do(step: Step, *inputs: Snapshot, into: str) -> Snapshot:
        return run(step, *inputs, into=into, catalog=catalog, executor=LocalExecutor(workers=workers))

    text = folder / f"{target}-{megabytes:g}-{noise:g}.parquet"
    if not text.exists():
        _write_pool(text, corpora, target, int(megabytes * 1e6), noise=noise)
    raw = do(Ingest(paths=(str(text),), source_column="source", shard_bytes=4 << 20), into=f"pool-{target}")
    own = _documents(corpora, target)
    train = own[HELD_OUT : HELD_OUT + documents]
    train += noise_like(train[: round(noise * len(train))], seed=2)
    sides = {}
    for name, rows in (("train", train), ("held", own[:HELD_OUT])):
        path = folder / f"{target}-{name}-{len(rows)}.parquet"
        pq.write_table(pa.table({"text": rows}), path)
        sides[name] = do(Ingest(paths=(str(path),)), into=f"{name}-{target}")
    if gate:
        raw = do(QualityFilter(), raw, into=f"pool-filtered-{target}")
        sides["train"] = do(QualityFilter(), sides["train"], into=f"train-filtered-{target}")
    tokenizer = do(TrainTokenizer(vocab_size=4096), raw, into=f"tokenizer-{target}")
    tokens = do(Tokenize(), raw, tokenizer, into=f"tokens-{target}")
    sides = {n: do(Tokenize(), each, tokenizer, into=f"{n}-tokens-{target}") for n, each in sides.items()}
    pool = do(fit, tokens, into=f"cells-{target}")
    train = do(AssignCells(), sides["train"], pool, into=f"train-cells-{target}")
    held = [
        read_live(catalog.store, shard, (), ["tokens"], table="tokens")["tokens"].combine_chunks()
        for shard in sides["held"].contents.shards
    ]
    lengths = np.concatenate([each.value_lengths().to_numpy() for each in held])
    bpe = BpeTokenizer(catalog.store.local(tokenizer.artifact("tokenizer")))
    ids = np.concatenate([each.flatten().to_numpy() for each in held])
    return Bench(
        catalog=catalog,
        pool=pool,
        target=train,
        tokens=tokens,
        held_out=(np.concatenate([[0], np.cumsum(lengths)]), ids),
        held_out_bytes=int(bpe.byte_lengths[ids].sum()),
        vocab_size=bpe.vocab_size,
        near=NEAR[target],
    )


def apply(bench: Bench, step: Step, into: str, *, workers: int = 1) -> Snapshot:
    """A selector on the bench's pool and target."""
    executor = LocalExecutor(workers=workers)
    return run(step, bench.pool, bench.target, into=into, catalog=bench.catalog, executor=executor)


_cache: dict[str, dict[str, np.ndarray]] = {}


def _windows(catalog: Catalog, pool: Snapshot) -> dict[str, np.ndarray]:
    """cell, window, n_tokens, h64, source and tokens of all pool windows."""
    if pool.id not in _cache:
        _cache.clear()
        lengths = BpeTokenizer(catalog.store.local(pool.artifact("tokenizer"))).byte_lengths
        parts: list[dict[str, np.ndarray]] = []
        for shard in pool.contents.shards:
            layers, context = pool.contents.layers, pool.contents.summary["context"]
            found = windows_of(catalog.store, shard, layers, context=context, byte_lengths=lengths)
            cells = read_live(catalog.store, shard, layers, ["cell"], table="cells")["cell"].to_numpy()
            live = read_live(catalog.store, shard, layers, ["row", "source"])
            source = live["source"].to_numpy(zero_copy_only=False)
            parts.append(
                {
                    "cell": cells,
                    "window": found.window,
                    "n_tokens": found.n_tokens.astype(np.int64),
                    "h64": found.h64,
                    "tokens": found.tokens,
                    "source": source[np.searchsorted(live["row"].to_numpy(), found.row)].astype(str),
                }
            )
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        joined["offsets"] = np.cumsum(joined["n_tokens"]) - joined["n_tokens"]
        _cache[pool.id] = joined
    return _cache[pool.id]


def _documents(corpora: Path, name: str) -> list[str]:
    """Texts of one corpus in a fixed shuffled order."""
    texts = pq.read_table(corpora / f"{name}.parquet", columns=["text"])["text"].to_pylist()
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[i] for i in order.tolist()]


def noise_like(texts: list[str], *, seed: int) -> list[str]:
    """What crawls bring with the text, made of it, a third each: a page's menu again and again, tables of numbers and
    signs, and lists of its words without a sentence."""
    draw, out = np.random.default_rng(seed), []
    for number, text in enumerate(texts):
        words = text.split()[:400]
        if number % 3 == 0:
            menu = [" ".join(draw.choice(words, 3)) for _ in range(6)]
            out.append("\n".join(menu * 12))
        elif number % 3 == 1:
            out.append("\n".join(f"| {a} | {b}% | --- |" for a, b in draw.integers(0, 10_000, (120, 2)).tolist()))
        else:
            out.append(", ".join(draw.permutation(words).tolist()))
    return out


def _write_pool(path: Path, corpora: Path, target: str, num_bytes: int, *, noise: float) -> None:
    others = [name for name in (*NEAR, *NEAR.values(), "law_dc_code") if name != target]
    planted = list(dict.fromkeys(others))
    near = NEAR[target]
    shares = {name: share * (1 - PLANTED) for name, share in GENERIC.items()}
    shares |= {name: PLANTED / 2 / (len(planted) - 1) for name in planted if name != near} | {near: PLANTED / 2}
    rows = [(name, text) for name, share in shares.items() for text in _first(corpora, name, int(share * num_bytes))]
    texts = [text for _, text in rows]
    chosen = np.random.default_rng(3).permutation(len(texts))[: round(noise * len(texts))].tolist()
    rows += [(NOISE, text) for text in noise_like([texts[i] for i in chosen], seed=4)]
    order = np.random.default_rng(1).permutation(len(rows)).tolist()
    table = pa.table({"source": [rows[i][0] for i in order], "text": [rows[i][1] for i in order]})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _first(corpora: Path, name: str, num_bytes: int) -> Iterable[str]:
    """Documents of a corpus up to `num_bytes`; longer ones are cut to 8,000 characters so that many sources fit."""
    used = 0
    for text in _documents(corpora, name):
        if used >= num_bytes:
            return
        yield text[:8000]
        used += len(text[:8000])

"""A corpus whose near-duplicates are known: real documents, planted copies, and every pair at Jaccard 0.8 and above.

Planted: copies with words substituted, deleted and inserted at a rate drawn so that the exact Jaccard spreads over
0.3..0.99. Exact: sets of word 5-gram tuples in plain Python, words being `\\w+` of NFKC lower case; nothing of our
kernels. All pairs: documents at Jaccard t share one of the n - ceil(t n) + 1 rarest shingles of each (prefix filter,
Chaudhuri et al. 2006), so only those are joined, and each candidate is then compared by its sets.
"""

from __future__ import annotations

import functools
import math
import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalog.catalog import Catalog
from catalog.errors import UsageError
from catalog.run import run
from catalog.snapshot import Snapshot
from dataops.exact import ExactDedup
from dataops.executors import LocalExecutor
from dataops.ingest import Ingest
from dataops.normal_form import normal_form

SHINGLE, THRESHOLD, PLANTED_SHARE, WORDS_TO_PLANT = 5, 0.8, 0.12, 30


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents in a store and pairs of document numbers with their exact Jaccard."""

    catalog: Catalog
    snapshot: Snapshot
    numbers: dict[str, int]  # of each document id
    planted: pa.Table  # left, right, jaccard: each copy with its original
    similar: pa.Table  # left, right, jaccard: all pairs at THRESHOLD and above

    @property
    def files(self) -> list[str]:
        """The Parquet files with `id` and `text` that every tool reads."""
        shards = self.snapshot.contents.shards
        return [str(self.catalog.store.local(shard.tables["documents"])) for shard in shards]

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of all texts."""
        return sum(int(np.sum(pq.read_table(path, columns=["n_bytes"])["n_bytes"])) for path in self.files)


def open_corpus(folder: Path, paths: Sequence[str], *, megabytes: int, seed: int) -> Corpus:
    """The corpus in `folder`, made there if it is not."""
    if not (folder / "similar.parquet").exists():
        _make(folder, paths, megabytes=megabytes, seed=seed)
    catalog = Catalog.open(folder / "store")
    snapshot = catalog.snapshot("pool")
    numbers: dict[str, int] = {}
    for shard in snapshot.contents.shards:
        table = pq.read_table(catalog.store.local(shard.tables["documents"]), columns=["id", "source_id"])
        numbers |= zip(table["id"].to_pylist(), map(int, table["source_id"].to_pylist()), strict=True)
    planted, similar = (pq.read_table(folder / f"{name}.parquet") for name in ("planted", "similar"))
    return Corpus(catalog=catalog, snapshot=snapshot, numbers=numbers, planted=planted, similar=similar)


def _make(folder: Path, paths: Sequence[str], *, megabytes: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    texts = _sample(parquet_files(paths), megabytes, draw)
    texts, pairs = plant(texts, draw)
    rows = pa.table({"id": [str(i) for i in range(len(texts))], "text": texts})
    pq.write_table(rows, folder / "input.parquet", row_group_size=500)  # shards are whole row groups
    catalog, executor = Catalog.open(folder / "store", create=True), LocalExecutor(workers=2)
    ingest = Ingest(paths=(str(folder / "input.parquet"),), id_column="id", source="benchmark")
    pool = run(ingest, into="pool", catalog=catalog, executor=executor)
    exact = run(ExactDedup(), pool, into="distinct", catalog=catalog, executor=executor)
    assert exact.contents.rows == pool.contents.rows == len(texts), "exact repeats or refused documents in the corpus"
    planted = [(left, right, exact_jaccard(texts[left], texts[right])) for left, right in pairs]
    _write_pairs(folder / "planted.parquet", planted)
    _write_pairs(folder / "similar.parquet", similar_pairs(texts))


def _write_pairs(path: Path, pairs: Sequence[tuple[int, int, float]]) -> None:
    left, right, jaccard = zip(*pairs, strict=True) if pairs else ((), (), ())
    pq.write_table(pa.table({"left": left, "right": right, "jaccard": jaccard}), path)


def parquet_files(paths: Sequence[str]) -> list[Path]:
    """The files and those in the folders. Raises UsageError when one is missing or there is none."""
    found: list[Path] = []
    for path in map(Path, paths):
        found += sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    missing = [str(file) for file in found if not file.exists()]
    if missing or not found:
        where = ", ".join(missing or paths)
        raise UsageError(f"no Parquet files at {where}: name some with a column `text` by --corpora")
    return found


def _sample(files: Sequence[Path], megabytes: int, draw: random.Random) -> list[str]:
    """Distinct texts in their normal form, in a drawn order, up to the wished size."""
    texts = [text for file in files for text in pq.read_table(file, columns=["text"])["text"].to_pylist()]
    draw.shuffle(texts)
    chosen: dict[str, None] = {}
    size = 0
    for text in texts:
        normal = normal_form(text)
        if size < megabytes * 10**6 and normal and normal not in chosen:
            chosen[normal] = None
            size += len(normal.encode())
    return list(chosen)


def plant(texts: Sequence[str], draw: random.Random) -> tuple[list[str], list[tuple[int, int]]]:
    """All texts and the changed copies of some, shuffled; and where (copy, original) are."""
    vocabulary = [word for text in texts[:1000] for word in text.split()]
    long_enough = [number for number, text in enumerate(texts) if len(text.split()) >= WORDS_TO_PLANT]
    originals = draw.sample(long_enough, min(len(long_enough), round(len(texts) * PLANTED_SHARE)))
    known = set(texts)
    copies: list[str] = []
    for number in originals:
        copy = normal_form(changed(texts[number], draw.uniform(0.3, 0.99), vocabulary, draw))
        while copy in known:
            copy = normal_form(changed(texts[number], 0.9, vocabulary, draw))
        known.add(copy)
        copies.append(copy)
    order = list(range(len(texts) + len(copies)))
    draw.shuffle(order)
    place = {before: after for after, before in enumerate(order)}
    both = [*texts, *copies]
    pairs = [(place[len(texts) + i], place[number]) for i, number in enumerate(originals)]
    return [both[before] for before in order], pairs


def changed(text: str, jaccard: float, vocabulary: Sequence[str], draw: random.Random) -> str:
    """A copy at about this Jaccard: a shingle survives with 2j / (1 + j), each word with its fifth root."""
    rate = 1 - (2 * jaccard / (1 + jaccard)) ** (1 / SHINGLE)
    words = re.findall(r"\s*\S+", text)
    certain = draw.randrange(len(words))
    out = []
    for position, word in enumerate(words):
        if position != certain and draw.random() >= rate:
            out.append(word)
            continue
        space, other = word[: len(word) - len(word.lstrip())], draw.choice(vocabulary)
        out.append(draw.choice((f"{space or ' '}{other}", "", f"{word} {other}")))
    return "".join(out)


def words_of(text: str) -> list[str]:
    """Words of the matching form."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).lower())


def shingles_of(text: str) -> frozenset[tuple[str, ...]]:
    """The set of word 5-grams."""
    words = words_of(text)
    return frozenset(zip(*(words[start:] for start in range(SHINGLE)), strict=False))


def exact_jaccard(left: str, right: str) -> float:
    """Of the two sets of word 5-grams; 0 if both are empty."""
    a, b = shingles_of(left), shingles_of(right)
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared) if a or b else 0.0


def similar_pairs(texts: Sequence[str]) -> list[tuple[int, int, float]]:
    """All (left, right, jaccard) at THRESHOLD and above, left < right, ascending."""
    sets = functools.lru_cache(4096)(lambda number: shingles_of(texts[number]))
    found = []
    for left, right in candidates(texts).tolist():
        a, b = sets(left), sets(right)
        shared = len(a & b)
        jaccard = shared / (len(a) + len(b) - shared)
        if jaccard >= THRESHOLD:
            found.append((left, right, jaccard))
    return found


def candidates(texts: Sequence[str]) -> NDArray[np.int64]:
    """Pairs whose rarest shingles meet and whose sizes allow the threshold: int64[m, 2], ascending."""
    keys = _shingle_keys(texts)
    sizes = np.array([each.size for each in keys])
    bucket = np.uint64(38)  # 2^26 counters: shingles that share one only look less rare than they are
    counts = np.zeros(1 << 26, np.int32)
    for each in keys:
        counts[each >> bucket] += 1  # a document with two shingles in one counter counts once: rarer, still an order
    entries, owners = [], []
    for number, each in enumerate(keys):
        frequency = counts[each >> bucket]
        prefix = np.lexsort((each, frequency))[: each.size - math.ceil(THRESHOLD * each.size) + 1]
        prefix = prefix[frequency[prefix] > 1]
        entries.append(each[prefix])
        owners.append(np.full(prefix.size, number))
    return _meetings(np.concatenate(entries), np.concatenate(owners), sizes)


def _meetings(keys: NDArray[np.uint64], owners: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    order = np.lexsort((owners, keys))
    keys, owners = keys[order], owners[order]
    found = [np.empty(0, np.int64)]
    apart = 1
    alike = np.flatnonzero(keys[apart:] == keys[:-apart])
    while alike.size:
        left, right = owners[alike], owners[alike + apart]
        small, large = np.minimum(sizes[left], sizes[right]), np.maximum(sizes[left], sizes[right])
        fits = small >= THRESHOLD * large
        found.append(np.unique(left[fits] * len(sizes) + right[fits]))
        apart += 1
        alike = alike[alike + apart < keys.size]
        alike = alike[keys[alike] == keys[alike + apart]]
    pairs = np.unique(np.concatenate(found))
    return np.stack([pairs // len(sizes), pairs % len(sizes)], axis=1)


def _shingle_keys(texts: Sequence[str]) -> list[NDArray[np.uint64]]:
    """A number for each distinct shingle of each text: equal shingles have equal numbers."""
    vocabulary: dict[str, int] = {}
    multipliers = np.random.default_rng(1).integers(1, 1 << 63, SHINGLE, dtype=np.uint64) | np.uint64(1)
    keys = []
    for text in texts:
        ids = np.array([vocabulary.setdefault(word, len(vocabulary)) for word in words_of(text)], np.uint64)
        scrambled = (ids + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        scrambled ^= scrambled >> np.uint64(29)
        number = max(0, ids.size - SHINGLE + 1)
        total = np.zeros(number, np.uint64)
        for start, multiplier in enumerate(multipliers):
            total += scrambled[start : start + number] * multiplier
        keys.append(np.unique(total))
    return keys

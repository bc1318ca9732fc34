"""Scores that tell target windows from pool windows, each learned from a sample of both.

    bag            mean log ratio of hashed words and word pairs (DSIR, 2302.03169)
    cross-entropy  nats a token under a model of the pool less those under a model of the target (Moore and Lewis 2010);
                   trigram models of our own tokens: a network would have to be trained first, and dataops trains none
    classifier     log odds of a fastText classifier (like the quality filter of GPT-3, 2005.14165 appendix A)

A scorer learns into one file and scores from that file, so that any process can. Scores have no scale of their own:
`kernels.ranking.calibrate` gives them one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
import pyarrow as pa

from dataops.domain import one_line
from dataops.fasttext_training import LABEL, linear_form, train_supervised
from dataops.kernels.bag import bag_counts, log_ratios, mean_ratios
from dataops.kernels.language_model import NgramModels, cross_entropy, fit_ngrams
from dataops.kernels.linear import mean_log_odds

MAX_LOG_ODDS = 12.0  # of a classifier: what is past it was learned by heart
_loading = Lock()


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Windows as text and as tokens."""

    texts: pa.LargeStringArray
    offsets: np.ndarray  # int64[n+1]
    tokens: np.ndarray  # uint16
    vocab_size: int

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, chosen: np.ndarray) -> Sample:
        """The windows where `chosen` bool[n] is true."""
        lengths = np.diff(self.offsets)
        return Sample(
            texts=self.texts.filter(pa.array(chosen)),
            offsets=np.concatenate([[0], np.cumsum(lengths[chosen])]),
            tokens=self.tokens[np.repeat(chosen, lengths)],
            vocab_size=self.vocab_size,
        )


class Scorer(Protocol):
    """Learns what tells the target apart; higher scores are more like it."""

    def fit(self, target: Sample, pool: Sample, path: Path) -> None: ...

    def score(self, path: Path, sample: Sample) -> np.ndarray:
        """float32[n], or [n, k] for k scores a window."""
        ...


@dataclass(frozen=True, kw_only=True)
class BagScorer:
    """Mean log ratio of hashed words and word pairs in `buckets`."""

    buckets: int

    def fit(self, target: Sample, pool: Sample, path: Path) -> None:
        ratios = log_ratios(bag_counts(target.texts, self.buckets), bag_counts(pool.texts, self.buckets))
        with open(path, "wb") as file:
            np.save(file, ratios)

    def score(self, path: Path, sample: Sample) -> np.ndarray:
        return mean_ratios(sample.texts, np.load(path))


@dataclass(frozen=True, kw_only=True)
class CrossEntropyScorer:
    """How much better a trigram model of the target predicts a window than one of the pool, in nats a token."""

    def fit(self, target: Sample, pool: Sample, path: Path) -> None:
        parts = [(each.offsets, each.tokens) for each in (pool, target)]
        models = fit_ngrams(parts, vocab_size=pool.vocab_size)
        with open(path, "wb") as file:
            for array in (models.root, models.unigrams, models.bigrams, models.trigrams):
                np.save(file, array)

    def score(self, path: Path, sample: Sample) -> np.ndarray:
        of_pool, of_target = cross_entropy(_ngrams(str(path)), sample.offsets, sample.tokens).T
        return of_pool - of_target


@dataclass(frozen=True, kw_only=True)
class ClassifierScorer:
    """Log odds of a fastText classifier."""

    dimension: int
    epochs: int
    buckets: int

    def fit(self, target: Sample, pool: Sample, path: Path) -> None:
        lines = path.with_suffix(".txt")
        sides = ((f"{LABEL}1", target), (f"{LABEL}0", pool))
        lines.write_text(
            "".join(f"{label} {line}\n" for label, side in sides for line in one_line(side.texts).to_pylist())
        )
        model = train_supervised(
            lines, dim=self.dimension, epoch=self.epochs, lr=0.5, wordNgrams=2, bucket=self.buckets, minCount=3, seed=1
        )
        with open(path, "wb") as file:
            for array in linear_form(model, f"{LABEL}1", f"{LABEL}0"):
                np.save(file, array)

    def score(self, path: Path, sample: Sample) -> np.ndarray:
        with open(path, "rb") as file:
            hashes, of_words, of_pairs = (np.load(file) for _ in range(3))
        found = mean_log_odds(one_line(sample.texts), hashes, of_words, of_pairs)
        return np.clip(found, -MAX_LOG_ODDS, MAX_LOG_ODDS)


@dataclass(frozen=True, kw_only=True)
class StackedScorer:
    """The scores of several scorers side by side, for `calibrate` to weigh."""

    parts: tuple[Scorer, ...]

    def fit(self, target: Sample, pool: Sample, path: Path) -> None:
        for number, part in enumerate(self.parts):
            part.fit(target, pool, _part(path, number))
        path.touch()

    def score(self, path: Path, sample: Sample) -> np.ndarray:
        found = [part.score(_part(path, number), sample) for number, part in enumerate(self.parts)]
        return np.stack(found, axis=1)


def _part(path: Path, number: int) -> Path:
    return path.with_suffix(f".{number}{path.suffix}")


def _ngrams(path: str) -> NgramModels:
    """The two models of a file, loaded once a process however many threads ask."""
    with _loading:
        return _loaded(path)


@lru_cache(maxsize=2)  # windows are scored by the model of one half of the documents or of the other
def _loaded(path: str) -> NgramModels:
    """Not mapped, so that they may lie in large pages."""
    with open(path, "rb") as file:
        return NgramModels(*(np.load(file) for _ in range(4)))

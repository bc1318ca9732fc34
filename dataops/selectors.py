"""Selectors that look at each window: what gives it a score, and the settings of weighing by that score.

`dataops/window_weights.py` says how a score becomes how often a window is drawn. `weigh-two-stage` keeps the weights of
cells and divides each among its windows: the answer to P(x | c, target) differing from P(x | c), which the AUC inside
cells measures. `weigh-stacked` lets held-out documents say how much each of two scores is worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from catalog.errors import UsageError
from catalog.run import Work
from catalog.snapshot import Contents, Snapshot
from dataops.fasttext_training import LEAST_BYTES
from dataops.scorers import BagScorer, ClassifierScorer, CrossEntropyScorer, StackedScorer
from dataops.window_weights import Selecting, weigh_by_score


@dataclass(frozen=True, kw_only=True)
class WeighTwoStage(Selecting):
    """Weights of cells as `weigh` finds them, but for the cap, which counts windows; inside by words and word pairs."""

    verb: ClassVar[str] = "weigh-two-stage"
    revision: ClassVar[int] = 4
    keeps_cells: ClassVar[bool] = True

    buckets: int = 1 << 16

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A mixture snapshot with `weights` and `factors`."""
        return weigh_by_score(self, BagScorer(buckets=self.buckets), work, *inputs)


@dataclass(frozen=True, kw_only=True)
class WeighNgrams(Selecting):
    """Weights of windows by words and word pairs."""

    verb: ClassVar[str] = "weigh-ngrams"

    buckets: int = 1 << 16

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A mixture snapshot with `weights` and `factors`."""
        return weigh_by_score(self, BagScorer(buckets=self.buckets), work, *inputs)


@dataclass(frozen=True, kw_only=True)
class WeighCrossEntropy(Selecting):
    """Weights of windows by the difference of two language models."""

    verb: ClassVar[str] = "weigh-cross-entropy"
    revision: ClassVar[int] = 5

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A mixture snapshot with `weights` and `factors`."""
        return weigh_by_score(self, CrossEntropyScorer(), work, *inputs)


@dataclass(frozen=True, kw_only=True)
class WeighStacked(Selecting):
    """Weights of windows by words and word pairs and by the difference of two language models, together."""

    verb: ClassVar[str] = "weigh-stacked"
    revision: ClassVar[int] = 4

    buckets: int = 1 << 16

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A mixture snapshot with `weights` and `factors`."""
        parts = (BagScorer(buckets=self.buckets), CrossEntropyScorer())
        return weigh_by_score(self, StackedScorer(parts=parts), work, *inputs)


@dataclass(frozen=True, kw_only=True)
class WeighClassifier(Selecting):
    """Weights of windows by a fastText classifier of target against pool."""

    verb: ClassVar[str] = "weigh-classifier"
    revision: ClassVar[int] = 6

    dimension: int = 24
    epochs: int = 5
    buckets: int = 400_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.buckets * self.dimension * 4 < LEAST_BYTES:
            raise UsageError(
                f"buckets {self.buckets}, dimension {self.dimension}: fastText repeats itself only with "
                f"buckets x dimension >= {LEAST_BYTES // 4:,}"
            )

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A mixture snapshot with `weights` and `factors`."""
        return weigh_by_score(
            self, ClassifierScorer(dimension=self.dimension, epochs=self.epochs, buckets=self.buckets), work, *inputs
        )

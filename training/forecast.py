"""What resampling will gain at a size that was not trained yet, from pairs of small models, the proxies.

A pair is two models alike in all but the stream: one learned from the pool as it is, one from the pool under the
mixture. Its gain is the bits per byte of the first less those of the second on held-out documents, so above 0 the
mixture helps. Gains are carried to the planned size along the logarithm of compute,

    gain(x) = a + b x + r(x),    x = log2(tokens * parameters of a pair / tokens * parameters of the plan), so x < 0

a line with slope b, and a walk r that bends it. Three pairs can't tell a trend or a bend from noise, so both are held
towards 0: b is normal with a deviation of `curve_error` times the mean gain, and r moves by as much in a doubling. `a`,
the gain at the plan, is then the mean of the gains, by generalized least squares, under the covariance of what moves
them: documents (the same ones for every pair), seeds, and the curve. Where the pairs differ by more than that explains,
the error of the curve grows until it does. docs/planning.md compares predictions with what came true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from catalog import schema
from catalog.errors import UsageError
from catalog.run import Work
from catalog.snapshot import Contents, Snapshot
from catalog.tables import read_table, write_table

STAGES = ("before", "after")  # fine-tuning
PER_PAIR = 2 * len(STAGES)  # models: generic, specialized, and both tuned
FEWEST_DOCUMENTS = 4  # below, the error of a mean of documents has no variance
NORMAL_95 = 1.96
MOST_FACTOR = 1e6  # by which the variance of the curve may grow: gains around 0 give it no size of its own


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A gain in bits per byte with the 95% interval of what will be measured, and the standard errors it is made of.

    `slope` is what the line gains in a doubling of compute.
    """

    gain: float
    low: float
    high: float
    slope: float
    documents: float
    seeds: float
    curve: float

    @property
    def is_positive(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low > 0


def doublings_of(sizes: Sequence[tuple[int, int]], *, tokens: int, params: int) -> list[float]:
    """How many doublings of compute each pair of (tokens, parameters) is above the plan, all below 0.

    Raises UsageError for a pair that is not smaller than the plan: nothing is carried back to it.
    """
    found = [math.log2(pair[0] * pair[1] / (tokens * params)) for pair in sizes]
    for pair, doublings in zip(sizes, found, strict=True):
        if doublings >= 0:
            raise UsageError(
                f"a pair of {pair[0]:,} tokens and {pair[1]:,} parameters takes no less compute than the plan of "
                f"{tokens:,} and {params:,}: give smaller --proxy-tokens or --proxy-params"
            )
    return found


def gains_of(
    generic: Sequence[ArrayLike], specialized: Sequence[ArrayLike], num_bytes: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Gains of pairs, float64[p], their covariance over documents, float64[p, p], and the variance of one document.

    Each of `generic` and `specialized` holds nats by document, float64[d]; `num_bytes` int64[d]. The covariance of a
    ratio of sums is that of its linear part; it has the size of Student's t, as documents are few. The last is of the
    last pair. Raises UsageError for fewer than FEWEST_DOCUMENTS.
    """
    size = np.asarray(num_bytes, np.float64)
    if len(size) < FEWEST_DOCUMENTS:
        raise UsageError(f"{len(size)} held-out documents: a forecast needs at least {FEWEST_DOCUMENTS}")
    gaps = (np.asarray(generic, np.float64) - np.asarray(specialized, np.float64)) / math.log(2)
    gains = gaps.sum(1) / size.sum()
    parts = (gaps - gains[:, None] * size) / size.mean()
    count = len(size)
    spread = parts @ parts.T / (count - 3)
    return gains, spread / count, float(spread[-1, -1])


def predict(
    doublings: ArrayLike,
    gains: ArrayLike,
    covariance: ArrayLike,
    *,
    seed_error: float,
    curve_error: float,
    measured_variance: float,
) -> Prediction:
    """The gain at 0 doublings, from pairs at `doublings` float64[p], all below 0.

    `gains` float64[p] have the `covariance` [p, p] over documents. `seed_error` is the deviation of one gain between
    seeds, `curve_error` that of slope and walk in a doubling, in units of the mean gain; `measured_variance` is what
    the documents add on which the prediction will be checked.
    """
    x, y, documents = (np.asarray(each, np.float64) for each in (doublings, gains, covariance))
    line, bends = ((curve_error * float(y.mean())) ** 2 * each for each in (np.outer(x, x), np.minimum.outer(-x, -x)))
    noise = documents + seed_error**2 * np.eye(len(y))
    factor = _explaining(y, noise, line + bends)
    line, curve = factor * line, factor * (line + bends)
    around = noise + curve
    weights = _weights(around)
    gain = float(weights @ y)
    errors = {
        "documents": math.sqrt(float(weights @ documents @ weights) + measured_variance),
        "seeds": seed_error * math.sqrt(float(weights @ weights) + 1),
        "curve": math.sqrt(float(weights @ curve @ weights)),
    }
    half = NORMAL_95 * math.sqrt(sum(each**2 for each in errors.values()))
    slope = float((line @ np.linalg.solve(around, y - gain))[-1] / x[-1])
    return Prediction(gain=gain, low=gain - half, high=gain + half, slope=slope, **errors)


def _weights(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of the mean that has the least variance."""
    pull = np.linalg.solve(covariance, np.ones(len(covariance)))
    return np.asarray(pull / pull.sum(), np.float64)


def _explaining(y: NDArray[np.float64], noise: NDArray[np.float64], curve: NDArray[np.float64]) -> float:
    """The least factor, 1 or more, of `curve` under which `y` lies no further from its mean than expected.

    Expected is a chi-square of one less than there are values (Birge's ratio).
    """

    def excess(log_factor: float) -> float:
        covariance = noise + math.exp(log_factor) * curve
        apart = y - _weights(covariance) @ y
        return float(apart @ np.linalg.solve(covariance, apart)) - (len(y) - 1)

    low, high = 0.0, math.log(MOST_FACTOR)
    if excess(low) <= 0:
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return math.exp(high)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The gain of resampling for models of about `params` parameters and `tokens` tokens, before and after fine-tuning.

    Inputs: an evaluation, the documents on which the prediction will be checked, and models that the evaluation scored,
    by fours: generic, specialized, both fine-tuned. `seed_error` is the deviation of a gain between seeds, bits per
    byte; `curve_error` the share of the gain by which a doubling of compute may change it.
    """

    verb: ClassVar[str] = "forecast"
    revision: ClassVar[int] = 1

    tokens: int
    params: int
    seed_error: float = 0.01
    curve_error: float = 0.1

    def __post_init__(self) -> None:
        if min(self.tokens, self.params, self.seed_error) <= 0 or self.curve_error < 0:
            raise UsageError(
                f"tokens {self.tokens}, params {self.params}, seed_error {self.seed_error}, curve_error "
                f"{self.curve_error}: expected positive numbers"
            )

    def evidence(self, *inputs: Snapshot) -> list[Any]:
        """What the answer reads of the models beside their scores, and how many documents will be measured."""
        return [inputs[1].contents.rows, *([each.name, *_size(each)] for each in inputs[2:])]

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A forecast snapshot: the table `forecasts`, a row for every pair and stage, then the predictions."""
        evaluation, checked, *models = inputs
        evaluation.require("evaluation")
        if not models or len(models) % PER_PAIR:
            raise UsageError(f"forecast reads models by fours: generic, specialized, both tuned; it got {len(models)}")
        scores = read_table(work.store, evaluation.artifact("scores"))
        pairs = [models[first : first + PER_PAIR] for first in range(0, len(models), PER_PAIR)]
        sizes = [_size(pair[0]) for pair in pairs]
        doublings = doublings_of(sizes, tokens=self.tokens, params=self.params)
        num_bytes = _column(scores, pairs[0][0], "n_bytes")
        rows, stages = [], {}
        for number, stage in enumerate(STAGES):
            generic, specialized = ([_nats(scores, pair[2 * number + side]) for pair in pairs] for side in (0, 1))
            gains, covariance, variance = gains_of(generic, specialized, num_bytes)
            made = predict(
                doublings,
                gains,
                covariance,
                seed_error=self.seed_error,
                curve_error=self.curve_error,
                measured_variance=variance / max(checked.contents.rows, 1),
            )
            rows += self._rows(stage, sizes, gains, covariance, made)
            stages[stage] = asdict(made)
        table = pa.Table.from_pylist(rows, schema=schema.FORECASTS)
        summary = {"tokens": self.tokens, "params": self.params, "documents": len(num_bytes), **stages}
        return Contents(kind="forecast", artifacts={"forecasts": write_table(work.store, table)}, summary=summary)

    def _rows(
        self,
        stage: str,
        sizes: Sequence[tuple[int, int]],
        gains: NDArray[np.float64],
        covariance: NDArray[np.float64],
        made: Prediction,
    ) -> list[dict[str, Any]]:
        """The rows of one stage: each pair as it was measured, then what they predict."""
        errors = NORMAL_95 * np.sqrt(np.diag(covariance) + self.seed_error**2)
        return [
            *(
                _row(stage, size, True, gain, gain - error, gain + error)
                for size, gain, error in zip(sizes, gains.tolist(), errors.tolist(), strict=True)
            ),
            _row(stage, (self.tokens, self.params), False, made.gain, made.low, made.high),
        ]


def _size(model: Snapshot) -> tuple[int, int]:
    summary = model.require("model").contents.summary
    return int(summary["tokens"]), int(summary["parameters"])


def _column(scores: pa.Table, model: Snapshot, name: str) -> NDArray[np.float64]:
    """A column of the scores of one model, by id of the document."""
    rows = scores.filter(pc.equal(scores["model"], model.name)).sort_by("id")
    if not len(rows):
        raise UsageError(f"the evaluation did not score {model.ref}: expected one of all the models given")
    return np.asarray(rows[name].to_numpy(), np.float64)


def _nats(scores: pa.Table, model: Snapshot) -> NDArray[np.float64]:
    return _column(scores, model, "nll_nats")


def _row(stage: str, size: tuple[int, int], measured: bool, gain: float, low: float, high: float) -> dict[str, Any]:
    tokens, params = size
    return {
        "stage": stage,
        "measured": measured,
        "tokens": tokens,
        "parameters": params,
        "gain": gain,
        "low": low,
        "high": high,
    }

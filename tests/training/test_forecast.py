"""A forecast on planted curves: it finds what is there, and its interval holds the truth as often as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from catalog.errors import UsageError
from training.forecast import Prediction, doublings_of, gains_of, predict

X = [-4.5, -3.5, -2.5]
SETTINGS = {"seed_error": 0.01, "curve_error": 0.1, "measured_variance": 0.0}
CURVES = {
    "constant": lambda x: 0.12,
    "no gain": lambda x: 0.0,
    "falls with compute": lambda x: 0.10 - 0.008 * x,
    "rises with compute": lambda x: 0.15 + 0.01 * x,
    "power law": lambda x: 0.10 * 2 ** (-0.08 * x),
    "saturates": lambda x: 0.14 * (1 - 2 ** (-(x + 7) / 2)),
    "rises, then falls": lambda x: 0.12 - 0.004 * (x + 2) ** 2,
}


def planted(curve, draw: np.random.Generator, documents: int = 40) -> tuple[Prediction, float]:
    """The prediction from noisy documents and seeds, and the gain that is then measured on as many others."""
    sizes = draw.integers(500, 4000, documents)
    shared = draw.normal(0, 0.05, documents)  # documents differ in what they gain, alike for all pairs
    gains = np.array([curve(x) + draw.normal(0, 0.01) + shared + draw.normal(0, 0.02, documents) for x in X])
    plain = np.full((len(X), documents), 2.0) * sizes * math.log(2)
    found, covariance, variance = gains_of(plain, plain - gains * sizes * math.log(2), sizes)
    made = predict(X, found, covariance, **{**SETTINGS, "measured_variance": variance / documents})
    return made, curve(0) + draw.normal(0, 0.01) + draw.normal(0, math.hypot(0.05, 0.02) / math.sqrt(documents))


@pytest.mark.parametrize("name", CURVES)
def test_the_interval_holds_what_is_measured_as_often_as_it_says(name: str) -> None:
    draw = np.random.default_rng(3)
    made = [planted(CURVES[name], draw) for _ in range(200)]
    inside = np.mean([found.low <= actual <= found.high for found, actual in made])
    assert inside > 0.92
    assert abs(np.mean([found.gain - actual for found, actual in made])) < 0.035


def test_two_thirds_of_a_sure_slope_is_carried_on_and_less_of_a_noisy_one() -> None:
    exact = np.diag([1e-12] * 3)
    gains = [CURVES["falls with compute"](x) for x in X]
    made = predict(X, gains, exact, **{**SETTINGS, "seed_error": 1e-5})
    assert (made.gain, made.slope) == pytest.approx((gains[-1] - 2.5 * 0.008 * 2 / 3, -0.008 * 2 / 3), abs=1e-4)
    held = predict(X, gains, exact, **{**SETTINGS, "seed_error": 0.02})
    assert made.gain < held.gain < np.mean(gains)
    assert 0 > held.slope > made.slope


def test_pairs_that_differ_by_more_than_the_curve_allows_widen_it() -> None:
    calm, wild = (predict(X, gains, np.eye(3) * 1e-6, **SETTINGS) for gains in ([0.1, 0.11, 0.12], [0.2, 0.17, -0.04]))
    assert calm.curve < 0.03
    assert wild.curve > 0.1
    assert wild.high > 0 > wild.gain


def test_errors_add_up_to_the_interval_and_grow_with_the_distance() -> None:
    def at(shift: float) -> Prediction:
        return predict([x - shift for x in X], [0.1, 0.1, 0.1], np.eye(3) * 1e-4, **SETTINGS)

    near, far = at(0), at(4)
    half = 1.96 * math.sqrt(near.documents**2 + near.seeds**2 + near.curve**2)
    assert (near.gain, near.high - near.low) == pytest.approx((0.1, 2 * half))
    assert far.high - far.low > near.high - near.low


def test_the_variance_of_gains_over_documents_is_that_of_a_bootstrap() -> None:
    draw = np.random.default_rng(1)
    sizes = draw.integers(200, 3000, 60)
    gaps = draw.normal(0.1, 0.08, (2, 60)) * sizes
    gains, covariance, _ = gains_of(gaps * math.log(2), np.zeros_like(gaps), sizes)
    rows = draw.integers(0, 60, (4000, 60))
    drawn = gaps[:, rows].sum(2) / sizes[rows].sum(1)
    assert gains == pytest.approx(drawn.mean(1), abs=0.005)
    assert covariance == pytest.approx(np.cov(drawn), rel=0.2, abs=5e-6)


def test_a_pair_as_large_as_the_plan_is_refused() -> None:
    assert doublings_of([(125, 50), (500, 50)], tokens=1000, params=100) == [-4.0, -2.0]
    with pytest.raises(UsageError, match="a pair of 2,000 tokens and 50 parameters takes no less compute than the pl"):
        doublings_of([(1000, 50), (2000, 50)], tokens=1000, params=100)


def test_three_documents_are_too_few() -> None:
    with pytest.raises(UsageError, match="3 held-out documents: a forecast needs at least 4"):
        gains_of([[1, 2, 3]], [[1, 2, 3]], [1, 1, 1])

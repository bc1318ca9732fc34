"""Keep or draw windows by a rate, so that a larger budget contains the smaller one (design, Selection).

Each window owns one number in [0, 1), a pure function of (seed, document, window). A window is in the sample while its
number is below the rate of its cell; raising a rate only adds windows. Order, shards and retries cannot change a draw.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.hashing import mix64, uniform


def window_uniform(seed: int, h64: ArrayLike, window_index: ArrayLike) -> NDArray[np.float64]:
    """The number in [0, 1) that each window owns, float64[n]; from document hash uint64[n] and window number."""
    return uniform(seed, mix64(h64) ^ np.asarray(window_index).astype(np.uint64))


def nested_copies(seed: int, h64: ArrayLike, window_index: ArrayLike, rate: ArrayLike) -> NDArray[np.int64]:
    """How often each window is drawn when its cell is seen `rate` times (epochs, may exceed 1): int64[n].

    Every window gets the whole part of the rate, and one more with the fraction as its chance. Never falls as the rate
    rises. Raises ValueError if a rate is negative or not finite.
    """
    epochs = np.asarray(rate, np.float64)
    if not (np.isfinite(epochs) & (epochs >= 0)).all():
        raise ValueError(f"rate {epochs.min()}..{epochs.max()}: expected finite numbers of epochs, 0 or more")
    whole = np.floor(epochs)
    return (whole + (window_uniform(seed, h64, window_index) < epochs - whole)).astype(np.int64)

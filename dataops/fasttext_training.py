"""fastText's training, made to repeat.

It has one thread, as the lock-free updates of more give other bytes each time. With one thread fastText 0.9.3
initialises a tenth of its input matrix and leaves the rest as malloc returned it: NaN or another model, wherever that
memory had been used before. So malloc is told to fill what it returns with zeros. C libraries that cannot be told take
a block this large from the operating system, which gives zeros; hence the least size of a matrix.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dataops.kernels.linear import word_keys

LEAST_BYTES = 32 << 20  # of an input matrix
LABEL = "LABEL:"  # in capitals, which no folded text holds: a document can't label itself
_M_PERTURB, _ZEROS, _OFF = -6, 0xFF, 0  # of glibc's mallopt; it fills with the complement of the byte it is given


def train_supervised(lines: Path, **options: Any) -> Any:
    """A classifier of the labelled `lines`: the same for the same lines and `options`, in any process."""
    import fasttext

    with _zeroed_memory():
        return fasttext.train_supervised(str(lines), label=LABEL, thread=1, verbose=0, **options)


def linear_form(model: Any, label: str, other: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A classifier of two labels as `kernels.linear.mean_log_odds` takes it: (hashes, of_words, of_pairs).

    The log odds are those of `label` against `other`.
    """
    labels, out, vectors, words = model.get_labels(), model.get_output_matrix(), model.get_input_matrix(), model.words
    log_odds = np.einsum("ij,j->i", vectors, out[labels.index(label)] - out[labels.index(other)])
    hashes = word_keys(pa.array(words, pa.large_string()))
    order = np.argsort(hashes)
    return hashes[order], log_odds[: len(words)][order], log_odds[len(words) :]


def train_unsupervised(lines: Path, **options: Any) -> Any:
    """Word vectors of `lines`: the same for the same lines and `options`, in any process.

    Raises:
        RuntimeError: "Encountered NaN.": the vectors grew without bound.
    """
    import fasttext

    with _zeroed_memory():
        return fasttext.train_unsupervised(str(lines), thread=1, verbose=0, **options)


@contextmanager
def _zeroed_memory() -> Iterator[None]:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # not glibc
        yield
        return
    mallopt(_M_PERTURB, _ZEROS)
    try:
        yield
    finally:
        mallopt(_M_PERTURB, _OFF)

"""A trigram language model over token ids, with Witten-Bell smoothing, in hashed tables: no parameter to tune.

P(w | h) = (c(hw) + T(h) P(w | h')) / (c(h) + T(h)), where T(h) counts the different tokens seen after h and h' is h
without its first token; the last step backs off to 1 / vocabulary. N-grams that share a table slot share their counts:
with 2^22 slots and a few million tokens that is rare. Cost: three look-ups in tables of tens of megabytes a token.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.hashing import mix_one
from dataops.kernels.ragged import read_only

ORDER = 3
_SALT = np.uint64(0x9FB21C651E98DF25)


@dataclass(frozen=True, eq=False)
class NgramModel:
    """Counts of 1-, 2- and 3-grams, and totals and different tokens of their contexts; uint32[ORDER, slots] each."""

    vocab_size: int
    counts: NDArray[np.uint32]
    totals: NDArray[np.uint32]
    kinds: NDArray[np.uint32]


def fit_ngrams(offsets: ArrayLike, tokens: ArrayLike, *, vocab_size: int, bits: int = 22) -> NgramModel:
    """The model of texts given as ragged token ids: offsets int64[n+1], tokens uint16. N-grams do not cross texts."""
    values = read_only(tokens, np.uint16)
    if values.size and int(values.max()) >= vocab_size:
        raise ValueError(f"token {values.max()} in a vocabulary of {vocab_size}: expected ids below it")
    tables = [np.zeros((ORDER, 1 << bits), np.uint32) for _ in range(3)]
    _count(read_only(offsets, np.int64), values, *tables)
    return NgramModel(vocab_size, *tables)


def cross_entropy(model: NgramModel, offsets: ArrayLike, tokens: ArrayLike) -> NDArray[np.float32]:
    """Mean nats per token of each text under the model: float32[n], 0 for a text without tokens."""
    return _cross_entropy(
        read_only(offsets, np.int64),
        read_only(tokens, np.uint16),
        read_only(model.counts, np.uint32),
        read_only(model.totals, np.uint32),
        read_only(model.kinds, np.uint32),
        model.vocab_size,
    )


@numba.njit(cache=True, nogil=True)
def _slots(tokens, begin, i, mask, grams, contexts):  # type: ignore[no-untyped-def]
    """Slots of the n-grams that end at token i and of their contexts; the number of orders that fit into the text."""
    context = np.uint64(0)
    orders = min(ORDER, i - begin + 1)
    for order in range(orders):
        if order:
            context = mix_one(context * _SALT + np.uint64(tokens[i - order]) + np.uint64(1))
        contexts[order] = np.int64(mix_one(context + np.uint64(order)) & mask)
        grams[order] = np.int64(mix_one(mix_one(context + np.uint64(order)) + np.uint64(tokens[i]) + _SALT) & mask)
    return orders


@numba.njit(cache=True, nogil=True)
def _count(offsets, tokens, counts, totals, kinds):  # type: ignore[no-untyped-def]
    mask = np.uint64(counts.shape[1] - 1)
    grams, contexts = np.empty(ORDER, np.int64), np.empty(ORDER, np.int64)
    for row in range(offsets.size - 1):
        for i in range(offsets[row], offsets[row + 1]):
            orders = _slots(tokens, offsets[row], i, mask, grams, contexts)
            for order in range(orders):
                if counts[order, grams[order]] == 0:
                    kinds[order, contexts[order]] += np.uint32(1)
                counts[order, grams[order]] += np.uint32(1)
                totals[order, contexts[order]] += np.uint32(1)


@numba.njit(cache=True, nogil=True)
def _cross_entropy(offsets, tokens, counts, totals, kinds, vocab_size):  # type: ignore[no-untyped-def]
    mask = np.uint64(counts.shape[1] - 1)
    grams, contexts = np.empty(ORDER, np.int64), np.empty(ORDER, np.int64)
    out = np.zeros(offsets.size - 1, np.float32)
    for row in range(offsets.size - 1):
        nats = 0.0
        for i in range(offsets[row], offsets[row + 1]):
            orders = _slots(tokens, offsets[row], i, mask, grams, contexts)
            p = 1.0 / vocab_size
            for order in range(orders):
                # where every n-gram of a context fell into a slot in use, no new kind was noticed
                total, kind = totals[order, contexts[order]], max(kinds[order, contexts[order]], np.uint32(1))
                if total:
                    p = (counts[order, grams[order]] + kind * p) / (np.float64(total) + kind)
            nats -= np.log(p)
        if offsets[row + 1] > offsets[row]:
            out[row] = nats / (offsets[row + 1] - offsets[row])
    return out

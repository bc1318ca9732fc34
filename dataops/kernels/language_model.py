"""Trigram language models over token ids, with Witten-Bell smoothing, in hashed tables: no parameter to tune.

P(w | h) = (c(hw) + T(h) P(w | h')) / (c(h) + T(h)), where T(h) counts the different tokens seen after h and h' is h
without its first token; the last step backs off to 1 / vocabulary. N-grams that share a table slot share their counts:
with 2^21 slots and a few million tokens that is rare. Several models lie side by side in one table: what they cost is
look-ups in tables of tens of megabytes, and so a token costs four that miss the cache, however many models there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.hashing import mix_one
from dataops.kernels.ragged import read_only

ORDER = 3
_SALT = np.uint64(0x9FB21C651E98DF25)
_SMALL = 1e-200  # a product of probabilities below it becomes a sum of logarithms before it is 0


@dataclass(frozen=True, eq=False)
class NgramModels:
    """Models of one vocabulary: counts of 1-, 2- and 3-grams, and of tokens and different tokens after their contexts.

    counts: uint32[ORDER, slots, models]; contexts: uint32[ORDER, slots, models, 2].
    """

    vocab_size: int
    counts: NDArray[np.uint32]
    contexts: NDArray[np.uint32]


def fit_ngrams(parts: Sequence[tuple[ArrayLike, ArrayLike]], *, vocab_size: int, bits: int = 22) -> NgramModels:
    """A model of each part, ragged token ids: offsets int64[n+1], tokens uint16. N-grams do not cross texts."""
    counts = np.zeros((ORDER, 1 << bits, len(parts)), np.uint32)
    contexts = np.zeros((ORDER, 1 << bits, len(parts), 2), np.uint32)
    for model, (offsets, tokens) in enumerate(parts):
        values = read_only(tokens, np.uint16)
        if values.size and int(values.max()) >= vocab_size:
            raise ValueError(f"token {values.max()} in a vocabulary of {vocab_size}: expected ids below it")
        _count(read_only(offsets, np.int64), values, counts[:, :, model], contexts[:, :, model])
    return NgramModels(vocab_size, counts, contexts)


def cross_entropy(models: NgramModels, offsets: ArrayLike, tokens: ArrayLike) -> NDArray[np.float32]:
    """Mean nats per token of each text under each model: float32[n, models], 0 for a text without tokens."""
    return _cross_entropy(
        read_only(offsets, np.int64),
        read_only(tokens, np.uint16),
        read_only(models.counts, np.uint32),
        read_only(models.contexts, np.uint32),
        models.vocab_size,
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
def _count(offsets, tokens, counts, after):  # type: ignore[no-untyped-def]
    mask = np.uint64(counts.shape[1] - 1)
    grams, contexts = np.empty(ORDER, np.int64), np.empty(ORDER, np.int64)
    for row in range(offsets.size - 1):
        for i in range(offsets[row], offsets[row + 1]):
            orders = _slots(tokens, offsets[row], i, mask, grams, contexts)
            for order in range(orders):
                if counts[order, grams[order]] == 0:
                    after[order, contexts[order], 1] += np.uint32(1)
                counts[order, grams[order]] += np.uint32(1)
                after[order, contexts[order], 0] += np.uint32(1)


@numba.njit(cache=True, nogil=True)
def _cross_entropy(offsets, tokens, counts, after, vocab_size):  # type: ignore[no-untyped-def]
    """Look-ups of a text come first, in a loop without branches: so the processor waits for several at a time."""
    mask, models = np.uint64(counts.shape[1] - 1), counts.shape[2]
    longest = np.max(offsets[1:] - offsets[:-1]) if offsets.size > 1 else 0
    grams, contexts = np.empty((longest, ORDER), np.int64), np.empty((longest, ORDER), np.int64)
    found = np.zeros((longest, ORDER, models, 3), np.uint32)  # n-gram, context, kinds after it
    out = np.zeros((offsets.size - 1, models), np.float32)
    for row in range(offsets.size - 1):
        begin, size = offsets[row], offsets[row + 1] - offsets[row]
        for i in range(size):
            _slots(tokens, begin, begin + i, mask, grams[i], contexts[i])
        for order in range(ORDER):
            for i in range(order, size):
                for model in range(models):
                    found[i, order, model, 0] = counts[order, grams[i, order], model]
                    found[i, order, model, 1] = after[order, contexts[i, order], model, 0]
                    found[i, order, model, 2] = after[order, contexts[i, order], model, 1]
        for model in range(models):
            if size:
                out[row, model] = _nats(found[:size, :, model], vocab_size) / size
    return out


@numba.njit(cache=True, nogil=True)
def _nats(found, vocab_size):  # type: ignore[no-untyped-def]
    """Of a text under one model, whose counts are found[token, order]."""
    nats, product = 0.0, 1.0
    for i in range(found.shape[0]):
        p = 1.0 / vocab_size
        for order in range(min(ORDER, i + 1)):
            count, total, kinds = found[i, order]
            if total:
                # where every n-gram of a context fell into a slot in use, no new kind was noticed
                kinds = max(kinds, np.uint32(1))
                p = (count + kinds * p) / (np.float64(total) + kinds)
        product *= p
        if product < _SMALL:
            nats -= np.log(product)
            product = 1.0
    return nats - np.log(product)

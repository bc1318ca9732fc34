"""Trigram language models over token ids, with Witten-Bell smoothing and exact counts: no parameter to tune.

P(w | h) = (c(hw) + T(h) P(w | h')) / (c(h) + T(h)), where T(h) counts the different tokens seen after h and h' is h
without its first token; the last step backs off to 1 / vocabulary.

Several models lie side by side in one hash table: what they cost is look-ups in tables of tens of megabytes, and so a
token costs two that miss the cache, however many models there are. An n-gram is stored with its key, so none takes the
counts of another, and a table grows until half of it is free, so a sample of any size fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.hashing import mix_one
from dataops.kernels.ragged import read_only

_SMALLEST = 1 << 12  # slots of a table at first
_SMALL = 1e-200  # a product of probabilities below it becomes a sum of logarithms before it is 0
_AFTER = 3  # numbers of an n-gram that is a context too: its count, tokens after it, different tokens after it


@dataclass(frozen=True, eq=False)
class NgramModels:
    """Models of one vocabulary.

    root: uint32[models, 3], the empty context. unigrams: uint32[vocabulary, models, 3]. bigrams: uint32[slots, 2 + 3 *
    models], open addressing with linear probing, a row of zeros where a slot is free: key (1, two tokens), then as for
    unigrams. trigrams: uint32[slots, 2 + models]: key (first token + 1, the other two), then counts. The three numbers
    are how often it came, tokens after it, and different tokens after it.
    """

    root: NDArray[np.uint32]
    unigrams: NDArray[np.uint32]
    bigrams: NDArray[np.uint32]
    trigrams: NDArray[np.uint32]


def fit_ngrams(parts: Sequence[tuple[ArrayLike, ArrayLike]], *, vocab_size: int) -> NgramModels:
    """A model of each part, ragged token ids: offsets int64[n+1], tokens uint16. N-grams do not cross texts.

    Raises ValueError for a token beyond the vocabulary.
    """
    models = len(parts)
    root = np.zeros((models, _AFTER), np.uint32)
    unigrams = np.zeros((vocab_size, models, _AFTER), np.uint32)
    bigrams = np.zeros((_SMALLEST, 2 + _AFTER * models), np.uint32)
    trigrams = np.zeros((_SMALLEST, 2 + models), np.uint32)
    used = np.zeros(2, np.int64)
    for model, (offsets, tokens) in enumerate(parts):
        values, bounds = _within(read_only(tokens, np.uint16), vocab_size), read_only(offsets, np.int64)
        text, token = 0, 0
        while text < bounds.size - 1:
            text, token = _count(bounds, values, root, unigrams, bigrams, trigrams, used, model, text, token)
            bigrams, trigrams = (
                _moved(table, 2 * len(table)) if 2 * (filled + 1) > len(table) else table
                for table, filled in zip((bigrams, trigrams), used.tolist(), strict=True)
            )
    return NgramModels(root, unigrams, bigrams, trigrams)


def cross_entropy(models: NgramModels, offsets: ArrayLike, tokens: ArrayLike) -> NDArray[np.float32]:
    """Mean nats per token of each text under each model: float32[n, models], 0 for a text without tokens.

    Raises ValueError for a token beyond the vocabulary.
    """
    values = _within(read_only(tokens, np.uint16), len(models.unigrams))
    return _cross_entropy(
        read_only(offsets, np.int64),
        values,
        *(read_only(each, np.uint32) for each in (models.root, models.unigrams, models.bigrams, models.trigrams)),
    )


def _within(tokens: NDArray[np.uint16], vocab_size: int) -> NDArray[np.uint16]:
    if tokens.size and int(tokens.max()) >= vocab_size:
        raise ValueError(f"token {tokens.max()} in a vocabulary of {vocab_size}: expected ids below it")
    return tokens


@numba.njit(cache=True, nogil=True)
def _home(high, low, mask):  # type: ignore[no-untyped-def]
    """The slot at which the search for a key begins."""
    return np.int64(mix_one((np.uint64(high) << np.uint64(32)) | np.uint64(low)) & np.uint64(mask))


@numba.njit(cache=True, nogil=True)
def _find(table, slot, high, low):  # type: ignore[no-untyped-def]
    """The slot of a key, or the free one where it would be, from its home on."""
    while table[slot, 0] and (table[slot, 0] != high or table[slot, 1] != low):
        slot = (slot + 1) & (table.shape[0] - 1)
    return slot


@numba.njit(cache=True, nogil=True)
def _pair(first, second):  # type: ignore[no-untyped-def]
    return (np.uint32(first) << np.uint32(16)) | np.uint32(second)


@numba.njit(cache=True, nogil=True)
def _moved(table, slots):  # type: ignore[no-untyped-def]
    """The same n-grams in a table of so many slots."""
    larger = np.zeros((slots, table.shape[1]), np.uint32)
    for row in range(table.shape[0]):
        if table[row, 0]:
            high, low = table[row, 0], table[row, 1]
            larger[_find(larger, _home(high, low, slots - 1), high, low)] = table[row]
    return larger


@numba.njit(cache=True, nogil=True)
def _seen(numbers, after):  # type: ignore[no-untyped-def]
    """Count an n-gram, whose first number that is, and the token after its context, whose last two those are."""
    if not numbers[0]:
        after[1] += np.uint32(1)
    numbers[0] += np.uint32(1)
    after[0] += np.uint32(1)


@numba.njit(cache=True, nogil=True)
def _count(offsets, tokens, root, unigrams, bigrams, trigrams, used, model, text, token):  # type: ignore[no-untyped-def]
    """Count tokens of texts from this place on, until a table is half full; where to go on."""
    here, place = 2 + _AFTER * model, 2 + model
    while text < offsets.size - 1:
        begin, end = offsets[text], offsets[text + 1]
        before = np.int64(-1)  # slot of the bigram that ends before this token
        if token > begin + 1:
            low = _pair(tokens[token - 2], tokens[token - 1])
            before = _find(bigrams, _home(1, low, bigrams.shape[0] - 1), np.uint32(1), low)
        for i in range(max(begin, token), end):
            if 2 * (used[0] + 1) > bigrams.shape[0] or 2 * (used[1] + 1) > trigrams.shape[0]:
                return text, i
            _seen(unigrams[tokens[i], model], root[model, 1:])
            if i == begin:
                continue
            low = _pair(tokens[i - 1], tokens[i])
            slot = _find(bigrams, _home(1, low, bigrams.shape[0] - 1), np.uint32(1), low)
            if not bigrams[slot, 0]:
                bigrams[slot, 0], bigrams[slot, 1] = np.uint32(1), low
                used[0] += 1
            _seen(bigrams[slot, here : here + _AFTER], unigrams[tokens[i - 1], model, 1:])
            if i > begin + 1:
                high = np.uint32(tokens[i - 2]) + np.uint32(1)
                at = _find(trigrams, _home(high, low, trigrams.shape[0] - 1), high, low)
                if not trigrams[at, 0]:
                    trigrams[at, 0], trigrams[at, 1] = high, low
                    used[1] += 1
                _seen(trigrams[at, place : place + 1], bigrams[before, here + 1 : here + _AFTER])
            before = slot
        text += 1
    return text, token


@numba.njit(cache=True, nogil=True)
def _cross_entropy(offsets, tokens, root, unigrams, bigrams, trigrams):  # type: ignore[no-untyped-def]
    """First what a text needs is touched, without branches: so the processor waits for several rows at a time."""
    models = root.shape[0]
    longest = np.max(offsets[1:] - offsets[:-1]) if offsets.size > 1 else 0
    homes = np.zeros((longest, 2), np.int64)
    out = np.zeros((offsets.size - 1, models), np.float32)
    nats, product = np.empty(models), np.empty(models)
    for row in range(offsets.size - 1):
        begin, size = offsets[row], offsets[row + 1] - offsets[row]
        for i in range(1, size):
            low = _pair(tokens[begin + i - 1], tokens[begin + i])
            homes[i, 0] = _home(1, low, bigrams.shape[0] - 1)
            high = np.uint32(tokens[begin + max(i - 2, 0)]) + np.uint32(1)
            homes[i, 1] = _home(high, low, trigrams.shape[0] - 1)
        if size:
            homes[0, 0] = _touched(bigrams, trigrams, homes[1:size])  # kept, or nothing would be touched
        nats[:], product[:] = 0.0, 1.0
        before = np.int64(-1)
        for i in range(size):
            this = tokens[begin + i]
            slot, at = np.int64(-1), np.int64(-1)
            if i:
                low = _pair(tokens[begin + i - 1], this)
                slot = _find(bigrams, homes[i, 0], np.uint32(1), low)
                if i > 1 and bigrams[before, 0]:
                    high = np.uint32(tokens[begin + i - 2]) + np.uint32(1)
                    at = _find(trigrams, homes[i, 1], high, low)
            for model in range(models):
                here = 2 + _AFTER * model
                p = _smoothed(1.0 / unigrams.shape[0], unigrams[this, model, 0], root[model])
                if i:
                    p = _smoothed(p, bigrams[slot, here], unigrams[tokens[begin + i - 1], model])
                if at >= 0:
                    p = _smoothed(p, trigrams[at, 2 + model], bigrams[before, here : here + _AFTER])
                product[model] *= p
                if product[model] < _SMALL:
                    nats[model] -= np.log(product[model])
                    product[model] = 1.0
            before = slot
        for model in range(models):
            if size:
                out[row, model] = (nats[model] - np.log(product[model])) / size
    return out


@numba.njit(cache=True, nogil=True)
def _touched(bigrams, trigrams, homes):  # type: ignore[no-untyped-def]
    found = np.int64(0)
    for i in range(homes.shape[0]):
        found += bigrams[homes[i, 0], 0] + trigrams[homes[i, 1], 0]
    return found


@numba.njit(cache=True, nogil=True)
def _smoothed(p, count, context):  # type: ignore[no-untyped-def]
    """P(w | h) from P(w | h'), the count of hw, and the numbers of h."""
    total, kinds = context[1], context[2]
    return (count + kinds * p) / (np.float64(total) + kinds) if total else p

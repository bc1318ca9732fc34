"""Words, shingles and word n-grams of the matching form as 64-bit hashes.

A word's hash is FNV-1a over its folded UTF-8 bytes, finalised by splitmix64. An n-gram's hash is a polynomial in its
word hashes modulo 2^64, rolled along the document (one multiply-add a word whatever n) and finalised, so order
matters and the cost does not grow with n. Two different n-grams collide with probability about 2^-64.
"""

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels import codepoints
from dataops.kernels.codepoints import MARK, UNSPACED, WORD, code_point
from dataops.kernels.hashing import mix_one
from dataops.kernels.ragged import Ragged, Texts, read_only, text_bytes
from dataops.kernels.text import fold

_FNV_BASIS = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_ROLL = np.uint64(0x9FB21C651E98DF25)  # odd, so that a word's weight never vanishes
_ONE, _THREE, _SEVEN = np.uint64(1), np.uint64(3), np.uint64(7)
_SPARE_BITS = 3  # of the sieve, more than it takes to number the hashes


def word_hashes(texts: Texts) -> Ragged:
    """uint64 hash of each word of each text's matching form, in order. Equal words have equal hashes everywhere."""
    folded = fold(text_bytes(texts))
    return Ragged(*_word_hashes(folded.offsets, folded.values, codepoints.classes()))


def ngram_hashes(texts: Texts, n: int) -> Ragged:
    """uint64 hash of each run of `n` words of each text, in order and with repeats; none for texts of fewer words."""
    words = word_hashes(texts)
    return Ragged(*_ngram_hashes(words.offsets, words.values, at_least_one(n)))


def shingles(texts: Texts, n: int = 5) -> Ragged:
    """The set of `n`-word hashes of each text: uint64, ascending, distinct; empty for texts of fewer than `n` words."""
    return Ragged(*_sorted_sets(*ngram_hashes(texts, n)))


def contained_ngrams(
    texts: Texts, n: int, vocabulary: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """How much of each text `vocabulary` (`n`-word hashes, uint64, ascending) holds: (hits, total, first) int64[n].

    `hits` of `total` n-grams, repeats counted, are in the vocabulary; `first` is the word at which the first one
    starts, -1 if there is none. Raises ValueError if the vocabulary is not ascending.
    """
    known, starts, shift = by_prefix(vocabulary)
    offsets, values = ngram_hashes(texts, n)
    return _contained(offsets, values, known, starts, shift, *_sieve(known))


def texts_with_ngrams(texts: Texts, n: int, vocabulary: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """How many of the texts hold each n-gram of `vocabulary` (`n`-word hashes, uint64, ascending): int32[vocabulary];
    and which texts hold any: bool[texts].

    Raises ValueError if the vocabulary is not ascending.
    """
    known, starts, shift = by_prefix(vocabulary)
    offsets, values = ngram_hashes(texts, n)
    return _texts_with(offsets, values, known, starts, shift, *_sieve(known))


def by_prefix(vocabulary: ArrayLike) -> tuple[NDArray[np.uint64], NDArray[np.int64], np.uint64]:
    """The vocabulary, where the hashes with each leading-bit pattern start in it, and the shift to those bits."""
    known = read_only(vocabulary, np.uint64)
    if np.any(known[1:] < known[:-1]):
        raise ValueError("vocabulary is not ascending: pass distinct(hashes)")
    bits = max(1, min(24, len(known).bit_length()))
    shift = np.uint64(64 - bits)
    starts = np.zeros((1 << bits) + 1, np.int64)
    np.cumsum(np.bincount((known >> shift).astype(np.int64), minlength=1 << bits), out=starts[1:])
    return known, starts, shift


def at_least_one(n: int) -> int:
    """`n` itself. Raises ValueError for no words at all."""
    if n < 1:
        raise ValueError(f"n-grams of {n} words: n must be at least 1")
    return n


@numba.njit(cache=True, nogil=True)
def hash_words(data, i, end, classes, hashes, count):  # type: ignore[no-untyped-def]
    """Hash the words of the folded bytes i..end to `hashes` from `count` on; the count after them. For other kernels.

    The words are those of `text.next_word`, hashed while they are read; `hashes` needs (end - i) // 2 + 2 free places.
    ASCII goes without a branch on the data: each byte extends the hash or resets it, and every state is stored where
    the next finished word belongs. Word ends are unpredictable; branching on them halved the rate.
    """
    first = count
    h, is_open = _FNV_BASIS, 0
    while i < end:
        hashes[count] = h
        if data[i] < 0x80:
            is_word = np.int64(classes[data[i]] & WORD)
            count += is_open & (1 - is_word)
            extended = (h ^ np.uint64(data[i])) * _FNV_PRIME
            h = _FNV_BASIS ^ ((_FNV_BASIS ^ extended) & np.uint64(-is_word))
            is_open = is_word
            i += 1
            continue
        point, after = code_point(data, i, end)
        flags = classes[point]
        if is_open and (flags & UNSPACED or not flags & (WORD | MARK)):
            count += 1
            h, is_open = _FNV_BASIS, 0
        if flags & WORD or (is_open and flags & MARK):
            for j in range(i, after):
                h = (h ^ np.uint64(data[j])) * _FNV_PRIME
            is_open = 1
            if flags & UNSPACED:
                hashes[count] = h
                count += 1
                h, is_open = _FNV_BASIS, 0
        i = after
    hashes[count] = h
    count += is_open
    for word in range(first, count):
        hashes[word] = mix_one(hashes[word])
    return count


@numba.njit(cache=True, nogil=True)
def roll_ngrams(words, begin, end, n, out, count):  # type: ignore[no-untyped-def]
    """Hash each run of n of `words` begin..end to `out` from `count` on; the count after them. For other kernels."""
    if end - begin < n:
        return count
    oldest = _ONE  # weight of the word that leaves the window
    for _ in range(n):
        oldest *= _ROLL
    salt = np.uint64(n) * _FNV_PRIME
    rolled = np.uint64(0)
    for i in range(begin, begin + n - 1):
        rolled = rolled * _ROLL + words[i]
    gone = np.uint64(0)
    for i in range(begin + n - 1, end):
        rolled = rolled * _ROLL + words[i] - gone * oldest
        gone = words[i - n + 1]
        out[count] = mix_one(rolled + salt)
        count += 1
    return count


@numba.njit(cache=True, nogil=True)
def _word_hashes(offsets, data, classes):  # type: ignore[no-untyped-def]
    num = offsets.size - 1
    hashes = np.empty(data.size // 2 + num + 1, np.uint64)  # at most one word in two bytes, see text._word_spans
    word_offsets = np.zeros(num + 1, np.int64)
    count = 0
    for row in range(num):
        count = hash_words(data, offsets[row], offsets[row + 1], classes, hashes, count)
        word_offsets[row + 1] = count
    return word_offsets, hashes[:count]


@numba.njit(cache=True, nogil=True)
def _ngram_hashes(offsets, words, n):  # type: ignore[no-untyped-def]
    num = offsets.size - 1
    out_offsets = np.zeros(num + 1, np.int64)
    out = np.empty(words.size, np.uint64)
    count = 0
    for row in range(num):
        count = roll_ngrams(words, offsets[row], offsets[row + 1], n, out, count)
        out_offsets[row + 1] = count
    return out_offsets, out[:count]


@numba.njit(cache=True, nogil=True)
def _sorted_sets(offsets, values):  # type: ignore[no-untyped-def]
    """Each row sorted and without repeats. Hashes are uniform: a counting pass on their leading bits leaves an almost
    sorted row, which insertion finishes in linear time."""
    num = offsets.size - 1
    out = np.empty(values.size, np.uint64)
    out_offsets = np.zeros(num + 1, np.int64)
    largest = 0
    for row in range(num):
        largest = max(largest, offsets[row + 1] - offsets[row])
    scratch = np.empty(largest, np.uint64)
    slots = np.zeros(2 * largest + 3, np.int64)  # rows without values, too, have a slot for each leading bit
    count = 0
    for row in range(num):
        begin, size = offsets[row], offsets[row + 1] - offsets[row]
        bits = 1
        while (1 << bits) < size:
            bits += 1
        shift = np.uint64(64 - bits)
        slots[: (1 << bits) + 1] = 0
        for i in range(begin, begin + size):
            slots[np.int64(values[i] >> shift) + 1] += 1
        for slot in range(1 << bits):
            slots[slot + 1] += slots[slot]
        for i in range(begin, begin + size):
            slot = np.int64(values[i] >> shift)
            scratch[slots[slot]] = values[i]
            slots[slot] += 1
        for i in range(1, size):
            value = scratch[i]
            j = i
            while j > 0 and scratch[j - 1] > value:
                scratch[j] = scratch[j - 1]
                j -= 1
            scratch[j] = value
        for i in range(size):
            if i == 0 or scratch[i] != scratch[i - 1]:
                out[count] = scratch[i]
                count += 1
        out_offsets[row + 1] = count
    return out_offsets, out[:count].copy()


@numba.njit(cache=True, nogil=True)
def find_hash(value, known, starts, shift):  # type: ignore[no-untyped-def]
    """Where `value` is in `known`, -1 if it is not."""
    prefix = np.int64(value >> shift)
    low, high = starts[prefix], starts[prefix + 1]
    while low < high:
        middle = (low + high) >> 1
        if known[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low if low < known.size and known[low] == value else -1


def _sieve(known: NDArray[np.uint64]) -> tuple[NDArray[np.uint8], np.uint64]:
    """A bit for each pattern of leading bits, eight or more a hash, and the shift to those bits.

    Most n-grams of a text are not in the vocabulary, and nine of ten of those end here: the bits of millions of hashes
    fit into a processor's cache, the hashes don't.
    """
    bits = len(known).bit_length() + _SPARE_BITS
    return _sieve_of(known, bits), np.uint64(64 - bits)


@numba.njit(cache=True, nogil=True)
def _sieve_of(known, bits):  # type: ignore[no-untyped-def]
    sieve, shift = np.zeros((1 << bits) // 8, np.uint8), np.uint64(64 - bits)
    for value in known:
        at = value >> shift
        sieve[np.int64(at >> _THREE)] |= np.uint8(1 << (at & _SEVEN))
    return sieve


@numba.njit(cache=True, nogil=True)
def _find(value, known, starts, shift, sieve, sieve_shift):  # type: ignore[no-untyped-def]
    at = value >> sieve_shift
    if not (sieve[np.int64(at >> _THREE)] >> (at & _SEVEN)) & 1:
        return -1
    return find_hash(value, known, starts, shift)


@numba.njit(cache=True, nogil=True)
def _contained(offsets, values, known, starts, shift, sieve, sieve_shift):  # type: ignore[no-untyped-def]
    num = offsets.size - 1
    hits, total, first = np.zeros(num, np.int64), np.zeros(num, np.int64), np.full(num, -1, np.int64)
    for row in range(num):
        total[row] = offsets[row + 1] - offsets[row]
        for i in range(offsets[row], offsets[row + 1]):
            if _find(values[i], known, starts, shift, sieve, sieve_shift) >= 0:
                hits[row] += 1
                if first[row] < 0:
                    first[row] = i - offsets[row]
    return hits, total, first


@numba.njit(cache=True, nogil=True)
def _texts_with(offsets, values, known, starts, shift, sieve, sieve_shift):  # type: ignore[no-untyped-def]
    """A text counts once for each n-gram: `last` remembers the newest text that was counted."""
    count, last = np.zeros(known.size, np.int32), np.full(known.size, -1, np.int32)
    holds = np.zeros(offsets.size - 1, np.bool_)
    for row in range(offsets.size - 1):
        for i in range(offsets[row], offsets[row + 1]):
            at = _find(values[i], known, starts, shift, sieve, sieve_shift)
            if at >= 0 and last[at] != row:
                last[at] = row
                count[at] += 1
                holds[row] = True
    return count, holds

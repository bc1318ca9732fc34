"""A fastText classifier of two labels as what it is, a linear model: one number a word, one a bucket of word pairs.

fastText (1607.01759) averages the vectors of a line's words and hashed word pairs and takes the softmax of two products
with that average, so its log odds are the average of (o_1 - o_0) . v over the features. With those products made once,
a window costs a hash and a look-up a word, and no thread waits for Python's lock, which fastText's own bindings hold.
Words, hashes of pairs and the end of a line are those of fastText 0.9.3, tested against it; a word itself is looked up
by a hash of our own, of 64 bits, where fastText compares it.
"""

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.ngrams import by_prefix, find_hash
from dataops.kernels.ragged import Texts, read_only, text_bytes

_BASIS_64, _PRIME_64 = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a
_BASIS_32, _PRIME_32 = np.uint32(2166136261), np.uint32(16777619)
_PAIR = np.uint64(116049371)
_END_OF_LINE = np.frombuffer(b"</s>", np.uint8)  # a word of every line, with a pair before it


def word_keys(words: Texts) -> NDArray[np.uint64]:
    """What `mean_log_odds` knows a word by: uint64[n], of whole texts without a space in them."""
    offsets, data = text_bytes(words)
    return _whole_hashes(offsets, data)


def mean_log_odds(lines: Texts, hashes: ArrayLike, of_words: ArrayLike, of_pairs: ArrayLike) -> NDArray[np.float32]:
    """The mean of the log odds of each line's features, float32[n]; 0 for a line without known features.

    `of_words` float32[v] are those of the words with `hashes` uint64[v] (ascending), `of_pairs` float32[buckets] those
    of the pairs. A word is a run of bytes between ASCII spaces and zeros; a line holds no line feed, which for fastText
    is its end. Raises ValueError unless the hashes ascend, `of_words` is as long and `of_pairs` has a bucket.
    """
    known, starts, shift = by_prefix(hashes)
    words, pairs = read_only(of_words, np.float32), read_only(of_pairs, np.float32)
    if words.size != known.size or not pairs.size:
        raise ValueError(
            f"{known.size} words, {words.size} log odds of them and {pairs.size} buckets of pairs: expected as many "
            "log odds as words, and a bucket"
        )
    offsets, data = text_bytes(lines)
    return _mean_log_odds(offsets, data, known, starts, shift, words, pairs, _END_OF_LINE)


@numba.njit(cache=True, nogil=True)
def _extend(byte, narrow, wide):  # type: ignore[no-untyped-def]
    """The 32-bit hash by which fastText pairs words, which extends the sign of a byte, and the 64-bit one of ours."""
    signed = np.uint32(byte) if byte < 0x80 else np.uint32(byte) | np.uint32(0xFFFFFF00)
    return (narrow ^ signed) * _PRIME_32, (wide ^ np.uint64(byte)) * _PRIME_64


@numba.njit(cache=True, nogil=True)
def _whole_hashes(offsets, data):  # type: ignore[no-untyped-def]
    out = np.empty(offsets.size - 1, np.uint64)
    for row in range(out.size):
        narrow, wide = _BASIS_32, _BASIS_64
        for i in range(offsets[row], offsets[row + 1]):
            narrow, wide = _extend(data[i], narrow, wide)
        out[row] = wide
    return out


@numba.njit(cache=True, nogil=True)
def _sign_extended(narrow):  # type: ignore[no-untyped-def]
    return np.uint64(np.int64(np.int32(narrow)))


@numba.njit(cache=True, nogil=True)
def _mean_log_odds(offsets, data, known, starts, shift, of_words, of_pairs, end_of_line):  # type: ignore[no-untyped-def]
    out, buckets = np.zeros(offsets.size - 1, np.float32), np.uint64(of_pairs.size)
    end_narrow, end_wide = _BASIS_32, _BASIS_64
    for byte in end_of_line:
        end_narrow, end_wide = _extend(byte, end_narrow, end_wide)
    end_at = find_hash(end_wide, known, starts, shift)
    for row in range(out.size):
        total, count, before, is_first = 0.0, 0, np.uint64(0), True
        narrow, wide, is_open = _BASIS_32, _BASIS_64, False
        for i in range(offsets[row], offsets[row + 1] + 1):
            byte = data[i] if i < offsets[row + 1] else np.uint8(32)
            if byte != 32 and byte != 0 and (byte < 9 or byte > 13):
                narrow, wide = _extend(byte, narrow, wide)
                is_open = True
            elif is_open:
                at = find_hash(wide, known, starts, shift)
                if at >= 0:
                    total += of_words[at]
                    count += 1
                this = _sign_extended(narrow)
                if not is_first:
                    total += of_pairs[np.int64((before * _PAIR + this) % buckets)]
                    count += 1
                before, is_first = this, False
                narrow, wide, is_open = _BASIS_32, _BASIS_64, False
        if end_at >= 0:
            total += of_words[end_at]
            count += 1
        if not is_first:
            total += of_pairs[np.int64((before * _PAIR + _sign_extended(end_narrow)) % buckets)]
            count += 1
        if count:
            out[row] = total / count
    return out

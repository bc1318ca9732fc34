"""Text statistics for quality rules: Gopher's (arXiv 2112.11446, appendix A.1) and a few more, one row per document.

Taken from the text as it is, not from its matching form. A word is a maximal run without white space (`str.split`); a
code point of a script without spaces is a word by itself. A line is what lies between newlines, stripped; blank lines
do not count. An n-gram is n words; shares of n-grams are shares of the characters in words, so separators do not
matter.

Cost: three passes over the bytes and, for each n from 2 to 10, one hash-table access a word, as long as n-grams
repeat: a text without a repeated n-gram has no longer one either. 64-bit hashes stand for words, lines and n-grams.
"""

import numba
import numpy as np
import pyarrow as pa

from dataops.kernels import codepoints
from dataops.kernels.codepoints import DIGIT, LETTER, SPACE, UNSPACED, UPPER, code_point
from dataops.kernels.hashing import mix_one
from dataops.kernels.ragged import Texts, text_bytes

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = "•‣◦▪●–-*"
COUNTS = ("n_chars", "n_bytes", "n_words", "stop_word_count")
SHARES = (
    "mean_word_length",
    "mean_line_length",
    "alphabetic_share",
    "unique_word_share",
    "symbol_share",
    "digit_share",
    "uppercase_share",
    "bullet_line_share",
    "ellipsis_line_share",
    "duplicate_line_share",
    "top_2gram_share",
    "top_3gram_share",
    "top_4gram_share",
    *(f"duplicate_{n}gram_share" for n in range(5, 11)),
)
_TOP_2, _DUPLICATE_5 = SHARES.index("top_2gram_share"), SHARES.index("duplicate_5gram_share")
_LONGEST = 10

_BULLET_POINTS = tuple(ord(bullet) for bullet in BULLETS)
_STOP_CODES = tuple(int.from_bytes(word.encode(), "big") for word in STOP_WORDS)
_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_ROLL = np.uint64(0x9FB21C651E98DF25)


def text_statistics(texts: Texts) -> pa.Table:
    """`COUNTS` (int64) and `SHARES` (float64) of each text, one row each, no nulls; 0 where there is nothing to share.

    n_chars: code points. n_words: see above. stop_word_count: how many of `STOP_WORDS` occur, in any case and between
    punctuation. mean_word_length, mean_line_length: code points. alphabetic_share: words with a letter.
    unique_word_share: distinct words. symbol_share: occurrences of # or of ... and … (the more frequent) per word;
    may exceed 1. digit_share: decimal digits per code point. uppercase_share: upper case per letter.
    bullet_line_share, ellipsis_line_share: lines that begin with one of `BULLETS`, that end in ... or ….
    duplicate_line_share: code points of lines that repeat an earlier line, per code point of all lines.
    top_<n>gram_share: code points of the most frequent n-gram (the longest of equals) times its occurrences, at most
    1, 0 if nothing repeats. duplicate_<n>gram_share: code points of words inside an n-gram that repeats an earlier
    one, each word once.
    """
    offsets, data = text_bytes(texts)
    counts, shares = _statistics(offsets, data, codepoints.classes())
    columns = {name: pa.array(column) for name, column in zip(COUNTS, counts, strict=True)}
    return pa.table(columns | {name: pa.array(column) for name, column in zip(SHARES, shares, strict=True)})


@numba.njit(cache=True, nogil=True)
def _statistics(offsets, data, classes):  # type: ignore[no-untyped-def]
    num = offsets.size - 1
    counts, shares = np.zeros((len(COUNTS), num), np.int64), np.zeros((len(SHARES), num), np.float64)
    longest = 0
    for row in range(num):
        longest = max(longest, offsets[row + 1] - offsets[row])
    hashes, lengths = np.empty(longest + 1, np.uint64), np.empty(longest + 2, np.int64)
    scratch = np.empty((2, longest + 1), np.int64)
    size = 2
    while size < 2 * longest:
        size *= 2
    keys, seen = np.empty(size, np.uint64), np.empty(size, np.int64)
    for row in range(num):
        begin, end = offsets[row], offsets[row + 1]
        chars, num_words, stop_words = _words(data, begin, end, classes, hashes, lengths, shares[:, row])
        counts[0, row], counts[1, row] = chars, end - begin
        counts[2, row], counts[3, row] = num_words, stop_words
        _repetition(hashes, lengths, num_words, scratch, keys, seen, shares[:, row])
        _lines(data, begin, end, classes, keys, seen, shares[:, row])
    return counts, shares


@numba.njit(cache=True, nogil=True)
def _words(data, begin, end, classes, hashes, lengths, shares):  # type: ignore[no-untyped-def]
    """Hash and length of each word, shares of characters and words; returns code points, words, distinct stop words."""
    ascii_counts = np.zeros(128, np.int64)
    chars, letters, uppers, digits = 0, 0, 0, 0  # of code points beyond ASCII until the end
    dots, ellipses = 0, 0
    num_words, alphabetic, word_chars, stop_words = 0, 0, 0, 0
    start, length, word_flags, h = begin, 0, np.uint8(0), _BASIS  # of the open word; length 0: none is open
    i = begin
    while i < end:
        byte = data[i]
        after, flags = i + 1, classes[byte & np.uint8(127)]
        if byte < 0x80:
            ascii_counts[byte] += 1
            if byte == 46:
                dots += 1
                if dots == 3:
                    ellipses += 1
                    dots = 0
            else:
                dots = 0
        else:
            point, after = code_point(data, i, end)
            flags = classes[point]
            chars += 1
            letters += (flags & LETTER) != 0
            uppers += (flags & UPPER) != 0
            digits += (flags & DIGIT) != 0
            ellipses += point == 0x2026
            dots = 0
        if flags & (SPACE | UNSPACED) and length:
            hashes[num_words], lengths[num_words] = mix_one(h), length
            stop_words |= _stop_word(data, start, i)
            num_words += 1
            alphabetic += (word_flags & LETTER) != 0
            length, word_flags, h = 0, np.uint8(0), _BASIS
        if flags & SPACE:
            start = after
        elif flags & UNSPACED:
            hashes[num_words], lengths[num_words] = mix_one(np.uint64(point)), 1
            num_words += 1
            word_chars += 1
            alphabetic += (flags & LETTER) != 0
            start = after
        else:
            for j in range(i, after):
                h = (h ^ np.uint64(data[j])) * _PRIME
            length += 1
            word_chars += 1
            word_flags |= flags
        i = after
    if length:
        hashes[num_words], lengths[num_words] = mix_one(h), length
        stop_words |= _stop_word(data, start, end)
        num_words += 1
        alphabetic += (word_flags & LETTER) != 0
    for byte in range(128):
        chars += ascii_counts[byte]
        letters += ascii_counts[byte] * ((classes[byte] & LETTER) != 0)
        uppers += ascii_counts[byte] * ((classes[byte] & UPPER) != 0)
        digits += ascii_counts[byte] * ((classes[byte] & DIGIT) != 0)
    if num_words:
        shares[0] = word_chars / num_words
        shares[2] = alphabetic / num_words
        shares[4] = max(ascii_counts[35], ellipses) / num_words
        shares[5] = digits / chars
    if letters:
        shares[6] = uppers / letters
    distinct = 0
    while stop_words:
        distinct += stop_words & 1
        stop_words >>= 1
    return chars, num_words, distinct


@numba.njit(cache=True, nogil=True)
def _stop_word(data, start, stop):  # type: ignore[no-untyped-def]
    """The bit of the stop word at bytes start..stop, ASCII punctuation stripped and case folded; 0 if it is none."""
    while start < stop and _is_punctuation(data[start]):
        start += 1
    while start < stop and _is_punctuation(data[stop - 1]):
        stop -= 1
    if not 2 <= stop - start <= 4:
        return 0
    code = 0
    for i in range(start, stop):
        code = (code << 8) | np.int64(data[i])
        if np.uint8(65) <= data[i] <= np.uint8(90):
            code += 32
    for bit in range(len(_STOP_CODES)):
        if code == _STOP_CODES[bit]:
            return 1 << bit
    return 0


@numba.njit(cache=True, nogil=True)
def _is_punctuation(byte):  # type: ignore[no-untyped-def]
    return 33 <= byte <= 47 or 58 <= byte <= 64 or 91 <= byte <= 96 or 123 <= byte <= 126


@numba.njit(cache=True, nogil=True)
def _slot(keys, seen, mask, key):  # type: ignore[no-untyped-def]
    """Where `key` is in the open-addressing table, or the free slot for it; `seen` 0 marks a free one."""
    slot = np.int64(key & mask)
    while seen[slot] and keys[slot] != key:
        slot = (slot + 1) & np.int64(mask)
    return slot


@numba.njit(cache=True, nogil=True)
def _emptied(seen, num_keys):  # type: ignore[no-untyped-def]
    """Clears as much of the table as `num_keys` need at half load; returns the mask of its slots."""
    size = 2
    while size < 2 * num_keys:
        size *= 2
    seen[:size] = 0
    return np.uint64(size - 1)


@numba.njit(cache=True, nogil=True)
def _repetition(hashes, lengths, num_words, scratch, keys, seen, shares):  # type: ignore[no-untyped-def]
    """Distinct words, most frequent 2..4-grams and repeated 5..10-grams.

    An n-gram can repeat only if the (n-1)-gram it begins with does: each round looks at those starts alone.
    """
    # From lengths to sums of lengths of all words before: the length of an n-gram is a difference.
    for i in range(num_words - 1, -1, -1):
        lengths[i + 1] = lengths[i]
    lengths[0] = 0
    for i in range(num_words):
        lengths[i + 1] += lengths[i]
    starts, slots = scratch[0], scratch[1]
    rolled = hashes[:num_words].copy()
    for i in range(num_words):
        starts[i] = i
    num_starts = num_words
    for n in range(1, _LONGEST + 1):
        while num_starts and starts[num_starts - 1] + n > num_words:
            num_starts -= 1
        if num_starts == 0:
            break
        mask = _emptied(seen, num_starts)
        repeats, most, top_chars, covered, covered_to = 0, 1, 0, 0, 0
        for c in range(num_starts):
            i = starts[c]
            if n > 1:
                rolled[i] = rolled[i] * _ROLL + hashes[i + n - 1]
            key = rolled[i] ^ (rolled[i] >> np.uint64(32))
            slot = _slot(keys, seen, mask, key)
            keys[slot], slots[c] = key, slot
            seen[slot] += 1
            if seen[slot] == 1:
                continue
            repeats += 1
            chars = lengths[i + n] - lengths[i]
            if seen[slot] > most or (seen[slot] == most and chars > top_chars):
                most, top_chars = seen[slot], chars
            covered += lengths[i + n] - lengths[max(i, covered_to)]
            covered_to = i + n
        if n == 1:
            shares[3] = (num_words - repeats) / num_words
        elif n < 5:
            shares[_TOP_2 + n - 2] = min(1.0, most * top_chars / lengths[num_words])
        else:
            shares[_DUPLICATE_5 + n - 5] = covered / lengths[num_words]
        left = 0
        for c in range(num_starts):
            if seen[slots[c]] > 1:
                starts[left] = starts[c]
                left += 1
        num_starts = left


@numba.njit(cache=True, nogil=True)
def _lines(data, begin, end, classes, keys, seen, shares):  # type: ignore[no-untyped-def]
    num_lines, bullets, ellipses, chars, repeated = 0, 0, 0, 0, 0
    breaks = 1
    for i in range(begin, end):
        breaks += data[i] == 10
    mask = _emptied(seen, breaks)
    line_end = begin - 1
    while line_end < end:
        first, last = line_end + 1, line_end + 1
        while last < end and data[last] != 10:
            last += 1
        line_end = last
        first, last, first_point = _stripped(data, first, last, classes)
        if first == last:
            continue
        length, h = 0, _BASIS
        for i in range(first, last):
            length += (data[i] & 0xC0) != 0x80
        for i in range(first, last):
            h = (h ^ np.uint64(data[i])) * _PRIME
        num_lines += 1
        chars += length
        ellipses += _ends_in_ellipsis(data, first, last)
        for bullet in _BULLET_POINTS:
            bullets += first_point == bullet
        key = mix_one(h)
        slot = _slot(keys, seen, mask, key)
        if seen[slot]:
            repeated += length
        keys[slot], seen[slot] = key, 1
    if num_lines:
        shares[1] = chars / num_lines
        shares[7] = bullets / num_lines
        shares[8] = ellipses / num_lines
        shares[9] = repeated / chars


@numba.njit(cache=True, nogil=True)
def _stripped(data, first, last, classes):  # type: ignore[no-untyped-def]
    """First and last byte of what is left without white space at both ends, and its first code point."""
    first_point = 0
    while first < last:
        first_point, after = code_point(data, first, last)
        if not classes[first_point] & SPACE:
            break
        first = after
    while first < last:
        i = last - 1
        while i > first and (data[i] & 0xC0) == 0x80:
            i -= 1
        point, _ = code_point(data, i, last)
        if not classes[point] & SPACE:
            break
        last = i
    return first, last, first_point


@numba.njit(cache=True, nogil=True)
def _ends_in_ellipsis(data, first, last):  # type: ignore[no-untyped-def]
    if last - first < 3:
        return False
    a, b, c = data[last - 3], data[last - 2], data[last - 1]
    return (a == 46 and b == 46 and c == 46) or (a == 0xE2 and b == 0x80 and c == 0xA6)

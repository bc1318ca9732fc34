"""Text for matching: its case-folded normal form and its words, in numba over UTF-8 bytes.

`matching_form` is `unicodedata.normalize("NFKC", text).lower()`, for comparison only: a model never learns from it.
Code points whose form does not depend on their neighbours are replaced through a table; a document with any other
(combining marks, conjoining jamo, capital sigma) goes through Python itself, so the answer is Python's on every text.

A word is a maximal run of letters, numbers, underscores and the marks that follow them; a code point of a script
without spaces (Han, kana, Thai, Lao, Khmer, Myanmar) is a word by itself, so that word n-grams are character n-grams
there. Without those scripts and marks this is `re.findall(r"\\w+", text)`; with them it is
`re.findall(r"[unspaced]|[^\\W unspaced][\\w marks, not unspaced]*", text)`.
"""

import functools
import unicodedata
from itertools import pairwise

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataops.kernels import codepoints
from dataops.kernels.codepoints import MARK, UNSPACED, WORD, code_point
from dataops.kernels.ragged import Ragged, Texts, read_only, text_bytes

__all__ = ["fold", "matching_form", "next_word", "word_spans", "words"]

_SAME, _IN_CONTEXT = 0, 255  # values of the length table that are not lengths


def matching_form(texts: Texts) -> pa.LargeStringArray:
    """NFKC, then lower case, of each text; a null gives the empty text. For comparing texts, never for training on."""
    offsets, data = fold(text_bytes(texts))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)


def fold(texts: Ragged) -> Ragged:
    """`matching_form` from UTF-8 bytes to UTF-8 bytes (as `text_bytes` gives them)."""
    starts, lengths, blob = _foldings()
    sizes = _folded_sizes(texts.offsets, texts.values, lengths)
    through_python = {row: _fold_in_python(texts.row(row)) for row in np.flatnonzero(sizes < 0).tolist()}
    for row, folded in through_python.items():
        sizes[row] = len(folded)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    values = np.empty(offsets[-1], np.uint8)
    skip = np.zeros(len(sizes), np.bool_)
    skip[list(through_python)] = True
    _write_folded(texts.offsets, texts.values, starts, lengths, blob, skip, offsets, values)
    for row, folded in through_python.items():
        values[offsets[row] : offsets[row + 1]] = np.frombuffer(folded, np.uint8)
    return Ragged(read_only(offsets, np.int64), read_only(values, np.uint8))


def word_spans(texts: Texts) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where the words of each text are: (offsets int64[n+1], starts int64[w], stops int64[w]).

    Word j of document i is bytes `starts[offsets[i] + j] : stops[...]` of the document's own UTF-8 bytes, unfolded.
    """
    bytes_of = text_bytes(texts)
    return _word_spans(bytes_of.offsets, bytes_of.values, codepoints.classes())


def words(texts: Texts) -> list[list[str]]:
    """The words of each text as strings: for tests and for looking at; the kernels hash them instead."""
    documents = text_bytes(texts)
    offsets, starts, stops = _word_spans(documents.offsets, documents.values, codepoints.classes())
    found = []
    for i, (first, last) in enumerate(pairwise(offsets.tolist())):
        row = documents.row(i).tobytes()
        spans = zip(starts[first:last].tolist(), stops[first:last].tolist(), strict=True)
        found.append([row[start:stop].decode() for start, stop in spans])
    return found


@numba.njit(cache=True, nogil=True)
def next_word(data, i, end, classes):  # type: ignore[no-untyped-def]
    """Start and stop of the first word in bytes i..end, (end, end) if there is none. For other kernels."""
    flags = np.uint8(0)
    start = i
    while i < end:
        start = i
        if data[i] < 0x80:  # spelled out because most bytes are
            flags = classes[data[i]]
            i += 1
        else:
            point, i = code_point(data, i, end)
            flags = classes[point]
        if flags & WORD:
            break
    if not flags & WORD:
        return end, end
    if flags & UNSPACED:
        return start, i
    while i < end:
        after = i + 1
        if data[i] < 0x80:
            flags = classes[data[i]]
        else:
            point, after = code_point(data, i, end)
            flags = classes[point]
        if not flags & (WORD | MARK) or flags & UNSPACED:
            break
        i = after
    return start, i


@numba.njit(cache=True, nogil=True)
def _word_spans(offsets, data, classes):  # type: ignore[no-untyped-def]
    num = offsets.size - 1
    # A spaced word needs a separator or an unspaced code point (3 bytes) after it: at most one word in two bytes.
    starts = np.empty(data.size // 2 + num, np.int64)
    stops = np.empty(data.size // 2 + num, np.int64)
    word_offsets = np.zeros(num + 1, np.int64)
    count = 0
    for row in range(num):
        begin, end = offsets[row], offsets[row + 1]
        start, stop = next_word(data, begin, end, classes)
        while start < end:
            starts[count] = start - begin
            stops[count] = stop - begin
            count += 1
            start, stop = next_word(data, stop, end, classes)
        word_offsets[row + 1] = count
    return word_offsets, starts[:count].copy(), stops[:count].copy()


def _fold_in_python(text: NDArray[np.uint8]) -> bytes:
    return unicodedata.normalize("NFKC", text.tobytes().decode()).lower().encode()


@numba.njit(cache=True, nogil=True)
def _is_ascii(text):  # type: ignore[no-untyped-def]
    seen = np.uint8(0)
    for i in range(text.size):
        seen |= text[i]
    return seen < 0x80


@numba.njit(cache=True, nogil=True)
def _lower_ascii(text, out):  # type: ignore[no-untyped-def]
    for i in range(text.size):
        is_upper = np.uint8(text[i] - np.uint8(65)) < np.uint8(26)
        out[i] = text[i] | np.uint8(np.uint8(is_upper) << np.uint8(5))


@numba.njit(cache=True, nogil=True)
def _folded_sizes(offsets, data, lengths):  # type: ignore[no-untyped-def]
    """Bytes of each text's matching form, -1 where a code point depends on its neighbours."""
    sizes = np.empty(offsets.size - 1, np.int64)
    for row in range(offsets.size - 1):
        i, end = offsets[row], offsets[row + 1]
        size = end - i
        if _is_ascii(data[i:end]):
            i = end
        while i < end:
            if data[i] < 0x80:
                i += 1
                continue
            point, after = code_point(data, i, end)
            length = lengths[point]
            if length == _IN_CONTEXT:
                size = -1
                break
            if length != _SAME:
                size += np.int64(length) - (after - i)
            i = after
        sizes[row] = size
    return sizes


@numba.njit(cache=True, nogil=True)
def _write_folded(offsets, data, starts, lengths, blob, skip, out_offsets, out):  # type: ignore[no-untyped-def]
    for row in range(offsets.size - 1):
        if skip[row]:
            continue
        i, end, o = offsets[row], offsets[row + 1], out_offsets[row]
        if _is_ascii(data[i:end]):
            _lower_ascii(data[i:end], out[o : out_offsets[row + 1]])
            i = end
        while i < end:
            byte = data[i]
            if byte < 0x80:
                out[o] = byte + np.uint8(32) if np.uint8(65) <= byte <= np.uint8(90) else byte
                i += 1
                o += 1
                continue
            point, after = code_point(data, i, end)
            length = np.int64(lengths[point])
            if length == _SAME:
                while i < after:
                    out[o] = data[i]
                    i += 1
                    o += 1
            else:
                for j in range(length):
                    out[o + j] = blob[starts[point] + j]
                o += length
            i = after


@functools.cache
def _foldings() -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.uint8]]:
    """(starts, lengths, blob): the folded bytes of code point c are `blob[starts[c]:][:lengths[c]]`.

    Length 0: c folds to itself; length 255: its form depends on the neighbours. A code point stands for itself or a
    fixed string if every part of its NFKC form is a starter that composes with nothing before it (Unicode annex 15).
    """
    normalize, combining = unicodedata.normalize, unicodedata.combining
    # Han and Hangul syllables fold to themselves and are most of Unicode: not worth asking about one by one.
    asked = [*range(0x80, 0x3400), *range(0xA000, 0xAC00), *range(0xD7A4, 0xD800), *range(0xE000, 0x20000)]
    asked += [*range(0x2F800, 0x2FA20), *range(0xE0000, 0xE0200)]
    in_context = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3), 0x3A3}
    for point in asked:
        parts = unicodedata.decomposition(chr(point)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            in_context.add(int(parts[1], 16))
    in_context |= {point for point in asked if combining(chr(point))}
    starts, lengths = np.zeros(codepoints.NUM_CODE_POINTS, np.int32), np.zeros(codepoints.NUM_CODE_POINTS, np.uint8)
    blob = bytearray()
    for point in asked:
        form = normalize("NFKC", chr(point))
        if any(ord(part) in in_context for part in form):
            lengths[point] = _IN_CONTEXT
        elif (folded := form.lower()) != chr(point):
            starts[point], encoded = len(blob), folded.encode()
            lengths[point] = len(encoded)
            blob += encoded
    lengths[list(in_context)] = _IN_CONTEXT
    return read_only(starts, np.int32), read_only(lengths, np.uint8), read_only(np.frombuffer(blob, np.uint8), np.uint8)

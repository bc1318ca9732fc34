"""Byte-level BPE with GPT-2's splitting pattern, token for token that of Hugging Face `tokenizers`, some tens of times
faster.

Text is cut into pieces (a word with the space before it, a number, punctuation, white space; Radford et al. 2019) and
each piece is merged on its own, the pair of lowest rank first, the leftmost of equals (Sennrich et al. 2016). Pieces
repeat, so those of up to 32 bytes are kept with their tokens in a table. A document is left to `tokenizers` if it has a
code point that Python's Unicode does not know, whose class we therefore can't tell, or a piece too long for merging in
quadratic time.
"""

import functools
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from dataops.kernels import codepoints
from dataops.kernels.codepoints import code_point
from dataops.kernels.hashing import mix_one
from dataops.kernels.ragged import Texts, read_only, text_bytes

LONGEST_PIECE = 2048  # bytes; merging one of these takes about a millisecond
_KEPT_BYTES, _SLOTS = 32, 1 << 19
_OTHER, _LETTER, _NUMBER, _SPACE, _UNKNOWN = (np.uint8(kind) for kind in range(5))
_NOT_MERGED = np.int32(2**31 - 1)
_PRIME, _SEED = np.uint64(0x100000001B3), np.uint64(0xCBF29CE484222325)


class Encoded(NamedTuple):
    """`tokens` uint16 of all documents, `offsets` int64[n+1] into it, and `left` bool[n]: not encoded, no token."""

    tokens: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    left: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Merges:
    """A BPE as arrays. The pair hashed to slot s is pairs[s] = left << 16 | right, of rank ranks[s]; an empty slot has
    rank 2^31 - 1. Merging the pair of rank r gives merged[r].
    """

    byte_tokens: NDArray[np.uint16]
    pairs: NDArray[np.uint64]
    ranks: NDArray[np.int32]
    merged: NDArray[np.uint16]


def merges_of(byte_tokens: NDArray[np.uint16], rules: NDArray[np.int64]) -> Merges:
    """From the token of each byte uint16[256] and the rules int64[m, 3] in order: left, right, merged."""
    slots = 1 << max(4, (4 * len(rules)).bit_length())
    pairs, ranks = np.zeros(slots, np.uint64), np.full(slots, _NOT_MERGED)
    _fill_pairs(rules[:, 0].astype(np.uint64), rules[:, 1].astype(np.uint64), pairs, ranks)
    return Merges(
        byte_tokens=read_only(byte_tokens, np.uint16),
        pairs=read_only(pairs, np.uint64),
        ranks=read_only(ranks, np.int32),
        merged=read_only(rules[:, 2], np.uint16),
    )


class Encoder:
    """Encodes batches of texts; pieces seen in one batch are known in the next. One thread at a time."""

    def __init__(self, merges: Merges):
        self._merges = merges
        self._slots = np.full(_SLOTS, -1, np.int32)
        self._pieces = np.empty((_SLOTS // 2, _KEPT_BYTES), np.uint8)
        self._tokens = np.empty((_SLOTS // 2, _KEPT_BYTES), np.uint16)
        self._sizes = np.zeros((_SLOTS // 2, 2), np.uint8)
        self._known = np.zeros(1, np.int64)

    def __call__(self, texts: Texts) -> Encoded:
        """Token ids of each text."""
        offsets, data = text_bytes(texts)
        tokens, bounds, left = _encode(
            offsets,
            data,
            piece_kinds(),
            self._merges.byte_tokens,
            self._merges.pairs,
            self._merges.ranks,
            self._merges.merged,
            self._slots,
            self._pieces,
            self._tokens,
            self._sizes,
            self._known,
        )
        return Encoded(tokens=tokens[: bounds[-1]].copy(), offsets=bounds, left=left)


@functools.cache
def piece_kinds() -> NDArray[np.uint8]:
    """What the pattern sees in each code point: letter (L*), number (N*), white space, unknown, or other."""
    kinds = np.full(codepoints.NUM_CODE_POINTS, _UNKNOWN)
    of = {"L": _LETTER, "N": _NUMBER, "Cn": _UNKNOWN}
    private = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
    for assigned in codepoints.ASSIGNED:
        categories = map(unicodedata.category, map(chr, assigned))
        kinds[assigned.start : assigned.stop] = [of.get(name, of.get(name[0], _OTHER)) for name in categories]
    for area in private:
        kinds[area.start : area.stop] = _OTHER
    white = [*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F]
    kinds[[*white, 0x3000]] = _SPACE
    return read_only(kinds, np.uint8)


@numba.njit(cache=True, nogil=True)
def _fill_pairs(left, right, pairs, ranks):  # type: ignore[no-untyped-def]
    mask = np.uint64(pairs.size - 1)
    for rank in range(left.size):
        pair = left[rank] << np.uint64(16) | right[rank]
        slot = mix_one(pair) & mask
        while ranks[slot] != _NOT_MERGED:
            slot = (slot + np.uint64(1)) & mask
        pairs[slot], ranks[slot] = pair, rank


@numba.njit(cache=True, nogil=True)
def _rank(left, right, pairs, ranks):  # type: ignore[no-untyped-def]
    pair = np.uint64(left) << np.uint64(16) | np.uint64(right)
    mask = np.uint64(pairs.size - 1)
    slot = mix_one(pair) & mask
    while ranks[slot] != _NOT_MERGED and pairs[slot] != pair:
        slot = (slot + np.uint64(1)) & mask
    return ranks[slot]


@numba.njit(cache=True, nogil=True)
def _contraction(data, i, end):  # type: ignore[no-untyped-def]
    """End of 's, 't, 'm, 'd, 're, 've or 'll at i, or i."""
    if data[i] != 0x27 or i + 1 >= end:
        return i
    first = data[i + 1]
    if first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64:
        return i + 2
    if i + 2 < end:
        second = data[i + 2]
        if (second == 0x65 and (first == 0x72 or first == 0x76)) or (second == 0x6C and first == 0x6C):
            return i + 3
    return i


@numba.njit(cache=True, nogil=True)
def _piece_end(data, i, end, kinds):  # type: ignore[no-untyped-def]
    """Where the piece that starts at i < end stops; -1 at a code point of unknown kind."""
    after = _contraction(data, i, end)
    if after > i:
        return after
    point, after = code_point(data, i, end)
    kind = kinds[point]
    if point == 0x20 and after < end:
        second, after_second = code_point(data, after, end)
        if kinds[second] != _SPACE:
            kind, after = kinds[second], after_second
    if kind == _UNKNOWN:
        return -1
    last = i  # where the last character of the run starts
    while after < end:
        point, then = code_point(data, after, end)
        if kinds[point] != kind:
            break
        last, after = after, then
    if kind == _SPACE and after < end and last > i:
        return last  # white space leaves its last character to what follows
    return after


@numba.njit(cache=True, nogil=True)
def _merge(tokens, best, size, pairs, ranks, merged):  # type: ignore[no-untyped-def]
    """Merge tokens[:size] in place; `best` is scratch. Returns how many are left."""
    for i in range(size - 1):
        best[i] = _rank(tokens[i], tokens[i + 1], pairs, ranks)
    while size > 1:
        lowest, at = _NOT_MERGED, 0
        for i in range(size - 1):
            if best[i] < lowest:
                lowest, at = best[i], i
        if lowest == _NOT_MERGED:
            break
        tokens[at] = merged[lowest]
        size -= 1
        for i in range(at + 1, size):
            tokens[i], best[i - 1] = tokens[i + 1], best[i]
        if at > 0:
            best[at - 1] = _rank(tokens[at - 1], tokens[at], pairs, ranks)
        if at + 1 < size:
            best[at] = _rank(tokens[at], tokens[at + 1], pairs, ranks)
    return size


@numba.njit(cache=True, nogil=True)
def _find(data, begin, size, slots, pieces, sizes):  # type: ignore[no-untyped-def]
    """The slot of a piece of up to _KEPT_BYTES: filled if it is known, else free."""
    key = _SEED
    for i in range(begin, begin + size):
        key = (key ^ np.uint64(data[i])) * _PRIME
    mask = np.uint64(slots.size - 1)
    slot = mix_one(key) & mask
    while slots[slot] >= 0:
        entry = slots[slot]
        if sizes[entry, 0] == size:
            i = 0
            while i < size and pieces[entry, i] == data[begin + i]:
                i += 1
            if i == size:
                break
        slot = (slot + np.uint64(1)) & mask
    return slot


@numba.njit(cache=True, nogil=True)
def _encode(  # type: ignore[no-untyped-def]
    offsets, data, kinds, byte_tokens, pairs, ranks, merged, slots, pieces, piece_tokens, sizes, known
):
    num = offsets.size - 1
    out, bounds, left = np.empty(data.size, np.uint16), np.zeros(num + 1, np.int64), np.zeros(num, np.bool_)
    scratch, best = np.empty(LONGEST_PIECE, np.uint16), np.empty(LONGEST_PIECE, np.int32)
    o = 0
    for row in range(num):
        i, end = offsets[row], offsets[row + 1]
        while i < end:
            after = _piece_end(data, i, end, kinds)
            size = after - i
            if after < 0 or size > LONGEST_PIECE:
                left[row] = True
                o = bounds[row]
                break
            slot = np.uint64(0)
            if size <= _KEPT_BYTES:
                slot = _find(data, i, size, slots, pieces, sizes)
                entry = slots[slot]
                if entry >= 0:
                    count = sizes[entry, 1]
                    for k in range(count):
                        out[o + k] = piece_tokens[entry, k]
                    o += count
                    i = after
                    continue
            for k in range(size):
                scratch[k] = byte_tokens[data[i + k]]
            count = _merge(scratch, best, size, pairs, ranks, merged)
            for k in range(count):
                out[o + k] = scratch[k]
            if size <= _KEPT_BYTES and known[0] < pieces.shape[0]:
                entry = known[0]
                known[0] += 1
                slots[slot] = entry
                sizes[entry, 0], sizes[entry, 1] = size, count
                for k in range(size):
                    pieces[entry, k] = data[i + k]
                for k in range(count):
                    piece_tokens[entry, k] = scratch[k]
            o += count
            i = after
        bounds[row + 1] = o
    return out, bounds, left

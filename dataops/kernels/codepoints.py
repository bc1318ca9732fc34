"""What each Unicode code point is, as one byte of flags, and how UTF-8 is read: tables for kernels over bytes.

Classes come from `unicodedata`, so they move with Python's Unicode version, not with ours. Built on first use (about a
tenth of a second), kept for the life of the process.
"""

import functools
import unicodedata

import numba
import numpy as np
from numpy.typing import NDArray

from dataops.kernels.ragged import read_only

WORD, MARK, UNSPACED, LETTER, UPPER, DIGIT, SPACE = (np.uint8(1 << bit) for bit in range(7))

# Thai, Lao, Myanmar, Khmer and relatives; Han, kana and Bopomofo: text without a space between words.
UNSPACED_BLOCKS = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x1950, 0x19FF),
    (0x1A20, 0x1AAF),
    (0x3005, 0x3007),
    (0x3021, 0x303C),
    (0x3040, 0x312F),
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAADF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x1AFF0, 0x1B16F),
    (0x20000, 0x323AF),
)

# Above these planes no code point is a letter, digit, mark or space (private use and unassigned).
ASSIGNED = (range(0x323B0), range(0xE0000, 0xE0200))
NUM_CODE_POINTS = 0x110000


@functools.cache
def classes() -> NDArray[np.uint8]:
    """Flags of each code point, uint8[0x110000], read-only.

    WORD: letter, number or underscore (Python's `\\w`). MARK: combining mark. UNSPACED: a word by itself, letter or
    mark, in a script without spaces. LETTER: L*. UPPER: Lu. DIGIT: Nd. SPACE: `str.isspace`.
    """
    flags_of = {"Lu": WORD | LETTER | UPPER, "Nd": WORD | DIGIT}
    flags_of |= dict.fromkeys(("Ll", "Lt", "Lm", "Lo"), WORD | LETTER)
    flags_of |= dict.fromkeys(("Nl", "No"), WORD)
    flags_of |= dict.fromkeys(("Mn", "Mc", "Me"), MARK)
    table = np.zeros(NUM_CODE_POINTS, np.uint8)
    for assigned in ASSIGNED:
        category = map(unicodedata.category, map(chr, assigned))
        table[assigned.start : assigned.stop] = [flags_of.get(name, 0) for name in category]
    table[ord("_")] = WORD
    table[[point for point in range(0x3001) if chr(point).isspace()]] |= SPACE
    for first, last in UNSPACED_BLOCKS:
        block = table[first : last + 1]
        block[(block & (WORD | MARK)) != 0] |= WORD | UNSPACED
    return read_only(table, np.uint8)


@numba.njit(cache=True, nogil=True)
def code_point(data, i, end):  # type: ignore[no-untyped-def]
    """The code point that starts at byte i < end of UTF-8 `data`, and the next position, never beyond end."""
    lead = np.int64(data[i])
    if lead < 0x80:
        return lead, i + 1
    if lead < 0xE0:
        size, point = 2, lead & 0x1F
    elif lead < 0xF0:
        size, point = 3, lead & 0x0F
    else:
        size, point = 4, lead & 0x07
    stop = min(i + size, end)
    for j in range(i + 1, stop):
        point = (point << 6) | (np.int64(data[j]) & 0x3F)
    return min(point, NUM_CODE_POINTS - 1), stop

"""Ragged arrays: one list per document, as `offsets` int64[n+1] and flat `values`.

Row i is `values[offsets[i] : offsets[i + 1]]`. A text column is the ragged array of its UTF-8 bytes, read from Arrow's
own buffers without a copy (an array of several chunks, or one with nulls, is copied once). A null is the empty text.

Arrays handed to numba are read-only views of one dtype, so that each kernel is compiled for one signature only.
"""

from typing import Any, NamedTuple, TypeAlias

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, DTypeLike, NDArray

Texts: TypeAlias = pa.Array | pa.ChunkedArray


class Ragged(NamedTuple):
    """`offsets` int64[n+1] starting at 0, `values`[offsets[-1]]."""

    offsets: NDArray[np.int64]
    values: NDArray[Any]

    def row(self, index: int) -> NDArray[Any]:
        """The list of document `index`, a view."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]


def read_only(values: ArrayLike, dtype: DTypeLike) -> NDArray[Any]:
    """A contiguous read-only view of `values` as `dtype`; copied only if it has another dtype or strides."""
    view = np.ascontiguousarray(values, dtype=dtype).view()
    view.flags.writeable = False
    return view


def text_bytes(texts: Texts) -> Ragged:
    """The UTF-8 bytes of each text: offsets int64[n+1], values uint8, read-only.

    Raises TypeError unless `texts` is an Arrow array of strings.
    """
    kind = texts.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise TypeError(f"texts must be an Arrow string array, not {kind}: cast the column to pa.large_string()")
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.chunk(0) if texts.num_chunks == 1 else texts.cast(pa.large_string()).combine_chunks()
    if isinstance(texts, pa.ChunkedArray):  # older Arrow: combine_chunks of no chunk stays chunked
        texts = pa.array([], pa.large_string())
    if pa.types.is_string_view(texts.type):
        texts = texts.cast(pa.large_string())
    if texts.null_count:
        texts = texts.fill_null("")
    if len(texts) == 0:
        return Ragged(read_only([0], np.int64), read_only([], np.uint8))
    _, offset_buffer, data_buffer = texts.buffers()
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    raw = np.frombuffer(offset_buffer, width)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.empty(0, np.uint8)
    return Ragged(read_only(raw - raw[0], np.int64), read_only(data[raw[0] : raw[-1]], np.uint8))


def sums(table: ArrayLike, values: ArrayLike, sizes: ArrayLike) -> NDArray[np.int64]:
    """`table[values]` summed over consecutive runs of `sizes` values, which are uint16: int64[n].

    Raises ValueError for a value that the table does not have.
    """
    known, given = read_only(table, np.int64), read_only(values, np.uint16)
    if given.size and given.max() >= known.size:
        raise ValueError(f"value {given.max()} in a table of {known.size}")
    return _sums(known, given, read_only(sizes, np.int64))


@numba.njit(cache=True, nogil=True)
def _sums(table, values, sizes):  # type: ignore[no-untyped-def]
    out, at = np.zeros(sizes.size, np.int64), 0
    for i in range(sizes.size):
        for value in values[at : at + sizes[i]]:
            out[i] += table[value]
        at += sizes[i]
    return out

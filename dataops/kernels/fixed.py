"""Rows of bytes, all of one width: Arrow's fixed-size binary as NumPy and back, without a copy."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def fixed_binary(values: NDArray[np.uint8]) -> pa.FixedSizeBinaryArray:
    """uint8[n, width] as binary(width)[n]."""
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(values.shape[1]), len(values), [None, data])


def bytes_of(column: pa.ChunkedArray | pa.FixedSizeBinaryArray) -> NDArray[np.uint8]:
    """uint8[n, width] of binary(width)[n] without nulls."""
    width = column.type.byte_width
    if not len(column):
        return np.empty((0, width), np.uint8)
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.frombuffer(array.buffers()[1], np.uint8)[array.offset * width :][: len(array) * width].reshape(-1, width)

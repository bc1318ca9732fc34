"""Identities and keyed randomness: a document's hashes, and numbers that depend on nothing but a seed and a hash.

Identity is 128-bit BLAKE2b (standard library, about one microsecond a document plus 1 ns a byte). Draws are
splitmix64's finaliser over (seed, hash): no generator state, so block size, order and retries cannot change a draw.
"""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from dataops.kernels.fixed import bytes_of, fixed_binary
from dataops.kernels.ragged import Texts, read_only, text_bytes

DIGEST_BYTES = 16

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)
_PAIR = np.uint64(0x9FB21C651E98DF25)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


@numba.njit(cache=True, nogil=True)
def mix_one(x):  # type: ignore[no-untyped-def]
    """splitmix64's finaliser on one uint64: a bijection, for other kernels to call."""
    x = (x ^ (x >> _30)) * _M1
    x = (x ^ (x >> _27)) * _M2
    return x ^ (x >> _31)


@numba.njit(cache=True, nogil=True)
def pair_one(first, second):  # type: ignore[no-untyped-def]
    """One uint64 for a pair of hashes in this order, for other kernels to call."""
    return mix_one(first * _PAIR + second)


@numba.njit(cache=True, nogil=True)
def _mix_all(values, key):  # type: ignore[no-untyped-def]
    out = np.empty(values.size, np.uint64)
    for i in range(values.size):
        out[i] = mix_one(values[i] + key)
    return out


def content_hash(texts: Texts) -> pa.FixedSizeBinaryArray:
    """128-bit BLAKE2b of each text's UTF-8 bytes: binary(16)[n], no nulls."""
    offsets, data = text_bytes(texts)
    view, blake2b = memoryview(data.data), hashlib.blake2b
    bounds = offsets.tolist()
    digests = b"".join(
        [blake2b(view[start:stop], digest_size=DIGEST_BYTES).digest() for start, stop in pairwise(bounds)]
    )
    return _from_bytes(digests)


def document_ids(source: str, keys: Sequence[str], contents: pa.FixedSizeBinaryArray) -> pa.FixedSizeBinaryArray:
    """128-bit id of each occurrence: BLAKE2b of (source, key, content), each preceded by its length in 8 bytes.

    `keys` names the occurrence inside `source` (a path and row, say); `contents` is `content_hash`. Equal inputs give
    equal ids on every machine. Raises ValueError if `keys` and `contents` differ in length.
    """
    if len(keys) != len(contents):
        raise ValueError(f"{len(keys)} keys for {len(contents)} contents: document_ids needs one key per document")
    prefix = hashlib.blake2b(_framed(source.encode()), digest_size=DIGEST_BYTES)
    digests = []
    for key, content in zip(keys, _digest_rows(contents), strict=True):
        state = prefix.copy()
        state.update(_framed(key.encode()))
        state.update(_framed(content.tobytes()))
        digests.append(state.digest())
    return _from_bytes(b"".join(digests))


def to_hex(ids: pa.FixedSizeBinaryArray) -> pa.StringArray:
    """Lower-case hexadecimal of each 128-bit id, 32 characters: the form stored in tables."""
    digits = _digest_rows(ids).tobytes().hex().encode()
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * np.int32(2 * DIGEST_BYTES)
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(digits))


def from_hex(ids: Texts) -> pa.FixedSizeBinaryArray:
    """The 128-bit ids whose hexadecimal is given. Raises ValueError unless each has 32 hexadecimal digits."""
    offsets, data = text_bytes(ids)
    wrong = np.flatnonzero(np.diff(offsets) != 2 * DIGEST_BYTES)
    if wrong.size:
        given = data[offsets[wrong[0]] : offsets[wrong[0] + 1]].tobytes().decode()
        raise ValueError(f"id {given!r} (row {wrong[0]}) is not 32 hexadecimal digits")
    return _from_bytes(bytes.fromhex(data.tobytes().decode()))


def h64(ids: pa.FixedSizeBinaryArray) -> NDArray[np.uint64]:
    """The first 8 bytes of each 128-bit id, big-endian: uint64[n]. Orders as the ids do; confirm a match by the id."""
    return _digest_rows(ids)[:, :8].copy().view(">u8").ravel().astype(np.uint64)


def mix64(values: ArrayLike) -> NDArray[np.uint64]:
    """splitmix64's finaliser on each of uint64[n]: a bijection on 64 bits."""
    return _mix_all(read_only(values, np.uint64).ravel(), np.uint64(0))


def distinct(*parts: NDArray[Any]) -> NDArray[Any]:
    """The values of all arrays, which have one dtype, ascending and each once.

    By sorting: `np.unique` of NumPy 2.3 to 2.4 looks integers up in a table, a hundred times as slow for hashes.
    """
    values = np.sort(np.concatenate(parts))
    is_new = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=is_new[1:])
    return values[is_new]


def uniform(seed: int, values: ArrayLike) -> NDArray[np.float64]:
    """A number in [0, 1) for each of uint64[n], a pure function of (seed, value); multiples of 2^-53."""
    key = mix64([(seed + int(_GAMMA)) % 2**64])[0]
    mixed = mix64(_mix_all(read_only(values, np.uint64).ravel(), key))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _framed(part: bytes) -> bytes:
    return len(part).to_bytes(8, "little") + part


def _from_bytes(digests: bytes) -> pa.FixedSizeBinaryArray:
    return fixed_binary(np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES))


def _digest_rows(ids: pa.FixedSizeBinaryArray | pa.ChunkedArray) -> NDArray[np.uint8]:
    """uint8[n, 16] view of the digests."""
    if ids.type != pa.binary(DIGEST_BYTES) or ids.null_count:
        raise TypeError(f"ids must be fixed_size_binary[16] without nulls, not {ids.type} with {ids.null_count} nulls")
    return bytes_of(ids)

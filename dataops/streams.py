"""Bytes of a file, decompressed, as blocks and as lines, in bounded memory.

A stream that breaks off (a truncated or corrupt .gz or .zst) gives everything before the break and then
raises `Damaged`. The loop over a decompressor object is ours because zstandard's own stream reader ends a
truncated frame without an error, which would lose the rest of a file silently.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import zstandard

from dataops.inputs import open_input

BLOCK_BYTES = 1 << 20
COMPRESSED_BLOCK_BYTES = 1 << 16  # gzip expands at most 1,032 times: 64 MiB a block
ZSTD_BLOCK_BYTES = 1 << 11  # zstd makes at most 128 KiB of 4 bytes: the same
MAX_RECORD_BYTES = 1 << 26  # one line, field or file; longer ones go into quarantine so that memory stays bounded


class Damaged(Exception):
    """The stream can't be read beyond this point."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class _Decompressor(Protocol):
    def decompress(self, data: bytes, /) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


def blocks(path: str, *, compression: str, start: int = 0) -> Iterator[bytes]:
    """Decompressed blocks from byte `start` (which must be 0 where there is a compression)."""
    raw = _raw_blocks(path, start, COMPRESSED_BLOCK_BYTES if compression else BLOCK_BYTES)
    if compression == ".gz":
        return _decompressed(raw, lambda: zlib.decompressobj(wbits=31))
    if compression == ".zst":
        # zstd --long=31 frames need a window of 2 GiB; ordinary frames allocate what they declare.
        pieces = (block[at : at + ZSTD_BLOCK_BYTES] for block in raw for at in range(0, len(block), ZSTD_BLOCK_BYTES))
        return _decompressed(pieces, zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj)
    return raw


def lines(chunks: Iterable[bytes], *, offset: int = 0) -> Iterator[tuple[int, bytes, bool]]:
    """(offset of its first byte, line without newline, True where a newline ended it).

    A line longer than MAX_RECORD_BYTES comes back cut to MAX_RECORD_BYTES + 1 bytes, which tells the caller.
    """
    held: list[bytes] = []
    held_bytes = length = 0
    for chunk in chunks:
        head, *rest = chunk.split(b"\n")
        for piece in rest:
            held.append(head[: MAX_RECORD_BYTES + 1 - held_bytes])
            yield offset, (b"".join(held) if len(held) > 1 else held[0]), True
            offset += length + len(head) + 1
            held.clear()
            held_bytes = length = 0
            head = piece
        if head:
            kept = head[: MAX_RECORD_BYTES + 1 - held_bytes]
            held.append(kept)
            held_bytes += len(kept)
            length += len(head)
    if length:
        yield offset, b"".join(held), False


def lines_of_range(path: str, start: int, stop: int) -> Iterator[tuple[int, bytes, bool]]:
    """The lines of a plain file whose first byte lies in [start, stop)."""
    if start == 0:
        found = lines(blocks(path, compression=""))
    else:
        found = lines(blocks(path, compression="", start=start - 1), offset=start - 1)
        next(found, None)  # the end of the line before, empty where `start` is the beginning of a line
    for line in found:
        if line[0] >= stop:
            return
        yield line


def count_newlines(path: str, stop: int) -> int:
    """How many newlines lie in the first `stop` bytes of a plain file."""
    count = seen = 0
    for block in blocks(path, compression=""):
        count += block.count(b"\n", 0, stop - seen)
        seen += len(block)
        if seen >= stop:
            break
    return count


def _raw_blocks(path: str, start: int, size: int) -> Iterator[bytes]:
    with open_input(path) as file:
        if start:
            file.seek(start)
        while block := file.read(size):
            yield block


def _decompressed(raw: Iterable[bytes], fresh: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Frames or members one after another; zero padding after the last one is allowed, as in gzip(1)."""
    stream: _Decompressor | None = None
    for block in raw:
        while block:
            if stream is None:
                if not block.strip(b"\0"):
                    break
                stream = fresh()
            try:
                text = stream.decompress(block)
            except (zlib.error, zstandard.ZstdError) as error:
                raise Damaged("corrupt", f"the compressed data is corrupt: {error}") from error
            if text:
                yield text
            block = stream.unused_data if stream.eof else b""
            if stream.eof:
                stream = None
    if stream is not None:
        raise Damaged("truncated", "the compressed file ends before its end-of-stream mark")

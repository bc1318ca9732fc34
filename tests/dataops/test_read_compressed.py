"""Compressed files: what came before a break is read, and the break has a line."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import zstandard

from dataops.streams import MAX_RECORD_BYTES, blocks
from tests.dataops.reading import faults, jsonl, read_all, texts, write


def compressed(data: bytes, suffix: str) -> bytes:
    return gzip.compress(data) if suffix == ".gz" else zstandard.compress(data)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_members_follow_one_another(tmp_path: Path, suffix: str) -> None:
    first, second = jsonl({"text": "one"}), jsonl({"text": "two"})
    path = write(tmp_path / f"a.jsonl{suffix}", compressed(first, suffix) + compressed(second, suffix))
    assert texts(read_all(path)) == ["one", "two"]
    assert faults(read_all(path)) == []


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize(("fault", "reason"), [("cut", "truncated"), ("flip", "corrupt")])
def test_records_before_a_broken_stream_are_kept_and_the_break_has_a_line(
    tmp_path: Path, suffix: str, fault: str, reason: str
) -> None:
    words = [os.urandom(3000).hex() for _ in range(400)]
    parts = [compressed(jsonl(*({"text": word} for word in words[i : i + 100])), suffix) for i in range(0, 400, 100)]
    if fault == "cut":
        data = b"".join(parts[:2]) + parts[2][: len(parts[2]) // 2]
    else:
        data = b"".join(parts[:2]) + parts[2][:6] + b"\xff" * 40 + parts[2][46:]
    items = read_all(write(tmp_path / f"a.jsonl{suffix}", data))
    kept = texts(items)
    assert kept == words[: len(kept)]
    assert len(kept) >= 200
    assert faults(items) == [(f"line {len(kept) + 1}", reason)]


def test_zero_padding_after_a_gzip_member_is_no_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(jsonl({"text": "one"})) + bytes(512))
    assert texts(read_all(path)) == ["one"]
    assert faults(read_all(path)) == []


def test_a_block_of_what_expands_most_stays_in_bounds(tmp_path: Path) -> None:
    path = tmp_path / "zeros.zst"
    path.write_bytes(zstandard.compress(bytes(192 << 20)))
    assert path.stat().st_size < 1 << 14
    sizes = [len(block) for block in blocks(str(path), compression=".zst")]
    assert sum(sizes) == 192 << 20
    assert max(sizes) <= MAX_RECORD_BYTES

"""fastText's training gives the same model in memory that was used before."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from dataops.fasttext_training import LABEL, train_supervised, train_unsupervised

BLOCKS, BLOCK_BYTES = 600, 100_000  # below malloc's least mapped size, so that freed ones are handed out again
LARGE = {"dim": 24, "epoch": 1, "bucket": 400_000, "minCount": 1}
SMALL = {"dim": 4, "epoch": 1, "bucket": 0, "minCount": 1}


def dirty_memory() -> None:
    """Free 60 MB of memory that holds NaN; the block after it, which keeps malloc from giving it back, is kept."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(BLOCK_BYTES) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 0xFF, BLOCK_BYTES)
    libc.malloc(BLOCK_BYTES)
    for block in blocks:
        libc.free(block)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{LABEL}{i % 2} word{i} word{i % 7} word{i % 2} end\n" for i in range(400)))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="how malloc hands out memory again is glibc's")
@pytest.mark.parametrize("options", [{**LARGE, "wordNgrams": 2}, {**SMALL, "wordNgrams": 1}], ids=["large", "small"])
def test_a_model_is_the_same_in_memory_that_was_used_before(lines: Path, options: dict) -> None:
    first = train_supervised(lines, seed=1, **options).get_input_matrix().copy()
    dirty_memory()
    assert (train_supervised(lines, seed=1, **options).get_input_matrix() == first).all()
    dirty_memory()
    assert len(train_unsupervised(lines, model="cbow", minn=0, maxn=0, **options).get_words()) > 400

"""What a model was given, against a walk through its samples one by one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from catalog.pack import PADDING, PackFormat, Packs, write_pack
from training.given import given
from training.order import Order


def pack(path: Path, rows: int, *, first: int) -> Path:
    """Rows of 8 tokens with one or two documents each, the last one padded."""
    starts = [[0] if row % 2 else [0, 3] for row in range(rows)]
    documents = [[(first + row + i).to_bytes(16, "big") for i in range(len(cut))] for row, cut in enumerate(starts)]
    starts[-1], documents[-1] = [0, 5], [documents[-1][0], PADDING]
    cells = np.arange(rows) * 3 // rows
    pack_format = PackFormat(context=8, vocab_size=16, end_of_text=0, tokenizer="t")
    write_pack(path, pack_format, tokens=np.zeros((rows, 8), np.int64), cells=cells, starts=starts, documents=documents)
    return path


def test_it_is_what_a_walk_through_the_samples_counts(tmp_path: Path) -> None:
    packs = Packs([pack(tmp_path / "a.arrow", 7, first=1), pack(tmp_path / "b.arrow", 5, first=4)])
    order = Order(packs.rows_per_cell, [0.7, 0.1, 0.2], seed=3)
    for samples in (0, 1, 5, 40):
        walked: Counter[str] = Counter()
        for number in range(samples):
            drawn = order.samples(number, number + 1)
            (row,) = packs.rows(drawn.cells, drawn.rows)
            segments = packs.segments(np.array([row]))[0]
            names = packs.documents(int(row))
            walked.update(dict.fromkeys(names, 0))
            for segment, name in enumerate(names):
                walked[name] += int((segments == segment).sum())
        found = given(packs, [(order, samples)])
        counted: Counter[str] = Counter()
        for row in found.to_pylist():
            counted[row["id"]] += row["n_tokens"] * row["samples"]
        assert counted == walked
        assert all(row["samples"] > 0 for row in found.to_pylist())

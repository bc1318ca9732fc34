from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import CorruptStore
from catalog.pack import PADDING, PackFormat, Packs, held_segments, mask, write_pack


def pack_format(context: int = 4, vocab_size: int = 50) -> PackFormat:
    return PackFormat(context=context, vocab_size=vocab_size, end_of_text=0, tokenizer="t")


@st.composite
def packed(draw):
    """(format, tokens, cells, starts, documents) of up to 12 rows, sorted by cell, some with a padded tail."""
    context = draw(st.integers(1, 8))
    vocab_size = draw(st.sampled_from([2, 300, 1 << 16, (1 << 16) + 1]))
    cells = np.array(sorted(draw(st.lists(st.integers(0, 5), max_size=12))), np.int64)
    tokens = np.array(
        [draw(st.lists(st.integers(0, vocab_size - 1), min_size=context, max_size=context)) for _ in cells], np.int64
    ).reshape(len(cells), context)
    starts, documents = [], []
    for _ in cells:
        inner = draw(st.sets(st.integers(1, context - 1))) if context > 1 else set()
        starts.append([0, *sorted(inner)])
        ids = [draw(st.binary(min_size=16, max_size=16).filter(lambda each: each != PADDING)) for _ in starts[-1]]
        if len(ids) > 1 and draw(st.booleans()):
            ids[-1] = PADDING
        documents.append(ids)
    return pack_format(context, vocab_size), tokens, cells, starts, documents


def write(path, parts):
    form, tokens, cells, starts, documents = parts
    write_pack(path, form, tokens=tokens, cells=cells, starts=starts, documents=documents)


@given(packed(), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_rows_read_back_from_one_file_or_two(tmp_path_factory, parts, cut):
    form, tokens, cells, starts, documents = parts
    folder = tmp_path_factory.mktemp("packs")
    write(folder / "all", parts)
    write(folder / "head", (form, tokens[:cut], cells[:cut], starts[:cut], documents[:cut]))
    write(folder / "tail", (form, tokens[cut:], cells[cut:], starts[cut:], documents[cut:]))
    for packs in (Packs([folder / "all"]), Packs([folder / "head", folder / "tail"])):
        every = np.arange(len(cells))
        assert (packs.format, len(packs)) == (form, len(cells))
        assert np.array_equal(packs.tokens(every), tokens)
        assert np.array_equal(packs.rows_per_cell, np.bincount(cells) if len(cells) else [])
        for cell, count in enumerate(packs.rows_per_cell):
            rows = packs.rows(np.full(count, cell), np.arange(count))
            assert np.array_equal(rows, np.flatnonzero(cells == cell))
        for row in every:
            owner = packs.segments(np.array([row]))[0]
            for position in range(form.context):
                segment = max(i for i, start in enumerate(starts[row]) if start <= position)
                assert owner[position] == (-1 if documents[row][segment] == PADDING else segment)
            assert packs.documents(row) == [each.hex() for each in documents[row] if each != PADDING]


def test_equal_rows_are_equal_bytes(tmp_path):
    parts = (pack_format(), np.arange(8).reshape(2, 4), np.array([0, 1]), [[0], [0, 2]], [[b"a" * 16], [b"b" * 16] * 2])
    write(tmp_path / "one", parts)
    write(tmp_path / "two", parts)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_tokens_are_read_from_the_page_cache_and_not_copied(tmp_path):
    rows = 4000
    tokens = np.ones((rows, 256), np.int64)
    write(tmp_path / "big", (pack_format(256), tokens, np.zeros(rows), [[0]] * rows, [[b"a" * 16]] * rows))
    before = pa.total_allocated_bytes()
    packs = Packs([tmp_path / "big"])
    assert pa.total_allocated_bytes() - before < 100_000 < (tmp_path / "big").stat().st_size
    assert not packs._tokens[0].flags.owndata
    assert packs._tokens[0].dtype == np.uint16


def test_wrong_rows_are_refused_before_anything_is_written(tmp_path):
    one = {"cells": np.array([0]), "starts": [[0]], "documents": [[b"a" * 16]]}
    with pytest.raises(ValueError, match="rows of 3 tokens for a pack of context 4"):
        write_pack(tmp_path / "p", pack_format(), tokens=np.zeros((1, 3), int), **one)
    with pytest.raises(ValueError, match="token ids from 0 to 65536 for a vocabulary of 50"):
        write_pack(tmp_path / "p", pack_format(), tokens=np.array([[0, 1, 2, 65536]]), **one)
    assert not (tmp_path / "p").exists()


def other_arrow_file(path):
    table = pa.table({"a": [1]})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("wrong", ["missing", "empty", "text", "cut", "other arrow"])
def test_a_file_that_is_no_pack_is_named(tmp_path, wrong):
    path = tmp_path / "wrong.pack"
    if wrong == "other arrow":
        other_arrow_file(path)
    elif wrong != "missing":
        write(path, (pack_format(), np.arange(4).reshape(1, 4), np.array([0]), [[0]], [[b"a" * 16]]))
        path.write_bytes({"empty": b"", "text": b"hello" * 100, "cut": path.read_bytes()[:-40]}[wrong])
    with pytest.raises(CorruptStore, match=r"wrong\.pack"):
        Packs([path])


def test_packs_of_two_formats_are_not_mixed(tmp_path):
    rest = (np.arange(4).reshape(1, 4), np.array([0]), [[0]], [[b"a" * 16]])
    write(tmp_path / "one", (pack_format(vocab_size=50), *rest))
    write(tmp_path / "two", (pack_format(vocab_size=60), *rest))
    with pytest.raises(CorruptStore, match=r"vocab_size=60.*vocab_size=50"):
        Packs([tmp_path / "one", tmp_path / "two"])


@given(packed(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_a_masked_document_becomes_padding_and_nothing_else_changes(tmp_path_factory, parts, choice):
    form, _, cells, starts, documents = parts
    folder = tmp_path_factory.mktemp("packs")
    write(folder / "before", parts)
    names = sorted({each for row in documents for each in row if each != PADDING})
    gone = {names[choice % len(names)]} if names else set()
    mask(folder / "before", folder / "after", [each.hex() for each in gone])
    before, after, every = Packs([folder / "before"]), Packs([folder / "after"]), np.arange(len(cells))
    held = [row for row in every if gone & set(documents[row])]
    assert sorted(set(held_segments(folder / "before", [each.hex() for each in gone])[1].tolist())) == held
    assert (after.format, len(after)) == (before.format, len(before))
    assert np.array_equal(after.rows_per_cell, before.rows_per_cell)
    hidden = np.zeros((len(cells), form.context), bool)
    for row in every:
        for begin, end, name in zip(starts[row], [*starts[row][1:], form.context], documents[row], strict=True):
            hidden[row, begin:end] = name in gone
    tokens = before.tokens(every)
    assert np.array_equal(after.tokens(every), np.where(hidden, form.end_of_text, tokens))
    assert np.array_equal(after.segments(every), np.where(hidden, -1, before.segments(every)))
    assert [after.documents(row) for row in every] == [
        [each.hex() for each in documents[row] if each != PADDING and each not in gone] for row in every
    ]
    mask(folder / "before", folder / "again", [each.hex() for each in gone])
    assert (folder / "again").read_bytes() == (folder / "after").read_bytes()

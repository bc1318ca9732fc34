"""Packs: every token of every window once, in rows that know their documents."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from catalog.errors import UsageError
from catalog.pack import Packs
from catalog.snapshot import Snapshot
from dataops import pack as packing
from dataops.importance import Weigh
from dataops.pack import Pack, pack_cell, partition_of_cells
from dataops.resample import Resample
from tests.dataops.conftest import CONTEXT, Selection, apply, live, rows_of

END = 0  # the end-of-text token is the first special one
Piece = tuple[int, ...]


def read(selection: Selection, packs: Snapshot) -> Packs:
    return Packs([selection.catalog.store.local(shard.tables["pack"]) for shard in packs.contents.shards])


def wanted_pieces(selection: Selection, snapshot: Snapshot) -> dict[tuple[int, str], Counter[Piece]]:
    """The pieces of each cell and document: windows with the end-of-text token where the document begins and ends."""
    tokens = {row["id"]: row["tokens"] for row in live(selection.catalog, snapshot, "id", "tokens", table="tokens")}
    columns = ("id", "window", "start", "n_tokens", "cell")
    windows = live(selection.catalog, snapshot, *columns, table="cells")
    if "resample" in snapshot.contents.layers:
        drawn = {(row["id"], row["window"]) for row in rows_of(selection.catalog, snapshot, "draws")}
        windows = [row for row in windows if (row["id"], row["window"]) in drawn]
    pieces: dict[tuple[int, str], Counter[Piece]] = {}
    for row in windows:
        document, stop = tokens[row["id"]], row["start"] + row["n_tokens"]
        piece = document[row["start"] : stop]
        piece = [END] * (row["start"] == 0) + piece + [END] * (stop == len(document))
        pieces.setdefault((row["cell"], row["id"]), Counter())[tuple(piece)] += 1
    return pieces


def found_pieces(packs: Packs, wanted: dict[tuple[int, str], Counter[Piece]]) -> dict[tuple[int, str], Counter[Piece]]:
    """Take the rows of each cell apart again: at each place, a piece of the document that its segment names."""
    found: dict[tuple[int, str], Counter[Piece]] = {}
    for cell, num_rows in enumerate(packs.rows_per_cell.tolist()):
        rows = packs.rows(np.full(num_rows, cell), np.arange(num_rows))
        segments = packs.segments(rows)
        names = [packs.documents(int(row)) for row in rows]
        used = segments.reshape(-1) >= 0
        stream = packs.tokens(rows).reshape(-1)
        assert not np.any(np.diff(used.astype(int)) > 0), "padding is at the end of the cell alone"
        assert (stream[~used] == END).all()
        assert (~used).sum() < packs.format.context
        owner = [names[i // segments.shape[1]][s] for i, s in enumerate(segments.reshape(-1).tolist()) if s >= 0]
        begins = {i for i in range(1, len(owner)) if segments.reshape(-1)[i] != segments.reshape(-1)[i - 1]} | {0}
        position, tokens = 0, stream[used].tolist()
        while position < len(tokens):
            assert position in begins or position % segments.shape[1] == 0, "every piece begins a segment"
            document = owner[position]
            left = wanted[cell, document] - found.get((cell, document), Counter())
            fits = [p for p in left if tuple(tokens[position : position + len(p)]) == p]
            assert fits, f"no piece of {document} that is left fits at {position} of cell {cell}"
            piece = max(fits, key=len)
            assert set(owner[position : position + len(piece)]) == {document}
            found.setdefault((cell, document), Counter())[piece] += 1
            position += len(piece)
    return found


@pytest.fixture(scope="module")
def resampled(selection: Selection) -> Snapshot:
    mixture = apply(selection.catalog, Weigh(tokens=8_000), selection.pool, selection.target, into="pack-mixture")
    return apply(selection.catalog, Resample(tokens=8_000), selection.pool, mixture, into="pack-resampled")


@pytest.mark.parametrize("context", [CONTEXT, 23, 500])
def test_every_token_of_every_window_is_packed_once_in_segments_of_its_document(
    selection: Selection, context: int
) -> None:
    packs = apply(selection.catalog, Pack(context=context), selection.pool, into="packs")
    wanted = wanted_pieces(selection, selection.pool)
    assert found_pieces(read(selection, packs), wanted) == wanted


def test_of_a_resampled_snapshot_the_drawn_windows_are_packed_and_its_mixture_goes_along(
    selection: Selection, resampled: Snapshot
) -> None:
    packs = apply(selection.catalog, Pack(context=CONTEXT), resampled, into="packs")
    wanted = wanted_pieces(selection, resampled)
    assert found_pieces(read(selection, packs), wanted) == wanted
    assert packs.contents.summary["tokens"] == resampled.contents.summary["tokens"]
    assert packs.artifact("weights") == resampled.artifact("weights")


def test_rows_are_sorted_by_cell_and_the_summary_counts_them(selection: Selection) -> None:
    packs = apply(selection.catalog, Pack(context=CONTEXT), selection.pool, into="packs")
    reader, summary = read(selection, packs), packs.contents.summary
    cells = [cell for batch in reader._batches for cell in batch.column("cell").to_pylist()]
    assert cells == sorted(cells)
    assert reader.rows_per_cell.tolist() == summary["rows_per_cell"][: len(reader.rows_per_cell)]
    assert (len(reader), packs.contents.rows) == (summary["rows"], summary["rows"])
    assert (reader.format.context, reader.format.tokenizer) == (CONTEXT, packs.artifact("tokenizer").sha256)


def test_small_files_hold_the_same_rows_as_one_large_one(selection: Selection, monkeypatch: pytest.MonkeyPatch) -> None:
    one = apply(selection.catalog, Pack(context=CONTEXT), selection.pool, into="one")
    monkeypatch.setattr(packing, "TOKENS_PER_FILE", 3_000)
    monkeypatch.setattr(Pack, "revision", 99)
    many = apply(selection.catalog, Pack(context=CONTEXT), selection.pool, into="many", workers=2)
    assert (len(one.contents.shards), len(many.contents.shards) > 2) == (1, True)
    first, second = read(selection, one), read(selection, many)
    rows = np.arange(len(first))
    np.testing.assert_array_equal(first.tokens(rows), second.tokens(rows))
    np.testing.assert_array_equal(first.segments(rows), second.segments(rows))
    assert [first.documents(row) for row in rows] == [second.documents(row) for row in rows]


def test_another_seed_is_another_order_of_the_same_pieces(selection: Selection) -> None:
    one, two = (apply(selection.catalog, Pack(context=CONTEXT, seed=s), selection.pool, into="packs") for s in (1, 2))
    assert one.id != two.id
    wanted = wanted_pieces(selection, selection.pool)
    assert found_pieces(read(selection, two), wanted) == wanted


def test_a_row_of_a_piece_cut_at_the_edge_goes_on_with_the_same_document() -> None:
    import pyarrow as pa

    a, b = "aa" * 16, "bb" * 16
    pieces = pa.table({"tokens": pa.array([[1, 2, 3, 4, 5], [6]], pa.large_list(pa.uint16())), "document": [a, b]})
    rows, starts, documents = pack_cell(pieces, context=4, end_of_text=9)
    assert rows.tolist() == [[1, 2, 3, 4], [5, 6, 9, 9]]
    assert starts == [[0], [0, 1, 2]]
    assert documents == [[bytes.fromhex(a)], [bytes.fromhex(a), bytes.fromhex(b), bytes(16)]]


def test_a_cell_that_fills_its_rows_exactly_has_no_padding() -> None:
    import pyarrow as pa

    pieces = pa.table({"tokens": pa.array([[1, 2], [3, 4]], pa.large_list(pa.uint16())), "document": ["aa" * 16] * 2})
    rows, starts, documents = pack_cell(pieces, context=4, end_of_text=9)
    assert (rows.tolist(), starts, len(documents[0])) == ([[1, 2, 3, 4]], [[0, 2]], 2)


@pytest.mark.parametrize("tokens", [[5, 5, 5], [100, 5, 5], [5, 100, 100, 5], [0, 0, 7], [9]])
def test_files_are_numbered_without_gaps_and_hold_cells_in_order(
    tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "TOKENS_PER_FILE", 10)
    files = partition_of_cells(np.array(tokens)).tolist()
    assert files[0] == 0
    assert all(after - before in (0, 1) for before, after in pairwise(files))
    for file in set(files):
        inside = [size for size, each in zip(tokens, files, strict=True) if each == file]
        assert sum(inside[:-1]) < 10  # full before its last cell: another would have been begun


def test_a_context_of_one_token_is_refused() -> None:
    with pytest.raises(UsageError, match="a context of 1 tokens: expected at least 2"):
        Pack(context=1)

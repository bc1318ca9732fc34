"""Parquet: files are cut between row groups, and what is damaged has its rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataops.input_check import check
from dataops.inputs import discover, slices
from dataops.records import ReadOptions, Record
from tests.dataops.reading import PLAIN, faults, parquet, read_all, texts


def test_parquet_is_cut_between_row_groups_and_reads_the_same(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet")
    options = ReadOptions(id_column="id")
    whole, cut = read_all(path, options), read_all(path, options, target_bytes=20_000)
    assert whole == cut
    assert len(slices(discover([str(path)], source=None), target_bytes=20_000)) == 6
    assert [item.source_id for item in whole if isinstance(item, Record)] == [str(i) for i in range(3000)]


def test_a_corrupt_page_loses_the_rest_of_its_row_group_only(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet")
    column = pq.read_metadata(path).row_group(2).column(1)
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 400] = b"\xff" * 400
    path.write_bytes(data)
    items = read_all(path)
    ((position, reason),) = faults(items)
    first = int(position.split()[1])
    assert reason == "corrupt"
    assert position == f"rows {first} to 1500"
    assert 1001 <= first <= 1500
    assert len(texts(items)) == 3000 - (1500 - first + 1)


def test_parquet_strings_that_are_not_utf8_are_quarantined_one_by_one(tmp_path: Path) -> None:
    values = pa.array([b"good", b"caf\xe9", None, b"fine", b" "], pa.binary())
    for kind in (pa.binary(), pa.string(), pa.large_string()):
        column = pa.Array.from_buffers(kind, 5, values.buffers()) if kind != pa.large_string() else values
        path = parquet(tmp_path / "a.parquet", text=column)
        items = read_all(path)
        assert texts(items) == ["good", "fine"]
        assert faults(items) == [("row 2", "invalid-utf8"), ("row 3", "null-text"), ("row 5", "empty-text")]


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.large_string(), pa.string_view()])
def test_every_arrow_kind_of_text_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    path = parquet(tmp_path / "a.parquet", text=pa.array(["one", "two", "one"]).cast(kind))
    check(discover([str(path)], source=None), PLAIN)
    assert texts(read_all(path)) == ["one", "two", "one"]

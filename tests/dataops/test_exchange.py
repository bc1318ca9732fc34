"""Exchange through files: every row arrives once, in its partition, however often it is sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dataops import exchange
from dataops.exchange import by_key, gather, num_partitions, scatter


@pytest.mark.parametrize("partitions", [1, 2, 7, 1000])
def test_partitions_are_equal_ranges_of_the_key_space(partitions: int) -> None:
    keys = np.random.default_rng(1).integers(0, 1 << 64, 20_000, dtype=np.uint64)
    keys[:2] = 0, (1 << 64) - 1
    found = by_key(keys, partitions)
    truth = [(int(key) >> 32) * partitions // (1 << 32) for key in keys]
    assert found.tolist() == truth
    assert (found.min(), found.max()) == (0, partitions - 1)
    order = np.argsort(keys)
    assert np.all(np.diff(found[order]) >= 0)
    if partitions <= 7:
        assert np.bincount(found).min() > 0.9 * len(keys) / partitions


def test_rows_arrive_in_their_partition_in_the_order_of_files_and_rows(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    paths, sent = [], []
    for file in range(3):
        partition = draw.integers(0, 5, 40)
        partition[partition == 3] = 4  # nothing for partition 3
        table = pa.table({"file": [file] * 40, "row": range(40), "text": [f"{file}-{i}" for i in range(40)]})
        paths.append(scatter(tmp_path / f"{file}.arrow", table, partition, 5))
        sent += [(p, file, row, f"{file}-{row}") for row, p in enumerate(partition.tolist())]
    for partition in range(5):
        got = [(partition, *row.values()) for row in gather(paths, partition).to_pylist()]
        assert got == [each for each in sent if each[0] == partition]


def test_a_table_without_rows_is_sent_and_has_its_columns(tmp_path: Path) -> None:
    empty = pa.table({"a": pa.array([], pa.int32()), "b": pa.array([], pa.large_list(pa.uint16()))})
    path = scatter(tmp_path / "empty.arrow", empty, np.empty(0, np.int64), 3)
    for partition in range(3):
        assert gather([path], partition).equals(empty)


def test_sending_again_replaces_the_file_with_the_same_bytes_and_readers_keep_what_they_have(tmp_path: Path) -> None:
    table, partition = pa.table({"a": range(1000)}), np.arange(1000) % 3
    path = scatter(tmp_path / "deep" / "x.arrow", table, partition, 3)
    first, held = Path(path).read_bytes(), gather([path], 1)
    assert scatter(tmp_path / "deep" / "x.arrow", table, partition, 3) == path
    assert Path(path).read_bytes() == first
    assert held["a"].to_pylist() == list(range(1, 1000, 3))
    assert [each.name for each in (tmp_path / "deep").iterdir()] == ["x.arrow"]


def test_the_number_of_partitions_is_a_function_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "ROWS_PER_PARTITION", 10)
    assert [num_partitions(rows) for rows in (0, 1, 10, 11, 25)] == [1, 1, 1, 2, 3]

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import CorruptStore
from catalog.snapshot import Shard
from catalog.store import Store
from catalog.tables import live_rows, read_live, read_table, write_table
from tests.catalog.planted import decisions, documents


def test_equal_rows_are_equal_bytes_however_they_are_chunked(tmp_path):
    store, table = Store(tmp_path), documents(0, 50)
    pieces = [table.slice(start, 10) for start in range(0, 50, 10)]
    import pyarrow as pa

    assert write_table(store, table) == write_table(store, pa.concat_tables(pieces))


@given(st.sets(st.integers(0, 19)), st.sets(st.integers(0, 19)))
@settings(max_examples=25, deadline=None)
def test_read_live_gives_the_rows_that_the_last_layer_keeps_in_order(tmp_path_factory, first, second):
    store = Store(tmp_path_factory.mktemp("store"))
    survivors = sorted(first)
    both = sorted(first & second)
    shard = Shard(
        rows=len(both),
        tables={
            "documents": write_table(store, documents(100, 20)),
            "one": write_table(store, decisions(100, survivors, range(20))),
            "two": write_table(store, decisions(100, both, survivors)),
        },
    )
    assert read_live(store, shard, (), ["row"])["row"].to_pylist() == list(range(20))
    assert read_live(store, shard, ("one",), ["row"])["row"].to_pylist() == survivors
    table = read_live(store, shard, ("one", "two"), ["text", "id"])
    assert table.column_names == ["text", "id"]
    assert table["text"].to_pylist() == [f"document {100 + row}" for row in both]
    assert live_rows(store, shard, ("one", "two")).to_pylist() == both
    assert read_live(store, shard, ("one",), ["kept"], table="two")["kept"].to_pylist() == [
        row in both for row in survivors
    ]


def test_a_table_that_can_not_be_read_is_named_with_the_remedy(tmp_path):
    store = Store(tmp_path)
    ref = write_table(store, documents(0, 5))
    (tmp_path / ref.path).write_bytes(b"PAR1 no")
    with pytest.raises(CorruptStore, match=r"data/.*can't be read.*tamis verify"):
        read_table(store, ref)

"""The documents of a snapshot in the forms that other libraries take."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from catalog.errors import UsageError
from catalog.query import sql
from tests.conftest import Curated


def test_they_are_the_live_ones_with_their_text_as_sql_gives_them(curated: Curated) -> None:
    snapshot = curated.catalog.snapshot("clean-tokens")
    found = snapshot.documents(["id", "text", "n_tokens"]).to_arrow().to_pylist()
    rows = sql(
        curated.catalog,
        "SELECT id, text, n_tokens FROM documents JOIN (SELECT DISTINCT * FROM texts) USING (id) "
        "WHERE snapshot = 'clean-tokens@1'",
    ).to_pylist()
    assert sorted(found, key=lambda row: row["id"]) == sorted(rows, key=lambda row: row["id"])


def test_a_snapshot_and_its_documents_show_themselves_in_a_line(curated: Curated) -> None:
    snapshot = curated.catalog.snapshot("clean")
    for each in (snapshot, snapshot.documents()):
        assert len(repr(each)) < 500
        assert "data/" not in repr(each), "the files may be thousands"


def test_a_data_frame_and_a_batch_a_shard_hold_the_same_rows(curated: Curated) -> None:
    documents = curated.catalog.snapshot("clean").documents()
    frame, table = documents.to_pandas(), documents.to_arrow()
    assert frame["id"].tolist() == table["id"].to_pylist()
    assert [id for batch in documents.batches() for id in batch["id"].to_pylist()] == table["id"].to_pylist()


@pytest.mark.parametrize(
    ("library", "form", "rows"),
    [
        ("pandas", "to_pandas", lambda frame: frame.to_dict("records")),
        ("polars", "to_polars", lambda frame: frame.to_dicts()),
        ("datasets", "to_datasets", lambda dataset: dataset.to_list()),
    ],
)
def test_each_library_has_the_rows_of_the_arrow_table(curated: Curated, library: str, form: str, rows: Any) -> None:
    pytest.importorskip(library, reason="not installed with tamis")
    documents = curated.catalog.snapshot("clean-tokens").documents(["id", "text", "n_tokens", "tokens"])
    found = [{**row, "tokens": list(row["tokens"])} for row in rows(getattr(documents, form)())]
    assert found == documents.to_arrow().to_pylist()


@pytest.mark.parametrize(
    ("library", "form"), [("polars", "to_polars"), ("datasets", "to_datasets"), ("pandas", "to_pandas")]
)
def test_a_library_that_is_not_there_is_named_with_what_works_without(
    curated: Curated, monkeypatch: pytest.MonkeyPatch, library: str, form: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    documents = curated.catalog.snapshot("clean").documents()
    with pytest.raises(UsageError, match=rf"{library} is not installed: pip install {library}, or take to_arrow\(\)"):
        getattr(documents, form)()


def test_a_column_that_is_not_there_and_another_kind_are_refused(curated: Curated) -> None:
    with pytest.raises(UsageError, match="no column 'txet'; their columns: row, id"):
        curated.catalog.snapshot("clean").documents(["txet"])
    with pytest.raises(UsageError, match="no table 'tokens'"):
        curated.catalog.snapshot("pool").documents(["n_tokens"])
    with pytest.raises(UsageError, match="is a mixture snapshot where documents was expected"):
        curated.catalog.snapshot("mixture").documents()


def test_a_catalog_answers_sql_itself(curated: Curated) -> None:
    assert curated.catalog.sql("SELECT ? AS x", [3])["x"].to_pylist() == [3]

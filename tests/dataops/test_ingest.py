"""Ingestion into document shards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from catalog.errors import BadInput
from catalog.query import sql
from dataops.ingest import Ingest
from tests.dataops.conftest import Make, apply, live, prose


def test_unusable_records_are_quarantined_with_place_and_reason_and_the_run_goes_on(
    catalog: Catalog, tmp_path: Path
) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(
        b'{"text": "a good document"}\n{"text": 7}\n{"text": null}\nnot json\n{"text": "bad \xff bytes"}\n'
        b'{"text": "\\ud800"}\n{"text": "NUL \\u0000 inside"}\n{"text": "cut off'
    )
    apply(catalog, Ingest(paths=(str(path),)), into="pool")
    rows = sql(catalog, "SELECT position, reason FROM quarantine ORDER BY position").to_pylist()
    assert [(row["position"], row["reason"]) for row in rows] == [
        ("line 2", "non-string-text"),
        ("line 3", "null-text"),
        ("line 4", "malformed-json"),
        ("line 5", "invalid-utf8"),
        ("line 6", "lone-surrogate"),
        ("line 8", "truncated"),
    ]
    assert [row["text"] for row in live(catalog, catalog.snapshot("pool"), "text")] == [
        "a good document",
        "NUL  inside",
    ]


def test_ids_do_not_depend_on_where_the_files_lie_or_how_they_are_cut(catalog: Catalog, tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "docs", tmp_path / "elsewhere" / "docs"
    first.mkdir(parents=True)
    rows = [{"text": prose(seed)} for seed in range(50)]
    (first / "part.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(first, second)
    one = apply(catalog, Ingest(paths=(str(first),)), into="one")
    two = apply(catalog, Ingest(paths=(str(second),), shard_bytes=5_000), into="two")
    assert len(two.contents.shards) > len(one.contents.shards)
    assert {row["id"] for row in live(catalog, one, "id")} == {row["id"] for row in live(catalog, two, "id")}


def test_the_same_files_elsewhere_are_not_ingested_again(catalog: Catalog, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text('{"text": "hello there"}\n')
    one = apply(catalog, Ingest(paths=(str(tmp_path / "a" / "x.jsonl"),)), into="pool")
    two = apply(catalog, Ingest(paths=(str(tmp_path / "b" / "x.jsonl"),)), into="pool")
    assert two.ref == one.ref == "pool@1"


def test_repeats_are_two_documents_of_one_content(catalog: Catalog, ingest: Make) -> None:
    rows = live(catalog, ingest([{"text": "same text"}, {"text": "same text"}]), "id", "content")
    assert len({row["id"] for row in rows}) == 2
    assert len({row["content"] for row in rows}) == 1


def test_your_own_ids_and_urls_stay_beside_ours(catalog: Catalog, ingest: Make) -> None:
    rows = [{"text": "some text", "key": 17, "link": "https://example.org/page?x=1"}]
    ingest(rows, id_column="key", url_column="link")
    found = sql(catalog, "SELECT source_id, url, host FROM documents").to_pylist()
    assert found == [{"source_id": "17", "url": "https://example.org/page?x=1", "host": "example.org"}]


def test_a_missing_column_is_one_clear_error_and_nothing_is_committed(catalog: Catalog, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(BadInput, match="content"):
        apply(catalog, Ingest(paths=(str(tmp_path / "x.parquet"),)), into="pool")
    assert catalog.refresh().sequence == 0

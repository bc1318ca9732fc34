"""The invariant of deduplication on real text: template answers that look alike, and acts that repeat one another."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog.catalog import Catalog
from dataops.exact import ExactDedup
from dataops.fuzzy import FuzzyDedup
from dataops.ingest import Ingest
from tests.dataops.conftest import apply, decisions, live
from tests.dataops.test_fuzzy import jaccard

CORPORA = Path(__file__).parents[3] / "shared" / "corpora"  # lies beside a checkout of ours, is no part of it


@pytest.mark.parametrize("name", ["medical_qa", "law_dc_code"])
def test_every_removal_names_a_kept_document_that_is_that_similar(catalog: Catalog, tmp_path: Path, name: str) -> None:
    path = CORPORA / f"{name}.parquet"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    texts = pq.read_table(path, columns=["text"])["text"][:5000]
    pq.write_table(pa.table({"text": texts}), tmp_path / "part.parquet", row_group_size=1000)
    pool = apply(catalog, Ingest(paths=(str(tmp_path / "part.parquet"),)), into="pool")
    unique = apply(catalog, ExactDedup(), pool, into="unique")
    rows = decisions(catalog, apply(catalog, FuzzyDedup(), unique, into="dedup"))
    text = {row["id"]: row["text"] for row in live(catalog, unique, "id", "text")}
    kept = {row["id"] for row in rows if row["kept"]}
    dropped = [row for row in rows if not row["kept"]]
    assert len(dropped) > 20
    for row in dropped:
        assert row["kept_id"] in kept
        similarity = jaccard(text[row["id"]], text[row["kept_id"]])
        assert similarity >= 0.8
        assert similarity == pytest.approx(row["similarity"])

"""Lineage: the tree of runs, and what each rule took from the documents that a snapshot is made of."""

from __future__ import annotations

import json
import re
import uuid
from datetime import datetime
from itertools import pairwise
from types import SimpleNamespace

import jsonschema
import pytest

from catalog.errors import UsageError
from catalog.fingerprint import sha256_file
from catalog.lineage import ancestors, tree, waterfall
from catalog.openlineage import run_events
from catalog.query import sql
from tests.conftest import Curated

_NAMED = {
    "type": "object",
    "required": ["namespace", "name"],
    "properties": {
        "namespace": {"type": "string"},
        "name": {"type": "string"},
        "facets": {"type": "object", "additionalProperties": {"required": ["_producer", "_schemaURL"]}},
    },
}
# The required fields and types of RunEvent in OpenLineage 2-0-2.
RUN_EVENT = {
    "type": "object",
    "required": ["eventTime", "producer", "schemaURL", "run", "job"],
    "properties": {
        "eventTime": {"type": "string", "format": "date-time"},
        "producer": {"type": "string", "pattern": "^[a-z]+:"},
        "schemaURL": {"type": "string", "pattern": "^https://openlineage.io/spec/.*/OpenLineage.json#/"},
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "run": {"type": "object", "required": ["runId"], "properties": {"runId": {"type": "string", "format": "uuid"}}},
        "job": _NAMED,
        "inputs": {"type": "array", "items": _NAMED},
        "outputs": {"type": "array", "items": _NAMED},
    },
}


def nodes(lines: list[str]) -> list[str]:
    """Without the lines of settings and source files."""
    return [line for line in lines if "@1  " in line]


def test_the_tree_draws_every_ancestor_once_and_points_back_to_what_was_drawn(curated: Curated) -> None:
    catalog = curated.catalog
    lines = nodes(tree(catalog, catalog.snapshot("resampled")))
    assert lines[0].startswith("resampled@1  resample  ")
    drawn = [re.search(r"[a-z-]+@1", line)[0] for line in lines if "see above" not in line]  # type: ignore[index]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {each.ref for each in ancestors(catalog, catalog.snapshot("resampled"))}
    assert any(line.endswith("clean-cells@1  see above") for line in lines)
    pool = next(line for line in lines if " pool@1 " in line)
    assert "ingest  53 documents" in pool
    assert catalog.snapshot("pool").id[:12] in pool


def test_the_branches_of_the_tree_stand_under_what_they_led_to(curated: Curated) -> None:
    lines = nodes(tree(curated.catalog, curated.catalog.snapshot("clean")))
    assert [re.sub(r"@1.*", "", line) for line in lines] == [
        "clean",
        "├─ pool-quality",
        "│  └─ pool-dedup",
        "│     └─ pool-unique",
        "│        └─ pool",
        "└─ target-clean",
        "   └─ target-dedup",
        "      └─ target-unique",
        "         └─ target",
    ]


def test_the_tree_ends_at_source_files_and_shows_settings_code_and_time(curated: Curated) -> None:
    lines = tree(curated.catalog, curated.catalog.snapshot("pool-dedup"))
    assert re.match(r"pool-dedup@1  fuzzy-dedup  51 documents  [0-9.]+ s  [0-9a-f]{12}  tamis [\w.]+$", lines[0])
    assert re.match(r"│  .*prefer n_chars DESC, .*threshold 0.8", lines[1])
    assert lines[-1].endswith(f"└─ pool.jsonl  {sha256_file(curated.store.parent / 'pool.jsonl')[:12]}")


def test_runs_are_written_as_openlineage_events_with_all_that_the_specification_requires(curated: Curated) -> None:
    catalog = curated.catalog
    snapshot = catalog.snapshot("clean")
    events = [json.loads(line) for line in run_events(catalog, snapshot)]
    found = ancestors(catalog, snapshot)
    assert [event["outputs"][0]["name"] for event in events] == [each.ref for each in found for _ in range(2)]
    for start, complete in zip(events[::2], events[1::2], strict=True):
        assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
        assert start["run"]["runId"] == complete["run"]["runId"]
        assert start["eventTime"] <= complete["eventTime"]
    for event in events:
        jsonschema.validate(event, RUN_EVENT, format_checker=jsonschema.FormatChecker())
        uuid.UUID(event["run"]["runId"])
        assert datetime.fromisoformat(event["eventTime"]).tzinfo
    assert len({event["run"]["runId"] for event in events}) == len(found)
    last = events[-1]
    assert [each["name"] for each in last["inputs"]] == list(snapshot.inputs)
    first = next(event for event in events if event["outputs"][0]["name"] == "pool@1")
    (file,) = first["inputs"]
    digest = sha256_file(curated.store.parent / "pool.jsonl")
    assert (file["name"], file["facets"]["version"]["datasetVersion"]) == ("pool.jsonl", digest)


def test_ancestors_come_before_what_was_made_of_them(curated: Curated) -> None:
    found = [each.ref for each in ancestors(curated.catalog, curated.catalog.snapshot("specialized-packs"))]
    assert found[-1] == "specialized-packs@1"
    for earlier, later in (("pool@1", "clean@1"), ("clean-cells@1", "mixture@1"), ("mixture@1", "resampled@1")):
        assert found.index(earlier) < found.index(later)


def test_ancestors_of_many_paths_are_found_once_each() -> None:
    made = [SimpleNamespace(ref=f"s{number}@1") for number in range(60)]
    inputs = {each.ref: made[max(0, number - 2) : number] for number, each in enumerate(made)}  # 10^12 paths
    catalog = SimpleNamespace(inputs=lambda each: inputs[each.ref])
    assert ancestors(catalog, made[-1]) == made  # type: ignore[arg-type, comparison-overlap]


def test_the_waterfall_counts_the_pools_losses_and_not_the_targets(curated: Curated) -> None:
    catalog = curated.catalog
    losses = waterfall(catalog, catalog.snapshot("clean"))
    assert [(each.snapshot, each.rule, each.documents, each.dropped_documents) for each in losses] == [
        ("pool-unique@1", "exact", 53, 1),
        ("pool-dedup@1", "near-duplicate", 52, 1),
        ("pool-quality@1", "quality:too-short", 51, 1),
        ("clean@1", "contaminated", 50, 1),
    ]


def test_the_waterfall_loses_nothing_on_its_way(curated: Curated) -> None:
    catalog = curated.catalog
    snapshot = catalog.snapshot("resampled")
    losses = waterfall(catalog, snapshot)
    assert losses[-1].rule == "resample"
    for before, after in pairwise(losses):
        assert after.documents == before.documents - before.dropped_documents
        assert after.tokens == before.tokens - before.dropped_tokens
    assert losses[-1].documents - losses[-1].dropped_documents == snapshot.contents.rows
    (counted,) = sql(catalog, "SELECT sum(n_tokens) AS n FROM documents WHERE snapshot = 'resampled@1'").to_pylist()
    assert losses[-1].tokens - losses[-1].dropped_tokens == counted["n"]


def test_before_anything_was_tokenized_the_waterfall_has_no_tokens_to_tell(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from catalog.catalog import Catalog
    from dataops.exact import ExactDedup
    from tests.dataops.conftest import apply, ingest_rows

    catalog = Catalog.open(tmp_path / "store", create=True)
    pool = ingest_rows(catalog, tmp_path / "input", [{"text": "same"}, {"text": "same"}], "pool")
    (loss,) = waterfall(catalog, apply(catalog, ExactDedup(), pool, into="unique"))
    assert (loss.documents, loss.dropped_documents, loss.tokens, loss.dropped_tokens) == (2, 1, None, None)


def test_a_snapshot_without_decisions_has_no_waterfall(curated: Curated) -> None:
    with pytest.raises(UsageError, match="went through no deciding step"):
        waterfall(curated.catalog, curated.catalog.snapshot("pool"))

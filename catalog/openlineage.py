"""The runs behind a snapshot as OpenLineage RunEvents (openlineage.io, spec 2-0-2), one JSON object a line.

A run of a step is two events, START and COMPLETE: its job is the step, its inputs and outputs are snapshots as
datasets, and facets carry what the log knows. Nothing is sent anywhere; whatever collects such events can be given the
file.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from catalog.catalog import Catalog
from catalog.lineage import ancestors, sources
from catalog.snapshot import Run, Snapshot

SCHEMA = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
VERSION_FACET = "https://openlineage.io/spec/facets/1-0-1/DatasetVersionDatasetFacet.json"


def run_events(catalog: Catalog, snapshot: Snapshot) -> Iterator[str]:
    """A START and a COMPLETE event for each snapshot that led to `snapshot`, itself last."""
    for each in ancestors(catalog, snapshot):
        run = catalog.runs[each.run]
        for kind, time in (("START", run.started), ("COMPLETE", run.started + run.seconds)):
            yield json.dumps(_event(catalog, each, run, kind, time), sort_keys=True)


def _event(catalog: Catalog, snapshot: Snapshot, run: Run, kind: str, time: float) -> dict[str, Any]:
    settings = _facet(run, "settings", settings=run.parameters)
    return {
        "eventType": kind,
        "eventTime": datetime.fromtimestamp(time, tz=UTC).isoformat(),
        "producer": _producer(run),
        "schemaURL": SCHEMA,
        "run": {"runId": str(_run_id(catalog, snapshot)), "facets": {"tamis_settings": settings}},
        "job": {"namespace": catalog.store.root, "name": f"{run.step} into {snapshot.name}"},
        "inputs": [
            *(_dataset(catalog, each) for each in catalog.inputs(snapshot)),
            *(
                {"namespace": "file", "name": name, "facets": {"version": _version(run, sha256)}}
                for name, sha256 in sources(run)
            ),
        ],
        "outputs": [_dataset(catalog, snapshot)],
    }


def _run_id(catalog: Catalog, snapshot: Snapshot) -> uuid.UUID:
    """The same on every export: a name-based UUID of the store, the run and what it was committed as."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{catalog.store.root}#{snapshot.run}#{snapshot.ref}")


def _dataset(catalog: Catalog, snapshot: Snapshot) -> dict[str, Any]:
    run, contents = catalog.runs[snapshot.run], snapshot.contents
    figures = _facet(run, "figures", kind=contents.kind, rows=contents.rows, summary=contents.summary)
    return {
        "namespace": catalog.store.root,
        "name": snapshot.ref,
        "facets": {"version": _version(run, snapshot.id), "tamis_figures": figures},
    }


def _version(run: Run, digest: str) -> dict[str, Any]:
    return {"_producer": _producer(run), "_schemaURL": VERSION_FACET, "datasetVersion": digest}


def _facet(run: Run, name: str, **facts: Any) -> dict[str, Any]:
    return {"_producer": _producer(run), "_schemaURL": f"urn:tamis:facet:{name}", **facts}


def _producer(run: Run) -> str:
    return f"urn:tamis:{run.code}"

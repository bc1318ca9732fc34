"""`tamis takedown`: suppress, rewrite, and say which models learned from the documents.

It needs both halves of the house: dataops rewrites shards and packs, training replays the order that its models saw.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from catalog.catalog import Catalog
from catalog.lineage import ancestors
from catalog.pack import held_segments
from catalog.projection import publish
from catalog.query import sql
from catalog.run import Executor, Work, code_version
from catalog.snapshot import Run, Snapshot
from catalog.suppression import commit_rewrite, in_order, select, suppress
from catalog.takedown import RULE, Exposure, Rewrite
from clusters.console import Console

LEARNED = ("tokenizer", "classifier", "mixture", "lessons")  # kinds that hold what was learned from text, not text


def takedown_command(
    catalog: Catalog, ids: Sequence[str], where: str, *, reason: str, executor: str, workers: int
) -> list[str]:
    """Take down what `ids` and `where` mean, from selection to the last rewritten file, and say what happened."""
    chosen = _executor(executor, workers=workers)
    clock = time.monotonic()
    selection = select(catalog, ids=ids, where=where)
    if not selection.named.num_rows and catalog.pending:  # this command was killed half way
        return _finished(catalog, chosen)
    if not selection.named.num_rows:
        return [f"nothing to do: all {selection.before:,} documents were taken down before"]
    made = suppress(catalog, selection.named, reason=reason)
    seconds = time.monotonic() - clock
    others = resembling(catalog, selection.named)  # the rewrite takes the pairs too
    return [
        f"takedown {made.number}: {made.documents:,} documents suppressed in {seconds:.2f} s; no later run sees them",
        *others,
        *_finished(catalog, chosen),
    ]


def finish_command(catalog: Catalog, executor: str, *, workers: int) -> list[str]:
    """Finish what an interrupted takedown left, and say what happened."""
    if not catalog.pending:
        return ["nothing to do: no takedown is unfinished"]
    return _finished(catalog, _executor(executor, workers=workers))


def preview(catalog: Catalog, ids: Sequence[str], where: str) -> list[str]:
    """What `takedown_command` would do."""
    named = select(catalog, ids=ids, where=where).named
    if not named.num_rows and catalog.pending:
        return ["these documents were suppressed, but not all files are rewritten: `tamis takedown --finish`"]
    if not named.num_rows:
        return ["nothing to do: these documents were taken down before"]
    snapshots = [each.ref for each in holders(catalog, named)]
    rows = rows_that_hold(catalog, named)
    return [
        f"{named.num_rows:,} documents would be taken down; nothing was changed",
        *resembling(catalog, named),
        f"held by {', '.join([*snapshots, *rows])}",
        *_learned(catalog, snapshots),
        "models",
        *exposure_lines(exposures_of(catalog, rows)),
    ]


def _executor(kind: str, *, workers: int) -> Executor:
    from dataops.executors import executor

    return executor(kind, workers=workers, num_bytes=0, trains=False)


def _finished(catalog: Catalog, executor: Executor) -> list[str]:
    clock = time.monotonic()
    done = finish(catalog, executor, Console())
    if done is None:
        return ["another process has rewritten what held them"]
    return [
        f"{len(done.replaced)} snapshots have a new version without them, {len(done.expired)} old versions expired "
        f"({time.monotonic() - clock:.1f} s); `tamis gc` deletes their files after a day",
        *_learned(catalog, done.expired),
        "models",
        *exposure_lines(done.exposures),
    ]


def _learned(catalog: Catalog, references: Sequence[str]) -> list[str]:
    learned = learned_from(catalog, references)
    return [f"learned from them and kept: {', '.join(learned)}"] if learned else []


def finish(catalog: Catalog, executor: Executor, console: Console) -> Rewrite | None:
    """Rewrite what pending takedowns left to rewrite. The newest rewrite, None when nothing was pending."""
    from dataops.takedown import begin_rewrite

    done = None
    while catalog.refresh().pending:
        console.started(RULE)
        work = begin_rewrite(catalog, executor=executor, listener=console.stage)
        with work.exclusive():
            done = _rewrite(work) or done
            shutil.rmtree(work.folder, ignore_errors=True)
            catalog.store.sweep()
    publish(catalog)
    return done


def _rewrite(work: Work) -> Rewrite | None:
    """One attempt; None where another process was faster or committed something in between."""
    from dataops.takedown import rewrite

    catalog = work.catalog
    pending = [each.number for each in catalog.refresh().pending]
    if not pending:
        return None
    work.claim([each for each in catalog.live() if each.contents.kind in ("documents", "packs")])
    started, clock = time.time(), time.monotonic()
    made = rewrite(work)
    exposures = exposures_of(catalog, made.rows)
    run = Run(
        fingerprint=work.fingerprint,
        step=RULE,
        parameters={"takedowns": pending},
        inputs=tuple(catalog.snapshot(ref).id for ref in sorted(made.contents)),
        code=code_version(),
        started=started,
        seconds=time.monotonic() - clock,
        stages=tuple(work.stages),
    )
    return commit_rewrite(
        catalog,
        made.contents,
        run=run,
        takedowns=pending,
        expired=made.expired,
        exposures=exposures,
        found=made.found,
        considered=made.considered,
    )


def exposures_of(catalog: Catalog, rows: Mapping[str, np.ndarray]) -> list[Exposure]:
    """What every model saw of the given rows of packs, by reference.

    A tuned model saw what its base saw, and one that learned from lessons what the teacher saw.
    """
    from training.exposure import seen

    found: dict[str, list[Exposure]] = {}
    for model in in_order(catalog, [each.ref for each in catalog.all_snapshots() if each.contents.kind == "model"]):
        mine = []
        for source in _learned_from(catalog, model):
            mine += [
                Exposure(model=model.ref, packs=each.packs, rows=each.rows, samples=each.samples, first=each.first)
                for each in found.get(source.ref, [])
            ]
            packs = catalog.successor(source)  # rows stay where they are when packs are rewritten
            held = rows.get(packs.ref, np.empty(0, np.int64)) if packs else np.empty(0, np.int64)
            if packs and len(held):
                saw = seen(catalog.store, packs, model, catalog.runs[model.run], held)
                mine.append(
                    Exposure(model=model.ref, packs=packs.ref, rows=len(held), samples=saw.samples, first=saw.first)
                )
        found[model.ref] = mine
    return [each for mine in found.values() for each in mine]


def _learned_from(catalog: Catalog, model: Snapshot) -> list[Snapshot]:
    """The inputs of a model, and for lessons among them the teacher."""
    inputs = catalog.inputs(model)
    lessons = [each for each in inputs if each.contents.kind == "lessons"]
    teachers = [each for one in lessons for each in catalog.inputs(one) if each.contents.kind == "model"]
    return [*inputs, *teachers]


def rows_that_hold(catalog: Catalog, named: pa.Table) -> dict[str, np.ndarray]:
    """Rows of live packs snapshots that hold one of these texts (NAMED), by reference; those with none left out."""
    contents = named["content"].unique().to_pylist()
    same = "SELECT DISTINCT id FROM documents_parquet WHERE content IN (SELECT unnest(?::VARCHAR[]))"
    ids = sql(catalog, same, [contents])["id"].to_pylist()
    out = {}
    for snapshot in catalog.live():
        if snapshot.contents.kind != "packs":
            continue
        first, held = 0, [np.empty(0, np.int64)]
        for shard in snapshot.contents.shards:
            held.append(np.unique(held_segments(catalog.store.local(shard.tables["pack"]), ids)[1]) + first)
            first += shard.rows
        if sum(map(len, held)):
            out[snapshot.ref] = np.concatenate(held)
    return out


def holders(catalog: Catalog, named: pa.Table) -> list[Snapshot]:
    """Live documents snapshots whose shards hold one of these texts (NAMED)."""
    refs = sql(
        catalog,
        """SELECT DISTINCT s.snapshot FROM snapshot_rows s JOIN list_rows l ON l.list = s.documents
        JOIN (SELECT DISTINCT file FROM documents_parquet
              WHERE content IN (SELECT unnest(?::VARCHAR[])) AND n_chars > 0) d ON d.file = l.file
        ORDER BY snapshot""",
        [named["content"].unique().to_pylist()],
    )["snapshot"].to_pylist()
    return [catalog.snapshot(ref) for ref in refs]


def resembling(catalog: Catalog, named: pa.Table) -> list[str]:
    """Lines that count the other documents with one of these texts (NAMED), and those paired with one, which stay."""
    contents, ids = named["content"].unique().to_pylist(), named["id"].unique().to_pylist()
    found = sql(
        catalog,
        """WITH gone AS (SELECT DISTINCT id FROM documents_parquet
                      WHERE content IN (SELECT unnest(?::VARCHAR[])) AND n_chars > 0),
        pairs AS (SELECT left_id AS id, right_id AS other FROM edges_parquet
                  UNION ALL SELECT right_id, left_id FROM edges_parquet)
        SELECT (SELECT count(*) FROM gone WHERE id NOT IN (SELECT unnest(?::VARCHAR[]))) AS same,
               (SELECT count(DISTINCT other) FROM pairs
                WHERE id IN (FROM gone) AND other NOT IN (FROM gone)) AS near""",
        [contents, ids],
    )
    same, near = found["same"][0].as_py(), found["near"][0].as_py()
    go = "more documents have the same text and go with them"
    stay = "documents that nearly repeat them stay (view `edges`)"
    return [f"{count:,} {what}" for count, what in ((same, go), (near, stay)) if count]


def learned_from(catalog: Catalog, references: Sequence[str]) -> list[str]:
    """Live snapshots that hold what was learned from the documents of others, and can't be rewritten."""
    tainted = set(references)
    kinds = [each for each in catalog.live() if each.contents.kind in LEARNED]
    return [each.ref for each in kinds if tainted & {before.ref for before in ancestors(catalog, each)}]


def exposure_lines(exposures: Sequence[Exposure]) -> list[str]:
    """A line for each model whose packs hold the documents: that it saw them, did not, or may have."""
    if not exposures:
        return ["  no model's packs hold them"]
    return [
        f"  {each.model:<22} {_sight(samples=each.samples, first=each.first)}: {each.rows:,} rows of {each.packs}"
        for each in exposures
    ]


def _sight(*, samples: int, first: int) -> str:
    if samples < 0:
        return "may have seen them, an older version trained it and its order is not known"
    if not samples:
        return "did not see them, its training never came to these rows"
    return f"saw them in {samples:,} samples" + (f", first in sample {first:,}" if first >= 0 else "")

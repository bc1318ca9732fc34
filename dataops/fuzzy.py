"""Near-duplicate removal in which every dropped document names a kept one that really is that similar.

Word 5-gram shingles -> MinHash signatures -> band keys; one exchange by band key gives candidate pairs, each member of
a bucket against the bucket's most preferred (never all pairs); every candidate is verified by the exact Jaccard of the
shingle sets; then documents are visited from most to least preferred and one is dropped only if a document already kept
has a verified Jaccard >= threshold with it. No chains, no unverified removals. (bands, rows) come from datasketch's
optimiser, weighted to recall because verification restores precision. Preferred: longest, then smallest id.

The verified pairs from `store_from` up stay in the snapshot (table `edges`), so a later threshold needs no text.
Cost: one pass over the text for the signatures and one over the candidates' texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasketch import MinHashLSH

from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.schema import EDGES
from catalog.snapshot import Contents, Snapshot
from catalog.store import Store
from catalog.tables import read_live, read_table, write_table
from dataops.exchange import by_key, gather, num_partitions, scatter
from dataops.kernels.components import keep_decisions, star_pairs
from dataops.kernels.jaccard import pair_jaccard
from dataops.kernels.minhash import band_keys, minhash, permutations
from dataops.kernels.ngrams import shingles
from dataops.step import counts, decide, extend, layer_name, shard_tasks

BATCH_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class FuzzyDedup:
    """Drop documents whose word-`shingle` Jaccard with a kept one is at least `threshold`."""

    verb: ClassVar[str] = "fuzzy-dedup"
    revision: ClassVar[int] = 1

    threshold: float = 0.8
    shingle: int = 5
    permutations: int = 128
    seed: int = 1
    store_from: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.store_from <= self.threshold <= 1:
            raise UsageError(
                f"threshold {self.threshold}, store_from {self.store_from}: expected 0 < store_from <= threshold <= 1"
            )
        if self.shingle < 1 or self.permutations < 2:
            raise UsageError(
                f"shingle {self.shingle}, permutations {self.permutations}: expected shingles of 1 word or more and at "
                "least 2 permutations"
            )

    @property
    def bands_and_rows(self) -> tuple[int, int]:
        """Bands and rows per band that minimise missed pairs first (weights 0.1 false positive, 0.9 false negative)."""
        index = MinHashLSH(threshold=self.threshold, num_perm=self.permutations, weights=(0.1, 0.9))
        return index.b, index.r

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A decision layer `near-duplicate` on the one snapshot given."""
        (snapshot,) = inputs
        snapshot.require("documents")
        bands, rows = self.bands_and_rows
        layer = layer_name(snapshot, "near-duplicate")
        partitions = num_partitions(snapshot.contents.rows * bands)
        sizes = [work.store.local(shard.tables["documents"]) for shard in snapshot.contents.shards]
        offsets = _row_offsets(sizes)
        settings = {"folder": str(work.folder), "offsets": offsets, "step": self, "bands": bands, "band_rows": rows}
        signed = work.stage("sign", _sign, shard_tasks(snapshot, partitions=partitions, **settings))
        files = [receipt["path"] for receipt in signed]
        matches = [{"files": files, "partition": p, **settings} for p in range(partitions)]
        matched = [receipt["path"] for receipt in work.stage("match", _match, matches, unit="keys")]
        tasks = shard_tasks(snapshot, files=matched, shards=snapshot.contents.shards, **settings)
        verified = work.stage("verify", _verify, tasks, unit="pairs")
        edges = [receipt["tables"]["edges"] for receipt in verified]
        (resolved,) = work.stage("resolve", _resolve, [{"edges": edges, **settings}])
        tasks = shard_tasks(snapshot, resolved=resolved["path"], layer=layer, **settings)
        receipts = work.stage("decide", _decide, tasks)
        for receipt, found in zip(receipts, verified, strict=True):
            receipt["tables"] |= found["tables"]
        summary = {
            **counts(receipts),
            "bands": bands,
            "band_rows": rows,
            "candidate_pairs": sum(receipt["pairs"] for receipt in verified),
            "verified_pairs": resolved["pairs"],
        }
        return extend(snapshot, receipts, layer=layer, summary=summary)


def _row_offsets(paths: Sequence[Path]) -> list[int]:
    """Documents are numbered through all shards: document = offsets[shard] + row."""
    return [0, *np.cumsum([pq.read_metadata(path).num_rows for path in paths]).tolist()]


def _sign(store: Store, task: Task) -> Receipt:
    step: FuzzyDedup = task["step"]
    live = read_live(store, task["shard"], task["layers"], ["row", "h64", "n_chars", "text"])
    hashes = permutations(step.permutations, step.seed)
    parts = []
    for batch in _batches(live):
        offsets, values = shingles(batch["text"], step.shingle)
        some = np.flatnonzero(np.diff(offsets))
        signatures = minhash(offsets, values, hashes)[some]
        keys = band_keys(signatures, task["bands"], task["band_rows"])
        documents = batch["row"].to_numpy()[some].astype(np.int64) + task["offsets"][task["number"]]
        parts.append(
            pa.table(
                {
                    "key": keys.reshape(-1),
                    "document": np.repeat(documents, task["bands"]),
                    "n_chars": np.repeat(batch["n_chars"].to_numpy()[some], task["bands"]),
                    "h64": np.repeat(batch["h64"].to_numpy()[some], task["bands"]),
                }
            )
        )
    table = pa.concat_tables(parts).combine_chunks()
    path = Path(task["folder"]) / f"sign-{task['number']}.arrow"
    partition = by_key(table["key"].to_numpy(), task["partitions"])
    return {
        "path": scatter(path, table, partition, task["partitions"]),
        "documents": live.num_rows,
        "bytes": live["text"].nbytes,
    }


def _match(_: Store, task: Task) -> Receipt:
    rows = gather(task["files"], task["partition"])
    keys, documents = rows["key"].to_numpy(), rows["document"].to_numpy()
    order = np.lexsort((rows["h64"].to_numpy(), -rows["n_chars"].to_numpy().astype(np.int64), keys))
    left, right = star_pairs(keys[order], documents[order])
    pairs = pa.table({"left": left, "right": right})
    path = Path(task["folder"]) / f"match-{task['partition']}.arrow"
    shards = len(task["offsets"]) - 1
    return {"path": scatter(path, pairs, _shard_of(left, task), shards), "keys": rows.num_rows}


def _verify(store: Store, task: Task) -> Receipt:
    step: FuzzyDedup = task["step"]
    pairs = gather(task["files"], task["number"]).group_by(["left", "right"], use_threads=False).aggregate([])
    shard_of_right = _shard_of(pairs["right"].to_numpy(), task)
    blocks = [EDGES.empty_table()]
    for number in np.unique(shard_of_right).tolist():
        blocks.append(_similarities(store, task, number, pairs.filter(pa.array(shard_of_right == number))))
    edges = pa.concat_tables(blocks).sort_by([("left", "ascending"), ("right", "ascending")])
    edges = edges.filter(pc.greater_equal(edges["similarity"], step.store_from))
    return {
        "tables": {"edges": as_json(write_table(store, edges))},
        "pairs": pairs.num_rows,
    }


def _similarities(store: Store, task: Task, number: int, pairs: pa.Table) -> pa.Table:
    """Exact Jaccard of pairs whose left documents lie in the task's shard and whose right ones in shard `number`."""
    left, right = pairs["left"].to_numpy(), pairs["right"].to_numpy()
    wanted = np.unique(np.concatenate([left, right]))
    documents = [_rows(store, task, each, wanted) for each in sorted({task["number"], number})]
    table = pa.concat_tables(documents).combine_chunks()
    sets = shingles(table["text"], task["step"].shingle)
    at_left, at_right = np.searchsorted(wanted, left), np.searchsorted(wanted, right)
    facts = {
        f"{side}_{name}": table[name].take(pa.array(at))
        for side, at in (("left", at_left), ("right", at_right))
        for name in ("id", "n_chars")
    }
    similarity = pair_jaccard(*sets, at_left, at_right)
    return pa.table({"left": left, "right": right, **facts, "similarity": similarity}).select(EDGES.names).cast(EDGES)


def _rows(store: Store, task: Task, number: int, wanted: np.ndarray) -> pa.Table:
    """id, n_chars and text of those of the `wanted` documents that lie in shard `number`, ascending."""
    first, after = task["offsets"][number], task["offsets"][number + 1]
    rows = wanted[(wanted >= first) & (wanted < after)] - first
    table = read_table(store, task["shards"][number].tables["documents"], ["id", "n_chars", "text"])
    return table.take(pa.array(rows))


def _resolve(store: Store, task: Task) -> Receipt:
    step: FuzzyDedup = task["step"]
    edges = pa.concat_tables([read_table(store, file_ref(ref)) for ref in task["edges"]]).combine_chunks()
    edges = edges.filter(pc.greater_equal(edges["similarity"], step.threshold))
    left, right = edges["left"].to_numpy(), edges["right"].to_numpy()
    documents, first = np.unique(np.concatenate([left, right]), return_index=True)
    ids = pa.concat_arrays([edges["left_id"].combine_chunks(), edges["right_id"].combine_chunks()]).take(
        pa.array(first)
    )
    lengths = np.concatenate([edges["left_n_chars"].to_numpy(), edges["right_n_chars"].to_numpy()])[first]
    order = pc.sort_indices(
        pa.table({"length": -lengths.astype(np.int64), "id": ids}),
        sort_keys=[("length", "ascending"), ("id", "ascending")],
    ).to_numpy()
    rank = np.empty(len(documents), np.int64)
    rank[order] = np.arange(len(documents))
    kept, kept_by, similarity = keep_decisions(
        len(documents),
        np.searchsorted(documents, left),
        np.searchsorted(documents, right),
        edges["similarity"].to_numpy(),
        rank,
        step.threshold,
    )
    gone = np.flatnonzero(~kept)
    shard = _shard_of(documents[gone], task)
    dropped = pa.table(
        {
            "row": (documents[gone] - np.asarray(task["offsets"])[shard]).astype(np.int32),
            "kept_id": ids.take(pa.array(kept_by[gone])),
            "similarity": similarity[gone],
        }
    )
    path = scatter(Path(task["folder"]) / "resolve.arrow", dropped, shard, len(task["offsets"]) - 1)
    return {"path": path, "pairs": edges.num_rows, "documents": len(documents)}


def _decide(store: Store, task: Task) -> Receipt:
    step: FuzzyDedup = task["step"]
    live = read_live(store, task["shard"], task["layers"], ["row", "id"])
    gone = gather([task["resolved"]], task["number"]).sort_by("row")
    reason = f"word {step.shingle}-gram Jaccard >= {step.threshold}"
    dropped = gone.append_column("rule", pa.array(["near-duplicate"] * gone.num_rows, pa.string()))
    dropped = dropped.append_column("reason", pa.array([reason] * gone.num_rows, pa.string()))
    return decide(store, live, dropped, layer=task["layer"])


def _shard_of(documents: np.ndarray, task: Task) -> np.ndarray:
    return np.searchsorted(np.asarray(task["offsets"]), documents, side="right") - 1


def _batches(live: pa.Table) -> Iterator[pa.Table]:
    """Slices of about BATCH_BYTES of text; at least one."""
    size = max(live["text"].nbytes, 1)
    rows = max(1, live.num_rows * BATCH_BYTES // size)
    for start in range(0, max(live.num_rows, 1), rows):
        yield live.slice(start, rows)

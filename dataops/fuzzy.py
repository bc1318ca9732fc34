"""Near-duplicate removal in which every dropped document names a kept one that really is that similar.

Word shingles -> MinHash signatures -> band keys; one exchange by band key gives candidate pairs, which sketches thin
out; every pair left is verified by the exact Jaccard of the shingle sets; then documents are visited from most to least
preferred and one is dropped only if a document already kept is that similar (dataops.keep). No chains, no unverified
removals. (bands, rows) are datasketch's optimum, weighted to recall because verification restores precision.

What was computed stays in the snapshot: `signatures` (band keys and sketches) and `edges` (verified pairs). So another
threshold or policy reads no text (Redecide), and documents that come later are compared with those that were there
without hashing these again (dataops.append).

Cost: one pass over the text for the signatures and one over the text of documents in candidate pairs. Memory: that of
one shard or one partition a worker, whatever the corpus.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.schema import EDGES
from catalog.snapshot import Contents, Snapshot
from catalog.store import Store
from catalog.tables import read_live, read_table, write_table
from dataops.append import num_earlier
from dataops.exchange import by_key, gather, num_partitions, scatter
from dataops.keep import Keeping, check_prefer, keep, row_offsets, settings_of, with_settings
from dataops.kernels.fixed import bytes_of, fixed_binary
from dataops.kernels.hashing import distinct, from_hex
from dataops.kernels.jaccard import pair_jaccard
from dataops.kernels.minhash import band_keys, minhash_texts, optimal_bands, permutations
from dataops.kernels.ngrams import shingles
from dataops.kernels.pairs import candidate_pairs, matches_at, sketches
from dataops.shingle_sets import ShingleSets
from dataops.step import shard_tasks

BATCH_BYTES = 8 << 20
MISS_WEIGHT = 0.98  # at 0.8 and 128 permutations 17 bands of 7 rows: 98% of pairs at the threshold, 99.9% at 0.85
ALL_PAIRS_UP_TO = 64  # documents in a bucket; larger ones are boilerplate or one document many times
MISSED_DEVIATIONS = 3.0  # a pair whose sketches agree less than this below what is wanted is not looked at


@dataclass(frozen=True, kw_only=True)
class FuzzyDedup(Keeping):
    """Drop documents whose word-`shingle` Jaccard with a kept one is at least `threshold`.

    Pairs that may reach `verify_from`, or a lower threshold, are verified and stored. With `first_come`, shards that
    were deduplicated before (dataops.append) keep their documents against later ones, whatever the policy prefers.
    """

    verb: ClassVar[str] = "fuzzy-dedup"
    revision: ClassVar[int] = 2

    shingle: int = 5
    permutations: int = 128
    seed: int = 1
    verify_from: float = 0.7
    first_come: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.verify_from <= 1:
            raise UsageError(f"verify_from {self.verify_from}: expected a Jaccard similarity above 0 and up to 1")
        if self.shingle < 1 or self.permutations < 2:
            raise UsageError(
                f"shingle {self.shingle}, permutations {self.permutations}: expected shingles of 1 word or more and at "
                "least 2 permutations"
            )

    @property
    def bands_and_rows(self) -> tuple[int, int]:
        """Bands and rows per band, chosen to miss few pairs: verification removes false candidates."""
        return optimal_bands(self.threshold, self.permutations, miss_weight=MISS_WEIGHT)

    @property
    def looked_from(self) -> float:
        """The similarity from which pairs are verified: never above the threshold."""
        return min(self.verify_from, self.threshold)

    @property
    def hashing(self) -> dict[str, Any]:
        """The settings that signatures depend on; similarities depend on `shingle` alone."""
        bands, rows = self.bands_and_rows
        return {
            "shingle": self.shingle,
            "permutations": self.permutations,
            "seed": self.seed,
            "bands": bands,
            "band_rows": rows,
        }

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A decision layer `near-duplicate` on the one snapshot given, and the tables `signatures` and `edges`."""
        (snapshot,) = inputs
        snapshot.require("documents")
        bands, rows = self.bands_and_rows
        partitions, offsets = num_partitions(snapshot.contents.rows * bands), row_offsets(work.store, snapshot)
        check_prefer(work.store, snapshot, self.prefer, offsets=offsets)
        settings = {"folder": str(work.folder), "offsets": offsets, "step": self, "partitions": partitions}
        with open(work.folder / "sketches", "ab") as file:
            file.truncate(offsets[-1] * self.permutations)
        with open(work.folder / "preferences", "ab") as file:
            file.truncate(offsets[-1] * 8)

        signed = work.stage("sign", _sign, shard_tasks(snapshot, **settings))
        keys = [receipt["path"] for receipt in signed]
        tasks: list[Task] = [{"files": keys, "partition": p, **settings} for p in range(partitions)]
        matched = [receipt["path"] for receipt in work.stage("match", _match, tasks, unit="keys")]
        pairs = work.stage("pair", _pair, shard_tasks(snapshot, files=matched, **settings), unit="pairs")
        wanted = [np.load(receipt["wanted"]) for receipt in pairs]
        np.save(work.folder / "wanted.npy", distinct(np.empty(0, np.int64), *wanted))
        shingled = work.stage("shingle", _shingle, shard_tasks(snapshot, **settings))
        sets = [receipt["path"] for receipt in shingled]
        new = [receipt["path"] for receipt in pairs]
        tasks = [{"pairs": path, "sets": sets, "number": n, **settings} for n, path in enumerate(new)]
        verified = work.stage("verify", _verify, tasks, unit="pairs")

        return keep(
            work,
            snapshot,
            [file_ref(receipt["edges"]) for receipt in verified],
            self,
            offsets=offsets,
            shingle=self.shingle,
            first_come=offsets[num_earlier(snapshot)] if self.first_come else 0,
            tables=[
                {"signatures": one["signatures"], "edges": other["edges"]}
                for one, other in zip(signed, verified, strict=True)
            ],
            summary={
                "bands": bands,
                "band_rows": rows,
                "documents_hashed": sum(receipt["hashed"] for receipt in signed),
                "candidate_pairs": sum(receipt["pairs"] for receipt in pairs),
                "pairs_read": sum(receipt["pairs"] for receipt in verified),
            },
        )


def _sign(store: Store, task: Task) -> Receipt:
    """Signatures of a shard's live documents, computed or stored by an earlier run, and their keys by partition."""
    step: FuzzyDedup = task["step"]
    shard, partitions = task["shard"], task["partitions"]
    facts = read_live(store, shard, task["layers"], ["row", "h64", "n_chars"])
    ref, hashed, size = shard.tables.get("signatures"), 0, 0
    if ref is None or settings_of(store, ref) != step.hashing:
        text = read_live(store, shard, task["layers"], ["row", "text"])
        hashed, size = text.num_rows, text["text"].nbytes
        signed = pa.concat_tables([_signatures(batch, step) for batch in _batches(text)])
        ref = write_table(store, with_settings(signed, step.hashing), compression="none")  # hashes do not compress
    table = read_table(store, ref)
    table = table.filter(pc.is_in(table["row"], value_set=facts["row"].combine_chunks())).combine_chunks()
    rows, first = table["row"].to_numpy(), task["offsets"][task["number"]]
    _fill(task, "sketches", rows, bytes_of(table["sketch"]))
    chosen = facts.take(pa.array(np.searchsorted(facts["row"].to_numpy(), rows)))
    _fill(task, "preferences", rows, _preference(chosen).view(np.uint8).reshape(-1, 8))
    keys = bytes_of(table["keys"]).view(np.uint64)
    documents = np.repeat(rows.astype(np.int64) + first, keys.shape[1])
    exchanged = pa.table({"key": keys.reshape(-1), "document": documents})
    path = Path(task["folder"]) / f"sign-{task['number']}.arrow"
    return {
        "path": scatter(path, exchanged, by_key(keys.reshape(-1), partitions), partitions),
        "signatures": as_json(ref),
        "documents": facts.num_rows,
        "hashed": hashed,
        "bytes": size,
    }


def _signatures(batch: pa.Table, step: FuzzyDedup) -> pa.Table:
    """row, band keys and sketch of the documents of a batch (row, text) that have a shingle."""
    num_shingles, signatures = minhash_texts(batch["text"], step.shingle, permutations(step.permutations, step.seed))
    keys = band_keys(signatures, *step.bands_and_rows)
    some = np.flatnonzero(num_shingles)
    return pa.table(
        {
            "row": batch["row"].combine_chunks().take(pa.array(some)),
            "keys": fixed_binary(keys[some].view(np.uint8)),
            "sketch": fixed_binary(sketches(signatures[some])),
        }
    )


def _match(_: Store, task: Task) -> Receipt:
    """Candidate pairs of one partition of the keys, by the shard of their left document."""
    step: FuzzyDedup = task["step"]
    folder, offsets = Path(task["folder"]), np.asarray(task["offsets"])
    rows = gather(task["files"], task["partition"])
    order = np.argsort(rows["key"].to_numpy())
    num = offsets[-1]
    sketch = np.memmap(folder / "sketches", np.uint8, "r", shape=(num, step.permutations)) if num else np.empty((0, 1))
    preference = np.memmap(folder / "preferences", np.uint64, "r", shape=(num,)) if num else np.empty(0)
    left, right = candidate_pairs(
        rows["key"].to_numpy()[order],
        rows["document"].to_numpy()[order],
        preference,
        sketch,
        at_least=matches_at(step.looked_from, step.permutations, deviations=MISSED_DEVIATIONS),
        covered=matches_at(step.threshold, step.permutations),
        all_pairs_up_to=ALL_PAIRS_UP_TO,
    )
    path = folder / f"match-{task['partition']}.arrow"
    pairs = pa.table({"left": left, "right": right})
    return {"path": scatter(path, pairs, _shard_of(left, offsets), len(offsets) - 1), "keys": rows.num_rows}


def _pair(store: Store, task: Task) -> Receipt:
    """The distinct pairs of a left shard: those verified before aside, and which documents the others need."""
    folder, number = Path(task["folder"]), task["number"]
    pairs = gather(task["files"], number).group_by(["left", "right"], use_threads=False).aggregate([])
    known = _known_edges(store, task)
    pairs = pairs.join(known, ["left", "right"], join_type="left outer", use_threads=False)
    pairs = pairs.sort_by([("left", "ascending"), ("right", "ascending")]).combine_chunks()
    path = folder / f"pair-{number}.arrow"
    scatter(path, pairs, np.zeros(pairs.num_rows, np.int64), 1)
    unknown = pairs.filter(pc.is_null(pairs["similarity"]))
    wanted = folder / f"wanted-{number}.npy"
    np.save(wanted, distinct(unknown["left"].to_numpy(), unknown["right"].to_numpy()))
    return {"path": str(path), "wanted": str(wanted), "pairs": pairs.num_rows}


def _known_edges(store: Store, task: Task) -> pa.Table:
    """The pairs that an earlier run verified with the same shingles."""
    ref = task["shard"].tables.get("edges")
    if ref is None or settings_of(store, ref)["shingle"] != task["step"].shingle:
        return EDGES.empty_table()
    return read_table(store, ref)


def _shingle(store: Store, task: Task) -> Receipt:
    """The shingle sets of the documents of a shard that are in pairs to verify."""
    first, after = (task["offsets"][task["number"] + i] for i in (0, 1))
    wanted = np.load(Path(task["folder"]) / "wanted.npy", mmap_mode="r")
    documents = np.array(wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, after)])
    path, size, sets = Path(task["folder"]) / f"sets-{task['number']}", 0, []
    ids = from_hex(pa.array([], pa.string()))
    if documents.size:
        table = read_table(store, task["shard"].tables["documents"], ["id", "text"])
        table = table.take(pa.array(documents - first))
        ids, size = from_hex(table["id"]), table["text"].nbytes
        sets = [shingles(batch["text"], task["step"].shingle) for batch in _batches(table)]
    ShingleSets.write(path, documents, ids, sets)
    return {"path": str(path), "documents": documents.size, "bytes": size}


def _verify(store: Store, task: Task) -> Receipt:
    """All pairs of a left shard with their exact similarity, as the table `edges`."""
    offsets = np.asarray(task["offsets"])
    pairs = gather([task["pairs"]], 0)
    known = pairs.filter(pc.is_valid(pairs["similarity"])).select(EDGES.names).cast(EDGES)
    unknown = pairs.filter(pc.is_null(pairs["similarity"]))
    left, right = unknown["left"].to_numpy(), unknown["right"].to_numpy()
    shard_of_right = _shard_of(right, offsets)
    own, blocks = ShingleSets.open(task["sets"][task["number"]]), [known]
    for number in np.unique(shard_of_right).tolist():
        other, some = ShingleSets.open(task["sets"][number]), shard_of_right == number
        blocks.append(_edges(own, left[some], other, right[some]))
    edges = pa.concat_tables(blocks).sort_by([("left", "ascending"), ("right", "ascending")])
    step: FuzzyDedup = task["step"]
    made_with = {"shingle": step.shingle, "verify_from": step.looked_from}
    stored = write_table(store, with_settings(edges, made_with))
    return {"edges": as_json(stored), "pairs": unknown.num_rows}


def _edges(one: ShingleSets, left: np.ndarray, other: ShingleSets, right: np.ndarray) -> pa.Table:
    at_left, at_right = one.at(left), other.at(right)
    columns = {
        "left": left,
        "right": right,
        "left_id": one.hex(at_left),
        "right_id": other.hex(at_right),
        "similarity": pair_jaccard(one.sets, other.sets, at_left, at_right),
    }
    return pa.table(columns, schema=EDGES)


def _preference(facts: pa.Table) -> np.ndarray:
    """Who leads a large bucket, ascending: longest first, then by hash of the id."""
    length = np.minimum(facts["n_chars"].to_numpy().astype(np.uint64), np.uint64((1 << 24) - 1))
    return (np.uint64((1 << 24) - 1) - length) << np.uint64(40) | facts["h64"].to_numpy() >> np.uint64(24)


def _fill(task: Task, name: str, rows: np.ndarray, values: np.ndarray) -> None:
    """Write uint8[rows, width] to the places of a shard's documents in a file that all shards share."""
    first, after = (task["offsets"][task["number"] + i] for i in (0, 1))
    block = np.zeros((after - first, values.shape[1]), np.uint8)
    block[rows] = values
    with open(Path(task["folder"]) / name, "r+b") as file:
        file.seek(first * block.shape[1])
        file.write(block.tobytes())


def _shard_of(documents: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    return np.searchsorted(offsets, documents, side="right") - 1


def _batches(table: pa.Table) -> Iterator[pa.Table]:
    """Slices of about BATCH_BYTES of text; at least one."""
    rows = max(1, table.num_rows * BATCH_BYTES // max(table["text"].nbytes, 1))
    for start in range(0, max(table.num_rows, 1), rows):
        yield table.slice(start, rows)

"""A tokenizer learned from the pool, and the token ids of every document.

The tokenizer comes before windows and cells because a window, the unit that is clustered, weighed and trained on, is a
number of tokens. Documents that were dropped are counted too (their ids are not kept): a waterfall of tokens per rule
needs them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog import schema
from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Snapshot
from catalog.store import Store
from catalog.tables import live_rows, read_live, read_table, write_table
from catalog.tokenizer import MAX_VOCAB, MIN_VOCAB, BpeTokenizer, train
from dataops.kernels.bpe import Encoder, merges_of
from dataops.kernels.hashing import uniform
from dataops.step import extend, shard_tasks

BATCH_DOCUMENTS = 2000


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer:
    """Byte-level BPE learned from about `sample_bytes` of the inputs' documents, drawn by document id."""

    verb: ClassVar[str] = "train-tokenizer"
    revision: ClassVar[int] = 1

    vocab_size: int = 4096
    sample_bytes: int = 16 << 20
    seed: int = 1

    def __post_init__(self) -> None:
        if not MIN_VOCAB <= self.vocab_size <= MAX_VOCAB:
            raise UsageError(f"a vocabulary of {self.vocab_size}: expected {MIN_VOCAB} to {MAX_VOCAB}")

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A tokenizer snapshot with the artifact `tokenizer` (tokenizer.json)."""
        settings = {"step": self, "folder": str(work.folder)}
        tasks = [task for each in inputs for task in shard_tasks(each.require("documents"), **settings)]
        total = sum(r["bytes"] for r in work.stage("measure", _measure, tasks))
        rate = min(1.0, self.sample_bytes / max(total, 1))
        sampling = [{**task, "rate": rate, "index": index} for index, task in enumerate(tasks)]
        sampled = work.stage("sample", _sample, sampling)
        paths = [receipt["path"] for receipt in sampled]
        documents = sum(receipt["documents"] for receipt in sampled)
        if total and not documents:
            raise UsageError(f"a sample of {self.sample_bytes} bytes has none of the documents: raise sample_bytes")
        (trained,) = work.stage("train", _train, [{**settings, "paths": paths, "documents": documents}])
        summary = {"vocab_size": trained["vocab_size"], "documents": documents, "sample_bytes": trained["bytes"]}
        return Contents(kind="tokenizer", artifacts={"tokenizer": file_ref(trained["tokenizer"])}, summary=summary)


@dataclass(frozen=True, kw_only=True)
class Tokenize:
    """Add the table `tokens`: the count for every document of the shards, the ids for the live ones."""

    verb: ClassVar[str] = "tokenize"
    revision: ClassVar[int] = 1

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """The first input with its tokens; the second is the tokenizer."""
        snapshot, tokenizer = inputs
        ref = tokenizer.require("tokenizer").artifact("tokenizer")
        receipts = work.stage("encode", _encode, shard_tasks(snapshot.require("documents"), tokenizer=ref))
        tokens = sum(receipt["tokens"] for receipt in receipts)
        size = sum(receipt["live_bytes"] for receipt in receipts)
        summary = {"tokens": tokens, "bytes_per_token": size / max(tokens, 1)}
        return extend(snapshot, receipts, artifacts={"tokenizer": ref}, summary=summary)


def _measure(store: Store, task: Task) -> Receipt:
    sizes = read_live(store, task["shard"], task["layers"], ["n_bytes"])["n_bytes"]
    return {"bytes": pc.sum(sizes).as_py() or 0, "documents": len(sizes)}


def _sample(store: Store, task: Task) -> Receipt:
    step: TrainTokenizer = task["step"]
    live = read_live(store, task["shard"], task["layers"], ["h64", "text"])
    chosen = live["text"].filter(pa.array(uniform(step.seed, live["h64"].to_numpy()) < task["rate"]))
    path = Path(task["folder"]) / f"sample-{task['index']}.jsonl"
    path.write_text("".join(json.dumps(text) + "\n" for text in chosen.to_pylist()))
    return {"path": str(path), "documents": len(chosen)}


def _train(store: Store, task: Task) -> Receipt:
    step: TrainTokenizer = task["step"]
    size = 0

    def texts() -> Iterator[str]:
        nonlocal size
        for path in task["paths"]:
            with open(path) as file:
                for line in file:
                    text = json.loads(line)
                    size += len(text.encode())
                    yield text

    tokenizer = train(texts(), vocab_size=step.vocab_size, length=task["documents"])
    with store.writing(suffix="json") as (path, refs):
        path.write_text(tokenizer)
    vocab_size = BpeTokenizer(store.local(refs[0])).vocab_size
    return {"tokenizer": as_json(refs[0]), "vocab_size": vocab_size, "bytes": size, "documents": task["documents"]}


def _encode(store: Store, task: Task) -> Receipt:
    tokenizer = BpeTokenizer(store.local(task["tokenizer"]))
    documents = read_table(store, task["shard"].tables["documents"], ["row", "id", "n_bytes", "text"])
    rows = live_rows(store, task["shard"], task["layers"])
    live = np.ones(documents.num_rows, bool)
    if rows is not None:
        live = np.isin(documents["row"].to_numpy(), rows.to_numpy())
    encode = Encoder(merges_of(tokenizer.byte_tokens, tokenizer.rules))
    batches = [
        _tokens_of(documents["text"].slice(start, BATCH_DOCUMENTS), encode, tokenizer)
        for start in range(0, documents.num_rows, BATCH_DOCUMENTS)
    ]
    lengths = np.concatenate([np.empty(0, np.int32), *(lengths for lengths, _ in batches)])
    values = np.concatenate([np.empty(0, np.uint16), *(values for _, values in batches)])[np.repeat(live, lengths)]
    offsets = np.concatenate([[0], np.cumsum(np.where(live, lengths, 0))]).astype(np.int64)
    tokens = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values), mask=pa.array(~live))
    columns = {"row": documents["row"], "id": documents["id"], "n_tokens": pa.array(lengths), "tokens": tokens}
    return {
        "tables": {"tokens": as_json(write_table(store, pa.table(columns).cast(schema.TOKENS)))},
        "tokens": int(lengths[live].sum()),
        "live_bytes": int(documents["n_bytes"].to_numpy()[live].sum()),
        "documents": documents.num_rows,
        "bytes": int(documents["n_bytes"].to_numpy().sum()),
    }


def _tokens_of(texts: pa.ChunkedArray, encode: Encoder, tokenizer: BpeTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """(tokens of each text int32[n], all tokens uint16); what the kernel leaves goes to `tokenizers`."""
    encoded = encode(texts)
    lengths = np.diff(encoded.offsets).astype(np.int32)
    left = np.flatnonzero(encoded.left)
    if not left.size:
        return lengths, encoded.tokens
    parts = np.split(encoded.tokens, encoded.offsets[1:-1])
    for row, tokens in zip(left, tokenizer.encode(texts.take(pa.array(left)).to_pylist()), strict=True):
        parts[row], lengths[row] = tokens, len(tokens)
    return lengths, np.concatenate(parts)

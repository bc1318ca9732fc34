"""What other tools drop as near-duplicates, each through its own documented way. Imports nothing of this project.

    python benchmarks/dedup_peers.py NAME OUT BANDS ROWS FILE.parquet...

Reads `id` and `text` of the files, writes the ids to drop to OUT, one a line, and prints when it had done so. All look
for word 5-grams at Jaccard 0.8 with 128 hashes, on all cores where they can:
    daft        its minhash tutorial (xxhash, normalised text, bands of a signature grouped), with two things in its
                favour: a band is grouped by one 64-bit hash, not by a list, and components come from SciPy, not from
                joins. One document of each component stays. Nothing is verified.
    rensa       full-set RMinHash and its deduplicator, which compares sketches. (`rho` is faster but reads about 15
                tokens of a document, not its set.) Bands must divide 128: the next more lenient ones than ours.
    gaoya       MinHashStringIndex, parallel, which compares sketches; the first of a set of similar ones stays.
    datasketch  MinHash and MinHashLSH with its own optimum for 0.8: a document goes if the index has a match.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

HASHES, SHINGLE, THRESHOLD, BATCH = 128, 5, 0.8, 1000

Find = Callable[[Sequence[str], int, int], Iterable[str]]


def with_daft(files: Sequence[str], bands: int, rows: int) -> Iterable[str]:
    """One plan up to the band keys, one from there to the edges of stars."""
    import daft
    from daft import col
    from daft.functions import monotonically_increasing_id

    text = col("text").normalize(remove_punct=True, lowercase=True, nfd_unicode=True, white_space=True)
    signature = text.minhash(num_hashes=HASHES, ngram_size=SHINGLE, seed=1, hash_function="xxhash")
    seeds = [daft.lit(band).cast(daft.DataType.uint64()) for band in range(bands)]
    keys = [
        col("signature").slice(band * rows, (band + 1) * rows).hash(seed).alias(f"band{band}")
        for band, seed in enumerate(seeds)
    ]
    signed = daft.read_parquet(list(files)).select("id", signature.alias("signature"))
    signed = signed.with_column("node", monotonically_increasing_id()).select("id", "node", *keys).collect()
    buckets = (
        signed.unpivot("node", [f"band{band}" for band in range(bands)], "band", "key")
        .groupby("key")
        .agg(col("node").min().alias("u"), col("node").count().alias("size"), col("node").list_agg().alias("v"))
        .where(col("size") > 1)
    )
    edges = buckets.explode("v").select("u", "v").where(col("u") != col("v")).distinct().to_arrow()
    documents = signed.select("id", "node").to_arrow()
    return _not_first_of_component(documents, edges)


def _not_first_of_component(documents: Any, edges: Any) -> list[str]:
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes = documents["node"].to_numpy()
    order = np.argsort(nodes)
    u, v = (order[np.searchsorted(nodes, edges[name].to_numpy(), sorter=order)] for name in ("u", "v"))
    graph = coo_array((np.ones(len(u), np.int8), (u, v)), shape=(len(nodes), len(nodes)))
    component = connected_components(graph, directed=False)[1]
    first = np.zeros(len(nodes), bool)
    first[np.unique(component, return_index=True)[1]] = True
    return documents["id"].filter(~first).to_pylist()


def with_rensa(files: Sequence[str], _: int, rows: int) -> Iterable[str]:
    """Signatures of a batch, then its documents in order: one stays unless it resembles one that stayed."""
    from rensa import RMinHash, RMinHashDeduplicator

    rows = max(each for each in range(1, rows + 1) if HASHES % each == 0)
    index = RMinHashDeduplicator(THRESHOLD, HASHES, True, num_bands=HASHES // rows, seed=1)
    documents = _documents(files)
    dropped: list[str] = []
    while batch := list(islice(documents, BATCH)):
        signatures = RMinHash.from_token_sets([_shingles(words) for _, words in batch], HASHES, 1)
        kept = index.add_pairs([(name, each) for (name, _), each in zip(batch, signatures, strict=True)])
        dropped += [name for (name, _), stays in zip(batch, kept, strict=True) if not stays]
    return dropped


def with_gaoya(files: Sequence[str], bands: int, rows: int) -> Iterable[str]:
    """All documents indexed and queried in bulk; then in order, as above."""
    from gaoya.minhash import MinHashStringIndex

    ids, texts = zip(*((name, " ".join(words)) for name, words in _documents(files)), strict=True)
    index = MinHashStringIndex(
        hash_size=32,
        jaccard_threshold=THRESHOLD,
        num_bands=bands,
        band_size=rows,
        analyzer="word",
        ngram_range=(SHINGLE, SHINGLE),
        id_container="smallvec",
    )
    index.par_bulk_insert_docs(list(range(len(texts))), list(texts))
    stayed: set[int] = set()
    for number, similar in enumerate(index.par_bulk_query(list(texts))):
        if stayed.isdisjoint(similar):
            stayed.add(number)
    return [name for number, name in enumerate(ids) if number not in stayed]


def with_datasketch(files: Sequence[str], _: int, __: int) -> Iterable[str]:
    """Documents in order: one stays, and enters the index, unless the index has a match."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=HASHES)
    dropped = []
    for name, words in _documents(files):
        signature = MinHash(num_perm=HASHES)
        signature.update_batch([shingle.encode() for shingle in set(_shingles(words))])
        if index.query(signature):
            dropped.append(name)
        else:
            index.insert(name, signature, check_duplication=False)
    return dropped


PEERS: dict[str, Find] = {
    "daft": with_daft,
    "rensa": with_rensa,
    "gaoya": with_gaoya,
    "datasketch": with_datasketch,
}


def _documents(files: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Id and words of each document that has a shingle: two without one are not alike."""
    import pyarrow.parquet as pq

    for path in files:
        table = pq.read_table(path, columns=["id", "text"], partitioning=None)
        for name, text in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True):
            words = re.findall(r"\w+", text.lower())
            if len(words) >= SHINGLE:
                yield name, words


def _shingles(words: list[str]) -> list[str]:
    return [" ".join(run) for run in zip(*(words[start:] for start in range(SHINGLE)), strict=False)]


def answer(out: str, dropped: Iterable[str]) -> None:
    """Write the ids; then tell the time and the largest resident size of this process, in bytes."""
    Path(out).write_text("".join(f"{name}\n" for name in dropped))
    ended = time.monotonic()  # one clock for all processes of a machine
    status = Path("/proc/self/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    print(json.dumps({"ended": ended, "peak": int(peak[1]) << 10}))


if __name__ == "__main__":
    name, out, bands, rows, *files = sys.argv[1:]
    answer(out, PEERS[name](files, int(bands), int(rows)))

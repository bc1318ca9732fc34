"""Packs against their documents: every window's document is there, and its tokens are what the tokenizer makes of it.

Ids are looked up for all segments, tokens for a sample of them; the texts of the sample are encoded anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.catalog import Catalog
from catalog.lineage import documents_behind
from catalog.pack import PADDING, Packs
from catalog.snapshot import Snapshot
from catalog.tables import read_live
from catalog.tokenizer import BpeTokenizer

SAMPLE = 200  # segments of each packs snapshot


@dataclass(frozen=True, kw_only=True)
class PacksChecked:
    """`segments` were encoded anew; `problems` is a line each."""

    segments: int
    problems: list[str]


def check_packs(catalog: Catalog, sound: Sequence[Snapshot]) -> PacksChecked:
    """Compare the packs among `sound` with the documents they were cut from, where these are among them too."""
    segments, problems = 0, []
    for packs in sound:
        behind = documents_behind(catalog, packs) if packs.contents.kind == "packs" else []
        sources = [each for each in behind if each in sound and each is not None]
        if not sources or len(sources) < len(behind) or not packs.contents.shards:
            continue
        missing = _missing(catalog, packs, sources)
        if missing:
            names = ", ".join(each.ref for each in sources)
            problems.append(f"{packs.ref}: {len(missing)} documents of its windows are not in {names}: {missing[0]}")
            continue
        sample = _sample(catalog, packs)
        wrong = _wrong(catalog, packs, sources, sample)
        segments += len(sample)
        problems += [
            f"{packs.ref}: the tokens of a window of {name} are not what its tokenizer makes of the text"
            for name in wrong
        ]
    return PacksChecked(segments=segments, problems=problems)


def _missing(catalog: Catalog, packs: Snapshot, sources: Sequence[Snapshot]) -> list[str]:
    """Ids in the windows that are not live documents."""
    wanted = pa.array([], pa.binary(16))
    for shard in packs.contents.shards:
        with pa.memory_map(str(catalog.store.local(shard.tables["pack"]))) as file:
            flat = pc.list_flatten(pa.ipc.open_file(file).read_all()["documents"]).unique()
            wanted = pa.concat_arrays([wanted, flat.cast(pa.binary(16))]).unique()
    names = {each.hex() for each in wanted.to_pylist() if each != PADDING}
    for source in sources:
        for shard in source.contents.shards:
            names -= set(read_live(catalog.store, shard, source.contents.layers, ["id"])["id"].to_pylist())
    return sorted(names)


def _sample(catalog: Catalog, packs: Snapshot) -> list[tuple[str, np.ndarray]]:
    """Document and tokens of some segments, without end-of-text; the same ones on every call."""
    reader = Packs([catalog.store.local(shard.tables["pack"]) for shard in packs.contents.shards])
    if not len(reader):
        return []
    rows = np.sort(np.random.Generator(np.random.Philox(0)).integers(len(reader), size=SAMPLE))
    tokens, segments = reader.tokens(rows), reader.segments(rows)
    found = []
    for i, row in enumerate(rows.tolist()):
        names = iter(reader.documents(row))
        for segment in np.unique(segments[i][segments[i] >= 0]):
            piece = tokens[i][segments[i] == segment]
            found.append((next(names), piece[piece != reader.format.end_of_text]))
    return [each for each in found if len(each[1])][:SAMPLE]


def _wrong(
    catalog: Catalog, packs: Snapshot, sources: Sequence[Snapshot], sample: Sequence[tuple[str, np.ndarray]]
) -> list[str]:
    """The documents of those pieces that are not a run of their document's tokens."""
    tokenizer = BpeTokenizer(catalog.store.local(packs.artifact("tokenizer")))
    wanted = pa.array({name for name, _ in sample}, pa.string())
    encoded: dict[str, bytes] = {}
    for source in sources:
        for shard in source.contents.shards:
            ids = read_live(catalog.store, shard, source.contents.layers, ["row", "id"])
            if pc.any(pc.is_in(ids["id"], value_set=wanted)).as_py():
                texts = read_live(catalog.store, shard, source.contents.layers, ["id", "text"])
                texts = texts.filter(pc.is_in(texts["id"], value_set=wanted))
                pieces = tokenizer.encode(texts["text"].to_pylist())
                named = zip(texts["id"].to_pylist(), pieces, strict=True)
                encoded |= {name: each.tobytes() for name, each in named}
    return [name for name, piece in sample if not _holds(encoded[name], piece.astype(np.uint16).tobytes())]


def _holds(tokens: bytes, piece: bytes) -> bool:
    """Whether `piece` is a run of `tokens`, both of two bytes each."""
    at = tokens.find(piece)
    while at % 2 == 1:  # -1 counts as odd
        if at < 0:
            return False
        at = tokens.find(piece, at + 1)
    return True

"""Shingle sets of documents in a file that is mapped, not read.

Verification of a shard's pairs may look into as many files as there are shards, and at few documents of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dataops.kernels.fixed import bytes_of, fixed_binary
from dataops.kernels.hashing import to_hex
from dataops.kernels.ragged import Ragged


@dataclass(frozen=True, kw_only=True)
class ShingleSets:
    """Sets of documents int64[n], ascending, and their ids uint64[2n], as halves.

    The file is uint64 words: n, the documents, the halves, n + 1 offsets, and the sets one after another.
    """

    documents: np.ndarray
    ids: np.ndarray
    sets: Ragged

    @staticmethod
    def write(path: Path, documents: np.ndarray, ids: pa.FixedSizeBinaryArray, sets: list[Ragged]) -> None:
        """Write the file whole or not at all; `sets` hold the documents in order, some in each."""
        sizes = np.concatenate([np.zeros(1, np.int64), *(np.diff(each.offsets) for each in sets)])
        partial = path.with_suffix(".partial")
        with open(partial, "wb") as file:
            for part in ([documents.size], documents, bytes_of(ids).view(np.uint64), np.cumsum(sizes)):
                file.write(np.asarray(part, np.uint64).tobytes())
            for each in sets:
                file.write(each.values.data)
        partial.replace(path)

    @classmethod
    def open(cls, path: str) -> ShingleSets:
        """Map a file that `write` made."""
        words = np.memmap(path, np.uint64, "r")
        n = int(words[0])
        documents, ids, offsets, values = np.split(words[1:], np.cumsum([n, 2 * n, n + 1]))
        return cls(documents=documents.view(np.int64), ids=ids, sets=Ragged(offsets.view(np.int64), values))

    def at(self, documents: np.ndarray) -> np.ndarray:
        """Positions of documents that are there."""
        return np.searchsorted(self.documents, documents)

    def hex(self, positions: np.ndarray) -> pa.StringArray:
        """Ids at positions."""
        return to_hex(fixed_binary(self.ids.reshape(-1, 2)[positions].view(np.uint8)))

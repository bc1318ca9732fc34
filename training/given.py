"""What a model was given: every segment of the packs with the number of samples that held it, replayed from the order.

The order is a pure function of the sample number, so nothing is recorded while training; this is computed once at its
end and stored with the model, because the catalog, which answers who saw what, knows nothing of the order. Every step
that was taken counts, also those after the one whose weights early stopping kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from catalog.pack import PADDING, Packs
from catalog.schema import GIVEN
from training.order import Order

_SAMPLES_AT_ONCE = 1 << 20


def given(packs: Packs, runs: Sequence[tuple[Order, int]]) -> pa.Table:
    """The segments of rows that the first samples hold, in the order of the packs, columns GIVEN.

    `runs`: the order of each run that made the model together, and how many samples it took.
    """
    times = np.zeros(len(packs), np.int64)
    for order, samples in runs:
        for first in range(0, samples, _SAMPLES_AT_ONCE):
            drawn = order.samples(first, min(samples, first + _SAMPLES_AT_ONCE))
            times += np.bincount(packs.rows(drawn.cells, drawn.rows), minlength=len(packs))
    parts = [
        _segments(batch, number, times[first : first + batch.num_rows], packs.format.context)
        for number, (first, batch) in enumerate(packs.files())
    ]
    return pa.concat_tables([GIVEN.empty_table(), *parts]).combine_chunks()


def _segments(batch: pa.RecordBatch, number: int, times: np.ndarray, context: int) -> pa.Table:
    """The segments of one pack file that were given at least once; padding is nobody's."""
    starts, documents = batch.column("starts"), batch.column("documents")
    row = np.repeat(np.arange(batch.num_rows, dtype=np.int32), starts.value_lengths().to_numpy())
    start = starts.flatten().to_numpy()
    ends = np.append(start[1:], context)
    ends[np.append(row[1:] != row[:-1], True)] = context
    ids = documents.flatten().to_pylist()
    wanted = np.flatnonzero((times[row] > 0) & np.array([each != PADDING for each in ids], bool))
    columns = {
        "id": [ids[each].hex() for each in wanted],
        "shard": np.full(len(wanted), number, np.int32),
        "row": row[wanted],
        "start": start[wanted],
        "n_tokens": (ends - start)[wanted].astype(np.int32),
        "samples": times[row[wanted]],
    }
    return pa.table(columns).cast(GIVEN)

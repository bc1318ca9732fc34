"""Cell cards: what each cell holds, for people who read SQL. Size, sources, typical words, nearest documents.

Sizes, sources and nearest documents are counted over all windows, shard by shard; typical words come from the windows
that the cells were fitted on: those whose share in the cell, times the log of how much larger it is than in the whole
sample, is largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from catalog import schema
from catalog.run import Receipt, Task
from catalog.store import Store
from catalog.tables import read_live
from dataops.kernels.ngrams import word_hashes
from dataops.kernels.ragged import text_bytes
from dataops.kernels.text import matching_form, word_spans
from dataops.kernels.tree import Tree, cells_at

WORDS, SOURCES, NEAREST = 8, 5, 3  # how many of each a card lists


def summarize_shard(store: Store, task: Task) -> Receipt:
    """Scratch tables of one shard: windows, documents and tokens by cell and source, and the nearest documents."""
    windows = read_live(
        store, task["shard"], task["layers"], ["row", "id", "cell", "n_tokens", "similarity"], table="cells"
    )
    live = read_live(store, task["shard"], task["layers"], ["row", "source"])
    at = np.searchsorted(live["row"].to_numpy(), windows["row"].to_numpy())
    windows = windows.append_column("source", live["source"].combine_chunks().take(pa.array(at)))
    sizes = windows.group_by(["cell", "source"]).aggregate(
        [("id", "count"), ("id", "count_distinct"), ("n_tokens", "sum"), ("similarity", "sum")]
    )
    folder, number = Path(task["folder"]), task["number"]
    paths = [str(folder / f"sizes-{number}.arrow"), str(folder / f"nearest-{number}.arrow")]
    for path, table in zip(paths, (sizes, _nearest(windows)), strict=True):
        _save(Path(path), table)
    return {"path": paths, "windows": windows.num_rows}


def typical_words(path: Path, texts: pa.LargeStringArray, cell: np.ndarray, num_cells: int) -> None:
    """Write the words that mark each of `num_cells` cells, best first: a table (cell, word); `cell` int32[n]."""
    offsets, hashes = word_hashes(texts)
    _, first, word = np.unique(hashes, return_index=True, return_inverse=True)
    num_words = len(first)
    keys, count = np.unique(np.repeat(cell, np.diff(offsets)).astype(np.int64) * num_words + word, return_counts=True)
    of_cell, of_word = np.divmod(keys, max(num_words, 1))
    in_cell = np.bincount(of_cell, count, num_cells)[of_cell]
    share = np.bincount(word, minlength=num_words) / max(len(word), 1)
    gain = count / in_cell * np.log(count / in_cell / share[of_word])
    order = np.lexsort((of_word, -gain, of_cell))
    rank = np.arange(len(order)) - np.searchsorted(of_cell[order], of_cell[order])
    best = order[(rank < WORDS) & (count[order] > 1) & (gain[order] > 0)]
    _save(path, pa.table({"cell": of_cell[best], "word": _strings(texts, first[of_word[best]])}))


def card_table(tree: Tree, parts: Sequence[Sequence[str]], words: str) -> pa.Table:
    """The artifact `cards`, a row per leaf, from the scratch tables of all shards."""
    sizes = pa.concat_tables([_load(path) for path, _ in parts])
    nearest = _top(pa.concat_tables([_load(path) for _, path in parts]))
    by_cell = sizes.group_by("cell").aggregate(
        [(f"{name}_{kind}", "sum") for name, kind in _SUMS] + [("similarity_sum", "sum")]
    )
    num_cells = tree.num_cells[-1]
    totals = {name: np.zeros(num_cells) for name in by_cell.column_names if name != "cell"}
    for name, column in totals.items():
        column[by_cell["cell"].to_numpy()] = by_cell[name].to_numpy()
    windows = totals["id_count_sum"]
    by_source = sizes.group_by(["cell", "source"]).aggregate([("id_count", "sum")])
    by_source = by_source.sort_by([("cell", "ascending"), ("id_count_sum", "descending"), ("source", "ascending")])
    columns = {
        "cell": np.arange(num_cells),
        "path": np.stack([cells_at(tree, level) for level in range(len(tree.parents))], axis=1)[:, :-1].tolist(),
        "windows": windows,
        "documents": totals["id_count_distinct_sum"],
        "tokens": totals["n_tokens_sum_sum"],
        "similarity": totals["similarity_sum_sum"] / np.maximum(windows, 1),
        "sources": _listed(by_source, "source", num_cells, SOURCES),
        "words": _listed(_load(words), "word", num_cells, WORDS),
        "nearest": _listed(nearest, "id", num_cells, NEAREST),
    }
    return pa.table({field.name: pa.array(columns[field.name]).cast(field.type) for field in schema.CARDS})


_SUMS = (("id", "count"), ("id", "count_distinct"), ("n_tokens", "sum"))


def _nearest(windows: pa.Table) -> pa.Table:
    """The nearest documents of each cell, each by its nearest window: cell, id, similarity."""
    best = windows.group_by(["cell", "id"]).aggregate([("similarity", "max")])
    return _top(best.rename_columns({"similarity_max": "similarity"}))


def _top(nearest: pa.Table) -> pa.Table:
    ranked = nearest.sort_by([("cell", "ascending"), ("similarity", "descending"), ("id", "ascending")])
    cell = ranked["cell"].to_numpy()
    return ranked.filter(pa.array(np.arange(len(cell)) - np.searchsorted(cell, cell) < NEAREST))


def _listed(table: pa.Table, column: str, num_cells: int, most: int) -> list[list[str]]:
    """The first values of `column` for each cell; rows are in the order of cells."""
    lists: list[list[str]] = [[] for _ in range(num_cells)]
    for cell, value in zip(table["cell"].to_pylist(), table[column].to_pylist(), strict=True):
        if len(lists[cell]) < most:
            lists[cell].append(value)
    return lists


def _strings(texts: pa.LargeStringArray, positions: np.ndarray) -> pa.Array:
    """The words at `positions` among all words of the texts, folded as they were hashed."""
    folded = matching_form(texts)
    offsets, starts, stops = word_spans(folded)
    bounds, data = text_bytes(folded)
    row = np.searchsorted(offsets, positions, side="right") - 1
    spans = zip((bounds[row] + starts[positions]).tolist(), (bounds[row] + stops[positions]).tolist(), strict=True)
    return pa.array([data[start:stop].tobytes().decode() for start, stop in spans], pa.string())


def _save(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _load(path: str) -> pa.Table:
    return pa.ipc.open_file(path).read_all()

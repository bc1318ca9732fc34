"""The tables of document shards: their columns are what users' SQL relies on.

Every table has `row`, the position of the document in its shard's `documents` table, ascending.
"""

from __future__ import annotations

import pyarrow as pa

DOCUMENTS = pa.schema(
    [
        ("row", pa.int32()),
        ("id", pa.string()),
        ("h64", pa.uint64()),
        ("content", pa.string()),
        ("source", pa.string()),
        ("source_id", pa.string()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("domain", pa.string()),
        ("n_chars", pa.int32()),
        ("n_bytes", pa.int32()),
        ("text", pa.large_string()),
    ]
)

DECISIONS = pa.schema(
    [
        ("row", pa.int32()),
        ("id", pa.string()),
        ("kept", pa.bool_()),
        ("rule", pa.string()),
        ("reason", pa.string()),
        ("kept_id", pa.string()),
        ("similarity", pa.float64()),
    ]
)

TOKENS = pa.schema(
    [
        ("row", pa.int32()),
        ("id", pa.string()),
        ("n_tokens", pa.int32()),
        ("tokens", pa.large_list(pa.uint16())),
    ]
)

DOMAIN = pa.schema([("row", pa.int32()), ("id", pa.string()), ("domain", pa.string()), ("probability", pa.float32())])

CELLS = pa.schema(
    [
        ("row", pa.int32()),
        ("id", pa.string()),
        ("window", pa.int32()),
        ("start", pa.int32()),
        ("n_tokens", pa.int32()),
        ("cell", pa.int32()),
        ("similarity", pa.float32()),
    ]
)

STATISTICS = pa.schema(
    [
        ("row", pa.int32()),
        ("id", pa.string()),
        *((name, pa.int64()) for name in ("n_chars", "n_bytes", "n_words", "stop_word_count")),
        *((name, pa.float64()) for name in ("mean_word_length", "mean_line_length")),
        *((f"{name}_share", pa.float64()) for name in ("alphabetic", "unique_word", "symbol", "digit", "uppercase")),
        *((f"{name}_line_share", pa.float64()) for name in ("bullet", "ellipsis", "duplicate")),
        *((f"top_{n}gram_share", pa.float64()) for n in (2, 3, 4)),
        *((f"duplicate_{n}gram_share", pa.float64()) for n in range(5, 11)),
    ]
)

EDGES = pa.schema(
    [
        ("left", pa.int64()),
        ("right", pa.int64()),
        ("left_id", pa.string()),
        ("right_id", pa.string()),
        ("similarity", pa.float64()),
    ]
)

# What decontamination found: `evaluation` counts the sets from 0, `passage` is the longest run of shared words.
MATCHES = pa.schema(
    [
        ("row", pa.int32()),
        ("id", pa.string()),
        ("evaluation", pa.int32()),
        ("ngrams", pa.int32()),
        ("passage", pa.string()),
    ]
)

# What a cell holds. `path` lists the coarser cells around it, from the coarsest one on.
CARDS = pa.schema(
    [
        ("cell", pa.int32()),
        ("path", pa.large_list(pa.int32())),
        ("windows", pa.int64()),
        ("documents", pa.int64()),
        ("tokens", pa.int64()),
        ("similarity", pa.float64()),
        ("sources", pa.large_list(pa.string())),
        ("words", pa.large_list(pa.string())),
        ("nearest", pa.large_list(pa.string())),
    ]
)

# How a window compares with the others of its cell: it is drawn `factor` times as often as their mean.
FACTORS = pa.schema(
    [
        ("row", pa.int32()),
        ("id", pa.string()),
        ("window", pa.int32()),
        ("cell", pa.int32()),
        ("score", pa.float32()),
        ("factor", pa.float32()),
    ]
)

DRAWS = pa.schema(
    [
        ("row", pa.int32()),
        ("id", pa.string()),
        ("window", pa.int32()),
        ("cell", pa.int32()),
        ("copies", pa.int32()),
    ]
)

QUARANTINE = pa.schema(
    [("path", pa.string()), ("position", pa.string()), ("reason", pa.string()), ("excerpt", pa.string())]
)

WEIGHTS = pa.schema(
    [
        ("cell", pa.int32()),
        ("pool_tokens", pa.int64()),
        ("target_tokens", pa.int64()),
        ("pool_share", pa.float64()),
        ("target_share", pa.float64()),
        ("weight", pa.float64()),
        ("ratio", pa.float64()),
        ("ratio_low", pa.float64()),
        ("ratio_high", pa.float64()),
        ("epochs", pa.float64()),
        ("capped", pa.bool_()),
    ]
)

# How much of the target and of new text lies in each cell.
SHIFTS = pa.schema([("cell", pa.int32()), ("target_share", pa.float64()), ("new_share", pa.float64())])

EVALUATIONS = pa.schema(
    [
        ("model", pa.string()),
        ("id", pa.string()),
        ("nll_nats", pa.float64()),
        ("n_tokens", pa.int32()),
        ("n_bytes", pa.int32()),
    ]
)

# Gains of pairs of proxies, and what they predict for the planned size (`measured` is false).
FORECASTS = pa.schema(
    [
        ("stage", pa.string()),
        ("measured", pa.bool_()),
        ("tokens", pa.int64()),
        ("parameters", pa.int64()),
        ("gain", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)

# What a model was given: segments of rows of its packs (`shard` is the file), and how many samples held the row.
GIVEN = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("start", pa.int32()),
        ("n_tokens", pa.int32()),
        ("samples", pa.int64()),
    ]
)

EVALUATION_PARTS = pa.schema(
    [
        ("model", pa.string()),
        ("part", pa.string()),
        ("group", pa.string()),
        ("documents", pa.int32()),
        ("tokens", pa.int64()),
        ("nats_per_token", pa.float64()),
        ("accuracy", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)

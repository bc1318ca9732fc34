"""How well a model predicts documents: nats per document, bits per byte, and whether one model beats another.

Every document is scored as end-of-text + tokens + end-of-text, each token once, in windows of the context that begin
with the last token before them and do not overlap otherwise. Bits per byte do not depend on the tokenizer. Two models
are compared by a paired bootstrap over documents (Koehn 2004) of the difference of their ratios of sums.
Cost: one forward pass; windows are sorted by length so that padding stays small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from catalog.errors import BadInput
from training.context import LocalContext, RunContext
from training.folder import end_of_text as read_end_of_text
from training.folder import read_model
from training.model import IGNORED, Llama, layout

_BATCH_TOKENS = {"cpu": 4096, "cuda": 1 << 16}
_DRAWS_AT_ONCE = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One entry per document: `nll_nats` float64, `tokens` (scored, final end-of-text included) and `bytes` int64."""

    ids: list[str]
    nll_nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Totals over documents; `perplexity` is per token."""

    documents: int
    tokens: int
    bytes: int
    bits_per_byte: float
    perplexity: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Bits per byte of a minus b: negative means a is better. `low` and `high` bound 95% of the bootstrap.

    `win_probability` is the share of bootstrap draws in which a is better.
    """

    difference: float
    low: float
    high: float
    win_probability: float


def evaluate(
    model_dir: Path,
    documents: pa.Table,
    *,
    context: RunContext = LocalContext(),  # noqa: B008, a frozen value
) -> Scores:
    """Score documents with the columns id (string), tokens (list of ids) and n_bytes (int), in fp32."""
    model, end_of_text = read_model(model_dir, device=context.device), read_end_of_text(model_dir)
    return score(model, documents, end_of_text=end_of_text, dtype=torch.float32)


def score(model: Llama, documents: pa.Table, *, end_of_text: int, dtype: torch.dtype) -> Scores:
    """`evaluate` with a model at hand."""
    missing = {"id", "tokens", "n_bytes"} - set(documents.column_names)
    if missing or not len(documents):
        raise BadInput(
            f"documents to score need rows and the columns id, tokens, n_bytes; missing: {missing or 'rows'}"
        )
    flat, lengths = _flat(documents, end_of_text)
    document, inputs, sizes = _windows(lengths, model.config.context)
    if len(flat) and int(flat.max()) >= model.config.vocab_size:
        raise BadInput(f"token {int(flat.max())} in documents of a model whose vocabulary is {model.config.vocab_size}")
    nll = np.zeros(len(lengths), np.float64)
    device = model.model.embed_tokens.weight.device
    for chosen in _batches(sizes, _BATCH_TOKENS.get(device.type, 4096)):
        place = np.arange(sizes[chosen].max())[None]
        inside = place < sizes[chosen][:, None]
        at = inputs[chosen][:, None] + np.where(inside, place, 0)
        tokens_BT = torch.from_numpy(flat[at])
        targets_BT = torch.from_numpy(np.where(inside, flat[at + 1], IGNORED))
        where = layout(torch.zeros_like(tokens_BT), device)
        losses_BT = model.nll(tokens_BT.to(device), targets_BT.to(device), where, dtype)
        np.add.at(nll, document[chosen], losses_BT.double().sum(1).cpu().numpy())
    return Scores(
        ids=documents.column("id").to_pylist(),
        nll_nats=nll,
        tokens=lengths - 1,
        bytes=documents.column("n_bytes").to_numpy().astype(np.int64),
    )


def summarise(scores: Scores) -> Summary:
    """Totals, and the two ratios of sums."""
    nats, tokens, size = float(scores.nll_nats.sum()), int(scores.tokens.sum()), int(scores.bytes.sum())
    return Summary(
        documents=len(scores.ids),
        tokens=tokens,
        bytes=size,
        bits_per_byte=nats / math.log(2) / size,
        perplexity=math.exp(min(nats / tokens, 700.0)),
    )


def paired_bootstrap(a: Scores, b: Scores, *, seed: int, draws: int = 2000) -> Comparison:
    """Compare two models on the same documents. Raises ValueError when the documents differ."""
    if a.ids != b.ids:
        raise ValueError(f"models are compared on the same documents: got {len(a.ids)} and {len(b.ids)}, not all equal")
    generator = np.random.Generator(np.random.Philox(seed))
    size = a.bytes.astype(np.float64)
    gap = (a.nll_nats - b.nll_nats) / math.log(2)
    differences = np.empty(draws)
    step = max(1, _DRAWS_AT_ONCE // len(size))
    for begin in range(0, draws, step):
        chosen = generator.integers(len(size), size=(min(step, draws - begin), len(size)))
        differences[begin : begin + step] = gap[chosen].sum(1) / size[chosen].sum(1)
    low, high = np.quantile(differences, (0.025, 0.975))
    wins = (differences < 0).mean() + (differences == 0).mean() / 2
    return Comparison(
        difference=float(gap.sum() / size.sum()), low=float(low), high=float(high), win_probability=float(wins)
    )


def _flat(documents: pa.Table, end_of_text: int) -> tuple[np.ndarray, np.ndarray]:
    """All documents, each between two end-of-text tokens, end to end, int64; and their lengths."""
    column = documents.column("tokens").combine_chunks()
    tokens = column.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    inner = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = np.full(len(tokens) + 2 * len(inner), end_of_text, np.int64)
    flat[np.arange(len(tokens)) + 2 * np.repeat(np.arange(len(inner)), inner) + 1] = tokens
    return flat, inner + 2


def _windows(lengths: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Document, offset of the first input, and number of predictions of each window."""
    counts = -(-(lengths - 1) // context)
    document = np.repeat(np.arange(len(lengths)), counts)
    place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.cumsum(lengths) - lengths
    return document, starts[document] + place * context, np.minimum(lengths[document] - 1 - place * context, context)


def _batches(sizes: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Windows sorted by length, cut where the padded batch would exceed `tokens`."""
    ordered, out, begin = np.argsort(-sizes, kind="stable"), [], 0
    while begin < len(ordered):
        end = begin + max(1, tokens // int(sizes[ordered[begin]]))
        out.append(ordered[begin:end])
        begin = end
    return out

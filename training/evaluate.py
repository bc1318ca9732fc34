"""How well a model predicts documents: nats per document, bits per byte, and whether one model beats another.

Every document is scored as end-of-text + tokens + end-of-text, each token once, in windows of the context that begin
with the last token before them and do not overlap otherwise. Bits per byte do not depend on the tokenizer. Two models
are compared by a paired bootstrap over documents (Koehn 2004) of the difference of their ratios of sums.
Cost: one forward pass; windows are sorted by length so that padding stays small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    """One entry per document: `nll_nats` float64, `tokens` (scored, final end-of-text included) and `bytes` int64.

    `correct` int64 counts the tokens that the model held for likeliest. `parts` are the same sums by window of the
    document, for cells.
    """

    ids: list[str]
    nll_nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    correct: np.ndarray
    parts: Parts


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One entry per window of a document: its `document` (index), `cell`, and sums over its tokens."""

    document: np.ndarray
    cell: np.ndarray
    nll_nats: np.ndarray
    tokens: np.ndarray
    correct: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Where windows of the documents begin: `document` (index), `start` (token) and `cell`, sorted by the first two.

    A token belongs to the last window that begins at or before it, the final end-of-text to the last one.
    """

    document: np.ndarray
    start: np.ndarray
    cell: np.ndarray


NO_WINDOWS = Windows(document=np.zeros(0, np.int64), start=np.zeros(0, np.int64), cell=np.zeros(0, np.int64))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Totals over documents. `perplexity` and `accuracy` are per token; `low` and `high` bound 95% of a bootstrap over
    documents of the bits per byte."""

    documents: int
    tokens: int
    bytes: int
    bits_per_byte: float
    perplexity: float
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """Totals of a domain or a cell: nats per token with the 95% of a bootstrap over documents, and accuracy."""

    group: str
    documents: int
    tokens: int
    nats_per_token: float
    accuracy: float
    low: float
    high: float


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
    windows: Windows = NO_WINDOWS,
    context: RunContext = LocalContext(),  # noqa: B008, a frozen value
) -> Scores:
    """Score documents with the columns id (string), tokens (list of ids) and n_bytes (int), in fp32."""
    model, end_of_text = read_model(model_dir, device=context.device), read_end_of_text(model_dir)
    return score(model, documents, end_of_text=end_of_text, dtype=torch.float32, windows=windows)


def score(
    model: Llama, documents: pa.Table, *, end_of_text: int, dtype: torch.dtype, windows: Windows = NO_WINDOWS
) -> Scores:
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
    begins = np.cumsum(lengths) - lengths
    losses, hits = np.zeros(len(flat), np.float32), np.zeros(len(flat), bool)  # of the token after each
    device = model.model.embed_tokens.weight.device
    for chosen in _batches(sizes, _BATCH_TOKENS.get(device.type, 4096)):
        place = np.arange(sizes[chosen].max())[None]
        inside = place < sizes[chosen][:, None]
        at = inputs[chosen][:, None] + np.where(inside, place, 0)
        tokens_BT = torch.from_numpy(flat[at])
        targets_BT = torch.from_numpy(np.where(inside, flat[at + 1], IGNORED))
        where = layout(torch.zeros_like(tokens_BT), device)
        nll_BT, hit_BT = model.predict(tokens_BT.to(device), targets_BT.to(device), where, dtype)
        losses[at[inside]] = nll_BT.cpu().numpy()[inside]
        hits[at[inside]] = hit_BT.cpu().numpy()[inside]
    document = np.repeat(np.arange(len(lengths)), lengths - 1)
    predicted = np.delete(np.arange(len(flat)), begins + lengths - 1)  # nothing follows a last token
    nats, correct = losses[predicted].astype(np.float64), hits[predicted]
    return Scores(
        ids=documents.column("id").to_pylist(),
        nll_nats=np.bincount(document, nats, len(lengths)),
        tokens=lengths - 1,
        bytes=documents.column("n_bytes").to_numpy().astype(np.int64),
        correct=np.bincount(document, correct, len(lengths)).astype(np.int64),
        parts=_parts(windows, document, predicted - begins[document], nats, correct),
    )


def _parts(windows: Windows, document: np.ndarray, token: np.ndarray, nats: np.ndarray, correct: np.ndarray) -> Parts:
    """Sums by window; documents without windows are left out."""
    if not len(windows.document):
        none = np.zeros(0, np.int64)
        return Parts(document=none, cell=none, nll_nats=np.zeros(0), tokens=none, correct=none)
    width = int(max(token.max(initial=0), windows.start.max())) + 1
    keys = windows.document * width + windows.start
    owner = np.searchsorted(keys, document * width + token, side="right") - 1
    known = (owner >= 0) & (windows.document[np.maximum(owner, 0)] == document)
    owner, size = owner[known], len(keys)
    return Parts(
        document=windows.document,
        cell=windows.cell,
        nll_nats=np.bincount(owner, nats[known], size),
        tokens=np.bincount(owner, minlength=size),
        correct=np.bincount(owner, correct[known], size).astype(np.int64),
    )


def summarise(scores: Scores, *, seed: int = 0, draws: int = 0) -> Summary:
    """Totals, and ratios of sums; without draws the interval is a point."""
    nats, tokens, size = float(scores.nll_nats.sum()), int(scores.tokens.sum()), int(scores.bytes.sum())
    bits = nats / math.log(2) / size
    low, high = bits, bits
    if draws:
        low, high = _interval(scores.nll_nats / math.log(2), scores.bytes.astype(np.float64), seed=seed, draws=draws)
    return Summary(
        documents=len(scores.ids),
        tokens=tokens,
        bytes=size,
        bits_per_byte=bits,
        perplexity=math.exp(min(nats / tokens, 700.0)),
        accuracy=int(scores.correct.sum()) / tokens,
        low=low,
        high=high,
    )


def by_domain(scores: Scores, domains: Sequence[str], *, seed: int, draws: int) -> list[GroupSummary]:
    """A summary for each domain, in order of name; `domains` has one name a document."""
    sums = (scores.nll_nats, scores.tokens, scores.correct)
    return _grouped(np.asarray(domains, object), np.arange(len(scores.ids)), sums, seed=seed, draws=draws)


def by_cell(scores: Scores, *, seed: int, draws: int) -> list[GroupSummary]:
    """A summary for each cell that the documents' windows lie in, in order of cell."""
    parts = scores.parts
    sums = (parts.nll_nats, parts.tokens, parts.correct)
    return _grouped(parts.cell, parts.document, sums, seed=seed, draws=draws)


def _grouped(
    groups: np.ndarray, documents: np.ndarray, sums: tuple[np.ndarray, ...], *, seed: int, draws: int
) -> list[GroupSummary]:
    out = []
    for group in sorted(set(groups.tolist())):
        chosen = np.flatnonzero(groups == group)
        _, place = np.unique(documents[chosen], return_inverse=True)
        nats, tokens, correct = (np.bincount(place, each[chosen].astype(np.float64)) for each in sums)
        if not tokens.sum():
            continue
        low, high = _interval(nats, tokens, seed=seed, draws=draws)
        out.append(
            GroupSummary(
                group=str(group),
                documents=len(tokens),
                tokens=int(tokens.sum()),
                nats_per_token=float(nats.sum() / tokens.sum()),
                accuracy=float(correct.sum() / tokens.sum()),
                low=low,
                high=high,
            )
        )
    return out


def _interval(above: np.ndarray, below: np.ndarray, *, seed: int, draws: int) -> tuple[float, float]:
    """95% of the bootstrap, over documents, of a ratio of sums."""
    low, high = np.quantile(_ratios(above, below, seed=seed, draws=draws), (0.025, 0.975))
    return float(low), float(high)


def _ratios(above: np.ndarray, below: np.ndarray, *, seed: int, draws: int) -> np.ndarray:
    """Ratio of sums over documents drawn with replacement, float64[draws]."""
    generator = np.random.Generator(np.random.Philox(seed))
    out = np.empty(draws)
    step = max(1, _DRAWS_AT_ONCE // len(below))
    for begin in range(0, draws, step):
        chosen = generator.integers(len(below), size=(min(step, draws - begin), len(below)))
        out[begin : begin + step] = above[chosen].sum(1) / np.maximum(below[chosen].sum(1), 1e-300)
    return out


def paired_bootstrap(a: Scores, b: Scores, *, seed: int, draws: int = 2000) -> Comparison:
    """Compare two models on the same documents. Raises ValueError when the documents differ."""
    if a.ids != b.ids:
        raise ValueError(f"models are compared on the same documents: got {len(a.ids)} and {len(b.ids)}, not all equal")
    size = a.bytes.astype(np.float64)
    gap = (a.nll_nats - b.nll_nats) / math.log(2)
    differences = _ratios(gap, size, seed=seed, draws=draws)
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

"""The trigram model is Witten-Bell smoothing with exact counts, a distribution, and learns."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from dataops.kernels.language_model import cross_entropy, fit_ngrams


def ragged(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.cumsum([0, *map(len, texts)]), np.concatenate([np.array(text, np.uint16) for text in texts])


def slow_probability(texts: list[list[int]], vocab: int, history: tuple[int, ...], token: int) -> float:
    """Witten-Bell from dictionaries."""
    counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for text in texts:
        for i, each in enumerate(text):
            for order in range(min(3, i + 1)):
                counts[tuple(text[i - order : i])][each] += 1
    p = 1 / vocab
    for order in range(len(history) + 1):
        seen = counts[history[len(history) - order :]]
        if seen:
            p = (seen[token] + len(seen) * p) / (seen.total() + len(seen))
    return p


def test_each_model_equals_witten_bell_from_dictionaries() -> None:
    draw = np.random.default_rng(0)
    texts = [draw.choice(8, draw.integers(1, 30), p=draw.dirichlet(np.ones(8))).tolist() for _ in range(12)]
    other = [draw.integers(0, 8, 20).tolist() for _ in range(3)]
    models = fit_ngrams([ragged(other), ragged(texts)], vocab_size=8)
    held = [draw.integers(0, 8, size).tolist() for size in (1, 9, 9, 700)]
    for learned, found in zip((other, texts), cross_entropy(models, *ragged(held)).T.tolist(), strict=True):
        for text, nats in zip(held, found, strict=True):
            expected = [
                -np.log(slow_probability(learned, 8, tuple(text[max(0, i - 2) : i]), text[i])) for i in range(len(text))
            ]
            assert nats == pytest.approx(np.mean(expected), rel=1e-5)


def test_probabilities_of_all_tokens_sum_to_one() -> None:
    texts = [[1, 2, 3, 1, 2, 4], [2, 2, 3]]
    assert sum(slow_probability(texts, 6, (1, 2), token) for token in range(6)) == pytest.approx(1)
    model = fit_ngrams([ragged(texts)], vocab_size=6)
    held = [[1, 2, token] for token in range(6)]
    whole = np.exp(-3 * cross_entropy(model, *ragged(held))[:, 0].astype(float))
    pair = np.exp(-2 * float(cross_entropy(model, *ragged([[1, 2]]))[0, 0]))
    assert whole.sum() / pair == pytest.approx(1, rel=1e-4)


def test_text_like_what_was_learned_is_less_surprising() -> None:
    draw = np.random.default_rng(0)
    one = [np.cumsum(draw.integers(1, 3, 200)).tolist() for _ in range(5)]
    own = [[int(t) % 50 for t in text] for text in one]
    other = [draw.integers(0, 50, 200).tolist() for _ in range(5)]
    model = fit_ngrams([ragged(own)], vocab_size=50)
    assert cross_entropy(model, *ragged(own)).max() < cross_entropy(model, *ragged(other)).min()
    assert cross_entropy(model, [0, 0], np.empty(0, np.uint16)).tolist() == [[0]]


def test_tokens_beyond_the_vocabulary_are_refused() -> None:
    with pytest.raises(ValueError, match="token 9 in a vocabulary of 5"):
        fit_ngrams([([0, 1], [9])], vocab_size=5)
    with pytest.raises(ValueError, match="token 60000 in a vocabulary of 5"):
        cross_entropy(fit_ngrams([([0, 1], [1])], vocab_size=5), [0, 1], [60_000])


def test_tables_grow_and_no_ngram_takes_the_counts_of_another() -> None:
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, 65536, size).tolist() for size in (30_000, 1, 0, 2)]
    texts.append([0, 0, 0, 65535, 65535, 65535, 0, 0, 0])
    models = fit_ngrams([ragged(texts), ragged(texts[1:])], vocab_size=65536)
    every = [
        Counter(zip(*(text[first:] for first in range(order)), strict=False)) for text in texts for order in (2, 3)
    ]
    for order, table, width in ((0, models.bigrams, 3), (1, models.trigrams, 1)):
        expected = sum(every[order::2], Counter())
        rows = table[table[:, 0] > 0].astype(np.int64)
        low = rows[:, 1] >> 16, rows[:, 1] & 0xFFFF
        keys = zip(*low, strict=True) if order == 0 else zip(rows[:, 0] - 1, *low, strict=True)
        assert dict(zip(((*map(int, key),) for key in keys), rows[:, 2].tolist(), strict=True)) == expected
        assert rows[:, 2 + width].sum() == sum(sum(every[order + 2 :: 2], Counter()).values())
        assert 2 * len(rows) <= len(table)

"""Text statistics are those of a slow Python reference on generated and real writing, whatever the batch."""

import re
import string
import unicodedata
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataops.kernels import statistics
from tests.dataops.kernels.test_text import UNSPACED, WRITINGS

PIECES = ["the", "The,", "(that)", "a", "b", "#", "...", "…\n\n", "42", "ÉTÉ", "漢字", "\n-", "\n•", "ไทย", "_", "with"]
PIECES += ["\u00a0", "x9", "..", ".", "....", "a\u0301"]
SPLIT = re.compile(f"[{UNSPACED}]|(?:(?![{UNSPACED}])\\S)+")


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def reference(text: str) -> dict[str, float]:
    # re's \s leaves out the separators 0x1c-0x1f that str.split knows; both know the rest.
    words = [word for chunk in text.split() for word in SPLIT.findall(chunk)]
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    letters = [c for c in text if c.isalpha()]
    word_chars = sum(map(len, words))
    bare = {word.strip(string.punctuation).lower() for word in words if word.strip(string.punctuation).isascii()}
    repeated = sum(len(line) for i, line in enumerate(lines) if line in lines[:i])
    result = {
        "n_chars": len(text),
        "n_bytes": len(text.encode()),
        "n_words": len(words),
        "stop_word_count": len(bare & set(statistics.STOP_WORDS)),
        "mean_word_length": ratio(word_chars, len(words)),
        "mean_line_length": ratio(sum(map(len, lines)), len(lines)),
        "alphabetic_share": ratio(sum(any(c.isalpha() for c in word) for word in words), len(words)),
        "unique_word_share": ratio(len(set(words)), len(words)),
        "symbol_share": ratio(max(text.count("#"), text.count("...") + text.count("…")), len(words)),
        "digit_share": ratio(sum(c.isdecimal() for c in text), len(text)) if words else 0.0,
        "uppercase_share": ratio(sum(unicodedata.category(c) == "Lu" for c in letters), len(letters)),
        "bullet_line_share": ratio(sum(line[0] in statistics.BULLETS for line in lines), len(lines)),
        "ellipsis_line_share": ratio(sum(line.endswith(("...", "…")) for line in lines), len(lines)),
        "duplicate_line_share": ratio(repeated, sum(map(len, lines))),
    }
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        counts = Counter(grams)
        if n < 5:
            top = max(((count, sum(map(len, gram))) for gram, count in counts.items() if count > 1), default=(0, 0))
            result[f"top_{n}gram_share"] = min(1.0, ratio(top[0] * top[1], word_chars))
        else:
            seen: set[tuple[str, ...]] = set()
            covered = set()
            for i, gram in enumerate(grams):
                covered |= set(range(i, i + n)) if gram in seen else set()
                seen.add(gram)
            result[f"duplicate_{n}gram_share"] = ratio(sum(len(words[i]) for i in covered), word_chars)
    return result


def others(texts: list[str]) -> list[str]:
    """The texts whose statistics are not the reference's."""
    rows = statistics.text_statistics(pa.array(texts, pa.string())).to_pylist()
    return [text for text, row in zip(texts, rows, strict=True) if row != pytest.approx(reference(text), rel=1e-12)]


@given(st.lists(st.text()))
def test_statistics_of_any_text_are_the_references(texts: list[str]) -> None:
    assert others(texts) == []


@given(
    st.lists(
        st.lists(
            st.sampled_from(PIECES),
            max_size=60,
        ).map(" ".join)
    )
)
def test_statistics_of_repetitive_text_are_the_references(texts: list[str]) -> None:
    assert others(texts) == []


def test_statistics_of_writing_and_of_planted_repetition_are_the_references() -> None:
    song = "\n".join(["row row row your boat gently down the stream", "life is but a dream..."] * 7)
    draw = np.random.default_rng(0)
    noise = " ".join(f"w{i}" for i in draw.integers(0, 300, 3000))
    odd = ["one\r\ntwo\r\n\r\none\x1fx\x85y\n", "a" * 5000, "#" * 100, "\n\n \n"]
    assert others([*WRITINGS, song, noise, *odd]) == []


def test_statistics_do_not_depend_on_the_batch() -> None:
    texts = pa.array([*WRITINGS, None, "the end ... the end ..."])
    whole = statistics.text_statistics(texts)
    assert whole.column_names == [*statistics.COUNTS, *statistics.SHARES]
    parts = [statistics.text_statistics(texts.slice(i, 1)) for i in range(len(texts))]
    assert pa.concat_tables(parts).combine_chunks().equals(whole.combine_chunks())
    assert statistics.text_statistics(texts.slice(0, 0)).num_rows == 0

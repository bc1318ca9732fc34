"""The linear form of a fastText classifier gives fastText's own answers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dataops.fasttext_training import LABEL, linear_form, train_supervised
from dataops.kernels.linear import mean_log_odds, word_keys

ADDED = 1e-5  # by fastText, to each probability that it reports
WORDS = np.array([f"{stem}{i}" for i in range(40) for stem in ("a", "é", "日本", "x-y.")])


@pytest.fixture(scope="module")
def lines() -> list[str]:
    draw = np.random.default_rng(7)
    return [" ".join(draw.choice(WORDS[i % 2 :: 2], draw.integers(0, 60))) for i in range(300)]


def test_scores_are_fasttexts_own_log_odds(lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{LABEL}{i % 2} {line}\n" for i, line in enumerate(lines)))
    model = train_supervised(path, dim=8, epoch=5, lr=0.5, wordNgrams=2, bucket=5_000, minCount=3, seed=1)
    form = linear_form(model, f"{LABEL}1", f"{LABEL}0")

    asked = [*lines[:50], "", "unseen", "unseen and é1 unseen", " é1\té2\x00\x0bé3 \r\f", "a1 " * 3000]
    scores = mean_log_odds(pa.array(asked), *form)
    named, shares = model.predict(asked, k=2)
    of_label = [dict(zip(names, map(float, share), strict=True)) for names, share in zip(named, shares, strict=True)]
    expected = [np.log((share[f"{LABEL}1"] - ADDED) / (share[f"{LABEL}0"] - ADDED)) for share in of_label]
    assert np.abs(expected).max() > 2
    assert scores == pytest.approx(expected, abs=2e-3)


def test_a_line_without_known_features_scores_nothing() -> None:
    hashes = word_keys(pa.array(["known"]))
    scores = mean_log_odds(pa.array(["", "unseen", "known"]), hashes, [3.0], np.zeros(8))
    assert scores == pytest.approx([0.0, 0.0, 1.5])  # with the line's end the word makes a pair


@pytest.mark.parametrize(("of_words", "of_pairs"), [([0.0], [0.0]), ([0.0, 0.0], [])])
def test_log_odds_of_other_words_than_those_are_refused(of_words: list[float], of_pairs: list[float]) -> None:
    with pytest.raises(ValueError, match="as many log odds as words"):
        mean_log_odds(pa.array(["a"]), np.array([1, 2], np.uint64), of_words, of_pairs)


def test_hashes_must_ascend() -> None:
    with pytest.raises(ValueError, match="not ascending"):
        mean_log_odds(pa.array(["a"]), np.array([2, 1], np.uint64), [0.0, 0.0], [0.0])

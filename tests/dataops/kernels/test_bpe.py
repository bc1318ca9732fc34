"""The kernel's tokens are those of `tokenizers`, whatever the text; what it can't be sure of it leaves."""

from __future__ import annotations

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.tokenizer import BpeTokenizer, train
from dataops.kernels.bpe import LONGEST_PIECE, Encoder, merges_of

LEARNED = [f"We've said that it's {n} of the numbers, naïve 数字 😀 isn't it?\n\n\tindented  twice" for n in range(50)]
HARD = [
    "",
    " ",
    "  ",
    " \n ",
    "a  b   c \n\n d\t\te",
    "trailing space ",
    "it's we'll they've I'd I'm can't you're 'sun 'lle ''s !'s '",
    "'r 'v 'l 're've",
    "x²³½ⅷ١٢٣ 4.5e-6 1,000",
    "e\u0301 combining 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \u0e01\u0e33\u0e31",
    "zero\u200bwidth\ufeff\u2028lines\u00a0and\u3000spaces\x85\x1c\x1d\x1e\x1f\x0b\x0c",
    "<|endoftext|> quoted",
    "\x00 nul \x7f",
    "private \ue000\uf8ff\U000f0000\U0010fffd and nothing \ufffe\uffff",
    "_under_score__ a-b/c\\d @home #tag",
    "ß" * 40,
    "ab" * 600,
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BpeTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train(LEARNED, vocab_size=400, length=len(LEARNED)))
    return BpeTokenizer(path)


@pytest.fixture(scope="module")
def encode(tokenizer: BpeTokenizer) -> Encoder:
    return Encoder(merges_of(tokenizer.byte_tokens, tokenizer.rules))


def compare(tokenizer: BpeTokenizer, encode: Encoder, texts: list[str]) -> tuple[list[str], int]:
    """The texts with other tokens than those of `tokenizers` (none where left to it), and how many are left."""
    found = encode(pa.array(texts, pa.large_string()))
    others = [
        texts[row]
        for row, expected in enumerate(tokenizer.encode(texts))
        if found.tokens[found.offsets[row] : found.offsets[row + 1]].tolist()
        != ([] if found.left[row] else expected.tolist())
    ]
    return others, int(found.left.sum())


def test_hard_texts(tokenizer: BpeTokenizer, encode: Encoder) -> None:
    assert compare(tokenizer, encode, [*LEARNED, *HARD, *LEARNED]) == ([], 1)  # the one with non-characters


@settings(max_examples=300)
@given(st.lists(st.text() | st.text("'stmdrevl \n\ta1²,\u00a0数", max_size=40), max_size=5))
def test_any_text(tokenizer: BpeTokenizer, encode: Encoder, texts: list[str]) -> None:
    assert compare(tokenizer, encode, texts)[0] == []


def test_every_character_that_python_knows_has_the_class_that_tokenizers_gives_it(
    tokenizer: BpeTokenizer, encode: Encoder
) -> None:
    known = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    texts = ["".join(f"a{each}1 {each}{each} {each}a" for each in known[i : i + 64]) for i in range(0, len(known), 64)]
    assert compare(tokenizer, encode, texts) == ([], 0)


def test_unknown_characters_and_very_long_pieces_are_left(tokenizer: BpeTokenizer, encode: Encoder) -> None:
    texts = ["plain", "new \u0378 letter", "a" * LONGEST_PIECE, "a" * (LONGEST_PIECE + 1), "plain"]
    found = encode(pa.array(texts, pa.large_string()))
    assert found.left.tolist() == [False, True, False, True, False]
    assert compare(tokenizer, encode, texts) == ([], 2)


def test_an_encoder_that_has_seen_more_pieces_than_it_keeps_answers_alike(
    tokenizer: BpeTokenizer, encode: Encoder
) -> None:
    small = Encoder(merges_of(tokenizer.byte_tokens, tokenizer.rules))
    small._pieces, small._tokens, small._sizes = small._pieces[:5], small._tokens[:5], small._sizes[:5]
    assert compare(tokenizer, small, [*LEARNED, *HARD])[0] == []
    assert small._known[0] == 5
    assert np.array_equal(small(pa.array(LEARNED)).tokens, encode(pa.array(LEARNED)).tokens)

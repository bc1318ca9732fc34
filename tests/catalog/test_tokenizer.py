"""The tokenizer loses nothing and takes nothing from the text for a command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from catalog.tokenizer import END_OF_TEXT, MIN_VOCAB, BpeTokenizer, train

TEXTS = [f"The number {n} is a number of the numbers, naïve 数字 😀 and so on.\n\tindented" for n in range(50)]
HARD = [
    "",
    " ",
    "plain words",
    "emoji 👩‍👩‍👧‍👦 and flags 🇪🇺🇫🇷",
    "中文 日本語 한국어",
    "عربى עברית ไทย",
    "tabs\t\r\n\x0b\x0c\x1b[31m \x7f control",
    "zero\u200bwidth\ufeff\u2028lines\u00a0and\u3000spaces",
    f"{END_OF_TEXT} quoted, {END_OF_TEXT}{END_OF_TEXT} twice",
    "e\u0301 combining 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BpeTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train(TEXTS, vocab_size=400, length=len(TEXTS)))
    return BpeTokenizer(path)


@pytest.mark.parametrize("text", HARD)
def test_decoding_gives_back_the_text(tokenizer: BpeTokenizer, text: str) -> None:
    (tokens,) = tokenizer.encode([text])
    assert tokenizer.decode(tokens) == text


@given(st.text())
@settings(deadline=None, derandomize=True, max_examples=200)
def test_decoding_gives_back_any_text(tokenizer: BpeTokenizer, text: str) -> None:
    (tokens,) = tokenizer.encode([text])
    assert tokenizer.decode(tokens) == text
    assert tokenizer.byte_lengths[tokens].sum() == len(text.encode())


def test_a_quoted_end_of_text_is_plain_bytes(tokenizer: BpeTokenizer) -> None:
    for tokens in tokenizer.encode([END_OF_TEXT, f"a {END_OF_TEXT} b"]):
        assert len(tokens) > 1
        assert tokenizer.end_of_text not in tokens


def test_the_bytes_of_a_token_are_those_it_decodes_to(tokenizer: BpeTokenizer) -> None:
    raw = Tokenizer.from_str(train(TEXTS, vocab_size=400, length=len(TEXTS)))
    for index in range(tokenizer.vocab_size):
        text = raw.decode([index], skip_special_tokens=True)
        if "\ufffd" not in text:
            assert tokenizer.byte_lengths[index] == len(text.encode())
    assert tokenizer.byte_lengths[tokenizer.end_of_text] == 0
    assert tokenizer.byte_lengths.min(where=np.arange(tokenizer.vocab_size) != tokenizer.end_of_text, initial=9) == 1


def test_the_same_texts_teach_the_same_file() -> None:
    assert train(TEXTS, vocab_size=400, length=50) == train(iter(TEXTS), vocab_size=400, length=50)


def test_the_smallest_vocabulary_is_the_bytes_and_the_end_of_text(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(train([], vocab_size=MIN_VOCAB, length=0))
    bytewise = BpeTokenizer(path)
    (tokens,) = bytewise.encode(["naïve 😀"])
    assert (bytewise.vocab_size, len(tokens)) == (257, len("naïve 😀".encode()))
    assert bytewise.decode(tokens) == "naïve 😀"


def test_the_file_has_gpt2_splitting_and_no_normaliser() -> None:
    written = json.loads(train(TEXTS, vocab_size=300, length=50))
    assert written["normalizer"] is None
    assert (written["pre_tokenizer"]["type"], written["pre_tokenizer"]["use_regex"]) == ("ByteLevel", True)
    assert [each["content"] for each in written["added_tokens"]] == [END_OF_TEXT]


@pytest.mark.parametrize("vocab_size", [256, (1 << 16) + 1])
def test_a_vocabulary_that_tokens_cannot_hold_is_refused(vocab_size: int) -> None:
    with pytest.raises(ValueError, match="expected 257 to 65536"):
        train([], vocab_size=vocab_size, length=0)

"""The tokenizer artefact: byte-level BPE in `tokenizer.json`, as `tokenizers` and transformers read it.

Text is split with GPT-2's pattern, the one llama.cpp knows, and every byte is representable, so nothing is ever unknown
and decoding gives back the exact bytes. One special token ends a document.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
MIN_VOCAB = 257  # every byte and END_OF_TEXT
MAX_VOCAB = 1 << 16  # token ids are stored in 16 bits


def train(texts: Iterable[str], *, vocab_size: int, length: int) -> str:
    """tokenizer.json of a BPE of at most `vocab_size` entries learned from `length` texts. Same texts, same result."""
    if not MIN_VOCAB <= vocab_size <= MAX_VOCAB:
        raise ValueError(f"a vocabulary of {vocab_size}: expected {MIN_VOCAB} to {MAX_VOCAB}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer, length=length)
    return str(tokenizer.to_str(pretty=False))


class BpeTokenizer:
    """Encodes and decodes. Special tokens are never read from text: a document that quotes one gets its plain bytes."""

    def __init__(self, path: Path):
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.encode_special_tokens = True  # encode them as the text they are
        self.end_of_text = int(self._tokenizer.get_vocab()[END_OF_TEXT])
        self.vocab_size: int = self._tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, uint16."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.uint16) for encoding in encodings]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids; the end-of-text token stands for nothing."""
        return str(self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True))

    @cached_property
    def byte_tokens(self) -> np.ndarray:
        """The token of each byte, uint16[256]."""
        vocabulary = self._tokenizer.get_vocab()
        return np.array([vocabulary[character] for character in _byte_alphabet()], np.uint16)

    @cached_property
    def rules(self) -> np.ndarray:
        """Which pairs merge into which token, in the order of their rank: left, right, merged, int64[m, 3]."""
        vocabulary = self._tokenizer.get_vocab()
        merges = json.loads(self._tokenizer.to_str())["model"]["merges"]
        rules = [(vocabulary[left], vocabulary[right], vocabulary[left + right]) for left, right in merges]
        return np.array(rules, np.int64).reshape(-1, 3)

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """How many bytes of text each token stands for, int32[vocab_size]; the end-of-text token for none."""
        vocabulary = self._tokenizer.get_vocab()
        lengths = np.zeros(self.vocab_size, np.int32)
        for token, index in vocabulary.items():
            lengths[index] = 0 if token == END_OF_TEXT else len(token)  # one character of a token is one byte
        return lengths


def _byte_alphabet() -> list[str]:
    """The character that stands for each byte in a token's name: itself where Latin-1 prints it, else one above 255."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]

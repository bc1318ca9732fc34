"""Text from a model: temperature, top-k and top-p sampling, the whole window recomputed for every token.

Without a key-value cache a token costs a forward pass over at most `context` tokens: at 1-6M parameters and context 256
that is milliseconds, and a text may grow beyond the context because the window slides. Use the exported folder with
`transformers` or llama.cpp where speed matters. The recurrent family carries its state instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from catalog.errors import BadInput
from training.context import LocalContext, RunContext
from training.folder import end_of_text as read_end_of_text
from training.folder import read_model
from training.model import Llama
from training.recurrent import no_state, step


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """`temperature` 0 takes the likeliest token; `top_k` 0 and `top_p` 1 keep every token."""

    max_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 0 or self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"sampling needs max_tokens, temperature, top_k >= 0 and 0 < top_p <= 1, got {self}")


@torch.no_grad()
def generate(
    model_dir: Path,
    prompt: str,
    *,
    tokenizer_json: Path,
    sampling: Sampling,
    context: RunContext = LocalContext(),  # noqa: B008, a frozen value
) -> str:
    """The continuation of `prompt`, without it, up to end-of-text. Equal seeds give equal texts on one device.

    Raises BadInput for a folder or a tokenizer that can't be used.
    """
    model, end_of_text = read_model(model_dir, device=context.device), read_end_of_text(model_dir)
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_json))
    except Exception as error:  # tokenizers raises no narrower one
        raise BadInput(f"{tokenizer_json} is no tokenizer: {error}; export the model anew") from error
    tokens = [end_of_text, *tokenizer.encode(prompt, add_special_tokens=False).ids]
    begin = len(tokens)
    generator = torch.Generator().manual_seed(sampling.seed)
    following = _by_state(model) if model.config.family.kind == "recurrent" else _by_window(model)
    while len(tokens) < begin + sampling.max_tokens:
        drawn = pick(following(tokens).float().cpu(), sampling, generator)
        if drawn == end_of_text:
            break
        tokens.append(drawn)
    return tokenizer.decode(tokens[begin:])


Following = Callable[[list[int]], torch.Tensor]  # logits [V] after all tokens so far


def _by_window(model: Llama) -> Following:
    def following(tokens: list[int]) -> torch.Tensor:
        window_BT = torch.tensor([tokens[-model.config.context :]], device=model.head.device)
        return model(window_BT, torch.zeros_like(window_BT))[0, -1]

    return following


def _by_state(model: Llama) -> Following:
    """Only the tokens that came since the last call are computed."""
    states, read = no_state(model, 1), 0

    def following(tokens: list[int]) -> torch.Tensor:
        nonlocal states, read
        for token in tokens[read:]:
            logits_BV, states = step(model, torch.tensor([token], device=model.head.device), states)
        read = len(tokens)
        return logits_BV[0]

    return following


def pick(logits_V: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One token id, drawn after temperature, then top-k, then top-p (the fewest tokens that hold p of the mass)."""
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    shares_V, index_V = torch.softmax(logits_V / sampling.temperature, -1).sort(descending=True, stable=True)
    if sampling.top_k:
        shares_V[sampling.top_k :] = 0
    before_V = (shares_V / shares_V.sum()).cumsum(0).roll(1)
    before_V[0] = 0
    shares_V[before_V >= sampling.top_p] = 0
    return int(index_V[torch.multinomial(shares_V, 1, generator=generator)])

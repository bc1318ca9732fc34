"""Starting from somebody else's model: a pretrained Llama or Qwen3 folder with the vocabulary of our packs.

The trunk is taken as it is. The embedding of one of our tokens is the mean of those that the folder's own tokenizer
gives its text: the very row where both know the token, and a blend of its pieces where not. With the same tokenizer the
model is the pretrained one. Positions are rotary, so the context may be shorter than it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer

from catalog.errors import BadInput, UsageError
from catalog.run import Work
from catalog.snapshot import Contents, Snapshot
from catalog.store import sha256_file
from catalog.tokenizer import END_OF_TEXT
from training.folder import described_config, write_model
from training.inputs import model_contents
from training.model import Llama

_PLAIN = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "use_sliding_window": False}


def from_pretrained(folder: Path) -> Llama:
    """The network of a Llama or Qwen3 folder, fp32. Raises BadInput that names what our trunk does not have."""
    from transformers import AutoModelForCausalLM

    try:
        theirs: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder} is not a model that transformers loads: {' '.join(str(error).split())}") from error
    written = theirs.config.to_dict()
    wrong = [f"{key} {written[key]!r}" for key, value in _PLAIN.items() if written.get(key, value) != value]
    if written["model_type"] not in ("llama", "qwen3"):
        wrong.append(f"model_type {written['model_type']!r}")
    rope = written.get("rope_parameters", {}).get("rope_type", "default")
    if rope != "default":
        wrong.append(f"rope_type {rope!r}")
    if wrong:
        raise BadInput(f"{folder} has {', '.join(wrong)}: expected a plain Llama or Qwen3 model")
    network = Llama(described_config(written))
    weights = theirs.state_dict()
    if network.config.tied:
        weights.pop("lm_head.weight", None)
    network.load_state_dict(weights)
    return network


@torch.no_grad()
def with_vocabulary(network: Llama, theirs: Tokenizer, ours: Tokenizer, *, context: int) -> Llama:
    """The network with a row for each of our tokens, and at most `context` positions.

    Raises UsageError when the packs have longer rows than the network has positions.
    """
    if context > network.config.context:
        raise UsageError(f"packs of context {context} for a model of {network.config.context} positions: pack shorter")
    pieces = [_pieces(token, index, theirs, ours) for index, token in sorted(_by_index(ours).items())]
    out = Llama(replace(network.config, vocab_size=len(pieces), context=context))
    weights = dict(network.state_dict())
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in weights:
            rows = weights[name]
            weights[name] = torch.stack([rows[each].mean(0) if each else rows.mean(0) for each in pieces])
    out.load_state_dict(weights)
    return out


def _by_index(tokenizer: Tokenizer) -> dict[int, str]:
    return {index: token for token, index in tokenizer.get_vocab().items()}


def _pieces(token: str, index: int, theirs: Tokenizer, ours: Tokenizer) -> list[int]:
    """Which of their tokens make up one of ours."""
    known = theirs.token_to_id(token)
    if known is not None:
        return [known]
    if token == END_OF_TEXT:
        ends = [theirs.token_to_id(name) for name in ("</s>", "<|end_of_text|>", "<eos>")]
        return [each for each in ends if each is not None][:1]
    return list(theirs.encode(ours.decode([index]), add_special_tokens=False).ids)


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """A pretrained folder as a model for these packs, to be continued by `pretrain` or `finetune`."""

    verb: ClassVar[str] = "warm-start"
    revision: ClassVar[int] = 2

    path: str

    def evidence(self, *inputs: Snapshot) -> dict[str, str]:  # noqa: ARG002, the protocol's
        """Digests of what is read of the folder."""
        folder = Path(self.path)
        found = sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")])
        if not found:
            raise UsageError(
                f"{self.path} is not a folder of a model: expected config.json, weights and tokenizer.json"
            )
        return {path.name: sha256_file(path) for path in found}

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A model snapshot with the tokenizer of the packs."""
        (packs,) = inputs
        tokenizer = packs.require("packs").artifact("tokenizer")
        ours, theirs = Tokenizer.from_file(str(work.store.local(tokenizer))), self._tokenizer()
        context = packs.contents.summary["context"]
        network = with_vocabulary(from_pretrained(Path(self.path)), theirs, ours, context=context)
        folder = work.folder / "model"
        write_model(network, folder, end_of_text=ours.get_vocab()[END_OF_TEXT])
        return model_contents(work, folder, tokenizer, files=self.evidence())

    def _tokenizer(self) -> Tokenizer:
        path = Path(self.path) / "tokenizer.json"
        if not path.exists():
            raise UsageError(f"{self.path} has no tokenizer.json, which says what its embeddings stand for")
        return Tokenizer.from_file(str(path))

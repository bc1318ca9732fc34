"""Export: a model folder and a tokenizer become a folder that transformers loads and that needs none of our code.

Decoders are plain `LlamaForCausalLM` or, with `qk_norm`, `Qwen3ForCausalLM`. The recurrent family has no class in
transformers: its folder brings the code along and loads with `trust_remote_code=True`.

The tokenizer is byte-level BPE with the GPT-2 regex and one special token, `<|endoftext|>`. Encoding adds it before a
text, as every training document began with it, and never after: generation continues from there. Nothing else is
added. (Pass `add_special_tokens=False` to get the bare tokens.)
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from catalog.errors import BadInput, UsageError
from catalog.tokenizer import END_OF_TEXT
from training.checkpoint import write_folder
from training.config import ModelConfig
from training.folder import end_of_text as read_end_of_text
from training.folder import hf_config, model_config


def export(model_dir: Path, *, tokenizer_json: Path, out: Path, card: str) -> Path:
    """Write `out`, replacing it as a whole; `card` is its README.md. Returns `out`.

    Raises BadInput when the tokenizer is not the model's: other size, or end-of-text is another id.
    """
    config, end_of_text = model_config(model_dir), read_end_of_text(model_dir)
    if config.plain != config:
        raise UsageError(f"a {config.family.kind} model is several: choose one with `tamis step project`, then export")
    tokenizer = _tokenizer(tokenizer_json, config, end_of_text)
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    written = {
        "config.json": _config(config, end_of_text),
        "generation_config.json": {
            "bos_token_id": end_of_text,
            "eos_token_id": end_of_text,
            "pad_token_id": end_of_text,
            "do_sample": True,
            "temperature": 0.8,
            "top_p": 0.95,
        },
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {
            **special,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.context,
            "clean_up_tokenization_spaces": False,
            "add_prefix_space": False,
        },
        "special_tokens_map.json": special,
    }
    files = {name: (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode() for name, value in written.items()}
    if config.family.kind == "recurrent":
        files["modeling_tamis.py"] = (Path(__file__).parent / "recurrent_hf.py").read_bytes()
    files["model.safetensors"] = (model_dir / "model.safetensors").read_bytes()
    files["README.md"] = card.encode()
    write_folder(out, files)
    return out


def _config(config: ModelConfig, end_of_text: int) -> dict[str, Any]:
    """What transformers reads; muP is a matter of training, the weights hold what it scaled."""
    described = hf_config(replace(config, mup_width=0), end_of_text=end_of_text)
    if config.family.kind == "recurrent":
        described["architectures"] = ["TamisRecurrentForCausalLM"]
        described["use_cache"] = False
        described["auto_map"] = {
            "AutoConfig": "modeling_tamis.TamisRecurrentConfig",
            "AutoModelForCausalLM": "modeling_tamis.TamisRecurrentForCausalLM",
        }
    return described


def _tokenizer(path: Path, config: ModelConfig, end_of_text: int) -> dict[str, Any]:
    """The tokenizer's JSON with a post-processor that puts end-of-text first."""
    try:
        described = json.loads(path.read_text())
        special = {each["content"]: each["id"] for each in described["added_tokens"]}
        size = len(set(described["model"]["vocab"].values()) | set(special.values()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is not a tokenizer.json: {error!r}") from error
    if special != {END_OF_TEXT: end_of_text}:
        raise BadInput(
            f"{path} has the special tokens {special}; the model wants only {END_OF_TEXT} with id {end_of_text}"
        )
    if size > config.vocab_size:
        raise BadInput(f"{path} has {size} tokens, the model's vocabulary is {config.vocab_size}")
    begin = {"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}}
    described["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}}, begin, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {END_OF_TEXT: {"id": END_OF_TEXT, "ids": [end_of_text], "tokens": [END_OF_TEXT]}},
    }
    return described

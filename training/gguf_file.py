"""GGUF: an exported folder as the one file that llama.cpp reads.

Written with the `gguf` package. llama.cpp rotates neighbouring pairs where Llama's rotary halves lie apart, so the rows
of query and key are put in its order; for Qwen3 it rotates halves as we do. The tokenizer is GPT-2's byte-level BPE and
says so (`gpt-2`): llama.cpp refuses pre-tokenizers that it does not know. A text begins with end-of-text, as it did in
training.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.numpy import load_file

from catalog.errors import UsageError
from catalog.run import Work
from catalog.snapshot import Contents, Snapshot
from training.config import ModelConfig
from training.folder import end_of_text as read_end_of_text
from training.folder import model_config

_REGEX = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def write_gguf(export_dir: Path, out: Path, *, name: str) -> Path:
    """Write `out` from an exported folder, in fp32; raises UsageError without the package or for another family."""
    try:
        import gguf
    except ImportError as error:
        raise UsageError("GGUF files need the package gguf: install tamis[gguf]") from error
    config, end_of_text = model_config(export_dir), read_end_of_text(export_dir)
    if config.family.kind != "decoder":
        raise UsageError(f"llama.cpp has no architecture for the family {config.family.kind}: export it as a folder")
    architecture = gguf.MODEL_ARCH.QWEN3 if config.qk_norm else gguf.MODEL_ARCH.LLAMA
    writer: Any = gguf.GGUFWriter(str(out), gguf.MODEL_ARCH_NAMES[architecture])
    _describe(writer, config, name, gguf.LlamaFileType.ALL_F32)
    _add_tokenizer(writer, export_dir, config, end_of_text, gguf.TokenType)
    names = gguf.get_tensor_name_map(architecture, config.num_layers)
    for each, tensor in sorted(load_file(export_dir / "model.safetensors").items()):
        module, _, kind = each.rpartition(".")
        if not config.qk_norm and module.endswith(("q_proj", "k_proj")):
            tensor = _pairs_together(tensor, config.head_size)
        writer.add_tensor(f"{names.get_name(module)}.{kind}", np.ascontiguousarray(tensor, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _describe(writer: Any, config: ModelConfig, name: str, file_type: Any) -> None:
    writer.add_name(name)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(file_type)


def _add_tokenizer(writer: Any, export_dir: Path, config: ModelConfig, end_of_text: int, types: Any) -> None:
    described = json.loads((export_dir / "tokenizer.json").read_text())
    regex = described["pre_tokenizer"]
    if any(regex.get(key) != value for key, value in _REGEX.items()):
        raise UsageError(f"the tokenizer splits text with {regex}, expected GPT-2's pattern, which llama.cpp knows")
    tokens = {index: token for token, index in described["model"]["vocab"].items()}
    kinds = dict.fromkeys(tokens, types.NORMAL)
    for each in described["added_tokens"]:
        tokens[each["id"]], kinds[each["id"]] = each["content"], types.CONTROL
    every = range(config.vocab_size)
    merges = [each if isinstance(each, str) else " ".join(each) for each in described["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([tokens.get(index, f"[PAD{index}]") for index in every])
    writer.add_token_types([kinds.get(index, types.UNUSED) for index in every])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(end_of_text)
    writer.add_eos_token_id(end_of_text)
    writer.add_add_bos_token(True)


def _pairs_together(weight: np.ndarray, head_size: int) -> np.ndarray:
    """Rows of each head from halves (0 .. E/2-1, E/2 .. E-1) to neighbours (0, E/2, 1, E/2+1, ...)."""
    heads = weight.reshape(-1, 2, head_size // 2, weight.shape[1])
    return heads.swapaxes(1, 2).reshape(weight.shape)


@dataclass(frozen=True, kw_only=True)
class ExportGguf:
    """An export as `model.gguf`, for llama.cpp and what is built on it."""

    verb: ClassVar[str] = "export-gguf"
    revision: ClassVar[int] = 1

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """An export snapshot: the file and the model card."""
        (exported,) = inputs
        folder = work.folder / "export"
        folder.mkdir(parents=True, exist_ok=True)
        for name, ref in exported.require("export").contents.artifacts.items():
            path = folder / name
            path.unlink(missing_ok=True)
            path.symlink_to(work.store.local(ref))
        out = write_gguf(folder, work.folder / "model.gguf", name=exported.contents.summary["model"])
        artifacts = {"model.gguf": work.store.put_copy(out), "README.md": exported.artifact("README.md")}
        return Contents(kind="export", artifacts=artifacts, summary=exported.contents.summary)

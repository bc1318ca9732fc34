"""A model folder: `model.safetensors` and `config.json`, which Hugging Face loads as `LlamaForCausalLM` as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from catalog.errors import BadInput
from training.checkpoint import encoded, write_folder
from training.config import ModelConfig
from training.model import Llama


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of transformers 5 (rope_parameters, dtype). End-of-text ids are added by `export`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": "float32",
    }


def model_config(model_dir: Path) -> ModelConfig:
    """The shape written in a model folder. Raises BadInput when it is not one of ours."""
    try:
        written = json.loads((model_dir / "config.json").read_text())
        config = ModelConfig(
            vocab_size=written["vocab_size"],
            context=written["max_position_embeddings"],
            num_layers=written["num_hidden_layers"],
            hidden_size=written["hidden_size"],
            num_heads=written["num_attention_heads"],
            num_kv_heads=written["num_key_value_heads"],
            intermediate_size=written["intermediate_size"],
            rope_theta=written["rope_parameters"]["rope_theta"],
            norm_eps=written["rms_norm_eps"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{model_dir} is not a model folder: config.json can't be used ({error!r})") from error
    unsupported = {key: value for key, value in hf_config(config).items() if key in _FIXED and written.get(key) != value}
    if unsupported:
        raise BadInput(f"{model_dir} is not a model of ours: {', '.join(unsupported)} differ from {unsupported}")
    return config


_FIXED = ("model_type", "tie_word_embeddings", "hidden_act", "attention_bias", "mlp_bias")


def write_model(model: Llama, model_dir: Path) -> None:
    """Write weights and config as one folder, atomically."""
    config = json.dumps(hf_config(model.config), indent=2) + "\n"
    write_folder(model_dir, {"model.safetensors": encoded(model.state_dict()), "config.json": config.encode()})


def read_model(model_dir: Path, *, device: torch.device) -> Llama:
    """The model of a folder, in fp32. Raises BadInput that names the folder."""
    model = Llama(model_config(model_dir))
    try:
        weights = load_file(model_dir / "model.safetensors")
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BadInput(f"{model_dir} does not hold the weights its config.json describes: {error}") from error
    return model.to(device)

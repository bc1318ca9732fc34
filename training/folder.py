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

_FIXED = ("model_type", "tie_word_embeddings", "hidden_act", "attention_bias", "mlp_bias")


def hf_config(config: ModelConfig, *, end_of_text: int) -> dict[str, Any]:
    """The `config.json` of transformers 5 (rope_parameters, dtype). Text begins and ends with `end_of_text`."""
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
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
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
    ours = hf_config(config, end_of_text=0)
    wrong = [f"{key} is {written.get(key)!r}, not {ours[key]!r}" for key in _FIXED if written.get(key) != ours[key]]
    if wrong:
        raise BadInput(f"{model_dir} is a model of another architecture: {'; '.join(wrong)}")
    return config


def end_of_text(model_dir: Path) -> int:
    """The token id that begins and ends every document of the model."""
    return int(json.loads((model_dir / "config.json").read_text())["eos_token_id"])


def write_model(model: Llama, model_dir: Path, *, end_of_text: int) -> None:
    """Write weights and config as one folder, atomically."""
    config = json.dumps(hf_config(model.config, end_of_text=end_of_text), indent=2) + "\n"
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

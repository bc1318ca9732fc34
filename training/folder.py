"""A model folder: `model.safetensors` and `config.json`.

A decoder's folder loads in Hugging Face as it is: `LlamaForCausalLM`, with `qk_norm` `Qwen3ForCausalLM`. Other families
have our own `model_type` and their settings under the key `tamis`; a mixture holds the tensors of its experts as
`experts.<number>.<name>`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from catalog.errors import BadInput, UsageError
from training.checkpoint import encoded, write_folder
from training.config import ModelConfig
from training.family import FAMILIES
from training.model import Llama

_FIXED = {"hidden_act": "silu", "attention_bias": False}
_PLAIN = {"llama": {**_FIXED, "mlp_bias": False}, "qwen3": {**_FIXED, "use_sliding_window": False}}


def hf_config(config: ModelConfig, *, end_of_text: int) -> dict[str, Any]:
    """The `config.json` of transformers 5 (rope_parameters, dtype). Text begins and ends with `end_of_text`."""
    kind = config.family.kind
    plain = "qwen3" if config.qk_norm else "llama"
    described = {
        "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"],
        "model_type": plain,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        **_PLAIN[plain],
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "attention_dropout": 0.0,
        "tie_word_embeddings": config.tied,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": "float32",
    }
    if kind != "decoder":
        described["architectures"], described["model_type"] = [f"Tamis{kind.capitalize()}"], f"tamis-{kind}"
    if kind != "decoder" or config.mup_width:
        described["tamis"] = {"family": asdict(config.family), "mup_width": config.mup_width, "qk_norm": config.qk_norm}
    return described


def model_config(model_dir: Path) -> ModelConfig:
    """The shape written in a model folder. Raises BadInput when it is not one of ours."""
    try:
        written = json.loads((model_dir / "config.json").read_text())
        config = described_config(written)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{model_dir} is not a model folder: config.json can't be used ({error!r})") from error
    ours = hf_config(config, end_of_text=0)
    fixed = ("model_type", "attention_bias", "hidden_act", *_PLAIN["qwen3" if config.qk_norm else "llama"])
    wrong = [f"{key} is {written.get(key)!r}, not {ours[key]!r}" for key in fixed if written.get(key) != ours[key]]
    if wrong:
        raise BadInput(f"{model_dir} is a model of another architecture: {'; '.join(dict.fromkeys(wrong))}")
    return config


def described_config(written: dict[str, Any]) -> ModelConfig:
    """The shape that a `config.json` describes. Raises KeyError, TypeError or ValueError where it can't."""
    ours = written.get("tamis", {})
    family = dict(ours.get("family", {"kind": "decoder"}))
    shape = ModelConfig(
        vocab_size=written["vocab_size"],
        context=written["max_position_embeddings"],
        num_layers=written["num_hidden_layers"],
        hidden_size=written["hidden_size"],
        num_heads=written["num_attention_heads"],
        num_kv_heads=written["num_key_value_heads"],
        intermediate_size=written["intermediate_size"],
        rope_theta=written["rope_parameters"]["rope_theta"],
        norm_eps=written["rms_norm_eps"],
        qk_norm=ours.get("qk_norm", written["model_type"] == "qwen3"),
        tied=written["tie_word_embeddings"],
        mup_width=ours.get("mup_width", 0),
        family=FAMILIES[family.pop("kind")](**family),
    )
    size = written.get("head_dim") or shape.hidden_size // shape.num_heads
    return shape if size * shape.num_heads == shape.hidden_size else replace(shape, head_width=size)


def end_of_text(model_dir: Path) -> int:
    """The token id that begins and ends every document of the model. Raises BadInput where its config has none."""
    found = json.loads((model_dir / "config.json").read_text()).get("eos_token_id")
    if not isinstance(found, int):
        raise BadInput(f"{model_dir} is not a model folder: eos_token_id in config.json is {found!r}, not a number")
    return found


def write_model(model: Llama, model_dir: Path, *, end_of_text: int) -> None:
    """Write weights and config as one folder, atomically."""
    _write(model_dir, encoded(model.state_dict()), model.config, end_of_text)


def write_mixture(experts: Sequence[Path], model_dir: Path, *, config: ModelConfig, end_of_text: int) -> None:
    """Write the models of these folders as the experts of one mixture, in order."""
    tensors = {
        f"experts.{number}.{name}": tensor
        for number, folder in enumerate(experts)
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    _write(model_dir, encoded(tensors), config, end_of_text)


def read_model(model_dir: Path, *, device: torch.device) -> Llama:
    """The model of a folder, in fp32. Raises BadInput that names the folder, UsageError for one of several experts."""
    config = model_config(model_dir)
    if config.plain != config:
        raise UsageError(
            f"{model_dir.name} is a {config.family.kind} model of {config.family.experts} experts where one model was "  # type: ignore[union-attr]
            "expected: choose one with `tamis step project`"
        )
    return read_network(model_dir, device=device)


def read_network(model_dir: Path, *, device: torch.device) -> Llama:
    """The network of a folder, whatever its family but a mixture, in fp32. Raises BadInput that names the folder."""
    return _filled(model_dir, model_config(model_dir), "").to(device)


def read_expert(model_dir: Path, number: int) -> Llama:
    """One expert of a mixture's folder, on the CPU."""
    return _filled(model_dir, model_config(model_dir).plain, f"experts.{number}.")


def _filled(model_dir: Path, config: ModelConfig, prefix: str) -> Llama:
    model = Llama(config)
    try:
        with safe_open(model_dir / "model.safetensors", "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118, not a mapping
            model.load_state_dict({name.removeprefix(prefix): file.get_tensor(name).float() for name in names})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BadInput(f"{model_dir} does not hold the weights its config.json describes: {error}") from error
    return model


def _write(model_dir: Path, weights: bytes, config: ModelConfig, end_of_text: int) -> None:
    described = json.dumps(hf_config(config, end_of_text=end_of_text), indent=2) + "\n"
    write_folder(model_dir, {"model.safetensors": weights, "config.json": described.encode()})

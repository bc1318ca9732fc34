"""Low-rank fine-tuning through peft: its layers, initialisation and scale, on our fast products.

peft replaces the linear layers of a network by its own; our blocks multiply by `weight_of(layer)`, the frozen matrix
plus peft's low-rank product, so several projections still are one product. The result is written with the products
added in, as a plain model. Rank 64 came within 0.5 perplexity of full fine-tuning (arXiv 2402.01093 section 5).
"""

from __future__ import annotations

import torch

from catalog.errors import UsageError
from training.model import Llama
from training.projected import weight_of

_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ALPHA_PER_RANK = 2


def adapt(model: Llama, *, rank: int, seed: int) -> None:
    """Freeze the network and give every matrix of its blocks a trainable product of `rank`, drawn from `seed`."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UsageError("lora_rank needs peft: install tamis[lora], or set lora_rank=0") from error
    if model.config.family.kind != "decoder":
        raise UsageError(f"lora_rank is for decoders; the model is of the family {model.config.family.kind}")
    settings = LoraConfig(r=rank, lora_alpha=_ALPHA_PER_RANK * rank, target_modules=list(_MATRICES))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, model)


@torch.no_grad()
def merged(model: Llama) -> Llama:
    """The plain model with low-rank products added in; itself when it has none."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" not in name}
    if not any(".base_layer." in name for name in weights):
        return model
    plain = {}
    for name, tensor in weights.items():
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix(".base_layer.weight")
            plain[f"{layer}.weight"] = weight_of(model.get_submodule(layer))
        else:
            plain[name] = tensor
    out = Llama(model.config)
    out.load_state_dict(plain)
    return out

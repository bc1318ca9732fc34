"""The recurrent family for transformers: this file travels in its exported folder, as `modeling_tamis.py`.

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

Nothing here knows the project that wrote it. minGRU of arXiv 2410.01201 in the place of attention; no cache: generation
computes the whole text for every token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput


class TamisRecurrentConfig(PretrainedConfig):
    model_type = "tamis-recurrent"


class _MinGRU(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.z_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.z_proj(x))
        keep, state, stride = 1 - gate, gate * self.v_proj(x), 1
        while stride < x.shape[1]:
            state = torch.cat([state[:, :stride], state[:, stride:] + keep[:, stride:] * state[:, :-stride]], 1)
            keep = torch.cat([keep[:, :stride], keep[:, stride:] * keep[:, :-stride]], 1)
            stride *= 2
        return self.o_proj(state)


class _MLP(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class _Block(nn.Module):
    def __init__(self, config: TamisRecurrentConfig):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = _MinGRU(config.hidden_size)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = _MLP(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class _Trunk(nn.Module):
    def __init__(self, config: TamisRecurrentConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)


class TamisRecurrentForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = TamisRecurrentConfig

    def __init__(self, config: TamisRecurrentConfig):
        super().__init__(config)
        self.model = _Trunk(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        **given: object,  # masks and caches, which this model has not
    ) -> dict[str, Tensor]:
        return {"input_ids": input_ids}

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **given: object) -> CausalLMOutput:
        x = self.model.embed_tokens(input_ids)
        for block in self.model.layers:
            x = block(x)
        logits = F.linear(self.model.norm(x), self.model.embed_tokens.weight)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

"""What training is compared with: a nanoGPT-shaped eager loop of our own, and Hugging Face's Trainer.

Each is a contestant: `steps(n)` trains n steps and gives their (wall, processor) seconds; `start_seconds` is what came
before the first step, compilation included. Both get the model shape of ours: layers, width, heads, vocabulary, tied
head; nanoGPT's GELU feed-forward of 4 widths has the parameters of our SwiGLU of 8/3. Rows are one document each, so
that transformers may leave the mask out.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.config import ModelConfig
from training.folder import hf_config

Times = list[tuple[float, float]]


class _Block(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_heads
        self.before_attention, self.before_mlp = nn.LayerNorm(size), nn.LayerNorm(size)
        self.attention, self.attention_out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x_BTD: Tensor) -> Tensor:
        rows, length, size = x_BTD.shape
        joined = self.attention(self.before_attention(x_BTD)).view(rows, length, 3, self.heads, size // self.heads)
        q, k, v = joined.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BTD = x_BTD + self.attention_out(mixed.transpose(1, 2).reshape(rows, length, size))
        return x_BTD + self.down(F.gelu(self.up(self.before_mlp(x_BTD))))


class _Gpt(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.context, config.hidden_size)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, 0.0, 0.02)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        x_BTD = self.tokens(tokens_BT) + self.positions.weight[: tokens_BT.shape[1]]
        for block in self.blocks:
            x_BTD = block(x_BTD)
        logits = F.linear(self.norm(x_BTD), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets_BT.flatten())


class NanoGpt:
    """An eager PyTorch loop in the shape of nanoGPT: autocast, SDPA, fused AdamW, clipping; compiled on request."""

    def __init__(self, config: ModelConfig, rows_NT: np.ndarray, *, batch_rows: int, is_bf16: bool, compiled: bool):
        begun = time.perf_counter()
        torch.manual_seed(0)
        self.model, self.rows, self.batch_rows = _Gpt(config), torch.from_numpy(rows_NT.astype(np.int64)), batch_rows
        self.forward = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
        self.is_bf16 = is_bf16
        self.steps(1)
        self.start_seconds = time.perf_counter() - begun

    def steps(self, number: int) -> Times:
        out = []
        for _ in range(number):
            begun = time.perf_counter(), time.process_time()
            chosen = self.rows[torch.randint(len(self.rows), (self.batch_rows,))]
            with torch.autocast("cpu", torch.bfloat16, enabled=self.is_bf16):
                loss = self.forward(chosen[:, :-1], chosen[:, 1:])
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            out.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
        return out


class HfTrainer:
    """`transformers.Trainer` on `LlamaForCausalLM`: bf16, fused AdamW, no logging, no saving; compiled on request."""

    def __init__(self, config: ModelConfig, rows_NT: np.ndarray, *, batch_rows: int, is_bf16: bool, compiled: bool):
        from transformers import LlamaConfig, LlamaForCausalLM

        self.model = LlamaForCausalLM(LlamaConfig(**{**hf_config(config, end_of_text=0), "use_cache": False}))
        self.rows = [{"input_ids": row, "labels": row} for row in torch.from_numpy(rows_NT.astype(np.int64))[:, :-1]]
        self.batch_rows, self.is_bf16, self.compiled = batch_rows, is_bf16, compiled
        begun = time.perf_counter()
        self.steps(1)
        self.start_seconds = time.perf_counter() - begun

    def steps(self, number: int) -> Times:
        from transformers import Trainer, TrainerCallback, TrainingArguments

        clocks: list[tuple[float, float]] = []

        class Clock(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                clocks.append((time.perf_counter(), time.process_time()))

        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
            arguments = TrainingArguments(
                output_dir=folder,
                max_steps=number + 1,
                per_device_train_batch_size=self.batch_rows,
                use_cpu=True,
                bf16=self.is_bf16,
                optim="adamw_torch_fused",
                learning_rate=1e-3,
                logging_strategy="no",
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                dataloader_pin_memory=False,
                torch_compile=self.compiled,
            )
            Trainer(model=self.model, args=arguments, train_dataset=self.rows, callbacks=[Clock()]).train()
        return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(clocks)]

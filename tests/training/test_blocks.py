"""What is done to blocks changes time and memory, not what is computed."""

import dataclasses

import pytest
import torch

from catalog.errors import UsageError
from training.blocks import pays_to_compile
from training.config import TrainConfig
from training.family import Projected
from training.model import Llama
from training.optim import build_optimizer, optimizer_tensors, restore_optimizer
from training.pretrain import pretrain
from training.telemetry import read_metrics


def weights_of(result):
    return (result.model_dir / "model.safetensors").read_bytes()


def test_gradient_checkpointing_gives_the_same_bytes(tmp_path, pack, shape, settings, local):
    short = dataclasses.replace(settings, tokens=4 * 8 * 32, trackers=())
    run = {"weights": None, "model": shape, "context": local}
    kept = pretrain([pack], **run, train=short, run_dir=tmp_path / "kept")
    again = dataclasses.replace(short, gradient_checkpointing=True)
    recomputed = pretrain([pack], **run, train=again, run_dir=tmp_path / "recomputed")
    assert weights_of(kept) == weights_of(recomputed)


def test_gradient_checkpointing_keeps_no_activations_of_blocks(shape, monkeypatch):
    from training import blocks
    from training.context import LocalContext
    from training.model import layout, targets

    def saved(checkpointing):
        model = Llama(dataclasses.replace(shape, num_layers=6))
        model.initialise(0)
        config = TrainConfig(tokens=1, gradient_checkpointing=checkpointing)
        blocks.prepare(model, config, LocalContext(device_name="cpu"), flops=0.0)
        sizes: list[int] = []
        tokens, segments = torch.randint(1, 96, (4, 32)), torch.zeros(4, 32, dtype=torch.int64)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            loss = model.loss(tokens, targets(tokens, segments), layout(segments), torch.float32)
        loss.backward()
        return sum(sizes)

    assert saved(True) < saved(False) / 2


def test_compiling_is_decided_by_the_run_and_the_device_alone():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    auto = TrainConfig(tokens=1)
    assert pays_to_compile(auto, flops=1e18, device=cuda)
    assert not pays_to_compile(auto, flops=1e12, device=cuda)
    assert not pays_to_compile(auto, flops=1e18, device=cpu)
    assert not pays_to_compile(dataclasses.replace(auto, compile="never"), flops=1e18, device=cuda)
    with pytest.raises(UsageError, match="compile always"):
        pays_to_compile(dataclasses.replace(auto, compile="always"), flops=1e18, device=cpu)


class Interrupted(Exception):
    pass


def test_muon_moves_the_matrices_of_blocks_learns_and_resumes_to_the_same_bytes(tmp_path, pack, shape, settings, local):
    muon = dataclasses.replace(settings, optimizer="muon", trackers=())
    run = {"weights": None, "model": shape, "train": muon, "context": local}
    whole = pretrain([pack], **run, run_dir=tmp_path / "whole")

    def stop(progress):
        if progress.step == 9:
            raise Interrupted

    with pytest.raises(Interrupted):
        pretrain([pack], **run, run_dir=tmp_path / "cut", on_progress=stop)
    assert weights_of(pretrain([pack], **run, run_dir=tmp_path / "cut")) == weights_of(whole)
    losses = [line["loss"] for line in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert losses[-1] < losses[0] - 1


def test_muon_moves_banks_and_leaves_what_mixes_experts_to_adamw(shape):
    model = Llama(dataclasses.replace(shape, num_layers=3, family=Projected(experts=4, banks=2, cells=4)))
    optimizer = build_optimizer(model, TrainConfig(tokens=1))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = optimizer_tensors(model, optimizer)
    banks = [name for name, _ in model.named_parameters() if name.endswith("_banks")]
    mixing = [name for name, _ in model.named_parameters() if name.endswith(("mixing", "experts"))]
    assert banks
    assert mixing
    assert all(f"{name}.momentum" in kept for name in banks)
    assert all(f"{name}.exp_avg" in kept for name in mixing)


def test_muon_keeps_one_moment_of_a_matrix_inside_a_block_and_adamw_two_of_the_rest(shape):
    config = TrainConfig(tokens=1, optimizer="muon", weight_decay=0.3)
    model = Llama(shape)
    optimizer = build_optimizer(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = optimizer_tensors(model, optimizer)
    assert "model.layers.0.mlp.up_proj.weight.momentum" in kept
    assert {name.rpartition(".")[2] for name in kept if "embed" in name or "norm" in name} == {"exp_avg", "exp_avg_sq"}
    assert len(kept) == sum(1 if ".layers." in n and p.ndim == 2 else 2 for n, p in model.named_parameters())
    other = build_optimizer(model, config)
    restore_optimizer(model, other, kept, step=1)
    again = optimizer_tensors(model, other)
    assert all(torch.equal(kept[name], again[name]) for name in kept)

"""What is done to a network's blocks before it trains: compiling, recomputing, sharding. Weights keep their names.

Compiling is decided by a rule, never by the clock, because compiled code rounds differently and equal settings must
give equal bytes: on CUDA, from `_WORTH_FLOPS` of the whole run on; never on a CPU, where it took 20-25 s, saved 6% of
6M parameters' time and nothing at 1M, and crashed twice in five runs inside PyTorch 2.13 (measured). Blocks are
compiled one by one, and as they are alike, once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from catalog.errors import UsageError
from training.config import TrainConfig
from training.context import RunContext
from training.model import Llama

_WORTH_FLOPS = 1e16  # half a minute of a large GPU, which is what compiling takes there


def pays_to_compile(config: TrainConfig, *, flops: float, device: torch.device) -> bool:
    """Whether a run of that many floating-point operations is compiled. Raises UsageError where it can't be."""
    if config.compile == "always" and device.type == "cpu":
        raise UsageError("compile always: on a CPU it saves nothing and is not reliable; expected auto or never there")
    return config.compile == "always" or (config.compile == "auto" and device.type == "cuda" and flops >= _WORTH_FLOPS)


def prepare(model: Llama, config: TrainConfig, context: RunContext, *, flops: float) -> None:
    """Make the blocks what the settings ask for, in place."""
    for block in model.model.layers:
        if config.gradient_checkpointing:
            block.forward = partial(_recomputed, block.forward)
        if pays_to_compile(config, flops=flops, device=context.device):
            block.compile()
    if is_sharded(config, context):
        _shard(model, context)


def is_sharded(config: TrainConfig, context: RunContext) -> bool:
    """Whether weights, gradients and moments are cut over the ranks."""
    return config.sharding == "sharded" and context.world_size > 1


def whole(tensor: Tensor) -> Tensor:
    """The full tensor, gathered from all ranks where it is cut over them; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(model: Llama) -> Llama:
    """The model with whole weights: itself, or where it is cut over the ranks a copy; every rank must ask."""
    state = model.state_dict()
    if not any(isinstance(tensor, DTensor) for tensor in state.values()):
        return model
    copy = Llama(model.config)
    copy.load_state_dict({name: whole(tensor) for name, tensor in state.items()})
    return copy


def cut_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A full tensor cut over the ranks as `parameter` is."""
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
    return tensor


def _recomputed(forward: Any, *given: Any) -> Any:
    return checkpoint(forward, *given, use_reentrant=False)


def _shard(model: Llama, context: RunContext) -> None:
    mesh = init_device_mesh(context.device.type, (context.world_size,))
    units: list[nn.Module] = [*model.model.layers, model]
    for unit in units:
        sharded = fully_shard(unit, mesh=mesh)
        sharded.set_gradient_divide_factor(1.0)  # losses are divided by the global count already
        sharded.set_force_sum_reduction_for_comms(True)  # gloo knows no other reduction with a factor
    for method in ("loss", "nll"):
        register_fsdp_forward_method(model, method)

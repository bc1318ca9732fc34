"""What a device can multiply: the measured peak that MFU (model FLOPs utilization, PaLM appendix B) is a share of."""

from __future__ import annotations

import time

import torch

_SIZES = {"cpu": 1024, "cuda": 8192}
_SECONDS = {"cpu": 0.3, "cuda": 0.3}


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a square matrix product, the best of several, on PyTorch's threads."""
    size = _SIZES.get(device.type, 1024)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, until = float("inf"), 0.0
    for turn in range(1_000_000):
        _wait(device)
        begun = time.perf_counter()
        torch.mm(left, right)
        _wait(device)
        now = time.perf_counter()
        until = until or now + _SECONDS.get(device.type, 0.3)  # the first product also warms up
        if turn:
            best = min(best, now - begun)
        if now > until and turn:
            break
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

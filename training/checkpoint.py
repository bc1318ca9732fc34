"""Checkpoints that are whole or absent: write aside, fsync, rename, then a marker that holds every file's sha256.

    <dir>/step-00000250/model.safetensors      weights, fp32
                        optimizer.safetensors  moments
                        state.json             scalars: step and what the caller adds
                        COMMITTED              {"files": {name: sha256}}; written last

A folder without a marker, or whose bytes differ from it, does not count: `latest` goes to the one before. Nothing is
ever pickled. The same code writes model folders (`write_folder`), which are replaced as a whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

MARKER = "COMMITTED"
_KEEP = 2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An intact checkpoint on disk."""

    path: Path
    step: int

    def model(self) -> dict[str, torch.Tensor]:
        return load_file(self.path / "model.safetensors")

    def optimizer(self) -> dict[str, torch.Tensor]:
        return load_file(self.path / "optimizer.safetensors")

    def state(self) -> dict[str, Any]:
        return json.loads((self.path / "state.json").read_text())


def save_checkpoint(
    directory: Path,
    *,
    step: int,
    model: Mapping[str, torch.Tensor],
    optimizer: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
) -> Checkpoint:
    """Commit the state after `step` steps and drop all but the last two."""
    path = directory / f"step-{step:08d}"
    files = {
        "model.safetensors": encoded(model),
        "optimizer.safetensors": encoded(optimizer),
        "state.json": json.dumps({**state, "step": step}, sort_keys=True).encode(),
    }
    write_folder(path, files)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    write_file(path / MARKER, json.dumps({"files": hashes}, sort_keys=True).encode())
    for old in sorted(directory.glob("step-*"))[:-_KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return Checkpoint(path=path, step=step)


def latest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint whose every byte is what its marker says; None when there is none."""
    for path in sorted(directory.glob("step-*"), reverse=True):
        if _intact(path):
            return Checkpoint(path=path, step=int(path.name.removeprefix("step-")))
    return None


def encoded(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A safetensors file of the tensors, in name order: equal tensors give equal bytes."""
    on_cpu = {name: tensors[name].detach().to("cpu").contiguous() for name in sorted(tensors)}
    return save(on_cpu, metadata={"format": "pt"})


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make `path` a folder of exactly these files; a crash leaves the old folder, the new one, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.parent / f".{path.name}.{os.getpid()}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for name, data in files.items():
        _write_through(aside / name, data)
    _fsync_directory(aside)
    shutil.rmtree(path, ignore_errors=True)
    os.rename(aside, path)
    _fsync_directory(path.parent)


def write_file(path: Path, data: bytes) -> None:
    """Replace one file atomically."""
    aside = path.parent / f".{path.name}.{os.getpid()}.tmp"
    _write_through(aside, data)
    os.replace(aside, path)
    _fsync_directory(path.parent)


def remove_leftovers(directory: Path) -> None:
    """Remove what killed writers left aside. Call it only from the one process that owns `directory`."""
    for path in directory.glob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _intact(path: Path) -> bool:
    try:
        files = json.loads((path / MARKER).read_text())["files"]
        return all(
            hashlib.sha256((path / name).read_bytes()).hexdigest() == expected for name, expected in files.items()
        )
    except (OSError, ValueError, KeyError):  # absent or damaged: not a checkpoint
        return False


def _write_through(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _fsync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

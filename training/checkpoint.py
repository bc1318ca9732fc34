"""Checkpoints that are whole or absent: write aside, fsync, rename, then a marker that holds every file's sha256.

    <dir>/step-00000250/model.safetensors      weights, fp32
                        optimizer.safetensors  moments
                        state.json             scalars: step and what the caller adds
                        COMMITTED              {"files": {name: sha256}, "tags": [why it is kept]}; written last

A folder without a marker, or whose bytes differ from it, does not count: `latest` says so in one line and goes to the
one before. Nothing is ever pickled. The same code writes model folders (`write_folder`), which are replaced as a whole.

`Saver` writes while training goes on: it takes a copy of the state, and one thread encodes, hashes and writes it. What
stays: the last two; the newest tagged `best`; all that have another tag (`every`, `branch`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

MARKER = "COMMITTED"
_KEEP = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An intact checkpoint on disk."""

    path: Path
    step: int

    @property
    def parameter_hash(self) -> str:
        """sha256 of the file of weights: equal for equal weights."""
        return _marker(self.path)["files"]["model.safetensors"]

    def model(self) -> dict[str, torch.Tensor]:
        return load_file(self.path / "model.safetensors")

    def optimizer(self) -> dict[str, torch.Tensor]:
        return load_file(self.path / "optimizer.safetensors")

    def state(self) -> dict[str, Any]:
        return json.loads((self.path / "state.json").read_text())


class Saver:
    """Writes the checkpoints of one run in a thread of its own, one at a time. Close it to know that all are sealed."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Checkpoint] | None = None
        self._newest: Checkpoint | None = None
        remove_leftovers(directory)

    @property
    def newest(self) -> Checkpoint | None:
        """The last one sealed in this process. Raises what its writer raised."""
        if self._writing is not None and self._writing.done():
            self._newest = self._writing.result()
        return self._newest

    def save(
        self,
        *,
        step: int,
        model: Mapping[str, torch.Tensor],
        optimizer: Mapping[str, torch.Tensor],
        state: Mapping[str, Any],
        tags: Sequence[str] = (),
    ) -> None:
        """Copy the state and return; the copy is sealed later. Waits where the checkpoint before is still written."""
        self.wait()
        weights, moments = _copied(model), _copied(optimizer)
        state = json.loads(json.dumps(state))
        self._writing = self._writer.submit(
            save_checkpoint, self._directory, step=step, model=weights, optimizer=moments, state=state, tags=tags
        )

    def wait(self) -> None:
        """Return when nothing is being written. Raises what the writer raised."""
        if self._writing is not None:
            self._newest = self._writing.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._writer.shutdown()


def save_checkpoint(
    directory: Path,
    *,
    step: int,
    model: Mapping[str, torch.Tensor],
    optimizer: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    tags: Sequence[str] = (),
) -> Checkpoint:
    """Commit the state after `step` steps and drop what no rule keeps."""
    path = directory / f"step-{step:08d}"
    files = {
        "model.safetensors": encoded(model),
        "optimizer.safetensors": encoded(optimizer),
        "state.json": json.dumps({**state, "step": step}, sort_keys=True).encode(),
    }
    write_folder(path, files)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    write_file(path / MARKER, json.dumps({"files": hashes, "tags": list(tags)}, sort_keys=True).encode())
    for old in doomed({each: _tags(each) for each in sorted(directory.glob("step-*"))}):
        shutil.rmtree(old, ignore_errors=True)
    return Checkpoint(path=path, step=step)


def doomed(tags: Mapping[Path, Sequence[str]]) -> list[Path]:
    """Which of the checkpoints, ascending by step, no rule keeps."""
    paths = list(tags)
    best = [path for path in paths if "best" in tags[path]][-1:]
    kept = {*paths[-_KEEP:], *best, *(path for path in paths if set(tags[path]) - {"best"})}
    return [path for path in paths if path not in kept]


def drop_untagged(directory: Path) -> None:
    """Leave the checkpoints that a tag keeps: a finished run needs no others."""
    for path in directory.glob("step-*"):
        if not _tags(path):
            shutil.rmtree(path, ignore_errors=True)
    remove_leftovers(directory)
    if directory.exists() and not any(directory.iterdir()):
        directory.rmdir()


def latest(directory: Path, *, at_most: int | None = None) -> Checkpoint | None:
    """The newest checkpoint, of step `at_most` at most, whose every byte is what its marker says; None without one."""
    for path in sorted(directory.glob("step-*"), reverse=True):
        step = int(path.name.removeprefix("step-"))
        if at_most is not None and step > at_most:
            continue
        wrong = _damage(path)
        if not wrong:
            return Checkpoint(path=path, step=step)
        _log.warning("checkpoint %s is not used: %s; going to the one before", path, wrong)
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


def _copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the host that training does not change any more."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _marker(path: Path) -> dict[str, Any]:
    return json.loads((path / MARKER).read_text())


def _tags(path: Path) -> Sequence[str]:
    try:
        return _marker(path)["tags"]
    except (OSError, ValueError, KeyError):  # unsealed or damaged: nothing to keep it for
        return ()


def _damage(path: Path) -> str:
    """What is wrong with a checkpoint, empty when nothing is."""
    try:
        files = _marker(path)["files"]
        for name, expected in files.items():
            if hashlib.sha256((path / name).read_bytes()).hexdigest() != expected:
                return f"the bytes of {name} are not those that were sealed"
        return ""
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError) as error:
        return f"its marker can't be read ({error})"


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

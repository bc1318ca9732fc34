"""The ways to specialize a model: all weights, low-rank products, or with a teacher. Values that bear identity."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.errors import UsageError
from training.distill import FromLessons, FromTeacher, Lessons
from training.folder import read_model
from training.lora import adapt
from training.model import Llama
from training.objective import Objective, next_token


@dataclass(frozen=True, kw_only=True)
class Full:
    """Every weight learns from the next token."""

    def prepare(self, model: Llama, *, seed: int) -> Objective:
        """Make the model ready and say what to minimise."""
        return next_token

    def identity(self) -> dict[str, Any]:
        return {"kind": "full"}


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Products of `rank` beside frozen matrices, merged when the model is written."""

    rank: int

    def prepare(self, model: Llama, *, seed: int) -> Objective:
        adapt(model, rank=self.rank, seed=seed)
        return next_token

    def identity(self) -> dict[str, Any]:
        return {"kind": "lora", "rank": self.rank}


@dataclass(frozen=True, kw_only=True)
class Taught:
    """Every weight learns from labels and a teacher: its model folder, or files of lessons about these packs."""

    teacher_dir: Path | None
    lessons: tuple[Path, ...]
    label_share: float

    def prepare(self, model: Llama, *, seed: int) -> Objective:
        if self.teacher_dir is None:
            lessons = Lessons(self.lessons, context=model.config.context)
            return FromLessons(lessons=lessons, label_share=self.label_share)
        teacher = read_model(self.teacher_dir, device=model.head.device)
        if teacher.config.vocab_size != model.config.vocab_size or teacher.config.context < model.config.context:
            raise UsageError(
                f"the teacher has vocabulary {teacher.config.vocab_size} and context {teacher.config.context}, the "
                f"student {model.config.vocab_size} and {model.config.context}: tokenize both alike"
            )
        return FromTeacher(teacher=teacher.requires_grad_(False), label_share=self.label_share)

    def identity(self) -> dict[str, Any]:
        paths = self.lessons if self.teacher_dir is None else (self.teacher_dir / "model.safetensors",)
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        return {"kind": "taught", "by": digests, "label_share": self.label_share}


Method = Full | Lora | Taught

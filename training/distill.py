"""Learning from a teacher: labels and its next-token distribution (SLM-d of arXiv 2402.01093; Hinton 1503.02531).

    loss = label_share * -log q[y]  +  (1 - label_share) * -sum_v p[v] log q[v]

per token, q the student and p the teacher, at temperature 1. Online, the teacher runs beside the student. Offline, its
`top` likeliest tokens of every position are stored once as lessons, files beside the packs; what lies below them counts
as one event, -p_rest log q_rest, which is what the student's own shape below the top leaves out. Both gradients at the
logits are q - (mixed target), so one chunked pass makes loss and gradient without holding the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from catalog.errors import CorruptStore, UsageError
from catalog.pack import Packs
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Shard, Snapshot
from catalog.store import Store
from training.folder import read_model
from training.inputs import check_tokenizers, model_folder
from training.kernels import IGNORED, chunks
from training.model import Llama, layout
from training.objective import MicroBatch

_ROWS_AT_ONCE = 8


# for a slice of the flattened positions and the student's shares q [n, V]: the target [n, V] and its loss [n]
Lesson = Callable[[slice, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class FromTeacher:
    """The objective with the teacher at hand."""

    teacher: Llama
    label_share: float

    def __call__(self, model: Llama, batch: MicroBatch, dtype: torch.dtype) -> Tensor:
        with torch.no_grad():
            hidden_ND = self.teacher.hidden(batch.tokens_BT, batch.where, dtype).flatten(0, 1)
        head = self.teacher.head.detach().to(dtype)

        def lesson(at: slice, shares: Tensor) -> tuple[Tensor, Tensor]:
            taught = torch.softmax(F.linear(hidden_ND[at], head), -1, dtype=torch.float32)
            return taught, -(taught * shares.clamp_min(1e-37).log()).sum(-1)

        return _taught(model, batch, dtype, self.label_share, lesson)


@dataclass(frozen=True, kw_only=True)
class FromLessons:
    """The objective with what the teacher said about each row of the packs."""

    lessons: Lessons
    label_share: float

    def __call__(self, model: Llama, batch: MicroBatch, dtype: torch.dtype) -> Tensor:
        tokens, shares = self.lessons.rows(batch.rows_B)
        device = batch.tokens_BT.device
        tokens_NK = torch.from_numpy(tokens).to(device).flatten(0, 1)
        shares_NK = torch.from_numpy(shares).to(device).flatten(0, 1)

        def lesson(at: slice, student: Tensor) -> tuple[Tensor, Tensor]:
            return below_the_top_as_one(tokens_NK[at], shares_NK[at], student)

        return _taught(model, batch, dtype, self.label_share, lesson)


def below_the_top_as_one(tokens_NK: Tensor, shares_NK: Tensor, student_NV: Tensor) -> tuple[Tensor, Tensor]:
    """The target whose gradient is that of -sum_top p log q - p_rest log q_rest, and that loss."""
    top = student_NV.gather(1, tokens_NK)
    rest = (1 - shares_NK.sum(1)).clamp_min(0)
    student_rest = (1 - top.sum(1)).clamp_min(1e-12)
    target = (student_NV * (rest / student_rest)[:, None]).scatter(1, tokens_NK, shares_NK)
    loss = -(shares_NK * top.clamp_min(1e-37).log()).sum(1) - rest * student_rest.log()
    return target, loss


def _taught(model: Llama, batch: MicroBatch, dtype: torch.dtype, label_share: float, lesson: Lesson) -> Tensor:
    hidden_ND = model.hidden(batch.tokens_BT, batch.where, dtype).flatten(0, 1)
    return _TaughtLoss.apply(hidden_ND, model.head, batch.targets_BT.flatten(), label_share, lesson)


class _TaughtLoss(torch.autograd.Function):
    """The summed loss with both gradients made on the way, as the plain head's loss does it."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, label_share: float, lesson: Lesson
    ) -> Tensor:
        weight = weight_VD.to(hidden_ND.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        hidden_grad = torch.empty_like(hidden_ND)
        weight_grad = torch.zeros(weight_VD.shape, dtype=torch.float32, device=hidden_ND.device)
        for at in chunks(len(targets_N), weight):
            counted = (targets_N[at] != IGNORED).float()
            index = targets_N[at].clamp_min(0)[:, None]
            shares = torch.softmax(F.linear(hidden_ND[at], weight), -1, dtype=torch.float32)
            wanted, loss = lesson(at, shares)
            labels = -shares.gather(1, index).clamp_min(1e-37).log()[:, 0]
            total += ((label_share * labels + (1 - label_share) * loss) * counted).sum()
            wanted = wanted.mul(1 - label_share).scatter_add(1, index, torch.full_like(counted, label_share)[:, None])
            grad = shares.sub_(wanted).mul_(counted[:, None]).to(hidden_ND.dtype)
            hidden_grad[at] = grad @ weight
            weight_grad += grad.t() @ hidden_ND[at]
        ctx.save_for_backward(hidden_grad, weight_grad)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_grad, weight_grad = ctx.saved_tensors
        return hidden_grad * grad.to(hidden_grad.dtype), weight_grad * grad, None, None, None


@torch.no_grad()
def write_lessons(teacher: Llama, packs: Packs, path: Path, *, top: int) -> int:
    """Store the `top` likeliest next tokens of every position of the packs' rows, in row order; returns the rows.

    An Arrow file like a pack: tokens fixed_size_list<uint16 or uint32>[context * top], shares float16.
    """
    if packs.format.vocab_size != teacher.config.vocab_size or packs.format.context > teacher.config.context:
        raise UsageError(
            f"the packs have vocabulary {packs.format.vocab_size} and context {packs.format.context}, the teacher "
            f"{teacher.config.vocab_size} and {teacher.config.context}: tokenize both alike"
        )
    size = packs.format.context * top
    schema = pa.schema(
        {
            "tokens": pa.list_(pa.from_numpy_dtype(packs.format.dtype), size),
            "shares": pa.list_(pa.float16(), size),
        }
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for begin in range(0, len(packs), _ROWS_AT_ONCE):
            rows = np.arange(begin, min(begin + _ROWS_AT_ONCE, len(packs)))
            tokens_BT, segments_BT = torch.from_numpy(packs.tokens(rows)), torch.from_numpy(packs.segments(rows))
            hidden_BTD = teacher.hidden(tokens_BT, layout(segments_BT), torch.float32)
            shares, chosen = torch.softmax(F.linear(hidden_BTD, teacher.head), -1).topk(top, -1)
            flat = [
                pa.array(chosen.numpy().astype(packs.format.dtype).reshape(-1)),
                pa.array(shares.numpy().astype(np.float16).reshape(-1)),
            ]
            writer.write_batch(
                pa.record_batch([pa.FixedSizeListArray.from_arrays(each, size) for each in flat], schema=schema)
            )
    return len(packs)


class Lessons:
    """What a teacher said about each row of packs, memory-mapped; files in the order of the packs' files."""

    def __init__(self, paths: Sequence[Path], *, context: int):
        self._context = context
        try:
            tables = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths]
        except (OSError, pa.ArrowInvalid) as error:
            raise CorruptStore(f"{paths[0]} is not a readable file of lessons: {error}") from error
        self._batches = [batch for table in tables for batch in table.to_batches()]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches])

    def rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int64 and shares float32 of rows by their number in the packs, both [n, context, top]."""
        found = [self._row(int(row)) for row in rows]
        return np.stack([each[0] for each in found]), np.stack([each[1] for each in found])

    def _row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        number = int(np.searchsorted(self._ends, row, side="right"))
        batch = self._batches[number]
        local = row - (int(self._ends[number]) - batch.num_rows)
        columns = (batch.column(name)[local].values for name in batch.schema.names)
        tokens, shares = (each.to_numpy(zero_copy_only=False) for each in columns)
        return tokens.astype(np.int64).reshape(self._context, -1), shares.astype(np.float32).reshape(self._context, -1)


@dataclass(frozen=True, kw_only=True)
class Teach:
    """What a model says about every position of packs: its `top` likeliest next tokens and their shares."""

    verb: ClassVar[str] = "teach"
    revision: ClassVar[int] = 1

    top: int = 16

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """Lessons: a file beside each file of the packs, row for row."""
        packs, model = inputs
        check_tokenizers(packs, model)
        if not 1 <= self.top <= packs.contents.summary["vocab_size"]:
            raise UsageError(f"top {self.top}: expected 1 to the vocabulary, {packs.contents.summary['vocab_size']}")
        folder = str(model_folder(work.store, model, work.folder / "teacher"))
        tasks = [{"pack": shard.tables["pack"], "teacher": folder, "top": self.top} for shard in packs.contents.shards]
        receipts = work.stage("teach", _teach, tasks, unit="rows")
        shards = tuple(Shard(rows=r["rows"], tables={"lessons": file_ref(r["lessons"])}) for r in receipts)
        summary = {
            "rows": sum(shard.rows for shard in shards),
            "top": self.top,
            "packs": packs.ref,
            "teacher": model.ref,
        }
        return Contents(
            kind="lessons", shards=shards, artifacts={"tokenizer": packs.artifact("tokenizer")}, summary=summary
        )


def _teach(store: Store, task: Task) -> Receipt:
    teacher = read_model(Path(task["teacher"]), device=torch.device("cpu"))
    with store.writing(suffix="arrow") as (path, refs):
        rows = write_lessons(teacher, Packs([store.local(task["pack"])]), path, top=task["top"])
    return {"lessons": as_json(refs[0]), "rows": rows}

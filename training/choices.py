"""Questions with a known answer: multiple choice and cloze, from local files.

A file has one JSON object a line: {"context": text, "choices": [texts], "answer": index of the right one}. A choice
continues its context; the model's answer is the choice with the highest log-likelihood per byte, so that a long choice
is not at a disadvantage. Accuracy comes with a bootstrap over questions and beside what guessing would give. A context
that is too long loses its beginning.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from catalog.errors import BadInput, UsageError
from catalog.fingerprint import sha256_file
from catalog.run import Work
from catalog.snapshot import Contents, Snapshot
from catalog.tokenizer import BpeTokenizer
from training.folder import end_of_text, read_model
from training.inputs import check_names, model_folder
from training.model import IGNORED, Llama, layout

_BATCH_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class Question:
    """A text and its possible continuations, the right one at index `answer`."""

    context: str
    choices: tuple[str, ...]
    answer: int


def read_questions(path: Path) -> list[Question]:
    """The questions of a file. Raises BadInput that names the line."""
    out = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} can't be read as questions: {error}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            out.append(_question(path, number, line))
    if not out:
        raise BadInput(f"{path} holds no questions: expected a JSON object a line")
    return out


def answers(
    model: Llama, questions: Sequence[Question], *, tokenizer: BpeTokenizer, end_of_text: int
) -> tuple[np.ndarray, np.ndarray]:
    """The chosen index of each question, int64, and the log-likelihoods (nats) of all choices, end to end."""
    pairs = [(question.context, choice) for question in questions for choice in question.choices]
    encoded = tokenizer.encode([text for pair in pairs for text in pair])
    rows = [
        _row(encoded[2 * i], encoded[2 * i + 1], context=model.config.context, end_of_text=end_of_text)
        for i in range(len(pairs))
    ]
    likelihood = np.zeros(len(rows))
    for chosen in _batches(rows):
        width = max(len(rows[i][0]) for i in chosen)
        tokens, wanted = np.full((len(chosen), width), end_of_text), np.full((len(chosen), width), IGNORED)
        for place, i in enumerate(chosen):
            tokens[place, : len(rows[i][0])], wanted[place, : len(rows[i][1])] = rows[i]
        tokens_BT = torch.from_numpy(tokens)
        where = layout(torch.zeros_like(tokens_BT))
        nll_BT = model.nll(tokens_BT, torch.from_numpy(wanted), where, torch.float32)
        likelihood[chosen] = -nll_BT.double().sum(1).numpy()
    sizes = np.array([max(len(choice.encode()), 1) for _, choice in pairs])
    ends = np.cumsum([len(question.choices) for question in questions])
    per_byte = np.split(likelihood / sizes, ends[:-1])
    return np.array([int(np.argmax(each)) for each in per_byte]), likelihood


@dataclass(frozen=True, kw_only=True)
class EvaluateChoices:
    """The accuracy of models on files of questions."""

    verb: ClassVar[str] = "evaluate-choices"
    revision: ClassVar[int] = 1

    paths: tuple[str, ...]
    draws: int = 2000
    seed: int = 0

    def evidence(self, *inputs: Snapshot) -> list[str]:
        """The digests of the files, and the names that the results speak of."""
        return [sha256_file(path) for path in self._files()] + [model.name for model in inputs]

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """An evaluation snapshot without tables."""
        check_names(inputs)
        tasks = {path.stem: read_questions(path) for path in self._files()}
        results = []
        for number, model in enumerate(inputs):
            folder = model_folder(work.store, model, work.folder / model.name)
            network = read_model(folder, device=torch.device("cpu"))
            tokenizer = BpeTokenizer(work.store.local(model.artifact("tokenizer")))
            for task, questions in tasks.items():
                given, _ = answers(network, questions, tokenizer=tokenizer, end_of_text=end_of_text(folder))
                results.append({"model": model.name, "task": task, **self._figures(questions, given)})
            work.tell("answer", number + 1, len(inputs), note=model.name)
        return Contents(kind="evaluation", summary={"results": results, "comparisons": []})

    def _files(self) -> list[Path]:
        files = [Path(path) for path in self.paths]
        missing = [path for path in files if not path.is_file()]
        if missing or not files:
            raise BadInput(f"{missing[0] if missing else 'paths'}: expected a file of questions")
        if len({path.stem for path in files}) < len(files):
            raise UsageError("files of questions need different names: each names its task")
        return files

    def _figures(self, questions: Sequence[Question], given: np.ndarray) -> dict[str, Any]:
        right = given == np.array([question.answer for question in questions])
        generator = np.random.Generator(np.random.Philox(self.seed))
        drawn = right[generator.integers(len(right), size=(self.draws, len(right)))].mean(1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        return {
            "documents": len(questions),
            "accuracy": float(right.mean()),
            "low": float(low),
            "high": float(high),
            "chance": float(np.mean([1 / len(question.choices) for question in questions])),
        }


def _question(path: Path, number: int, line: str) -> Question:
    try:
        found = json.loads(line)
        question = Question(
            context=found["context"], choices=tuple(map(str, found["choices"])), answer=int(found["answer"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f'{path}, line {number}: {error!r}; expected {{"context": text, "choices": [texts], "answer": index}}'
        ) from error
    if not all(question.choices):
        raise BadInput(f"{path}, line {number}: an empty choice, which every model finds certain: expected text")
    if not 0 <= question.answer < len(question.choices):
        raise BadInput(
            f"{path}, line {number}: answer {question.answer} of {len(question.choices)} choices: expected an index"
        )
    return question


def _row(given: np.ndarray, choice: np.ndarray, *, context: int, end_of_text: int) -> tuple[np.ndarray, np.ndarray]:
    """Input and target tokens of one choice; only the choice counts, cut to the context from its end."""
    whole = np.concatenate([[end_of_text], given, choice]).astype(np.int64)
    counted = np.arange(len(whole)) >= 1 + len(given)
    whole, counted = whole[-(context + 1) :], counted[-(context + 1) :]
    return whole[:-1], np.where(counted[1:], whole[1:], IGNORED)


def _batches(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[list[int]]:
    ordered, out = sorted(range(len(rows)), key=lambda i: -len(rows[i][0])), list[list[int]]()
    while ordered:
        many = max(1, _BATCH_TOKENS // max(len(rows[ordered[0]][0]), 1))
        out.append(ordered[:many])
        ordered = ordered[many:]
    return out

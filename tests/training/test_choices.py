"""Multiple choice: what the model holds for likelier, per byte, wins; the file says what is wrong with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from catalog.catalog import Catalog
from catalog.errors import BadInput
from catalog.query import sql
from catalog.run import run
from catalog.tokenizer import BpeTokenizer
from clusters.screens import facts
from dataops.executors import LocalExecutor
from tests.conftest import Curated
from training.choices import EvaluateChoices, Question, answers, read_questions
from training.config import sized
from training.model import Llama
from training.steps import Pretrain

HERE = LocalExecutor(workers=1)


def test_the_likeliest_choice_per_byte_is_that_of_a_plain_loop(curated: Curated) -> None:
    tokenizer = BpeTokenizer(curated.catalog.store.local(curated.catalog.snapshot("test").artifact("tokenizer")))
    model = Llama(sized(130_000, vocab_size=tokenizer.vocab_size, context=16))
    model.initialise(2)
    random = np.random.default_rng(0)
    words = ["the cat", " of", " a long continuation of text", " x", "", " proves the lemma"]
    questions = [
        Question(
            context=" ".join(random.choice(words, 1 + i % 9)), choices=tuple(random.permutation(words)[:3]), answer=0
        )
        for i in range(30)
    ]
    given, likelihood = answers(model, questions, tokenizer=tokenizer, end_of_text=tokenizer.end_of_text)
    at = 0
    for question, chosen in zip(questions, given, strict=True):
        found = []
        for choice in question.choices:
            context, tail = tokenizer.encode([question.context, choice])
            whole = [tokenizer.end_of_text, *context.tolist(), *tail.tolist()][-17:]
            inputs = torch.tensor([whole[:-1]])
            logits = model(inputs, torch.zeros_like(inputs))[0].log_softmax(-1)
            counted = range(max(len(whole) - 1 - len(tail), 0), len(whole) - 1)
            total = sum(logits[i, whole[i + 1]].item() for i in counted)
            assert likelihood[at] == pytest.approx(total, abs=1e-3)
            found.append(total / max(len(choice.encode()), 1))
            at += 1
        assert chosen == int(np.argmax(found))


def test_a_trained_model_prefers_what_it_was_trained_on_and_the_catalog_tells(curated: Curated, tmp_path: Path) -> None:
    shutil.copytree(curated.store, tmp_path / "store")
    catalog = Catalog.open(tmp_path / "store")
    packs = catalog.snapshot("generic-packs")
    model = run(
        Pretrain(params=130_000, tokens=16_000, batch_rows=4), packs, into="model", catalog=catalog, executor=HERE
    )
    texts = sql(
        catalog, "SELECT text FROM texts JOIN documents USING (id) WHERE snapshot = 'clean@1' ORDER BY id LIMIT 20"
    )["text"].to_pylist()
    lines = []
    for number, text in enumerate(texts):
        choices = [text[40:80], text[40:80][::-1]]
        order = [0, 1] if number % 2 else [1, 0]
        lines.append({"context": text[:40], "choices": [choices[i] for i in order], "answer": order.index(0)})
    path = tmp_path / "forwards.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = run(EvaluateChoices(paths=(str(path),)), model, into="answers", catalog=catalog, executor=HERE)
    (row,) = sql(catalog, "SELECT * FROM evaluations WHERE snapshot = 'answers@1'").to_pylist()
    assert (row["model"], row["task"], row["documents"]) == ("model", "forwards", 20)
    assert row["low"] <= row["accuracy"] <= row["high"]
    assert row["accuracy"] > 0.8
    assert facts(made) == f"model {row['accuracy']:.3f} on forwards"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: .*expected"),
        ('{"context": "a", "choices": ["b"]}', "line 2: KeyError"),
        ('{"context": "a", "choices": ["b"], "answer": 1}', "line 2: answer 1 of 1 choices"),
        ('{"context": "a", "choices": ["b", ""], "answer": 0}', "line 2: an empty choice"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "task.jsonl"
    path.write_text('{"context": "a", "choices": ["b"], "answer": 0}\n' + line + "\n")
    with pytest.raises(BadInput, match=message):
        read_questions(path)

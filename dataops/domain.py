"""Domain classification with fastText (1607.01759): trained on the documents that carry a domain, applied to the rest.

Two steps: `TrainClassifier` makes a classifier snapshot and measures it on held-out labelled documents; `Classify` adds
the table `domain`, where a document's own label stands before a predicted one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog import schema
from catalog.errors import UsageError
from catalog.run import Receipt, Task, Work, as_json, file_ref
from catalog.snapshot import Contents, Snapshot
from catalog.store import Store
from catalog.tables import read_live, write_table
from dataops.fasttext_training import LABEL, LEAST_BYTES, train_supervised
from dataops.kernels.hashing import mix64, uniform
from dataops.kernels.ragged import Texts
from dataops.kernels.text import matching_form
from dataops.step import extend, shard_tasks

SPECIAL = ("</s>", "__label__")  # to fastText the end of a line, and a label where a model was loaded from its file
ENDS_AND_SPACES = (
    r"[\n\x1c-\x1f\x{85}\x{1680}\x{2028}\x{2029}]"  # a line's end, and spaces of Python's that NFKC leaves
)
_HELD_OUT = np.uint64(0x68656C64)  # makes keys other numbers than those that `split` draws by
PREFIX_CHARS = 1000  # the beginning of a document tells its domain; more makes training slower, not better


@dataclass(frozen=True, kw_only=True)
class TrainClassifier:
    """A fastText model of the declared domains, with accuracy and F1 on held-out documents."""

    verb: ClassVar[str] = "train-classifier"
    revision: ClassVar[int] = 6

    dimension: int = 24
    epochs: int = 10
    learning_rate: float = 1.0
    word_ngrams: int = 2
    buckets: int = 400_000
    held_out: float = 0.15
    min_documents: int = 20
    max_documents_per_domain: int = 4_000
    seed: int = 1

    def __post_init__(self) -> None:
        if self.word_ngrams < 2 or self.buckets * self.dimension * 4 < LEAST_BYTES:
            raise UsageError(
                f"word_ngrams {self.word_ngrams}, buckets {self.buckets}, dimension {self.dimension}: fastText repeats "
                f"itself only with word_ngrams >= 2 and buckets x dimension >= {LEAST_BYTES // 4:,}"
            )

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """A classifier snapshot: the model file and its report."""
        settings = {"step": self, "folder": str(work.folder)}
        tasks = [task for each in inputs for task in shard_tasks(each.require("documents"), **settings)]
        collected = work.stage("collect", _collect, [{**task, "index": i} for i, task in enumerate(tasks)])
        paths = [receipt["path"] for receipt in collected]
        (trained,) = work.stage("train", _train, [{**settings, "paths": paths}])
        return Contents(kind="classifier", artifacts={"model": file_ref(trained["model"])}, summary=trained["report"])


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Add the table `domain`: the declared domain, else the predicted one with its probability."""

    verb: ClassVar[str] = "classify"
    revision: ClassVar[int] = 3

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """The first input with its domains; the second is the classifier."""
        snapshot, classifier = inputs
        model = classifier.require("classifier").artifact("model")
        receipts = work.stage("predict", _predict, shard_tasks(snapshot.require("documents"), model=model))
        domains: dict[str, int] = {}
        for receipt in receipts:
            for name, count in receipt["domains"].items():
                domains[name] = domains.get(name, 0) + count
        predicted = sum(receipt["predicted"] for receipt in receipts)
        return extend(snapshot, receipts, summary={"domains": dict(sorted(domains.items())), "predicted": predicted})


def beginnings(texts: Texts) -> Texts:
    """What of each document tells its domain."""
    return pc.utf8_slice_codeunits(texts, 0, PREFIX_CHARS)


def one_line(texts: Texts) -> pa.LargeStringArray:
    """Texts as fastText reads them: the matching form, on one line, its own marks broken up.

    Words are separated by what separates them for fastText, ASCII white space and zeros; runs of it stay as they are.
    """
    lines = matching_form(texts)
    for mark in SPECIAL:
        lines = pc.replace_substring(lines, mark, f"{mark[0]} {mark[1:]}")
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(lines, ENDS_AND_SPACES, " "))


def _collect(store: Store, task: Task) -> Receipt:
    live = read_live(store, task["shard"], task["layers"], ["h64", "domain", "text"])
    live = live.filter(live["domain"].is_valid())
    path = Path(task["folder"]) / f"labelled-{task['index']}.jsonl"
    rows = zip(
        live["h64"].to_pylist(), live["domain"].to_pylist(), one_line(beginnings(live["text"])).to_pylist(), strict=True
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(path), "documents": live.num_rows, "bytes": live["text"].nbytes}


def _train(store: Store, task: Task) -> Receipt:
    step: TrainClassifier = task["step"]
    rows = [json.loads(line) for path in task["paths"] for line in Path(path).read_text().splitlines()]
    rows = _balanced(sorted(row for row in rows if row[2]), step)
    domains = sorted({domain for _, domain, _ in rows})
    if len(domains) < 2:
        raise UsageError(
            f"a classifier needs two domains with {step.min_documents} labelled documents each, "
            f"the input has {len(domains)}: name the column with --domain-column or leave classification out"
        )
    h64 = np.array([row[0] for row in rows], np.uint64)
    held = uniform(step.seed, mix64(h64 ^ _HELD_OUT)) < step.held_out
    lines = [f"{LABEL}{quote(domain)} {text}\n" for _, domain, text in rows]
    training = Path(task["folder"]) / "training.txt"
    training.write_text("".join(line for line, out in zip(lines, held, strict=True) if not out))
    model = train_supervised(
        training,
        dim=step.dimension,
        epoch=step.epochs,
        lr=step.learning_rate,
        wordNgrams=step.word_ngrams,
        bucket=step.buckets,
        minCount=3,
        seed=step.seed,
    )
    tests = [row for row, out in zip(rows, held, strict=True) if out]
    predicted = _predictions(model, [text for _, _, text in tests])[0] if tests else []
    with store.writing(suffix="bin") as (path, refs):
        model.save_model(str(path))
    truth = [domain for _, domain, _ in tests]
    return {"model": as_json(refs[0]), "report": report(truth, predicted, domains), "documents": len(rows)}


def _balanced(rows: list[list[Any]], step: TrainClassifier) -> list[list[Any]]:
    """At most `max_documents_per_domain` of each domain, in order of their hash; rare domains are left out."""
    by_domain: dict[str, list[list[Any]]] = {}
    for row in rows:
        by_domain.setdefault(row[1], []).append(row)
    chosen = [
        group[: step.max_documents_per_domain] for group in by_domain.values() if len(group) >= step.min_documents
    ]
    return sorted(row for group in chosen for row in group)


def report(truth: list[str], predicted: list[str], domains: list[str]) -> dict[str, Any]:
    """Accuracy, macro F1, and precision, recall and F1 by domain, on held-out documents."""
    rows = {}
    for domain in domains:
        hits = sum(t == domain == p for t, p in zip(truth, predicted, strict=True))
        precision = hits / max(predicted.count(domain), 1)
        recall = hits / max(truth.count(domain), 1)
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        rows[domain] = {"documents": truth.count(domain), "precision": precision, "recall": recall, "f1": f1}
    correct = sum(t == p for t, p in zip(truth, predicted, strict=True))
    return {
        "held_out_documents": len(truth),
        "accuracy": correct / max(len(truth), 1),
        "macro_f1": sum(row["f1"] for row in rows.values()) / max(len(rows), 1),
        "by_domain": rows,
    }


def _predict(store: Store, task: Task) -> Receipt:
    import fasttext

    live = read_live(store, task["shard"], task["layers"], ["row", "id", "domain", "text"])
    model = fasttext.load_model(str(store.local(task["model"])))
    declared = live["domain"].to_pylist()
    unknown = [i for i, domain in enumerate(declared) if domain is None]
    texts = one_line(beginnings(live["text"].take(pa.array(unknown, pa.int64())))).to_pylist()
    names, probabilities = _predictions(model, texts) if unknown else ([], [])
    domain, probability = list(declared), [1.0] * len(declared)
    for index, name, value in zip(unknown, names, probabilities, strict=True):
        domain[index], probability[index] = name, value
    columns = {
        "row": live["row"],
        "id": live["id"],
        "domain": domain,
        "probability": pa.array(probability, pa.float32()),
    }
    table = pa.table(columns).cast(schema.DOMAIN)
    return {
        "tables": {"domain": as_json(write_table(store, table))},
        "domains": {name: domain.count(name) for name in set(domain)},
        "predicted": len(unknown),
        "documents": live.num_rows,
        "bytes": live["text"].nbytes,
    }


def _predictions(model: Any, texts: list[str]) -> tuple[list[str], list[float]]:
    """Most likely domain of each text and its probability. fasttext 0.9.3 with numpy 2 can only predict lists."""
    labels, probabilities = model.predict(texts)
    names = [unquote(label[0].removeprefix(LABEL)) for label in labels]
    return names, [min(1.0, float(value[0])) for value in probabilities]

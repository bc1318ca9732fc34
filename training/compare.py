"""Comparing as steps of the catalog: models become scores on documents, and the best of them becomes an export."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from catalog import schema
from catalog.errors import UsageError
from catalog.run import Work
from catalog.snapshot import Contents, Snapshot
from catalog.tables import write_table
from training.card import model_card
from training.context import LocalContext
from training.evaluate import (
    Comparison,
    Scores,
    Windows,
    by_cell,
    by_domain,
    evaluate,
    paired_bootstrap,
    summarise,
)
from training.export import export
from training.inputs import (
    check_names,
    check_tokenizers,
    model_folder,
    scored_documents,
    scored_domains,
    scored_windows,
)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score models (all inputs after the first) on tokenized documents (the first), and compare every two of them.

    Totals also by domain, and by cell where the documents have cells, each with a bootstrap over documents.
    `most_documents` above 0 scores a sample of so many.
    """

    verb: ClassVar[str] = "evaluate"
    revision: ClassVar[int] = 2

    draws: int = 2000
    seed: int = 0
    most_documents: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1 or self.most_documents < 0:
            raise UsageError(
                f"draws {self.draws}, most_documents {self.most_documents}: expected at least 1 draw, and 0 or more "
                "documents"
            )

    def evidence(self, *inputs: Snapshot) -> list[str]:
        """The names that the results speak of."""
        return [model.name for model in inputs[1:]]

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """An evaluation snapshot: the tables `scores`, a row per model and document, and `parts`, and the figures."""
        documents, *models = inputs
        check_tokenizers(*inputs)
        check_names(models)
        table = scored_documents(work.store, documents, most=self.most_documents)
        scores = self._scores(work, models, table, scored_windows(work.store, documents, table["id"].to_pylist()))
        drawn = {"seed": self.seed, "draws": self.draws}
        results = [{"model": name, **vars(summarise(each, **drawn))} for name, each in scores.items()]
        domains = scored_domains(work.store, documents, table["id"].to_pylist())
        parts = [
            {"model": name, "part": part, **vars(summary)}
            for name, each in scores.items()
            for part, summaries in (("domain", by_domain(each, domains, **drawn)), ("cell", by_cell(each, **drawn)))
            for summary in summaries
        ]
        comparisons = [
            {"model": one, "baseline": other, **vars(self._compare(scores[one], scores[other]))}
            for position, one in enumerate(scores)
            for other in list(scores)[:position]
        ]
        artifacts = {
            "scores": write_table(work.store, _score_rows(scores)),
            "parts": write_table(work.store, pa.Table.from_pylist(parts, schema=schema.EVALUATION_PARTS)),
        }
        return Contents(
            kind="evaluation", artifacts=artifacts, summary={"results": results, "comparisons": comparisons}
        )

    def _scores(
        self, work: Work, models: Sequence[Snapshot], documents: pa.Table, windows: Windows
    ) -> dict[str, Scores]:
        """Scores by model: as many at a time as there are workers, each on one thread.

        Two threads for one model of 0.6M or 1M were 1.7 times as fast on two idle cores, and up to 5 times as slow
        beside other work; two models at a time gain as much and wait for nobody.
        """

        def one(model: Snapshot) -> Scores:
            folder = model_folder(work.store, model, work.folder / model.name)
            context = LocalContext(device_name="cpu", num_threads=1)
            return evaluate(folder, documents, windows=windows, context=context)

        found: dict[str, Scores] = {}
        with ThreadPoolExecutor(work.executor.workers) as pool:
            for model, scores in zip(models, pool.map(one, models), strict=True):
                found[model.name] = scores
                work.tell("score", len(found), len(models), note=model.name)
        return found

    def _compare(self, one: Scores, other: Scores) -> Comparison:
        return paired_bootstrap(one, other, seed=self.seed, draws=self.draws)


@dataclass(frozen=True, kw_only=True)
class Export:
    """The model with the lowest bits per byte in an evaluation, as a folder that transformers loads.

    Inputs: the evaluation that chooses, perhaps one on other documents for the model card, and models that were scored.
    `licence` is that of the text, for the card.
    """

    verb: ClassVar[str] = "export"
    revision: ClassVar[int] = 2

    licence: str = ""

    def build(self, work: Work, *inputs: Snapshot) -> Contents:
        """An export snapshot: one artifact a file."""
        validation, *others = inputs
        tests = [each for each in others if each.contents.kind == "evaluation"]
        models = [each for each in others if each not in tests]
        check_names(models)
        for evaluation in (validation.require("evaluation"), *tests):
            _check_scored(work, evaluation, models)
        by_name = {model.name: model for model in models}
        results = [row for row in validation.contents.summary["results"] if row["model"] in by_name]
        best = min(results, key=lambda row: row["bits_per_byte"])
        model = by_name[best["model"]]
        work.tell("export", 0, 1, note=model.name)
        out = export(
            model_folder(work.store, model, work.folder / "model"),
            tokenizer_json=work.store.local(model.artifact("tokenizer")),
            out=work.folder / "export",
            card=model_card(work.catalog, model, validation=validation, tests=tests, licence=self.licence),
        )
        artifacts = {path.name: work.store.put_copy(path) for path in sorted(out.iterdir())}
        summary = {"model": model.name, "bits_per_byte": best["bits_per_byte"], "perplexity": best["perplexity"]}
        return Contents(kind="export", artifacts=artifacts, summary=summary)


def _check_scored(work: Work, evaluation: Snapshot, models: Sequence[Snapshot]) -> None:
    if not models:
        raise UsageError(f"{evaluation.ref} can't choose among no models: name those that it scored")
    scored = {(each.name, each.id) for each in work.catalog.inputs(evaluation)}
    for model in models:
        if (model.name, model.id) not in scored:
            raise UsageError(
                f"{evaluation.ref} did not score {model.ref}: expected an evaluation of all the models given"
            )


def _score_rows(scores: dict[str, Scores]) -> pa.Table:
    tables = [
        pa.table(
            {
                "model": pa.array([name] * len(each.ids), pa.string()),
                "id": pa.array(each.ids, pa.string()),
                "nll_nats": each.nll_nats,
                "n_tokens": each.tokens,
                "n_bytes": each.bytes,
            }
        ).cast(schema.EVALUATIONS)
        for name, each in scores.items()
    ]
    return pa.concat_tables(tables)

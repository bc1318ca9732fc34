"""Domain classification: planted vocabularies, equal bytes, declared labels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from catalog.catalog import Catalog
from catalog.errors import UsageError
from dataops.domain import Classify, TrainClassifier, one_line, report
from dataops.split import Split
from tests.dataops.conftest import WORDS, Make, apply, ingest_rows, live, prose

ROOT = Path(__file__).parents[2]
DOMAINS = {"real analysis": WORDS[0::3], "cooking / baking": WORDS[1::3], "права": WORDS[2::3]}
TRAIN = TrainClassifier(epochs=5)


def text_of(domain: str, seed: int) -> str:
    """Half of the words belong to the domain alone, half to all."""
    own, shared = prose(seed, 50, vocabulary=DOMAINS[domain]), prose(seed + 1, 50)
    return " ".join(word for pair in zip(own.split(), shared.split(), strict=True) for word in pair)


def labelled_rows() -> list[dict]:
    """80 documents of each domain; of every four, one doesn't say its domain, and its id does."""
    return [
        {"id": domain, "text": text_of(domain, 10 * seed), "domain": None if seed % 4 == 0 else domain}
        for seed in range(80)
        for domain in DOMAINS
    ]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A store with the pool, the classifier and the classified pool."""
    folder = tmp_path_factory.mktemp("domain")
    catalog = Catalog.open(folder / "store", create=True)
    pool = ingest_rows(catalog, folder / "input", labelled_rows(), "pool", domain_column="domain", id_column="id")
    classifier = apply(catalog, TRAIN, pool, into="classifier")
    apply(catalog, Classify(), pool, classifier, into="classified")
    return catalog


def classified(catalog: Catalog) -> list[dict]:
    snapshot = catalog.snapshot("classified")
    documents = {row["id"]: row for row in live(catalog, snapshot, "id", "source_id", "domain")}
    rows = live(catalog, snapshot, "id", "domain", "probability", table="domain")
    return [
        {**row, "truth": documents[row["id"]]["source_id"], "declared": documents[row["id"]]["domain"]} for row in rows
    ]


def test_domains_with_their_own_vocabulary_are_told_apart(known: Catalog) -> None:
    unlabelled = [row for row in classified(known) if row["declared"] is None]
    assert len(unlabelled) == 60
    assert np.mean([row["domain"] == row["truth"] for row in unlabelled]) >= 0.95
    assert all(0 < row["probability"] <= 1 for row in unlabelled)


def test_the_report_is_on_held_out_documents_and_names_every_domain(known: Catalog) -> None:
    summary = known.snapshot("classifier").contents.summary
    assert summary["by_domain"].keys() == DOMAINS.keys()
    assert 10 <= summary["held_out_documents"] <= 60
    assert min(summary["accuracy"], summary["macro_f1"]) >= 0.95


def test_a_part_of_a_split_has_documents_to_hold_out_and_to_train_on(known: Catalog) -> None:
    half = apply(known, Split(start=0.0, stop=0.5), known.snapshot("pool"), into="half")
    summary = apply(known, TRAIN, half, into="of-half").contents.summary
    assert 0 < summary["held_out_documents"] < half.contents.rows / 4


def test_what_fasttext_takes_for_a_mark_is_broken_up_in_a_document(known: Catalog, tmp_path: Path) -> None:
    texts = pa.chunked_array(
        [["a </s> b", "＜/s＞", "__LABEL__c __label__d", " LABEL:e\n\tf\x85g\u2028", "____label__"]]
    )
    assert one_line(texts).to_pylist() == [
        "a < /s> b", "< /s>", "_ _label__c _ _label__d", "label:e \tf g", "___ _label__",
    ]  # fmt: skip
    rows = [{"id": domain, "text": f"</s> __label__x\n{text_of(domain, 3)}"} for domain in DOMAINS]
    marked = ingest_rows(known, tmp_path / "input", rows, "marked", id_column="id")
    done = apply(known, Classify(), marked, known.snapshot("classifier"), into="unmarked")
    truth = {row["id"]: row["source_id"] for row in live(known, done, "id", "source_id")}
    assert {row["id"]: row["domain"] for row in live(known, done, "id", "domain", table="domain")} == truth


def test_a_declared_domain_stands_whatever_the_text_says(known: Catalog, tmp_path: Path) -> None:
    rows = [{"text": text_of("права", 5), "domain": "real analysis"}]
    lying = ingest_rows(known, tmp_path / "input", rows, "lying", domain_column="domain")
    done = apply(known, Classify(), lying, known.snapshot("classifier"), into="judged")
    assert live(known, done, "domain", "probability", table="domain") == [
        {"domain": "real analysis", "probability": 1.0}
    ]
    assert done.contents.summary == {"domains": {"real analysis": 1}, "predicted": 0}


TRAIN_ALONE = """
import sys
from catalog.catalog import Catalog
from catalog.run import run
from dataops.domain import TrainClassifier
from dataops.executors import LocalExecutor
from dataops.ingest import Ingest
source, store = sys.argv[1:]
catalog = Catalog.open(store, create=True)
executor = LocalExecutor(workers=2)
step = Ingest(paths=(source,), shard_bytes=20_000, domain_column="domain", id_column="id")
pool = run(step, into="pool", catalog=catalog, executor=executor)
waste = [bytes([255]) * size for size in range(1_000, 3_000_000, 100_000)]  # memory that is not zero, given back
del waste
print(run(TrainClassifier(epochs=5), pool, into="classifier", catalog=catalog, executor=executor).id)
"""


def test_two_fresh_processes_train_the_same_bytes(known: Catalog, tmp_path: Path) -> None:
    source = known.store.here.parent / "input" / "pool.jsonl"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN_ALONE, str(source), str(tmp_path / name)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    ids = {process.communicate()[0].strip() for process in started}
    assert ids == {known.snapshot("classifier").id}


def test_a_document_cannot_label_itself(catalog: Catalog, ingest: Make) -> None:
    rows = labelled_rows()
    for row in rows:
        row["text"] = "__label__forged LABEL:forged " + row["text"]
    pool = ingest(rows, domain_column="domain")
    classifier = apply(catalog, TRAIN, pool, into="classifier")
    done = apply(catalog, Classify(), pool, classifier, into="classified")
    assert done.contents.summary["domains"].keys() == DOMAINS.keys()


def test_documents_without_a_word_get_a_domain_too(catalog: Catalog, ingest: Make) -> None:
    pool = ingest([*labelled_rows(), {"text": "!!! ???"}, {"text": "</s>"}], domain_column="domain")
    classifier = apply(catalog, TRAIN, pool, into="classifier")
    rows = live(catalog, apply(catalog, Classify(), pool, classifier, into="c"), "domain", table="domain")
    assert len(rows) == 242
    assert {row["domain"] for row in rows} == DOMAINS.keys()


@pytest.mark.parametrize("domains", [[], ["only one"], ["only one", "rare"]])
def test_fewer_than_two_domains_is_one_clear_error(catalog: Catalog, ingest: Make, domains: list[str]) -> None:
    many = {"only one": 30, "rare": 19}
    rows = [{"text": prose(i), "domain": domain} for domain in domains for i in range(many[domain])]
    pool = ingest([*rows, {"text": prose(99), "domain": None}], domain_column="domain")
    expected = f"needs two domains with 20 labelled documents each, the input has {min(len(domains), 1)}"
    with pytest.raises(UsageError, match=expected):
        apply(catalog, TRAIN, pool, into="classifier")


@pytest.mark.parametrize("setting", [{"word_ngrams": 1}, {"buckets": 10_000}, {"dimension": 8}])
def test_settings_under_which_fasttext_does_not_repeat_itself_are_refused(setting: dict) -> None:
    with pytest.raises(UsageError, match="fastText repeats itself only with"):
        TrainClassifier(**setting)


def test_large_domains_are_cut_to_the_limit_and_the_rest_is_left_out(catalog: Catalog, ingest: Make) -> None:
    pool = ingest([row for row in labelled_rows() if row["domain"]], domain_column="domain")
    step = TrainClassifier(epochs=1, max_documents_per_domain=30, held_out=1.0)
    with pytest.raises(ValueError):  # nothing is left to learn from
        apply(catalog, step, pool, into="none")
    step = TrainClassifier(epochs=1, max_documents_per_domain=30, held_out=0.5)
    by_domain = apply(catalog, step, pool, into="few").contents.summary["by_domain"]
    assert all(5 <= row["documents"] <= 25 for row in by_domain.values())


def test_the_report_counts_as_the_textbook_does() -> None:
    found = report(["a", "a", "a", "b"], ["a", "a", "b", "b"], ["a", "b"])
    assert found["accuracy"] == 0.75
    assert found["by_domain"]["a"] == {"documents": 3, "precision": 1.0, "recall": 2 / 3, "f1": pytest.approx(0.8)}
    assert found["by_domain"]["b"] == {"documents": 1, "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)}
    assert found["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)


def test_without_held_out_documents_the_report_is_zero_not_an_error() -> None:
    assert report([], [], ["a"])["accuracy"] == 0.0

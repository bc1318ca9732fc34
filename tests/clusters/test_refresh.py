"""Drift and refresh from the command's view, on a tiny store: found, learned, gated, and not done twice."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.catalog import Catalog
from catalog.errors import Declined, UsageError
from catalog.query import sql
from catalog.snapshot import Contents, Snapshot
from catalog.store import Store
from clusters.console import Console
from clusters.drift import drift_now, drift_recipe, drift_screen
from clusters.origins import origins_of
from clusters.recipes import Recipe, Stated, validate
from clusters.refresh import Additions, gate_screen, refresh_now, refresh_recipe
from clusters.runner import run_recipe
from tests.catalog.planted import a_run
from tests.clusters.conftest import Tamis
from tests.conftest import Curated
from tests.dataops.conftest import topic_rows

HERE = {"executor": "local", "workers": 2, "console": Console(quiet=True)}
TRAINING = {"params": 130_000, "tokens": 2_000, "batch_rows": 8}


def written(path: Path, rows: list[dict]) -> tuple[str, ...]:
    path.write_text(
        "".join(json.dumps({"id": f"{path.stem}-{i}", "url": None, **row}) + "\n" for i, row in enumerate(rows))
    )
    return (str(path),)


@pytest.fixture(scope="module", autouse=True)
def unpublished(curated: Curated) -> Iterator[None]:
    """The projection is written when SQL asks, not after each of a hundred steps: half of the time of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("catalog.run.publish", lambda _: None)
        patch.setattr("clusters.refresh.publish", lambda _: None)
        yield


@pytest.fixture(scope="module")
def store(curated: Curated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The main job on planted rows with a tuned model, tested on what no training saw; and on what it did."""
    folder = tmp_path_factory.mktemp("refresh") / "store"
    shutil.copytree(curated.store, folder)
    entries = (
        Stated(name="held", step="split", inputs=("target-tokens",), settings={"start": 0.9, "stop": 1.0}),
        Stated(name="base", step="pretrain", inputs=("specialized-packs",), settings=TRAINING),
        Stated(
            name="tuned", step="finetune", inputs=("target-packs", "validation", "base"), settings={"tokens": 16_000}
        ),
        Stated(name="scores", step="evaluate", inputs=("held", "base", "tuned")),
        Stated(name="validation-scores", step="evaluate", inputs=("validation", "base", "tuned")),
        Stated(name="known", step="split", inputs=("target-tokens",), settings={"start": 0.5, "stop": 1.0}),
        Stated(name="known-scores", step="evaluate", inputs=("known", "tuned")),  # is no held-out text
    )
    run_recipe(Recipe(entries=entries), store=str(folder), **HERE)  # type: ignore[arg-type]
    return folder


def measured(store: Path, paths: tuple[str, ...]) -> dict:
    made = run_recipe(drift_recipe(Catalog.open(store), "tuned", paths), store=str(store), **HERE)  # type: ignore[arg-type]
    return dict(made["tuned-drift"].contents.summary)


def test_origins_are_what_the_recipe_made_the_model_with(store: Path) -> None:
    catalog = Catalog.open(store)
    found = origins_of(catalog, "tuned")
    named = (found.target, found.pool, found.fitted, found.tokenizer, found.validation, *found.held_out)
    assert [each.name for each in named] == [
        "train-cells", "clean-cells", "clean-cells", "tokenizer", "validation", "held"
    ]  # fmt: skip
    for reference, message in (("base", "base@1 was never fine-tuned"), ("target-packs", "where model was expected")):
        with pytest.raises(UsageError, match=message):
            origins_of(catalog, reference)


def test_text_of_another_topic_is_drift_and_more_of_the_target_is_not(
    store: Path, curated: Curated, tmp_path: Path
) -> None:
    old = (curated.store.parent / "target.jsonl").read_text().splitlines()[:9]
    rows = [{"text": json.loads(line)["text"]} for line in old] + topic_rows({"topic-0": 24}, seed=40)
    same = measured(store, written(tmp_path / "same.jsonl", rows))
    other = measured(store, written(tmp_path / "other.jsonl", topic_rows({"topic-2": 24}, seed=50)))
    assert (same["verdict"], other["verdict"]) == ("no-drift", "retrain")
    assert other["psi"] - other["psi_expected"] > 1
    assert other["low"] > 0
    assert (same["documents"], same["known_documents"]) == (24, 9), "what the target has is left out"
    assert same["model"] == "tuned@1"
    assert "24 new documents (9 more are in the target already) against 26 of the target of tuned@1" in drift_screen(
        same, model="tuned", paths=["x"]
    )
    views = sql(
        Catalog.open(store), "SELECT verdict, sum(new_share) AS s FROM drifts JOIN shifts USING (snapshot) GROUP BY ALL"
    )
    assert {row["verdict"] for row in views.to_pylist()} == {"no-drift", "retrain"}
    assert views["s"].to_pylist() == pytest.approx([1, 1])


def test_drift_is_measured_against_scores_and_nothing_else(store: Path, tmp_path: Path) -> None:
    measured(store, written(tmp_path / "other.jsonl", topic_rows({"topic-2": 24}, seed=50)))
    inputs = ("tuned-new-cells", "train-cells", "clean-cells", "tuned-new-scores", "validation")
    wrong = Recipe(entries=(Stated(name="x", step="measure-drift", inputs=inputs),))
    with pytest.raises(UsageError, match="validation@1 is a documents snapshot where evaluation was expected"):
        run_recipe(wrong, store=str(store), **HERE)  # type: ignore[arg-type]
    swapped = (*inputs[:3], "tuned-held-out-scores", "tuned-new-scores")
    with pytest.raises(UsageError, match="scored no new document: expected an evaluation of the new documents, then"):
        run_recipe(
            Recipe(entries=(Stated(name="x", step="measure-drift", inputs=swapped),)),
            store=str(store),
            **HERE,  # type: ignore[arg-type]
        )


def test_drift_exits_with_3_only_when_asked_to(store: Path, tmp_path: Path, tamis: Tamis) -> None:
    (path,) = written(tmp_path / "other.jsonl", topic_rows({"topic-2": 24}, seed=50))
    answer = tamis("drift", "tuned", path, "--store", store)
    assert (answer.status, "Retrain: `tamis refresh tuned --add " in answer.out) == (0, True), answer.err
    assert tamis("drift", "tuned", path, "--store", store, "--fail-on-drift").status == 3
    before = Catalog.open(store).sequence
    assert tamis("drift", "tuned", path, "--store", store).out == answer.out
    assert Catalog.open(store).sequence == before, "measured once, then looked up"


def refreshed(store: Path, reference: str, new: Additions, out: Path, *assignments: str) -> str:
    return refresh_now(reference, new, out=out, store=str(store), assignments=assignments, **HERE)  # type: ignore[arg-type]


def drifts(store: Path, reference: str, paths: tuple[str, ...]) -> tuple[str, str]:
    return drift_now(reference, paths, store=str(store), assignments=(), **HERE)  # type: ignore[arg-type]


def champion(store: Path) -> Snapshot:
    return Catalog.open(store).snapshot("tuned-champion")


def test_refresh_learns_new_text_keeps_the_better_model_and_does_nothing_twice(store: Path, tmp_path: Path) -> None:
    add = written(tmp_path / "new.jsonl", topic_rows({"topic-2": 60}, seed=70))
    votes = [{"text": row["text"], "accepted": True} for row in topic_rows({"topic-2": 5}, seed=71)]
    feedback = tmp_path / "votes.jsonl"
    feedback.write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    pool = written(tmp_path / "pool.jsonl", topic_rows({"topic-1": 6}, seed=72))
    new = Additions(add=add, pool=pool, feedback=(str(feedback),), tokens=12_000, margin=0.2)

    few = "tuned-gate.fewest_documents=2"
    said = refreshed(store, "tuned", new, tmp_path / "bad", "tuned-challenger.learning_rate=3.0", few)
    assert "The champion stays: tuned@1 is tuned-champion@1" in said, said
    assert champion(store).id == Catalog.open(store).snapshot("tuned").id, "a worse challenger is refused"

    said = refreshed(store, "tuned", new, tmp_path / "out", few)
    catalog = Catalog.open(store)
    assert "champion tuned@1, challenger tuned-challenger@2\n" in said, said
    assert "The challenger takes over: tuned-challenger@2 is tuned-champion@2" in said, said
    assert champion(store).id == catalog.snapshot("tuned-challenger").id
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
    trained = sql(catalog, "SELECT DISTINCT model FROM trained_on('tuned-champion')")["model"].to_pylist()
    assert set(trained) == {"base@1", "tuned@1", champion(store).ref}

    before = catalog.sequence
    assert refreshed(store, "tuned", new, tmp_path / "out", few).startswith("nothing to do")
    assert Catalog.open(store).sequence == before
    said = refreshed(store, "tuned-champion", new, tmp_path / "again")
    assert said.startswith("nothing to do: no document is new")
    assert said.endswith("; not read, as it counts with new text only: feedback and pool text")
    again = Additions(add=(*add, *written(tmp_path / "same.jsonl", topic_rows({"topic-2": 1}, seed=70))))
    assert "nothing to do" in refreshed(store, "tuned", again, tmp_path / "again"), "the champion, which knows it"
    with pytest.raises(UsageError, match="tuned@1 does not serve, tuned-champion@2 does: refresh tuned-champion, or"):
        refreshed(store, "tuned@1", again, tmp_path / "again")
    assert drifts(store, "tuned", add) == ("", "nothing to measure: all 60 documents are in the target already")

    found = origins_of(catalog, "tuned-champion")
    assert (found.target.name, found.pool.name) == ("tuned-target", "tuned-pool-pure")
    assert [each.name for each in found.held_out] == ["held", "tuned-added-test"], "frozen text grows"
    frozen, learned = (_texts(catalog, name) for name in ("tuned-added-test", "tuned-target"))
    assert frozen
    assert not frozen & learned
    again = refresh_recipe(catalog, "tuned-champion", Additions(add=(str(tmp_path / "later.jsonl"),)))
    assert validate(again)
    assert {"tuned-held-out", "tuned-challenger"} <= {entry.name for entry in again.entries}


def test_a_document_or_two_are_too_little_to_judge_a_new_model_by(store: Path, tmp_path: Path) -> None:
    new = Additions(add=written(tmp_path / "one.jsonl", topic_rows({"topic-3": 1}, seed=80)))
    with pytest.raises(UsageError, match="too little new text: no document is left for tuned-added-"):
        refreshed(store, "tuned", new, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_challenger_that_no_gate_could_promote_is_not_trained(store: Path, tmp_path: Path) -> None:
    new = Additions(add=written(tmp_path / "some.jsonl", topic_rows({"topic-3": 30}, seed=81)))
    before = {name for name in Catalog.open(store).snapshots if "challenger" in name}
    with pytest.raises(Declined, match=r"too little text to judge .*: \d of the new documents and \d+ of before"):
        refreshed(store, "tuned", new, tmp_path / "out")
    assert {name for name in Catalog.open(store).snapshots if "challenger" in name} == before
    assert not (tmp_path / "out").exists()


def test_settings_and_files_of_the_second_half_are_looked_at_before_the_first_is_made(
    store: Path, tmp_path: Path
) -> None:
    add = written(tmp_path / "some.jsonl", topic_rows({"topic-3": 30}, seed=82))
    before = Catalog.open(store).sequence
    with pytest.raises(UsageError, match="gate has no setting 'margn'"):
        refreshed(store, "tuned", Additions(add=add), tmp_path / "out", "tuned-gate.margn=0.1")
    with pytest.raises(UsageError, match="nosuch"):
        refreshed(store, "tuned", Additions(add=add, feedback=("nosuch.jsonl",)), tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="a file is in the way, expected a folder"):
        refreshed(store, "tuned", Additions(add=add), tmp_path / "file")
    assert Catalog.open(store).sequence == before


def test_new_text_that_the_rules_drop_is_told(store: Path, tmp_path: Path) -> None:
    short = [{"text": f"only {number} words"} for number in range(30)]
    with pytest.raises(UsageError, match=r"0 new documents \(30 of 30 did not pass the target's rules: .*too-short"):
        drifts(store, "tuned", written(tmp_path / "short.jsonl", short))
    some = [*short, *topic_rows({"topic-3": 12}, seed=83)]
    verdict, said = drifts(store, "tuned", written(tmp_path / "some.jsonl", some))
    assert verdict == "retrain"
    assert re.search(r"^12 new documents against .* \(30 of 42 did not pass the target's rules: .*too-short 30", said)


def trained(catalog: Catalog, name: str, step: str, *inputs: str) -> None:
    """A model as far as lineage goes: nothing is trained."""
    read = [catalog.snapshot(each) for each in inputs]
    settings = {"is": step, "revision": 1, "tokens": 2_000}
    run = replace(a_run(name), step=step, parameters=settings, inputs=tuple(each.id for each in read))
    catalog.commit(name, Contents(kind="model"), run, inputs=read)


def entry(name: str, step: str, *inputs: str, **settings: object) -> Stated:
    return Stated(name=name, step=step, inputs=inputs, settings=settings)


@pytest.fixture(scope="module")
def other(store: Path, curated: Curated) -> Path:
    """In the same store models of other ways: rules before near-duplicates, n-grams of windows, two mixtures."""
    target = str(curated.store.parent / "target.jsonl")
    entries = (
        entry("early", "ingest", paths=[target]),
        entry("early-unique", "exact-dedup", "early"),
        entry("early-half", "split", "early-unique", start=0.0, stop=0.9),
        entry("early-quality", "quality-filter", "early-unique"),
        *(
            each
            for name, text in (("early", "early-quality"), ("halved", "early-half"))
            for each in (
                entry(f"{name}-dedup", "fuzzy-dedup", text),
                entry(f"{name}-tokens", "tokenize", f"{name}-dedup", "tokenizer"),
                entry(f"{name}-train", "split", f"{name}-tokens", start=0.0, stop=0.85),
                entry(f"{name}-validation", "split", f"{name}-tokens", start=0.85, stop=1.0),
                entry(f"{name}-cells", "assign-cells", f"{name}-train", "clean-cells"),
                entry(f"{name}-packs", "pack", f"{name}-cells", context=64),
            )
        ),
        entry("ngrams", "weigh-ngrams", "clean-cells", "early-cells", tokens=4_000, buckets=4096, defence=0.2),
        entry("both", "combine", "ngrams", "mixture", tokens=4_000),
        *(
            each
            for mixture in ("ngrams", "both")
            for each in (
                entry(f"{mixture}-drawn", "resample", "clean-cells", mixture, tokens=4_000),
                entry(f"{mixture}-packs", "pack", f"{mixture}-drawn", context=64),
            )
        ),
    )
    run_recipe(Recipe(entries=entries), store=str(store), **HERE)  # type: ignore[arg-type]
    catalog = Catalog.open(store)
    for mixture in ("ngrams", "both"):
        trained(catalog, f"{mixture}-base", "pretrain", f"{mixture}-packs")
        trained(catalog, f"by-{mixture}", "finetune", "early-packs", "early-validation", f"{mixture}-base")
    trained(catalog, "halved", "finetune", "halved-packs", "halved-validation", "base")
    return store


def test_refresh_weighs_by_the_models_own_selector_and_feedback_and_curates_in_the_models_own_order(
    other: Path, tmp_path: Path
) -> None:
    votes = tmp_path / "votes.jsonl"
    votes.write_text(json.dumps({"text": topic_rows({"topic-2": 1}, seed=71)[0]["text"], "accepted": True}) + "\n")
    for model, add, feedback in (("by-ngrams", "first", (str(votes),)), ("by-ngrams-champion", "second", ())):
        catalog = Catalog.open(other)
        paths = written(tmp_path / f"{add}.jsonl", [*topic_rows({"topic-2": 20}, seed=len(add)), {"text": "too short"}])
        recipe = refresh_recipe(catalog, model, Additions(add=paths, feedback=feedback, tokens=2_000))
        names = [each.name for each in recipe.entries]
        assert len(set(names)) == len(names)
        recipe = Recipe(entries=recipe.entries[: names.index("by-ngrams-challenger")])
        made = run_recipe(recipe, store=str(other), **HERE)  # type: ignore[arg-type]
        catalog = Catalog.open(other)
        weighed = catalog.runs[made["by-ngrams-mixture"].run]
        assert weighed.step == "weigh-ngrams"
        assert made["by-ngrams-mixture"].contents.summary["feedback"] == {"accepted": 1, "rejected": 0}
        assert {name: weighed.parameters[name] for name in ("tokens", "buckets", "defence")} == {
            "tokens": 600, "buckets": 4096, "defence": 0.2
        }  # fmt: skip
        assert [layer for layer in made["by-ngrams-added-only"].contents.layers if "dup" not in layer] == [
            "exact", "quality", "exact#2"
        ]  # fmt: skip
        assert made["by-ngrams-added-only"].contents.rows == 20
        assert made["by-ngrams-packs"].contents.rows
        if model == "by-ngrams":
            trained(catalog, "by-ngrams-champion", "finetune", "by-ngrams-packs", "by-ngrams-validation", model)
    recipe = refresh_recipe(catalog, "by-ngrams-champion", Additions(add=paths, feedback=(str(votes),), tokens=2_000))
    (mixture,) = (each for each in recipe.entries if each.name == "by-ngrams-mixture")
    assert mixture.inputs == ("by-ngrams-pool-pure", "by-ngrams-target", "by-ngrams-feedback-cells")
    measuring = drift_recipe(catalog, "by-ngrams-champion", paths)
    assert len({each.name for each in measuring.entries}) == len(measuring.entries)
    joined = _texts(catalog, "by-ngrams-target")
    for part in ("early-cells", "by-ngrams-added-train@1", "by-ngrams-added-train@2"):
        assert _texts(catalog, part) < joined


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("by-both", "by-both@1 was made by the mixture both@1 of combine, which can't be weighed anew"),
        ("halved", "split made early-half@1 before fuzzy-dedup made halved-dedup@1, and new text can't be treated"),
    ],
)
def test_what_can_not_be_done_again_is_refused_before_anything_runs(
    other: Path, tmp_path: Path, model: str, message: str
) -> None:
    before = Catalog.open(other).sequence
    with pytest.raises(UsageError, match=message):
        refreshed(other, model, Additions(add=("no such file",)), tmp_path / "out")
    assert Catalog.open(other).sequence == before
    assert not (tmp_path / "out").exists()


def _texts(catalog: Catalog, name: str) -> set[str]:
    query = "SELECT DISTINCT content FROM documents WHERE snapshot = ?"
    return set(sql(catalog, query, [catalog.snapshot(name).ref])["content"].to_pylist())


@pytest.mark.parametrize("difference", [0.0, -0.01])
def test_the_gate_says_when_training_changed_nothing(difference: float, tmp_path: Path) -> None:
    row = {"champion": 2.0, "challenger": 2.0 + difference, "difference": difference, "low": difference, "high": 0.0}
    sets = [{**row, "text": text, "at_most": 0.0, "holds": False, "documents": 9} for text in ("old", "new")]
    gate = {"champion": "a@1", "challenger": "b@1", "winner": "a@1", "fewest_documents": 8, "sets": sets}
    contents, store = Contents(kind="model"), Store(tmp_path)
    named = Snapshot(name="a", version=1, id="0" * 64, run="", inputs=(), contents=contents, store=store)
    said = gate_screen(gate, named=named, model=Path("out/model"))
    assert ("no step lowered the loss on validation" in said) == (difference == 0)
    assert "The champion stays: a@1 is a@1" in said

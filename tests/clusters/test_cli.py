"""The command line: answers, exit statuses, and errors of one line."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
import yaml

from catalog.lineage import Loss
from catalog.run import code_version
from clusters import cli
from clusters.commands import looking
from clusters.recipes import load, validate
from clusters.registry import STEPS
from clusters.screens import waterfall_table
from tests.clusters.conftest import Answer, Tamis
from tests.conftest import Curated

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


def test_help_is_quick_and_loads_neither_ray_nor_torch() -> None:
    code = (
        "import sys; sys.argv = ['tamis', '--help']\n"
        "try:\n    from clusters.cli import main; main()\n"
        "finally:\n    print('LOADED', {'ray', 'torch', 'transformers', 'duckdb', 'pyarrow'} & set(sys.modules))"
    )
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - started)
        assert "LOADED set()" in done.stdout
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", done.stdout, re.M), name
    assert not re.search(r"^  .*\.\.\.$", done.stdout, re.M)  # no command's first sentence is cut
    assert min(seconds) < 0.5


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(tamis: Tamis, name: str) -> None:
    answer = tamis(name, "--help")
    assert (answer.status, answer.err) == (0, "")
    assert f"Usage: tamis {name}" in answer.out


def test_ls_lists_every_snapshot_in_the_order_they_were_made(tamis: Tamis, curated: Curated) -> None:
    answer = tamis("ls", "--store", curated.store)
    names = [line.split()[0] for line in answer.out.splitlines()[2:]]
    made = [each["name"] + "@1" for each in yaml.safe_load(curated.recipe.read_text())["steps"]]
    assert (answer.status, names) == (0, made)


def test_the_store_can_be_named_in_the_environment(
    tamis: Tamis, curated: Curated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAMIS_STORE", str(curated.store))
    assert tamis("ls").out == tamis("ls", "--store", curated.store).out


def test_show_tells_settings_figures_stages_and_waterfall(tamis: Tamis, curated: Curated) -> None:
    out = tamis("show", "pool-dedup", "--store", curated.store).out
    snapshot = curated.catalog.snapshot("pool-dedup")
    assert out.startswith(f"pool-dedup@1  documents  {snapshot.id}\n  made by fuzzy-dedup in ")
    assert re.search(r"^settings$.*^  threshold +0.8$.*^figures$.*^  verified_pairs +1$", out, re.M | re.S)
    for stage, unit in {"sign": "documents", "match": "keys", "verify": "pairs", "decide": "documents"}.items():
        assert re.search(rf"^  {stage} .* tasks .* {unit} +[0-9.]+ MB .* s$", out, re.M)
    assert re.search(r"^  ingested +53 documents", out, re.M)
    assert re.search(r"^  near-duplicate +-1 documents", out, re.M)
    assert re.search(r"^  left +51 documents", out, re.M)


def test_show_rounds_figures_and_sets_nested_ones_as_lines_or_tables(tamis: Tamis, curated: Curated) -> None:
    quality = tamis("show", "pool-quality", "--store", curated.store).out
    assert re.search(r"^  rules\n +high +low +name +statistic\n", quality, re.M)
    assert re.search(r"^  dropped_by_rule\n(    .+\n)*    too-short +1$", quality, re.M)
    assert "{" not in quality
    mixture = tamis("show", "mixture", "--store", curated.store).out
    assert re.search(r"^  effective_sample_size +\d\.\d{1,5}$", mixture, re.M)


def test_show_knows_every_kind_of_snapshot(tamis: Tamis, curated: Curated) -> None:
    one_each = {each.contents.kind: each for each in curated.catalog.all_snapshots()}
    assert one_each.keys() >= {"documents", "tokenizer", "mixture", "packs"}
    for snapshot in one_each.values():
        answer = tamis("show", snapshot.ref, "--store", curated.store)
        assert answer.status == 0
        assert answer.out.startswith(f"{snapshot.ref}  {snapshot.contents.kind}  {snapshot.id}")


def test_log_draws_the_tree(tamis: Tamis, curated: Curated) -> None:
    out = tamis("log", "target-clean@1", "--store", curated.store).out.splitlines()
    assert out[0].startswith("target-clean@1  quality-filter  30 documents")
    assert any(line.strip().startswith("└─ target@1  ingest  31 documents") for line in out)


def test_sql_answers_in_every_format(tamis: Tamis, curated: Curated) -> None:
    query = "SELECT snapshot, kind, rows FROM snapshots ORDER BY snapshot"
    truth = [
        {"snapshot": each.ref, "kind": each.contents.kind, "rows": each.contents.rows}
        for each in sorted(curated.catalog.all_snapshots(), key=lambda each: each.ref)
    ]

    def answer(form: str) -> Answer:
        return tamis("sql", query, "--format", form, "--store", curated.store)

    assert [json.loads(line) for line in answer("json").out.splitlines()] == truth
    rows = list(csv.DictReader(io.StringIO(answer("csv").out)))
    assert rows == [{key: str(value) for key, value in row.items()} for row in truth]
    assert pq.read_table(io.BytesIO(answer("parquet").raw)).to_pylist() == truth
    lines = tamis("sql", query, "--store", curated.store).out.splitlines()
    assert lines[0].split() == ["snapshot", "kind", "rows"]
    assert [line.split() for line in lines[2:]] == [[str(value) for value in row.values()] for row in truth]


def test_explain_tells_what_the_library_tells(tamis: Tamis, curated: Curated) -> None:
    from catalog.explain import explain

    answer = tamis("explain", curated.ids["near"], "--store", curated.store)
    assert answer.out == explain(curated.catalog, curated.ids["near"]) + "\n"
    assert f"kept instead: {curated.ids['kept']}" in answer.out


def test_verify_finds_nothing_in_a_good_store_and_the_file_that_was_changed(
    tamis: Tamis, curated: Curated, tmp_path: Path
) -> None:
    good = tamis("verify", "--store", curated.store)
    assert good.status == 0
    assert good.out.endswith(": no problems\n")
    shutil.copytree(curated.store, tmp_path / "store")
    ref = curated.catalog.snapshot("pool").contents.shards[0].tables["documents"]
    (tmp_path / "store" / ref.path).write_bytes(b"x" * ref.bytes)
    bad = tamis("verify", "--store", tmp_path / "store")
    assert bad.status == 1
    assert ": 1 problem\n" in bad.out
    assert f"  {ref.path}: its bytes do not have the sha256 in its name" in bad.out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("ls", "--store", "/nowhere"), 2, "no tamis store at /nowhere: name one with --store DIR or TAMIS_STORE"),
        (("show", "pol"), 2, "no snapshot named 'pol'"),
        (("show", "pool@9"), 2, "'pool' has versions 1 to 1, not 9"),
        (("show", "Pool!"), 2, "'Pool!' is not a snapshot reference"),
        (("log", "nothing"), 2, "no snapshot named 'nothing'"),
        (("explain", "xyz"), 2, "'xyz' is not a document id"),
        (("sql", "SELEC 1"), 1, "the query failed: Parser Error"),
        (("sql", "DROP TABLE snapshot_rows"), 1, "`tamis sql` only reads: expected one SELECT, got DROP"),
        (
            ("sql", "SELECT 1", "--format", "xml"),
            2,
            "no output format 'xml'; the formats are table, json",
        ),
        (("run", "/nowhere.yaml"), 2, "the recipe /nowhere.yaml can't be read: No such file or directory"),
        (("step", "dedup", "pool"), 2, "no step 'dedup'; did you mean"),
        (("step", "exact-dedup"), 2, "exact-dedup reads documents; it was given 0"),
        (("step", "split", "pool", "--set", "start=2", "--set", "stop=1"), 2, "a split from 2.0 to 1.0"),
        (("step", "split", "pool", "--set", "half"), 2, "--set 'split.half': expected name.setting=value"),
        (("step", "exact-dedup", "pool", "--executor", "spark"), 2, "no executor 'spark'"),
        (("submit", "--cluster", "x.yaml"), 2, "nothing to submit"),
        (("generate", "pool", "x"), 2, "pool@1 is a documents snapshot where model was expected"),
        (("generate", "no/model", "x"), 2, "no/model: no exported model there: expected a folder with tokenizer.json"),
        (("verify", "--from", "x.jsonl"), 2, "give --repair too"),
    ],
)
def test_an_error_is_one_line_on_standard_error_with_its_exit_status(
    tamis: Tamis,
    curated: Curated,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    monkeypatch.setenv("TAMIS_STORE", str(curated.store))
    answer = tamis(*arguments)
    assert (answer.status, answer.out) == (status, "")
    assert answer.err.startswith("tamis: ")
    assert message in answer.err
    if not message.startswith("the query failed"):  # DuckDB points at the place in a second line
        assert answer.err.count("\n") == 1
    assert "Traceback" not in answer.err


def test_the_version_is_that_of_the_runs(tamis: Tamis) -> None:
    assert tamis("--version").out == f"tamis {code_version()}\n"


def test_a_waterfall_without_counted_tokens_does_not_speak_of_them() -> None:
    loss = Loss(snapshot="a@1", rule="exact", documents=9, tokens=None, dropped_documents=2, dropped_tokens=None)
    assert "tokens" not in waterfall_table([loss])
    assert waterfall_table([replace(loss, tokens=90, dropped_tokens=20)]).endswith(" 70 tokens")


def test_what_was_quarantined_is_counted_by_reason(tamis: Tamis, tmp_path: Path) -> None:
    (tmp_path / "some.jsonl").write_text('{"text": "words"}\n{"text": 5}\nno\n')
    answer = tamis("ingest", "some", tmp_path / "some.jsonl", "--store", tmp_path / "store")
    assert "1 documents, 2 quarantined (1 malformed-json, 1 non-string-text)" in answer.err + answer.out


def test_an_unknown_step_lists_the_steps_and_what_they_read(tamis: Tamis) -> None:
    answer = tamis("step", "nosuch")
    assert answer.status == 2
    assert re.findall(r"^  (\S+) ", answer.err, re.M) == list(STEPS)
    assert re.search(r"^  finetune +packs validation \[model\] \[teacher\]$", answer.err, re.M)


def test_parquet_does_not_go_to_a_terminal(tamis: Tamis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    answer = tamis("sql", "SELECT 1", "--format", "parquet")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err == (
        "tamis: Parquet is not for a terminal: write it to a file, like --format parquet > rows.parquet\n"
    )


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from catalog.errors import UsageError

    monkeypatch.setattr(sys, "argv", ["tamis", "--debug", "ls", "--store", "/nowhere"])
    with pytest.raises(UsageError, match="no tamis store at /nowhere"):
        cli.main()


def test_an_interruption_says_how_to_go_on(tamis: Tamis, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(looking, "print_sql", interrupted)
    answer = tamis("ls")
    assert (answer.status, answer.err) == (130, "tamis: interrupted; the same command continues where it stopped\n")


def test_the_schema_is_json(tamis: Tamis) -> None:
    assert json.loads(tamis("schema").out)["required"] == ["steps"]


def test_the_recipe_that_specialize_prints_is_valid_and_says_what_was_asked(tamis: Tamis, tmp_path: Path) -> None:
    answer = tamis(
        "specialize", "--pool", "a.jsonl", "--pool", "b", "--target", "t", "--out", tmp_path / "out", "--tokens", 5000,
        "--text-column", "body", "--cells", 7, "--print-recipe", "--set", "pool-dedup.threshold=0.7",
    )  # fmt: skip
    assert (answer.status, answer.err) == (0, "")
    (tmp_path / "recipe.yaml").write_text(answer.out)
    steps = {entry.name: step for entry, step in validate(load(tmp_path / "recipe.yaml"))}
    assert steps["pool"].paths == (str(Path("a.jsonl").resolve()), str(Path("b").resolve()))  # type: ignore[attr-defined]
    assert steps["pool"].text_column == "body"  # type: ignore[attr-defined]
    assert steps["pool-dedup"].threshold == 0.7  # type: ignore[attr-defined]
    assert (steps["clean-cells"].cells, steps["generic"].tokens) == (7, 5000)  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pool", "nowhere"), "nowhere"),
        (("--text-column", "body"), "no column 'body'"),
        (("--set", "pool-dedup.treshold=0.7"), "fuzzy-dedup has no setting 'treshold'"),
        (("--params", "100000"), "--params 100,000 is too small"),
        (("--executor", "spark"), "no executor 'spark'"),
    ],
)
def test_a_specialize_that_is_refused_leaves_nothing_behind(
    tamis: Tamis, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "one text"}\n')
    usual = ("--pool", tmp_path / "texts.jsonl", "--target", tmp_path / "texts.jsonl")
    answer = tamis("specialize", *usual, "--out", tmp_path / "out", *arguments)
    assert (answer.status, answer.out) == (2, "")
    assert message in answer.err
    assert not (tmp_path / "out").exists()


def test_run_and_step_make_snapshots_from_the_command_line(tamis: Tamis, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "one text"}\n{"text": "one text"}\n{"text": "another"}\n')
    (tmp_path / "r.yaml").write_text(
        f"steps:\n- {{name: raw, step: ingest, with: {{paths: [{tmp_path / 'texts.jsonl'}]}}}}\n"
    )
    store = ("--store", tmp_path / "store", "--executor", "local")
    ran = tamis("run", tmp_path / "r.yaml", *store, "--set", "raw.source=mine")
    assert (ran.status, ran.out) == (0, "")
    assert "3 documents" in ran.err
    assert tamis("step", "exact-dedup", "raw", "--into", "unique", *store).status == 0
    counted = tamis("sql", "SELECT snapshot, source, count(*) n FROM documents GROUP BY ALL ORDER BY 1", *store[:2])
    assert [line.split() for line in counted.out.splitlines()[2:]] == [
        ["raw@1", "mine", "3"],
        ["unique@1", "mine", "2"],
    ]
    assert "[from the catalog]" in tamis("step", "exact-dedup", "raw", "--into", "unique", *store).err


def test_ingest_makes_documents_and_names_a_column_that_is_not_there(tamis: Tamis, tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text('{"body": "one text", "key": "k1"}\n{"body": ""}\n')
    store = ("--store", tmp_path / "store")
    columns = ("--text-column", "body", "--id-column", "key", "--source", "letters")
    assert tamis("ingest", "pool", tmp_path / "notes.jsonl", *columns, *store).status == 0
    answer = tamis("sql", "SELECT source, source_id FROM documents", "--format", "csv", *store)
    assert answer.out.split() == ['"source","source_id"', '"letters","k1"']
    refused = tamis("ingest", "pool", tmp_path / "notes.jsonl", *store)
    assert refused.status == 2
    assert "no column 'text'" in refused.err

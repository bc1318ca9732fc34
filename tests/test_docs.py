"""What the documentation shows is executed: its commands, SQL, paths, views, steps and words exist and work."""

from __future__ import annotations

import ast
import dataclasses
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
import yaml
from typer.testing import CliRunner

from catalog.catalog import Catalog
from catalog.query import sql
from catalog.snapshot import KINDS
from catalog.views import MACROS, VIEWS
from clusters.cli import app
from clusters.registry import INPUTS, STEPS, step_class
from dataops.quality import RULES
from dataops.records import REASONS
from tests import docs_store

ROOT = docs_store.ROOT
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}
README = TEXTS["README.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HARMLESS = {
    "ingest",
    "ls",
    "metrics",
    "show",
    "log",
    "sql",
    "explain",
    "verify",
    "schema",
    "generate",
    "waterfall",
    "step",
    "dedup",
    "audit",
}
COMMANDS = typer.main.get_command(app)


def blocks(text: str, language: str) -> Iterator[tuple[str, str]]:
    """(body of a fenced block in `language`, body of the block right after it when that is plain text, else '')."""
    found = list(FENCE.finditer(text))
    for block, after in zip(found, [*found, None][1:], strict=True):
        if block[1] == language:
            follows = after and after[1] == "text" and not text[block.end() : after.start()].strip()
            yield block[2], after[2] if after and follows else ""


def commands() -> list[str]:
    """Every `$ tamis ...` line that a page shows."""
    lines = [line for text in TEXTS.values() for body, _ in blocks(text, "console") for line in body.splitlines()]
    return list(dict.fromkeys(line.removeprefix("$ ") for line in lines if line.startswith("$ tamis ")))


def words_of(line: str) -> list[str]:
    """The arguments after `tamis`, without comment and redirection."""
    words = shlex.split(line, comments=True)[1:]
    return words[: words.index(">")] if ">" in words else words


def table_after(text: str, mark: str) -> dict[str, str]:
    """First column -> second column of the Markdown table that follows a mark."""
    lines = text.partition(f"<!-- {mark} -->\n")[2].splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    assert len({row[0] for row in rows}) == len(rows), f"two rows of the table {mark} have one name"
    return {row[0]: row[1] for row in rows[2:]}


def rows_after(text: str, mark: str) -> dict[str, list[str]]:
    """First column -> the others of the Markdown table that follows a mark; cells may be empty, and hold no bar."""
    table = text.partition(f"<!-- {mark} -->\n")[2].partition("\n\n")[0]
    rows = [[cell.strip().strip("`") for cell in line[1:-1].split("|")] for line in table.splitlines()]
    return {first: others for first, *others in rows[2:]}


QUESTIONS = [
    pytest.param(query, answer, id=f"{page}-{number}")
    for page, text in TEXTS.items()
    for number, (query, answer) in enumerate(blocks(text, "sql"), 1)
]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/specialize.yaml has run here, and then more text came: `pool@2`."""
    folder = tmp_path_factory.mktemp("docs")
    docs_store.write_corpus(folder)
    (folder / "demo").symlink_to(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        invoke(*docs_store.arguments())
        docs_store.write_more(folder)
        invoke(*docs_store.MORE_ARGUMENTS)
    return folder / "store"


def invoke(*arguments: str, **environment: str) -> str:
    """Run a command in this process and return its standard output; an exit status other than 0 fails the test."""
    result = CliRunner().invoke(app, list(arguments), env=environment)
    assert result.exit_code == 0, f"tamis {shlex.join(arguments)}: {result.exception!r}\n{result.output}"
    return result.stdout


@pytest.mark.parametrize(("query", "answer"), QUESTIONS)
def test_every_documented_question_has_an_answer_with_the_documented_columns(
    store: Path, query: str, answer: str
) -> None:
    found = sql(Catalog.open(store), query)
    assert found.num_rows, f"no row answers\n{query}"
    if answer:
        assert answer.splitlines()[0].split() == found.column_names


def test_the_cookbook_holds_twenty_questions() -> None:
    assert len(list(blocks(TEXTS["docs/sql.md"], "sql"))) >= 20


@pytest.mark.parametrize("name", sorted(COMMANDS.commands))  # type: ignore[attr-defined]
def test_every_command_is_shown(name: str) -> None:
    shown = [line for body, _ in blocks(TEXTS["docs/commands.md"], "console") for line in _shown(body)]
    assert any(words_of(line)[0] == name for line in shown), name


def _shown(body: str) -> list[str]:
    return [line.removeprefix("$ ") for line in body.splitlines() if line.startswith("$ tamis ")]


@pytest.mark.parametrize("line", commands())
def test_every_documented_command_line_is_understood(line: str) -> None:
    context = typer.Context(COMMANDS)
    name, *arguments = words_of(line)
    command = COMMANDS.get_command(context, name)  # type: ignore[attr-defined]
    assert command is not None, f"there is no command {name!r}"
    command.make_context(name, arguments)


@pytest.mark.parametrize("line", [line for line in commands() if words_of(line)[0] in HARMLESS or "--print" in line])
def test_documented_commands_run(store: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.parent)
    dropped = sql(Catalog.open(store), "SELECT min(id) AS id FROM decisions WHERE rule = 'near-duplicate'")["id"][0]
    words = [re.sub(r"^[0-9a-f]{8,32}$", dropped.as_py()[:12], word) for word in words_of(line)]
    assert invoke(*words, TAMIS_STORE=str(store)) or words[0] in ("step", "ingest")


def test_the_takedown_page_runs_from_command_to_proof(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store, tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    lines = [line for body, _ in blocks(TEXTS["docs/takedown.md"], "console") for line in _shown(body)]
    printed = [invoke(*words_of(line), TAMIS_STORE=str(tmp_path / "store")) for line in lines]
    shown = [body for body, _ in blocks(TEXTS["docs/takedown.md"], "text")]
    others = re.compile("held by|[0-9,]+ more documents|[0-9,]+ documents that nearly")  # made by other tests, some
    dry, before = ([line for line in each.splitlines() if not others.match(line)] for each in (printed[0], shown[0]))
    assert dry == before
    assert "deleted" in printed[3]
    assert printed[-1] == shown[-1], "nothing is left"


def test_the_page_on_refresh_runs_from_drift_to_feedback(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store, tmp_path / "store")
    docs_store.write_later(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = [line for body, _ in blocks(TEXTS["docs/refresh.md"], "console") for line in _shown(body)]
    local = {"TAMIS_STORE": str(tmp_path / "store"), "RAY_ADDRESS": ""}
    printed = [invoke(*words_of(line), *_locally(line), **local) for line in lines]
    shown = [body for body, _ in blocks(TEXTS["docs/refresh.md"], "text")]
    assert [_unnumbered(each) for each in (printed[0], printed[3])] == [_unnumbered(each) for each in shown]
    assert printed[4].startswith("nothing to do"), "the same command again"
    assert "not-a-verdict" in printed[-1]


def _locally(line: str) -> list[str]:
    return ["--executor", "local"] if words_of(line)[0] == "refresh" else []


def _unnumbered(text: str) -> str:
    """Training rounds differently from processor to processor, so figures are not compared."""
    return re.sub(r"[-+]?[\d,.]*\d%? *", "0", text.strip())


def test_the_example_recipe_is_what_print_recipe_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = re.search(r"`tamis (specialize .*?)`", docs_store.RECIPE.read_text())
    assert line is not None
    printed = invoke(*shlex.split(line[1])).replace(f"{tmp_path}/", "")
    assert yaml.safe_load(printed) == yaml.safe_load(docs_store.RECIPE.read_text())


def test_the_example_script_runs(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["threshold.py", str(store), "0.9"])
    runpy.run_path(str(ROOT / "examples" / "threshold.py"), run_name="__main__")
    assert "pool-dedup-again@1" in capsys.readouterr().out


@pytest.mark.parametrize("code", [body for text in TEXTS.values() for body, _ in blocks(text, "python")])
def test_documented_python_runs(store: Path, code: str) -> None:
    assert "demo/store" in code
    exec(code.replace("demo/store", str(store)), {})


def test_every_path_of_the_annotated_tree_exists() -> None:
    body = README.partition("<!-- tree -->")[2]
    folder, found = "", []
    for line in next(blocks(body, "text"))[0].splitlines():
        name = line.split()[0]
        folder = "" if not line.startswith(" ") else folder
        found.append(folder + name)
        folder = name if not line.startswith(" ") else folder
    missing = [path for path in found if not (ROOT / path).exists()]
    assert not missing
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {each.replace(".", "/") + "/" for each in packages} <= set(found)


@pytest.mark.parametrize("page", TEXTS)
def test_links_and_quoted_paths_lead_somewhere(page: str) -> None:
    text = TEXTS[page]
    here = (ROOT / page).parent
    links = [each for each in re.findall(r"\]\(([^)#]+)", text) if "://" not in each]
    assert not [each for each in links if not (here / each).exists()]
    quoted = re.findall(r"`((?:catalog|dataops|training|clusters|tests|benchmarks|examples|docs)/[\w./-]*)`", text)
    quoted = [each for each in quoted if "NAME" not in each]
    assert not [each for each in quoted if not (ROOT / each).exists()]


def test_views_are_documented_and_documented_views_exist() -> None:
    views = {re.match(r"CREATE VIEW (\w+)", statement)[1] for statement in VIEWS}  # type: ignore[index]
    assert set(table_after(TEXTS["docs/sql.md"], "views")) == views


def test_macros_are_documented_and_documented_macros_exist() -> None:
    macros = {re.match(r'CREATE MACRO "?(\w+)', statement)[1] for statement in MACROS} - {"files_of"}  # type: ignore[index]
    assert {each.partition("(")[0] for each in table_after(TEXTS["docs/sql.md"], "macros")} == macros


def test_documented_columns_of_views_are_theirs(store: Path) -> None:
    catalog = Catalog.open(store)
    for view, columns in table_after(TEXTS["docs/sql.md"], "views").items():
        shown = [each.strip("` ") for each in columns.split(",")]
        assert shown == sql(catalog, f"SELECT * FROM {view} LIMIT 0").column_names, view


def test_reasons_of_the_quarantine_are_documented() -> None:
    assert set(table_after(TEXTS["docs/sql.md"], "reasons")) == set(REASONS)


def test_steps_and_their_inputs_are_documented() -> None:
    assert table_after(TEXTS["docs/steps.md"], "steps") == {verb: INPUTS[verb] or "files" for verb in STEPS}


def test_settings_of_training_are_documented_and_documented_settings_exist() -> None:
    shown = {name.strip("` ") for cell in table_after(TEXTS["docs/steps.md"], "settings") for name in cell.split(",")}
    verbs = ("blend", "warm-start", "pretrain", "project", "teach", "finetune", "export", "export-gguf")
    assert shown == {field.name for verb in verbs for field in dataclasses.fields(step_class(verb))}


def test_the_glossary_explains_words_that_the_code_uses() -> None:
    words = set(table_after(README, "glossary"))
    code = "\n".join(
        ast.get_docstring(ast.parse(path.read_text())) or ""
        for package in ("catalog", "dataops", "training", "clusters")
        for path in (ROOT / package).rglob("*.py")
    ).lower()
    assert not [word for word in words if not re.search(rf"\b{word}s?\b", code)]
    own = {"documents": "document", "packs": "pack"}
    explained_elsewhere = {"tokenizer", "classifier", "evaluation", "audit"}  # they mean what they mean everywhere
    assert {own.get(kind, kind) for kind in KINDS} - explained_elsewhere - {"export"} <= words


def test_documented_defaults_are_those_of_the_steps() -> None:
    for name, (default, _) in rows_after(TEXTS["docs/steps.md"], "defaults").items():
        verb, setting = name.split(".")
        assert str(getattr(step_class(verb), setting)) == default, name
    shown = rows_after(TEXTS["docs/steps.md"], "rules")
    assert {rule.name: (rule.statistic, rule.low, rule.high) for rule in RULES} == {
        name: (statistic, *(float(each) if each else None for each in bounds))
        for name, (statistic, *bounds) in shown.items()
    }


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.match(r"[\w-]+", each)[0] for each in wanted}  # type: ignore[index]
    assert set(table_after(TEXTS["docs/decisions.md"], "dependencies")) == names


def test_the_changelog_begins_with_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.findall(r"^## \[(\S+)\]", TEXTS["CHANGELOG.md"], re.MULTILINE)[:2] == ["Unreleased", version]


def test_the_readme_is_read_in_minutes() -> None:
    assert len(README.splitlines()) <= 250

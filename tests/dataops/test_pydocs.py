"""The demo corpus holds the documentation of an environment, apart from the target's, the same every time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard

from catalog.errors import BadInput
from dataops import pydocs
from dataops.docstrings import module_documents
from dataops.input_check import check
from dataops.inputs import discover, slices
from dataops.pydocs import Corpus, Root, documents_of, list_files, write_corpus
from dataops.readers import read
from dataops.records import Record

SENTENCE = "A sentence of documentation that says what the thing is for and when to use it. "
LICENCE = "Permission is hereby granted, free of charge, to any person obtaining a copy of this software. " * 5


def install(site: Path, name: str, files: dict[str, str | bytes], *, headers: str = "") -> None:
    """A made-up distribution with its RECORD, as pip would leave it."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{headers}\n{'About ' + name + '. '}{SENTENCE * 4}\n"
    everything = {**files, f"{info}/METADATA": metadata, f"{info}/licenses/LICENSE": LICENCE}
    everything[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in everything)
    for path, content in everything.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content if isinstance(content, bytes) else content.encode())


def module(text: str) -> str:
    return f'"""{text}\n\n{SENTENCE * 4}"""\n'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    install(
        site,
        "sympy",
        {
            "sympy/__init__.py": module("Symbols."),
            "sympy/core/add.py": module("Sums."),
            "sympy/core/tests/test_add.py": module("A test."),
            "sympy/core/__pycache__/add.py": module("A cache."),
        },
        headers="License: BSD\nClassifier: Topic :: Scientific/Engineering :: Mathematics\n",
    )
    install(
        site,
        "webby",
        {
            "webby/__init__.py": module("A server."),
            "webby/python2.py": f'"""{SENTENCE * 4}"""\nprint "old"\n',
            "webby/latin.py": b'# -*- coding: latin-1 -*-\n"""Caf\xe9. ' + SENTENCE.encode() * 4 + b'"""\n',
            "webby/bad.py": b'"""\xff ' + SENTENCE.encode() * 4 + b'"""\n',
            "webby/nul.py": module("x").encode() + b"\0",
            "webby/huge.py": module("x") + "#" * (pydocs.MAX_FILE_BYTES + 1),
            "webby/README.md": SENTENCE * 5,
            "webby/table.txt": "0123456789 " * 100,
        },
        headers="License-Expression: MIT\nClassifier: Topic :: Internet :: WWW/HTTP\n",
    )
    install(site, "odd", {"odd.py": module("No topic.")})
    install(site, "tamis", {"catalog/store.py": module("Ours."), "dataops/x.py": module("Ours.")})
    (site / "clusters").mkdir()
    (site / "clusters" / "cli.py").write_text(module("Ours, unpacked."))
    return site


def roots(site: Path) -> list[Root]:
    return [Root(path=site, name="site-packages")]


def rows(paths: Iterable[Path]) -> list[dict[str, str | None]]:
    return [json.loads(line) for path in paths for line in zstandard.decompress(path.read_bytes()).splitlines()]


def corpus(site: Path, target: str = "mathematics") -> Corpus:
    return write_corpus(site.parent / "out", target=target, quick=False, roots=roots(site))


def test_the_target_is_its_domain_and_none_of_it_is_in_the_pool(site: Path) -> None:
    made = corpus(site)
    assert {row["source"] for row in rows(made.target)} == {"sympy"}
    assert {row["id"] for row in rows(made.target)} == {
        "site-packages/sympy/__init__.py",
        "site-packages/sympy/core/add.py",
        "site-packages/sympy-1.0.dist-info/METADATA",
    }
    assert "mathematics" not in {row["domain"] for row in rows(made.pool)}


def test_licence_files_are_legal_whatever_the_package(site: Path) -> None:
    made = corpus(site, target="legal")
    assert {row["source"] for row in rows(made.target)} == {"odd", "sympy", "webby"}
    assert {row["text"] for row in rows(made.target)} == {LICENCE}


def test_domains_come_from_the_table_then_the_classifiers_and_are_else_unknown(site: Path) -> None:
    domains = {row["source"]: row["domain"] for row in rows(corpus(site, target="legal").pool)}
    assert domains == {"sympy": "mathematics", "webby": "web", "odd": None}


def test_tamis_itself_tests_and_caches_are_left_out(site: Path) -> None:
    urls = [file.url for file in list_files(roots(site))]
    assert not [url for url in urls if "catalog" in url or "dataops" in url or "clusters" in url or "tamis" in url]
    assert not [url for url in urls if "test_add" in url or "__pycache__" in url]


def test_files_that_cant_be_read_are_skipped_with_a_counted_reason(site: Path) -> None:
    skipped = {Path(file.url).name: documents_of(file).skipped for file in list_files(roots(site))}
    assert skipped["python2.py"] == skipped["bad.py"] == skipped["nul.py"] == "not-python"
    assert skipped["huge.py"] == "too-large"
    assert skipped["table.txt"] == "nothing-said"
    assert skipped["README.md"] is None
    assert corpus(site).skipped == {"not-python": 3, "nothing-said": 1, "too-large": 1}


def test_a_declared_source_encoding_is_honoured(site: Path) -> None:
    (latin,) = [file for file in list_files(roots(site)) if file.url.endswith("latin.py")]
    assert "Café." in documents_of(latin).documents[0].text


def test_the_same_environment_gives_the_same_bytes_one_by_one_or_in_parallel(site: Path, tmp_path: Path) -> None:
    one = write_corpus(tmp_path / "one", target="legal", quick=False, roots=roots(site))
    with ThreadPoolExecutor(4) as pool:
        other = write_corpus(tmp_path / "two", target="legal", quick=False, roots=roots(site), map_files=pool.map)
    for left, right in zip(one.pool + one.target, other.pool + other.target, strict=True):
        assert left.read_bytes() == right.read_bytes()
    assert one.tallies == other.tallies


def test_tallies_count_what_was_written(site: Path) -> None:
    made = corpus(site)
    for side, paths in (("pool", made.pool), ("target", made.target)):
        written = rows(paths)
        assert sum(each.documents for each in made.tallies if each.side == side) == len(written)
        expected = sum(len((row["text"] or "").encode()) for row in written)
        assert sum(each.num_bytes for each in made.tallies if each.side == side) == expected


def test_what_is_written_is_what_the_readers_read(site: Path) -> None:
    made = corpus(site)
    inputs = discover([str(path) for path in made.pool], source=None)
    check(inputs, pydocs.READ_OPTIONS)
    items = [item for piece in slices(inputs, target_bytes=1 << 20) for item in read(piece, pydocs.READ_OPTIONS)]
    assert all(isinstance(item, Record) for item in items)
    assert [item.source_id for item in items if isinstance(item, Record)] == [row["id"] for row in rows(made.pool)]


def test_pieces_are_cut_by_size(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows(corpus(site).pool)
    monkeypatch.setattr(pydocs, "PIECE_BYTES", 600)
    cut = write_corpus(site.parent / "cut", target="mathematics", quick=False, roots=roots(site))
    assert len(cut.pool) > 3
    assert rows(cut.pool) == whole


def test_quick_takes_a_part_of_the_pool_with_vendored_copies_and_the_whole_target(tmp_path: Path) -> None:
    site = tmp_path / "site"
    files = {f"big/mod{i}/code.py": module(f"Module {i}.") for i in range(40)}
    copies = {path.replace("big/", "big/vendor/"): text for path, text in files.items()}
    install(site, "big", {**files, **copies})
    install(site, "sympy", {f"sympy/m{i}.py": module(f"Maths {i}.") for i in range(20)})
    full, quick = (
        write_corpus(tmp_path / str(short), target="mathematics", quick=short, roots=roots(site))
        for short in (False, True)
    )
    assert rows(full.target) == rows(quick.target)
    kept = {str(row["id"]) for row in rows(quick.pool) if "/mod" in str(row["id"])}
    assert 0 < len(kept) < 60
    assert {path.replace("/vendor/", "/") for path in kept} == {path for path in kept if "/vendor/" not in path}


def test_quick_cuts_a_large_target_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    install(site, "sympy", {f"sympy/m{i}.py": module(f"Maths {i}.") for i in range(40)})
    monkeypatch.setattr(pydocs, "QUICK_CUTS_TARGETS_FROM", 40)
    quick = write_corpus(tmp_path / "out", target="mathematics", quick=True, roots=roots(site))
    assert 8 < sum("/m" in str(row["id"]) for row in rows(quick.target)) < 32


def test_an_unknown_target_names_the_valid_ones(site: Path) -> None:
    with pytest.raises(BadInput, match=r"unknown target 'maths'; expected one of data, developer-tools, .*mathematics"):
        corpus(site, target="maths")
    with pytest.raises(BadInput, match="no such documentation; name another of legal, mathematics, web"):
        corpus(site, target="numerics")


# docstrings


def test_a_module_document_holds_qualified_names_signatures_and_docstrings_in_order() -> None:
    source = f'''"""About the module. {SENTENCE * 3}"""
import os
class Tree(Base,
           metaclass=Meta):
    """A tree."""
    def grow(self, by: int = 1,  # years
             *, fast=False) -> None:
        """Grow it."""
        def inner():
            """Hidden."""
    class Leaf:
        """A leaf."""
    def bare(self): pass
try:
    async def wait(x, y):
        r"""Wait \\alpha."""
except ImportError:
    pass
'''
    (document,) = module_documents(source.encode(), module="pkg.trees")
    assert document == (
        f"module pkg.trees\n\nAbout the module. {SENTENCE * 3}".rstrip() + "\n\n"
        "class Tree(Base, metaclass=Meta)\nA tree.\n\n"
        "def Tree.grow(self, by: int=1, *, fast=False)\nGrow it.\n\n"
        "class Tree.Leaf\nA leaf.\n\n"
        "async def wait(x, y)\nWait \\alpha."
    )


def test_docstrings_attached_by_calls_are_read() -> None:
    source = f'add_docstr(torch.abs, r"""abs(x) -> Tensor\n{SENTENCE * 2}""" + """Second part. {SENTENCE}""")\n'
    (document,) = module_documents(source.encode(), module="torch._docs")
    assert document.startswith("module torch._docs\n\ntorch.abs\nabs(x) -> Tensor\nA sentence")
    assert "Second part." in document


def test_a_long_module_is_split_between_its_parts_under_the_same_first_line() -> None:
    parts = "".join(f'def f{i}():\n    """Function {i}. {SENTENCE * 10}"""\n' for i in range(40))
    documents = module_documents(parts.encode(), module="m")
    assert len(documents) > 3
    assert all(document.startswith("module m\n\ndef f") for document in documents)
    assert "\n\n".join(document.removeprefix("module m\n\n") for document in documents).count("Function") == 40


def test_a_short_module_says_nothing() -> None:
    assert module_documents(b'"""Short."""\n', module="m") == []


@pytest.mark.slow
def test_the_real_environments_mathematics_is_enough_for_a_target() -> None:
    files = [file for file in list_files(pydocs.default_roots()) if "/mpmath/" in file.url or "/json/" in file.url]
    harvests = {file.url: documents_of(file) for file in files}
    text = [document for harvest in harvests.values() for document in harvest.documents]
    assert sum(len(document.text) for document in text if document.domain == "mathematics") > 200_000
    assert "python" in {document.source for document in text if document.url.endswith("/json/decoder.py")}
    assert not [document for document in text if "/tests/" in document.url]

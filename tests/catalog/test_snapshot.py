from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.catalog import Catalog
from catalog.errors import ConflictError, UnknownReference, UsageError
from catalog.snapshot import (
    NAME,
    Contents,
    Shard,
    parse_reference,
    run_action,
    run_from_action,
    snapshot_action,
    snapshot_from_action,
)
from catalog.store import FileRef, Store
from tests.catalog.planted import a_run, commit_documents


@pytest.fixture
def catalog(tmp_path):
    return Catalog(Store(tmp_path))


@pytest.mark.parametrize(("text", "parsed"), [("clean", ("clean", None)), ("a.b-c_1@12", ("a.b-c_1", 12))])
def test_a_reference_is_a_name_and_perhaps_a_version(text, parsed):
    assert parse_reference(text) == parsed


@pytest.mark.parametrize(
    "text", ["", "@", "@1", "a@", "a@x", "a@1@2", "a@-1", "a@²", "a@٣", "A", "a b", "../x", "a\n", "a@1\n", "-a", "a/b"]
)
def test_anything_else_is_refused_with_the_expected_form(text):
    with pytest.raises(UsageError, match="expected name or name@version"):
        parse_reference(text)


@given(st.from_regex(NAME, fullmatch=True), st.integers(1, 10**6))
def test_every_reference_parses_back(name, version):
    assert parse_reference(f"{name}@{version}") == (name, version)


def test_versions_count_up_and_the_bare_name_is_the_newest(catalog):
    refs = [commit_documents(catalog, "clean", start=start).ref for start in range(3)]
    assert refs == ["clean@1", "clean@2", "clean@3"]
    assert catalog.snapshot("clean").ref == "clean@3"
    assert catalog.snapshot("clean@2").ref == "clean@2"


def test_an_unknown_name_gets_the_closest_ones_and_an_unknown_version_the_range(catalog):
    commit_documents(catalog, "clean")
    with pytest.raises(UnknownReference, match="did you mean clean"):
        catalog.snapshot("claen")
    with pytest.raises(UnknownReference, match="tamis ls"):
        catalog.snapshot("zzz")
    for version in (0, 2):
        with pytest.raises(UnknownReference, match=f"has versions 1 to 1, not {version}"):
            catalog.snapshot(f"clean@{version}")


def test_commit_returns_what_it_wrote_even_when_another_process_took_the_next_version(tmp_path, monkeypatch):
    ours, theirs = Catalog(Store(tmp_path)), Catalog(Store(tmp_path))
    append = ours.log.append_once

    def append_and_be_overtaken(token, build):
        written = append(token, build)
        commit_documents(theirs, "clean", start=99)
        return written

    monkeypatch.setattr(ours.log, "append_once", append_and_be_overtaken)
    assert commit_documents(ours, "clean").ref == "clean@1"
    assert ours.snapshot("clean").ref == "clean@2"


def test_a_commit_whose_input_is_not_in_the_catalog_is_refused(catalog, tmp_path):
    elsewhere = commit_documents(Catalog(Store(tmp_path / "elsewhere")), "raw")
    with pytest.raises(ConflictError, match="raw@1, an input of clean"):
        catalog.commit("clean", Contents(kind="documents"), a_run(), inputs=[elsewhere])
    assert catalog.sequence == 0


def test_a_commit_that_expects_another_version_of_its_name_is_refused(catalog):
    commit_documents(catalog, "raw")
    contents = catalog.snapshot("raw").contents
    for after in (0, 2):
        with pytest.raises(ConflictError, match=f"raw is at version 1, not {after}: look at it"):
            catalog.commit("raw", contents, a_run(), after=after)
    assert catalog.commit("raw", contents, a_run(), after=1).ref == "raw@2"
    assert catalog.commit("new", contents, a_run(), after=0).ref == "new@1"


def test_a_commit_repeated_with_its_token_by_another_process_is_the_first_one(catalog):
    contents = commit_documents(catalog, "raw").contents
    first = catalog.commit("clean", contents, a_run(), token="once")
    commit_documents(catalog, "clean", start=9)
    assert Catalog(catalog.store).commit("clean", contents, a_run(), token="once") == first
    assert [each.version for each in Catalog(catalog.store).snapshots["clean"]] == [1, 2]


def test_the_id_is_the_content_and_not_the_name_the_summary_or_the_order_of_tables():
    one, two = (FileRef(path=f"data/{x}", sha256=x * 64, bytes=1) for x in "ab")

    def contents(tables, **rest):
        return Contents(kind="documents", shards=(Shard(rows=1, tables=tables),), **rest)

    assert contents({"x": one, "y": two}).id == contents({"y": two, "x": one}, summary={"n": 1}).id
    assert contents({"x": one, "y": two}).id != contents({"x": two, "y": one}).id


def test_log_forms_round_trip(catalog):
    snapshot = commit_documents(catalog, "clean")
    for forth, back, value in (
        (snapshot_action, lambda a: snapshot_from_action(a["snapshot"], catalog.store), snapshot),
        (run_action, lambda a: run_from_action(a["run"]), catalog.runs[snapshot.run]),
    ):
        assert back(json.loads(json.dumps(forth(value)))) == value


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="the kinds are documents, tokenizer"):
        Contents(kind="soup")


def test_require_names_what_is_there_and_what_is_missing(catalog):
    snapshot = commit_documents(catalog, "clean")
    assert snapshot.require("documents", "documents") is snapshot
    with pytest.raises(UsageError, match="clean@1 is a documents snapshot where packs was expected"):
        snapshot.require("packs")
    with pytest.raises(UsageError, match=r"no table 'tokens' \(it has documents\)"):
        snapshot.require("documents", "tokens")
    with pytest.raises(UsageError, match=r"has no 'tokenizer'; its artifacts: none"):
        snapshot.artifact("tokenizer")


def test_opening_a_place_without_a_store_says_how_to_name_one(tmp_path):
    with pytest.raises(UsageError, match="--store DIR or TAMIS_STORE"):
        Catalog.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()

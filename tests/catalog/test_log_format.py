from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.audit import verify
from catalog.catalog import Catalog
from catalog.errors import UnreadableFormat
from catalog.log import Log
from catalog.log_format import FORMAT, GENESIS, parse, seal, split
from catalog.query import sql
from catalog.store import Store
from tests.catalog.planted import commit_documents

DATA = Path(__file__).parent / "data"
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
ACTIONS = st.dictionaries(
    st.text(), st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
)


@pytest.fixture
def format_1(tmp_path):
    """A store that the last software of format 1 wrote: raw@1, clean@1 and again@1 of the planted steps."""
    shutil.copytree(DATA / "log_format_1", tmp_path / "store")
    return tmp_path / "store"


@settings(max_examples=30, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=3), token=st.text())
def test_what_is_sealed_is_read_back_from_one_line(actions, token):
    body = {"sequence": 1, "parent_sha256": GENESIS, "token": token, "time": 0.5, "actions": actions}
    data = seal(body)
    commit = parse(data, where="here")
    assert (commit.token, list(commit.actions)) == (token, actions)
    assert data.count(b"\n") == 1
    assert list(split(data + data)) == [data, data]


def test_a_store_of_format_1_is_read_as_it_was(format_1):
    catalog = Catalog.open(format_1)
    assert {each.ref: each.id for each in catalog.all_snapshots()} == {
        "again@1": "9ce50ccc0a6da71332defe1860b603e276031561f86d22d6636cdccb1cf83a3e",
        "clean@1": "9ce50ccc0a6da71332defe1860b603e276031561f86d22d6636cdccb1cf83a3e",
        "raw@1": "b2dc16c72897a6e58a1dd00ff28df8c23ad1d11edcaa7904a209ed10fd7930ee",
    }
    assert catalog.snapshot("clean").inputs == ("raw@1",)
    assert verify(catalog).problems == ()
    rows = sql(catalog, "SELECT snapshot, count(*) AS n FROM documents GROUP BY 1 ORDER BY 1").to_pylist()
    assert rows == [{"snapshot": name, "n": n} for name, n in (("again@1", 4), ("clean@1", 4), ("raw@1", 8))]


def test_new_commits_follow_old_ones_in_the_newest_format_and_old_ones_stay(format_1):
    before = {path.name: path.read_bytes() for path in (format_1 / "_log").iterdir()}
    commit_documents(Catalog.open(format_1), "more")
    assert verify(Catalog.open(format_1)).problems == ()
    files = {path.name: path.read_bytes() for path in (format_1 / "_log").iterdir()}
    assert {name: files[name] for name in before} == before
    assert [json.loads(files[name])["format"] for name in sorted(files)] == [1, 1, 1, FORMAT]


def test_files_of_several_formats_are_told_apart_in_a_checkpoint(format_1):
    Log(Store(format_1)).append(lambda _: [{"n": 1}])
    files = [path.read_bytes() for path in sorted((format_1 / "_log").iterdir())]
    assert list(split(b"".join(files))) == files
    assert list(split(b"".join(files)[:-1])) == files[:-1]


def test_a_store_from_before_snapshots_named_their_inputs_gets_a_line_with_the_remedy(tmp_path):
    shutil.copytree(DATA / "log_before_inputs", tmp_path / "store")
    with pytest.raises(UnreadableFormat) as error:
        Catalog.open(tmp_path / "store")
    assert str(error.value).startswith("_log/000000000001.json in ")
    assert str(error.value).endswith("can't be made up now: run the recipe again into a new --store")
    assert "\n" not in str(error.value)


def test_a_newer_format_asks_for_a_newer_tamis(tmp_path):
    Log(Store(tmp_path)).append(lambda _: [])
    path = tmp_path / "_log/000000000001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(UnreadableFormat, match=rf"has log format 99, this tamis reads up to {FORMAT}: upgrade tamis"):
        Log(Store(tmp_path)).refresh()

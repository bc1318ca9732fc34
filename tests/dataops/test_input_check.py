"""What can't be read at all is one clear line before the run."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from catalog.errors import BadInput
from dataops.input_check import check
from dataops.inputs import discover
from dataops.records import ReadOptions
from tests.dataops.reading import PLAIN, faults, jsonl, parquet, read_all, texts, write

IN_DRIFT = "(in drift and refresh, which read new text like the old: --set ENTRY.text_column=NAME)"


def refusal(path: Path, options: ReadOptions = PLAIN) -> str:
    with pytest.raises(BadInput) as caught:
        check(discover([str(path)], source=None), options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_wrong_column_names_those_that_exist_and_the_nearest(tmp_path: Path) -> None:
    rows = jsonl({"id": 1, "text": "one"})
    for path in (
        write(tmp_path / "a.jsonl", rows),
        write(tmp_path / "b.csv", b"id,text\n1,one\n"),
        parquet(tmp_path / "c.parquet"),
    ):
        message = refusal(path, ReadOptions(text_column="txt"))
        assert message == f"{path}: no column 'txt'; it has id, text; did you mean --text-column text? {IN_DRIFT}"
        assert refusal(path, ReadOptions(id_column="zzzz")).endswith(
            "name one with --id-column; where there is none: id_column=null in a recipe or by --set"
        )
        assert refusal(path, ReadOptions(source_column="zzzz", url_column="yyyy")) == (
            f"{path}: no column 'zzzz' and no 'yyyy'; it has id, text; name one with --source-column; where there is "
            "none: source_column=null and url_column=null in a recipe or by --set"
        )


def test_a_text_column_of_another_type_is_refused_with_the_text_columns(tmp_path: Path) -> None:
    rows = write(tmp_path / "a.jsonl", jsonl({"text": 1, "body": "x"}, {"text": [1], "body": "y"}))
    assert "column 'text' holds int or list, not text; name one of body with --text-column (in" in refusal(rows)
    table = parquet(tmp_path / "c.parquet", text=pa.array([1, 2]), body=pa.array(["x", "y"]))
    assert "column 'text' holds int64, not text; name one of body with --text-column (in" in refusal(table)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.parquet", b"no parquet at all", "not a readable Parquet file"),
        ("a.parquet", b"", "not a readable Parquet file"),
        ("a.jsonl.gz", b'{"text": "plain"}\n', "can't be decompressed"),
        ("a.jsonl.zst", b'{"text": "plain"}\n', "can't be decompressed"),
        ("a.jsonl", b"once upon a time\n", "not JSON Lines"),
        ("a.json", b'[{"text": "one"}]\n', "jq -c '.[]'"),
    ],
)
def test_a_file_that_cant_be_read_at_all_is_refused(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    assert says in refusal(write(tmp_path / name, data))


def test_what_does_not_exist_or_has_another_suffix_is_refused(tmp_path: Path) -> None:
    assert "no such file or folder" in refusal(tmp_path / "missing.jsonl")
    assert "unsupported suffix" in refusal(write(tmp_path / "a.docx", b"x"))
    assert "no file to read (it has .docx)" in refusal(tmp_path)
    assert "matches no readable file" in refusal(tmp_path / "*.jsonl")
    with pytest.raises(BadInput, match="no input"):
        discover([], source=None)


def test_single_bad_records_and_empty_files_are_not_refused(tmp_path: Path) -> None:
    write(tmp_path / "x" / "a.jsonl", b"")
    write(tmp_path / "x" / "b.jsonl", b"{bad\n" + jsonl({"text": None}, {"text": "one"}))
    write(tmp_path / "x" / "c.jsonl.gz", b"")
    check(discover([str(tmp_path / "x")], source=None), PLAIN)
    items = read_all(tmp_path / "x")
    assert texts(items) == ["one"]
    assert faults(items) == [
        ("file", "empty-file"),
        ("line 1", "malformed-json"),
        ("line 2", "null-text"),
        ("file", "empty-file"),
    ]

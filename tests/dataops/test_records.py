"""What a record is known by: keys, ids and named columns."""

from __future__ import annotations

from pathlib import Path

from dataops.input_check import check
from dataops.inputs import discover, slices
from dataops.readers import read
from dataops.records import ReadOptions, Record
from tests.dataops.reading import MIB, PLAIN, jsonl, read_all, write


def test_records_with_repeated_ids_are_all_kept_under_different_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl({"id": 7, "text": "one"}, {"id": 7, "text": "two"}, {"text": "three"}))
    items = read_all(path, ReadOptions(id_column="id"))
    assert [item.source_id for item in items if isinstance(item, Record)] == ["7", "7", None]
    assert len({item.key for item in items if isinstance(item, Record)}) == 3


def test_keys_do_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    for place in ("here", "there"):
        write(tmp_path / place / "corpus" / "a.jsonl", jsonl({"text": "one"}, {"text": "two"}))
    here, there = (read_all(tmp_path / place / "corpus") for place in ("here", "there"))
    assert here == there


def test_two_folders_of_one_name_still_give_different_keys(tmp_path: Path) -> None:
    for place in ("here", "there"):
        write(tmp_path / place / "corpus" / "a.jsonl", jsonl({"text": "one"}))
    inputs = discover([str(tmp_path / place / "corpus") for place in ("here", "there")], source=None)
    keys = [item.key for piece in slices(inputs, target_bytes=MIB) for item in read(piece, PLAIN)]  # type: ignore[union-attr]
    assert len(set(keys)) == 2


def test_named_columns_fill_the_record_and_broken_characters_in_them_do_no_harm(tmp_path: Path) -> None:
    row = {"body": "one", "k": 3, "from": "web", "topic": "math", "link": "http://x/\ud800", "more": {"a": 1}}
    path = write(tmp_path / "a.jsonl", jsonl(row))
    options = ReadOptions(
        text_column="body", id_column="k", source_column="from", domain_column="topic", url_column="link"
    )
    check(discover([str(path)], source=None), options)
    (record,) = read_all(path, options)
    assert isinstance(record, Record)
    assert (record.source_id, record.source, record.domain, record.url) == ("3", "web", "math", "http://x/?")

"""CSV: a bad row is quarantined with its number."""

from __future__ import annotations

import gzip
from pathlib import Path

from dataops.input_check import check
from dataops.inputs import discover
from dataops.records import ReadOptions
from tests.dataops.reading import PLAIN, faults, read_all, texts, write


def test_bad_csv_rows_are_quarantined_and_the_rest_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        b"\xef\xbb\xbfid,text\r\n"
        b'1,"two\r\nlines, and a ""quote"""\r\n'
        b"2,caf\xe9\r\n"
        b"3\r\n"
        b"\r\n"
        b'4,"bad"quote\r\n'
        b"5,\r\n"
        b"6,nul \0 inside\r\n"
        b'7,"cut off',
    )
    check(discover([str(path)], source=None), PLAIN)
    items = read_all(path, ReadOptions(id_column="id"))
    assert texts(items) == ['two\r\nlines, and a "quote"', "nul \0 inside"]
    assert faults(items) == [
        ("row 2", "invalid-utf8"),
        ("row 3", "malformed-csv"),
        ("row 4", "malformed-csv"),
        ("row 5", "empty-text"),
        ("row 7", "truncated"),
    ]


def test_a_csv_field_far_above_pythons_own_limit_is_read(tmp_path: Path) -> None:
    text = "long " * 400_000
    path = write(tmp_path / "a.csv.gz", gzip.compress(f'text\n"{text}"\n'.encode()))
    assert texts(read_all(path)) == [text]


def test_a_csv_with_only_its_header_is_an_empty_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"id,text\n")
    check(discover([str(path)], source=None), PLAIN)
    assert faults(read_all(path)) == [("file", "empty-file")]

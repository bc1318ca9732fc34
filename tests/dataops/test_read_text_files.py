"""Files of text: each is a document."""

from __future__ import annotations

import gzip
from pathlib import Path

from dataops.inputs import discover, slices
from dataops.readers import read
from dataops.records import Record
from tests.dataops.reading import MIB, PLAIN, faults, read_all, texts, write


def test_each_text_file_is_a_document_named_by_its_path_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    write(folder / "a.txt", b"\xef\xbb\xbffirst")
    write(folder / "sub" / "b.md", b"second")
    write(folder / "sub" / "bad.txt", b"caf\xe9")
    write(folder / "sub" / "zero.txt", b"")
    write(folder / ".hidden.txt", b"hidden")
    write(folder / "picture.png", b"png")
    write(folder / "z.txt.gz", gzip.compress(b"third"))
    items = read_all(folder)
    assert texts(items) == ["first", "second", "third"]
    assert [item.source_id for item in items if isinstance(item, Record)] == [
        "notes/a.txt",
        "notes/sub/b.md",
        "notes/z.txt.gz",
    ]
    assert faults(items) == [("file", "invalid-utf8"), ("file", "empty-text")]


def test_a_file_that_disappears_after_the_check_is_quarantined_and_the_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    for name in "abc":
        write(folder / f"{name}.txt", name.encode())
    pieces = slices(discover([str(folder)], source=None), target_bytes=MIB)
    (folder / "b.txt").unlink()
    items = [item for piece in pieces for item in read(piece, PLAIN)]
    assert texts(items) == ["a", "c"]
    assert faults(items) == [("file", "unreadable")]

"""Lines of JSON: a bad one is quarantined with its place, and a file may be cut anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataops import readers, streams
from dataops.input_check import check
from dataops.inputs import Input, discover, slices
from dataops.readers import read
from dataops.records import Quarantined, Record
from tests.dataops.reading import MIB, PLAIN, faults, jsonl, read_all, texts, write


def shrink_record_limit(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    for module in (streams, readers):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", limit)


def test_every_bad_json_line_is_quarantined_with_its_line_and_the_good_ones_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        b'{"text": "one"}\n'
        b"{bad\n"
        b'["a list"]\n'
        b'{"text": "caf\xe9"}\n'
        b'{"text": "\\ud800"}\n'
        b'{"text": null}\n'
        b'{"text": 5}\n'
        b'{"text": " \\n "}\n'
        b'{"other": 1}\n'
        b"\n" + b'{"text": "nul \\u0000 inside"}\n' + b"[" * 100_000 + b"\n"
        b'{"text": "huge number", "n": ' + b"9" * 5000 + b"}\n"
        b'{"text": "last"}\n',
    )
    items = read_all(path)
    assert texts(items) == ["one", "nul \0 inside", "last"]
    assert faults(items) == [
        ("line 2", "malformed-json"),
        ("line 3", "not-an-object"),
        ("line 4", "invalid-utf8"),
        ("line 5", "lone-surrogate"),
        ("line 6", "null-text"),
        ("line 7", "non-string-text"),
        ("line 8", "empty-text"),
        ("line 9", "missing-text"),
        ("line 12", "malformed-json"),
        ("line 13", "malformed-json"),
    ]


def test_a_last_line_without_newline_is_read_and_a_broken_one_is_truncated(tmp_path: Path) -> None:
    assert texts(read_all(write(tmp_path / "whole.jsonl", b'{"text": "one"}\n{"text": "two"}'))) == ["one", "two"]
    broken = read_all(write(tmp_path / "broken.jsonl", b'{"text": "one"}\n{"text": "tw'))
    assert texts(broken) == ["one"]
    assert faults(broken) == [("line 2", "truncated")]


def test_a_byte_order_mark_and_crlf_line_ends_are_no_part_of_a_record(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": "two"}\r\n')
    check(discover([str(path)], source=None), PLAIN)
    assert texts(read_all(path)) == ["one", "two"]
    assert faults(read_all(path)) == []


def test_a_five_megabyte_document_is_one_record_from_any_slice_size(tmp_path: Path) -> None:
    text = "wörter " * 800_000
    path = write(tmp_path / "a.jsonl", jsonl({"text": "before"}, {"text": text}, {"text": "after"}))
    for target in (100 * MIB, 2 * MIB, MIB // 2):
        assert texts(read_all(path, target_bytes=target)) == ["before", text, "after"]


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(
        st.one_of(
            st.text(max_size=30).map(lambda text: json.dumps({"text": text}).encode()),
            st.sampled_from([b"{bad", b"", b"[1]", b'{"text": "\xff"}', b"   ", b'{"text": "x"}\r']),
        ),
        max_size=12,
    ),
    target=st.integers(1, 200),
    final_newline=st.booleans(),
)
def test_cutting_a_file_anywhere_gives_the_same_items_and_line_numbers(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], target: int, final_newline: bool
) -> None:
    path = write(tmp_path_factory.mktemp("cut") / "a.jsonl", b"\n".join(pieces) + b"\n" * final_newline)
    one = Input(path=str(path), name="a.jsonl", source="a", format="jsonl", num_bytes=path.stat().st_size)

    def items(target_bytes: int) -> list[Record | Quarantined]:
        found = [item for piece in slices([one], target_bytes=target_bytes) for item in read(piece, PLAIN)]
        return [item for item in found if not (isinstance(item, Quarantined) and item.reason == "empty-file")]

    whole = items(10**9)
    readers_cost, slices_of_one = items(max(target, 1)), slices([one], target_bytes=max(target, 1))
    assert readers_cost == whole
    assert len({getattr(item, "key", None) or item.position for item in whole}) == len(whole)  # type: ignore[union-attr]
    assert slices_of_one == slices([one], target_bytes=max(target, 1))


def test_bytes_are_cut_into_many_ranges_where_the_file_is_large(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", jsonl(*({"text": f"document {i} " * 20} for i in range(2000))))
    pieces = slices(discover([str(path)], source=None), target_bytes=20_000)
    assert len(pieces) > 20
    assert len(texts(read_all(path, target_bytes=20_000))) == 2000


def test_a_line_above_the_limit_is_quarantined_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_record_limit(monkeypatch, 1000)
    path = write(tmp_path / "a.jsonl", jsonl({"text": "one"}, {"text": "x" * 3 * MIB}, {"text": "two"}))
    items = read_all(path)
    assert texts(items) == ["one", "two"]
    assert faults(items) == [("line 2", "too-long")]

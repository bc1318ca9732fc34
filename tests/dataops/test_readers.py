"""Every defect of an input is a quarantine entry with a place, or one clear line before the run starts."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.errors import BadInput
from dataops import readers, streams
from dataops.inputs import shard_size
from dataops.readers import REASONS, Input, Quarantined, ReadOptions, Record, check, discover, read, slices

PLAIN = ReadOptions()
MIB = 1 << 20


def read_all(path: Path, options: ReadOptions = PLAIN, target_bytes: int = 64 * MIB) -> list[Record | Quarantined]:
    pieces = slices(discover([str(path)], source=None), target_bytes=target_bytes)
    return [item for piece in pieces for item in read(piece, options)]


@pytest.mark.parametrize(("megabytes", "shard"), [(1, 8), (200, 8), (640, 20), (9_000, 64)])
def test_a_shard_is_a_32nd_of_the_text_within_bounds(megabytes: int, shard: int) -> None:
    one = Input(path="a.jsonl", name="a.jsonl", source="a", format="jsonl", num_bytes=megabytes * MIB // 4)
    packed = Input(path="b.parquet", name="b.parquet", source="b", format="parquet", num_bytes=megabytes * MIB // 4)
    assert shard_size([one, packed], at_most=64 * MIB) == shard * MIB


def texts(items: list[Record | Quarantined]) -> list[str]:
    return [item.text for item in items if isinstance(item, Record)]


def faults(items: list[Record | Quarantined]) -> list[tuple[str, str]]:
    found = [item for item in items if isinstance(item, Quarantined)]
    for item in found:
        assert item.reason in REASONS
        assert len(item.excerpt) <= 200
        assert item.excerpt.isprintable()
    return [(item.position, item.reason) for item in found]


def jsonl(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def shrink_record_limit(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    for module in (streams, readers):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", limit)


# JSON Lines


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


# compression


def compressed(data: bytes, suffix: str) -> bytes:
    return gzip.compress(data) if suffix == ".gz" else zstandard.compress(data)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_members_follow_one_another(tmp_path: Path, suffix: str) -> None:
    first, second = jsonl({"text": "one"}), jsonl({"text": "two"})
    path = write(tmp_path / f"a.jsonl{suffix}", compressed(first, suffix) + compressed(second, suffix))
    assert texts(read_all(path)) == ["one", "two"]
    assert faults(read_all(path)) == []


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize(("fault", "reason"), [("cut", "truncated"), ("flip", "corrupt")])
def test_records_before_a_broken_stream_are_kept_and_the_break_has_a_line(
    tmp_path: Path, suffix: str, fault: str, reason: str
) -> None:
    words = [os.urandom(3000).hex() for _ in range(400)]
    parts = [compressed(jsonl(*({"text": word} for word in words[i : i + 100])), suffix) for i in range(0, 400, 100)]
    if fault == "cut":
        data = b"".join(parts[:2]) + parts[2][: len(parts[2]) // 2]
    else:
        data = b"".join(parts[:2]) + parts[2][:6] + b"\xff" * 40 + parts[2][46:]
    items = read_all(write(tmp_path / f"a.jsonl{suffix}", data))
    kept = texts(items)
    assert kept == words[: len(kept)]
    assert len(kept) >= 200
    assert faults(items) == [(f"line {len(kept) + 1}", reason)]


def test_zero_padding_after_a_gzip_member_is_no_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(jsonl({"text": "one"})) + bytes(512))
    assert texts(read_all(path)) == ["one"]
    assert faults(read_all(path)) == []


# Parquet


def parquet(path: Path, rows: int = 3000, **columns: pa.Array) -> Path:
    table = pa.table(columns or {"id": range(rows), "text": [f"row {i} " * 9 for i in range(rows)]})
    pq.write_table(table, path, row_group_size=500, compression="snappy", data_page_size=1000, use_dictionary=False)
    return path


def test_parquet_is_cut_between_row_groups_and_reads_the_same(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet")
    options = ReadOptions(id_column="id")
    whole, cut = read_all(path, options), read_all(path, options, target_bytes=20_000)
    assert whole == cut
    assert len(slices(discover([str(path)], source=None), target_bytes=20_000)) == 6
    assert [item.source_id for item in whole if isinstance(item, Record)] == [str(i) for i in range(3000)]


def test_a_corrupt_page_loses_the_rest_of_its_row_group_only(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet")
    column = pq.read_metadata(path).row_group(2).column(1)
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 400] = b"\xff" * 400
    path.write_bytes(data)
    items = read_all(path)
    ((position, reason),) = faults(items)
    first = int(position.split()[1])
    assert reason == "corrupt"
    assert position == f"rows {first} to 1500"
    assert 1001 <= first <= 1500
    assert len(texts(items)) == 3000 - (1500 - first + 1)


def test_parquet_strings_that_are_not_utf8_are_quarantined_one_by_one(tmp_path: Path) -> None:
    values = pa.array([b"good", b"caf\xe9", None, b"fine", b" "], pa.binary())
    for kind in (pa.binary(), pa.string(), pa.large_string()):
        column = pa.Array.from_buffers(kind, 5, values.buffers()) if kind != pa.large_string() else values
        path = parquet(tmp_path / "a.parquet", text=column)
        items = read_all(path)
        assert texts(items) == ["good", "fine"]
        assert faults(items) == [("row 2", "invalid-utf8"), ("row 3", "null-text"), ("row 5", "empty-text")]


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.large_string(), pa.string_view()])
def test_every_arrow_kind_of_text_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    path = parquet(tmp_path / "a.parquet", text=pa.array(["one", "two", "one"]).cast(kind))
    check(discover([str(path)], source=None), PLAIN)
    assert texts(read_all(path)) == ["one", "two", "one"]


# CSV


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


# text files


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


def test_many_tiny_files_share_slices_and_no_slice_holds_more_than_its_target() -> None:
    files = [
        Input(path=f"/x/{i}.txt", name=f"x/{i}.txt", source="x", format="text", num_bytes=300) for i in range(200_000)
    ]
    pieces = slices(files, target_bytes=64 * MIB)
    assert len(pieces) == 13
    assert sum(len(piece.parts) for piece in pieces) == 200_000
    assert max(piece.cost for piece in pieces) <= 64 * MIB


# keys, ids and columns


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


# discovery


def test_sources_are_named_after_folders_and_file_stems(tmp_path: Path) -> None:
    write(tmp_path / "wiki" / "deep" / "a.jsonl", b"")
    write(tmp_path / "c4-train.00001-of-00064.json.gz", b"")
    write(tmp_path / "plain.csv", b"")

    def sources(*paths: str, source: str | None = None) -> list[str]:
        return [one.source for one in discover([str(tmp_path / path) for path in paths], source=source)]

    assert sources("wiki", "c4-train.00001-of-00064.json.gz", "plain.csv") == ["wiki", "c4-train", "plain"]
    assert sources("wiki/**/*.jsonl") == ["wiki"]
    assert sources("wiki", "plain.csv", source="mine") == ["mine", "mine"]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "wiki" / "a.jsonl", b"")
    assert len(discover([str(tmp_path / "wiki"), str(path), str(tmp_path / "*" / "*.jsonl")], source=None)) == 1


def test_beside_tables_a_readme_is_about_the_data_and_alone_it_is_a_document(tmp_path: Path) -> None:
    for name in ("README.md", "dataset_infos.json", "train.parquet"):
        write(tmp_path / "dataset" / name, b"x")
    write(tmp_path / "docs" / "README.md", b"x")
    found = discover([str(tmp_path / "dataset"), str(tmp_path / "docs")], source=None)
    assert [one.name for one in found] == ["dataset/train.parquet", "docs/README.md"]


def test_other_file_systems_are_read_through_fsspec() -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/corpus/a.jsonl", jsonl({"text": "one"}))
    memory.pipe("/bucket/corpus/deep/b.jsonl", jsonl({"text": "two"}))
    inputs = discover(["memory://bucket/corpus"], source=None)
    check(inputs, PLAIN)
    items = [item for piece in slices(inputs, target_bytes=10) for item in read(piece, PLAIN)]
    assert texts(items) == ["one", "two"]
    assert [one.name for one in inputs] == ["corpus/a.jsonl", "corpus/deep/b.jsonl"]


# what is refused before the run


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
        assert message == f"{path}: no column 'txt'; it has id, text; did you mean --text-column text?"
        assert "name one with --id-column" in refusal(path, ReadOptions(id_column="zzzz"))


def test_a_text_column_of_another_type_is_refused_with_the_text_columns(tmp_path: Path) -> None:
    rows = write(tmp_path / "a.jsonl", jsonl({"text": 1, "body": "x"}, {"text": [1], "body": "y"}))
    assert "column 'text' holds int or list, not text; name one of body with --text-column" in refusal(rows)
    table = parquet(tmp_path / "c.parquet", text=pa.array([1, 2]), body=pa.array(["x", "y"]))
    assert "column 'text' holds int64, not text; name one of body with --text-column" in refusal(table)


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

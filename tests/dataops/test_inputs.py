"""Which files are read, what their sources are called, and how they are cut."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from dataops.input_check import check
from dataops.inputs import Input, digests, discover, shard_size, slices
from dataops.readers import read
from tests.dataops.reading import MIB, PLAIN, jsonl, texts, write


@pytest.mark.parametrize(("megabytes", "shard"), [(1, 8), (200, 8), (640, 20), (9_000, 64)])
def test_a_shard_is_a_32nd_of_the_text_within_bounds(megabytes: int, shard: int) -> None:
    one = Input(path="a.jsonl", name="a.jsonl", source="a", format="jsonl", num_bytes=megabytes * MIB // 4)
    packed = Input(path="b.parquet", name="b.parquet", source="b", format="parquet", num_bytes=megabytes * MIB // 4)
    assert shard_size([one, packed], at_most=64 * MIB) == shard * MIB


def test_many_tiny_files_share_slices_and_no_slice_holds_more_than_its_target() -> None:
    files = [
        Input(path=f"/x/{i}.txt", name=f"x/{i}.txt", source="x", format="text", num_bytes=300) for i in range(200_000)
    ]
    pieces = slices(files, target_bytes=64 * MIB)
    assert len(pieces) == 13
    assert sum(len(piece.parts) for piece in pieces) == 200_000
    assert max(piece.cost for piece in pieces) <= 64 * MIB


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
    for name in ("README.md", "dataset_infos.json", "manifest.json", "train.parquet"):
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
    assert digests(inputs)[0][2] == hashlib.sha256(jsonl({"text": "one"})).hexdigest()


def test_files_of_one_name_are_told_apart_by_their_folders_wherever_these_lie(tmp_path: Path) -> None:
    for place in ("here", "there/deeper"):
        paths = [tmp_path / place / corpus / "train.jsonl" for corpus in ("wiki", "news")]
        for path in paths:
            path.parent.mkdir(parents=True)
            path.write_bytes(jsonl({"text": "one"}))
        assert [one.name for one in discover([str(path) for path in paths], source=None)] == [
            "wiki/train.jsonl", "news/train.jsonl",
        ]  # fmt: skip
        folder = tmp_path / place / "more" / "wiki"
        folder.mkdir(parents=True)
        (folder / "train.jsonl").write_bytes(jsonl({"text": "two"}))
        names = [one.name for one in discover([*map(str, paths), str(folder)], source=None)]
        assert names == [f"{paths[0].parents[1].name}/wiki/train.jsonl", f"{paths[1].parents[1].name}/news/train.jsonl",
                         "wiki/train.jsonl"]  # fmt: skip


def test_a_name_that_is_no_utf8_is_spelled_out(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    path.write_bytes(jsonl({"text": "one"}))
    (one,) = discover([str(tmp_path)], source=None)
    assert one.name.endswith("/caf\\xe9.jsonl")
    assert one.name.encode()

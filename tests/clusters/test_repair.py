"""`tamis verify` finds what is wrong with packs; `--repair` makes lost files again or says what is lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from catalog.audit import verify
from catalog.catalog import Catalog
from catalog.errors import CorruptStore
from catalog.pack import PackFormat, Packs, write_pack
from catalog.run import run
from catalog.snapshot import Contents, Run, Shard, Snapshot
from catalog.store import FileRef
from clusters.cli import app
from dataops.executors import LocalExecutor
from dataops.ingest import Ingest
from tests.catalog.planted import Sprout, Thin
from tests.conftest import Curated


@pytest.fixture
def catalog(curated: Curated, tmp_path: Path) -> Catalog:
    shutil.copytree(curated.store, tmp_path / "store")
    return Catalog.open(tmp_path / "store")


def invoke(catalog: Catalog, *arguments: str, code: int) -> str:
    result = CliRunner().invoke(app, ["verify", *arguments, "--store", catalog.store.root])
    assert result.exit_code == code, f"{result.exception!r}\n{result.output}"
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    return result.stdout


def table_of(catalog: Catalog, name: str, table: str) -> FileRef:
    return catalog.snapshot(name).contents.shards[0].tables[table]


def flip(catalog: Catalog, ref: FileRef) -> None:
    path = catalog.store.local(ref)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def commit_packs(catalog: Catalog, name: str, change) -> Snapshot:
    """The target's packs with `change` made to (tokens, documents), committed as made of the same documents."""
    packs = catalog.snapshot("target-packs")
    reader = Packs([catalog.store.local(shard.tables["pack"]) for shard in packs.contents.shards])
    tokens = reader.tokens(np.arange(len(reader)))
    (batch,) = pa.ipc.open_file(catalog.store.local(packs.contents.shards[0].tables["pack"])).read_all().to_batches()
    documents = batch.column("documents").to_pylist()
    change(tokens, documents)
    form = PackFormat(**json.loads(batch.schema.metadata[b"tamis"]))
    columns = {"cells": batch.column("cell").to_numpy(), "starts": batch.column("starts").to_pylist()}
    with catalog.store.writing(suffix="arrow") as (path, refs):
        write_pack(path, form, tokens=tokens, documents=documents, **columns)
    contents = Contents(
        kind="packs",
        shards=(Shard(rows=len(tokens), tables={"pack": refs[0]}),),
        artifacts=packs.contents.artifacts,
    )
    record = Run(fingerprint="f" * 64, step="odd", parameters={}, inputs=(), code="", started=0.0, seconds=0.0)
    return catalog.commit(name, contents, record, inputs=catalog.inputs(packs))


def test_sound_packs_hold_what_the_tokenizer_makes_of_their_documents(catalog: Catalog) -> None:
    found = verify(catalog)
    assert found.problems == ()
    assert found.segments > 200


def test_tokens_that_are_not_those_of_the_document_are_found(catalog: Catalog) -> None:
    def shifted(tokens: np.ndarray, _: list) -> None:
        tokens[:] = np.where(tokens > 300, tokens - 1, tokens)

    commit_packs(catalog, "odd", shifted)
    found = verify(catalog).problems
    assert found
    assert all("odd@1: the tokens of a window of" in each for each in found)


def test_a_window_of_a_document_that_is_not_there_is_found(catalog: Catalog) -> None:
    def renamed(_: np.ndarray, documents: list) -> None:
        documents[0][0] = b"\x01" * 16

    commit_packs(catalog, "odd", renamed)
    assert verify(catalog).problems == (f"odd@1: 1 documents of its windows are not in train-cells@1: {'01' * 16}",)


def test_lost_and_damaged_files_are_made_again_in_the_order_that_steps_need_them(catalog: Catalog) -> None:
    decisions, weights = table_of(catalog, "pool-unique", "exact"), catalog.snapshot("mixture").artifact("weights")
    packs, tokens = table_of(catalog, "specialized-packs", "pack"), table_of(catalog, "clean-tokens", "tokens")
    for ref in (decisions, weights, tokens):
        catalog.store.local(ref).unlink()
    flip(catalog, packs)
    (catalog.store.here / "catalog.duckdb").write_bytes(b"torn")
    assert "5 problems" in invoke(catalog, code=1)
    printed = invoke(catalog, "--repair", code=0)
    for ref, step in ((decisions, "exact-dedup"), (weights, "weigh-stacked"), (packs, "pack"), (tokens, "tokenize")):
        assert f"rebuilt {ref.path}: {step} of" in printed
    assert printed.rstrip().endswith("no problems")
    assert verify(catalog).orphans == 0


def test_what_can_not_be_made_again_is_named_with_every_snapshot_that_it_is_part_of(catalog: Catalog) -> None:
    documents = table_of(catalog, "pool", "documents")
    flip(catalog, documents)
    damaged = catalog.store.local(documents).read_bytes()
    printed = invoke(catalog, "--repair", code=1)
    (line,) = [line for line in printed.splitlines() if line.strip().startswith("lost")]
    assert documents.path in line
    assert "--from" in line
    affected = [each.ref for each in catalog.live() if documents in catalog.files_of(each)]
    assert line.endswith("it is part of " + ", ".join(affected))
    assert catalog.store.local(documents).read_bytes() == damaged, "damaged bytes are better than none"


def test_documents_are_read_again_from_the_files_named_if_they_are_the_same(catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "pages.jsonl"
    path.write_text('{"text": "one page"}\n{"text": "another page"}\n')
    run(Ingest(paths=(str(path),)), into="pages", catalog=catalog, executor=LocalExecutor(workers=1))
    documents = table_of(catalog, "pages", "documents")
    catalog.store.local(documents).unlink()
    path.write_text('{"text": "one page"}\n{"text": "a changed page"}\n')
    assert "--from does not name the files" in invoke(catalog, "--repair", "--from", str(path), code=1)
    path.write_text('{"text": "one page"}\n{"text": "another page"}\n')
    assert f"rebuilt {documents.path}" in invoke(catalog, "--repair", "--from", str(path), code=0)


def test_a_step_that_changed_since_is_not_run_for_the_old_bytes(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataops.exact import ExactDedup

    monkeypatch.setattr(ExactDedup, "revision", 99)
    catalog.store.local(table_of(catalog, "pool-unique", "exact")).unlink()
    assert "of revision 1 made it, this tamis has revision 99" in invoke(catalog, "--repair", code=1)


HERE = LocalExecutor(workers=2)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """A store with the snapshots `many` and `few` of three shards each, which is too many for a commit to list."""
    monkeypatch.setattr("catalog.manifest.INLINE", 2)
    catalog = Catalog.open(tmp_path / "store", create=True)
    run(Sprout(), into="many", catalog=catalog, executor=HERE)
    run(Thin(), catalog.snapshot("many"), into="few", catalog=catalog, executor=HERE)
    return catalog


def test_lists_of_shards_and_counted_figures_are_made_again_from_what_is_left(listed: Catalog) -> None:
    catalog, few = listed, listed.snapshot("few")
    lost = [few.contents.manifests["thin"], few.contents.manifests["live"], few.contents.counts["documents"]]
    manifest = few.contents.manifests["documents"]
    for ref in lost:
        catalog.store.local(ref).unlink()
    flip(catalog, manifest)
    assert "4 problems" in invoke(catalog, code=1)
    printed = invoke(catalog, "--repair", code=0)
    for ref in lost[:2]:
        assert f"rebuilt {ref.path}: the list of " in printed
    assert f"rebuilt {lost[2].path}: the documents of few@1 were counted again" in printed
    assert printed.rstrip().endswith("no problems")
    found = verify(catalog)
    assert (found.problems, found.orphans) == ((), 0)


def test_a_list_that_nothing_else_has_is_lost_by_name_and_what_it_listed_is_spared_by_gc(listed: Catalog) -> None:
    catalog, manifest = listed, listed.snapshot("few").contents.manifests["documents"]
    catalog.store.local(manifest).unlink()
    (catalog.store.here / "catalog.duckdb").write_bytes(b"torn")
    printed = invoke(catalog, "--repair", code=1)
    assert f"lost {manifest.path}: what a sprout wrote can't be written again; it is part of few@1, many@1" in printed
    assert "that no commit names" not in printed
    result = CliRunner().invoke(app, ["gc", "--grace", "0s", "--store", catalog.store.root])
    assert isinstance(result.exception, CorruptStore)


def test_a_store_is_verified_after_the_lists_of_expired_shards_are_gone(listed: Catalog) -> None:
    manifest = listed.snapshot("few").contents.manifests["thin"]
    listed.expire(["few@1"], reason="test")
    CliRunner().invoke(app, ["gc", "--grace", "0s", "--store", listed.store.root])
    assert not listed.store.exists(manifest.path)
    assert "no problems" in invoke(listed, code=0)


@pytest.fixture
def pages(listed: Catalog, tmp_path: Path) -> list[str]:
    """Three files, read into the snapshot `pages` of three shards; the options that name them for a repair."""
    files = [tmp_path / f"{number}.jsonl" for number in range(3)]
    for number, path in enumerate(files):
        path.write_text(f'{{"text": "page {number}"}}\n')
    run(Ingest(paths=tuple(map(str, files)), shard_bytes=8), into="pages", catalog=listed, executor=HERE)
    return [word for path in files for word in ("--from", str(path))]


def without_list_and_file(catalog: Catalog) -> tuple[FileRef, FileRef]:
    """What `pages` lost: a list of shards, and a file that it lists."""
    made = catalog.snapshot("pages").contents
    gone = (made.manifests["documents"], made.shards[1].tables["documents"])
    for ref in gone:
        catalog.store.local(ref).unlink()
    return gone


def test_a_file_behind_a_list_that_was_lost_too_is_repaired_in_one_go(listed: Catalog, pages: list[str]) -> None:
    gone = without_list_and_file(listed)
    printed = invoke(listed, "--repair", *pages, code=0)
    for ref in gone:
        assert f"rebuilt {ref.path}" in printed


def test_what_is_lost_is_said_once_however_often_repair_looks(listed: Catalog, pages: list[str]) -> None:
    sprouted = listed.snapshot("many").contents.shards[0].tables["documents"]
    gone = without_list_and_file(listed)
    listed.store.local(sprouted).unlink()
    printed = invoke(listed, "--repair", *pages, code=1)
    assert f"rebuilt {gone[1].path}" in printed, "repair looked twice"
    assert printed.count(f"lost {sprouted.path}") == 1

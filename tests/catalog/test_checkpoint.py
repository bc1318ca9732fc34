from __future__ import annotations

import os
import shutil

import pytest

from catalog.audit import verify
from catalog.catalog import Catalog
from catalog.errors import CorruptStore
from catalog.log import CHECKPOINT_EVERY, Log, checkpoint_name, commit_name
from catalog.log_check import flaws, mend
from catalog.store import Store
from clusters.verify import verify_command

COMMITS = 2 * CHECKPOINT_EVERY + 3


@pytest.fixture(scope="module")
def long_log(tmp_path_factory):
    """A store of 2,003 commits; nothing of it needs to survive a power failure."""
    root = tmp_path_factory.mktemp("long")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        log = Log(Store(root))
        for number in range(COMMITS):
            log.append(lambda _, number=number: [{"number": number}])
    return root


@pytest.fixture
def root(long_log, tmp_path):
    """The same store to change; files are links, so replace them and don't write into them."""
    shutil.copytree(long_log, tmp_path / "store", copy_function=os.link)
    return tmp_path / "store"


def numbers(root) -> list[int]:
    return [commit.actions[0]["number"] for commit in Log(Store(root)).refresh()]


def put_in_place(root, name: str, data: bytes) -> None:
    (root / name).unlink()
    (root / name).write_bytes(data)


def test_opening_reads_a_checkpoint_for_each_thousand_commits(long_log, monkeypatch):
    store = Store(long_log)
    read, names = store.read, []
    monkeypatch.setattr(store, "read", lambda path: names.append(path) or read(path))
    log = Log(store)
    assert [commit.actions[0]["number"] for commit in log.refresh()] == list(range(COMMITS))
    assert names[:3] == [checkpoint_name(1000), checkpoint_name(2000), checkpoint_name(3000)]
    assert len(names) <= 3 + 3 + 2


def test_a_checkpoint_is_its_commit_files_one_after_another(long_log):
    for last in (1000, 2000):
        files = [(long_log / commit_name(n)).read_bytes() for n in range(last - 999, last + 1)]
        assert (long_log / checkpoint_name(last)).read_bytes() == b"".join(files)


def test_without_checkpoints_the_log_is_the_same(root):
    before = Log(Store(root)).refresh()
    for last in (1000, 2000):
        (root / checkpoint_name(last)).unlink()
    assert Log(Store(root)).refresh() == before


@pytest.mark.parametrize("kept", [0, 1, 137, 0.5, -300, -1])
def test_a_checkpoint_cut_short_is_passed_over_and_written_anew_by_the_next_commit(root, kept):
    whole = (root / checkpoint_name(1000)).read_bytes()
    put_in_place(root, checkpoint_name(1000), whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    assert numbers(root) == list(range(COMMITS))
    assert [flaw.name for flaw in flaws(Store(root))] == ([checkpoint_name(1000)] if kept else [])
    Log(Store(root)).append(lambda _: [{"number": COMMITS}])
    assert (root / checkpoint_name(1000)).read_bytes() == whole
    assert list(flaws(Store(root))) == []


def test_a_checkpoint_of_another_log_is_passed_over(root, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    other = Log(Store(tmp_path / "other"))
    for _ in range(CHECKPOINT_EVERY):
        other.append(lambda _: [{"number": -1}])
    shutil.copyfile(root / checkpoint_name(2000), tmp_path / "second")
    put_in_place(root, checkpoint_name(2000), (tmp_path / "other" / checkpoint_name(1000)).read_bytes())
    assert numbers(root) == list(range(COMMITS))
    put_in_place(root, checkpoint_name(1000), (tmp_path / "second").read_bytes())
    assert numbers(root) == list(range(COMMITS))


def test_an_edit_within_a_checkpoint_is_not_believed(root):
    whole = (root / checkpoint_name(1000)).read_bytes()
    put_in_place(root, checkpoint_name(1000), whole.replace(b'{"number":500}', b'{"number":999}'))
    assert numbers(root) == list(range(COMMITS))


def test_verify_finds_a_commit_that_only_its_checkpoint_still_has(root):
    lost, changed = (root / commit_name(n) for n in (7, 1500))
    bytes_of = {path: path.read_bytes() for path in (lost, changed)}
    lost.unlink()
    put_in_place(root, commit_name(1500), bytes_of[changed].replace(b'{"number":1499}', b'{"number":9999}'))
    assert numbers(root) == list(range(COMMITS))
    problems = verify(Catalog(Store(root))).problems
    assert problems[0] == f"{commit_name(7)}: missing or empty (the log holds a copy of it)"
    assert problems[1].startswith(f"{commit_name(1500)}: was changed after it was written")
    assert len(problems) == 2
    lines, sound = verify_command(Catalog(Store(root)), repairing=True, sources=(), workers=1)
    assert sound
    assert [f"  rebuilt {commit_name(n)}: the log holds a copy" for n in (7, 1500)] == lines[4:6]
    assert all(path.read_bytes() == data for path, data in bytes_of.items())
    assert verify(Catalog(Store(root))).problems == ()


def test_a_commit_that_is_nowhere_is_named_and_nothing_is_made_up_after_it(root):
    (root / commit_name(2002)).unlink()
    with pytest.raises(CorruptStore, match=r"_log/000000002002\.json is missing .*_log/000000002003\.json"):
        Log(Store(root)).refresh()
    assert [str(flaw) for flaw in flaws(Store(root))] == [f"{commit_name(2002)}: missing or empty"]
    assert mend(Store(root)) == []


def test_a_reader_that_was_left_behind_goes_on_with_checkpoints(long_log, tmp_path):
    root = tmp_path / "young"
    (root / "_log").mkdir(parents=True)
    for number in range(1, 11):
        os.link(long_log / commit_name(number), root / commit_name(number))
    log = Log(Store(root))
    assert len(log.refresh()) == 10
    for path in (long_log / "_log").iterdir():
        if not (root / "_log" / path.name).exists():
            os.link(path, root / "_log" / path.name)
    assert [commit.actions[0]["number"] for commit in log.refresh()] == list(range(COMMITS))

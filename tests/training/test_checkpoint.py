import threading
from pathlib import Path

import pytest
import torch

from training import checkpoint
from training.checkpoint import Saver, doomed, latest, save_checkpoint


def save(directory, step):
    tensors = {"b": torch.full((3,), float(step)), "a": torch.arange(4.0)}
    return save_checkpoint(directory, step=step, model=tensors, optimizer=tensors, state={"note": "x"})


def test_what_was_saved_comes_back_and_only_two_are_kept(tmp_path):
    for step in (1, 2, 10):
        save(tmp_path, step)
    found = latest(tmp_path)
    assert found.step == 10
    assert found.model()["b"].tolist() == [10.0] * 3
    assert found.state() == {"note": "x", "step": 10}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000010"]


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert latest(tmp_path / "absent") is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "COMMITTED"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_any_damage_falls_back_to_the_previous_checkpoint(tmp_path, name, damage):
    save(tmp_path, 1)
    path = save(tmp_path, 2).path / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
    assert latest(tmp_path).step == 1


def test_equal_tensors_give_equal_bytes(tmp_path):
    first, second = save(tmp_path / "a", 3), save(tmp_path / "b", 3)
    for path in first.path.iterdir():
        assert path.read_bytes() == (second.path / path.name).read_bytes()


def test_training_goes_on_while_a_copy_of_its_state_is_written(tmp_path, monkeypatch):
    may_write, honest = threading.Event(), checkpoint.write_folder

    def slow(*given):
        assert may_write.wait(20)
        honest(*given)

    monkeypatch.setattr(checkpoint, "write_folder", slow)
    saver, weights = Saver(tmp_path), {"a": torch.zeros(4)}
    saver.save(step=3, model=weights, optimizer={}, state={})
    assert saver.newest is None
    weights["a"] += 1  # the next step
    may_write.set()
    saver.close()
    assert saver.newest.step == 3
    assert latest(tmp_path).model()["a"].tolist() == [0.0] * 4
    assert latest(tmp_path).parameter_hash == saver.newest.parameter_hash


def test_what_a_writer_raises_ends_the_run(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_folder", full)
    saver = Saver(tmp_path)
    saver.save(step=3, model={"a": torch.zeros(4)}, optimizer={}, state={})
    with pytest.raises(OSError, match="No space left"):
        saver.close()


def test_the_last_two_the_newest_best_and_what_a_tag_names_are_kept():
    tags = {1: ["best"], 2: ["every"], 3: ["best"], 4: [], 5: ["branch"], 6: [], 7: [], 8: []}
    kept = {Path(str(step)): each for step, each in tags.items()}
    assert [path.name for path in doomed(kept)] == ["1", "4", "6"]


def test_the_newest_checkpoint_before_a_step_is_found(tmp_path):
    for step in (4, 8):
        save(tmp_path, step)
    assert latest(tmp_path, at_most=7).step == 4
    assert latest(tmp_path, at_most=3) is None

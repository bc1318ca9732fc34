import pytest
import torch

from training.checkpoint import latest, save_checkpoint


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

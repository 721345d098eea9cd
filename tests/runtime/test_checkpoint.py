import json

import numpy as np
import pytest
import torch

from rd_hf.runtime import checkpoint as checkpoint_module
from rd_hf.runtime.checkpoint import (
    Checkpoint,
    CheckpointError,
    list_checkpoints,
    load_latest,
    optimizer_tensors,
    put_into,
    restore_optimizer,
    save_checkpoint,
)


def make(step: int) -> Checkpoint:
    return Checkpoint(step, {"model": {"weight": torch.full((3,), float(step))}}, {"best_score": 0.5})


def test_a_checkpoint_comes_back_as_it_was_and_only_the_last_are_kept(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, make(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]
    loaded = load_latest(tmp_path)
    assert loaded.step == 3 and loaded.state == {"best_score": 0.5}
    assert torch.equal(loaded.tensors["model"]["weight"], torch.full((3,), 3.0))


@pytest.mark.parametrize("damage", ["flip", "truncate", "no state"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog, damage):
    save_checkpoint(tmp_path, make(1), keep=2)
    newest = save_checkpoint(tmp_path, make(2), keep=2)
    weights = newest / "model.safetensors"
    if damage == "flip":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-4])
    else:
        (newest / "state.json").unlink()
    assert load_latest(tmp_path).step == 1
    assert "step-00000002" in caplog.text


def test_damage_anywhere_in_the_newest_is_noticed(tmp_path):
    generator = np.random.default_rng(0)
    save_checkpoint(tmp_path, make(1), keep=2)
    newest = save_checkpoint(tmp_path, make(2), keep=2)
    contents = {path: path.read_bytes() for path in sorted(newest.iterdir())}
    for path, content in list(contents.items()) * 60:
        place = int(generator.integers(len(content)))
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(flipped if generator.random() < 0.5 else content[:place])
        loaded = load_latest(tmp_path)
        # A space between two values that became a tab or a line break has damaged nothing.
        harmless = path.suffix == ".json" and (content[place : place + 1] + flipped[place : place + 1]).isspace()
        assert loaded.step == 1 or harmless, (path.name, place)
        path.write_bytes(content)
    assert load_latest(tmp_path).step == 2


def test_what_a_killed_process_left_is_cleared_away_and_never_read(tmp_path):
    save_checkpoint(tmp_path, make(1), keep=2)
    for name in (".writing-step-00000002", ".removing-step-00000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    assert load_latest(tmp_path).step == 1
    save_checkpoint(tmp_path, make(3), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_no_checkpoint_is_an_error_that_names_the_folder(tmp_path):
    with pytest.raises(CheckpointError, match=tmp_path.name):
        load_latest(tmp_path)


def test_a_failed_write_leaves_the_earlier_checkpoint_and_nothing_half_written(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, make(1), keep=2)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, make(2), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_latest(tmp_path).step == 1


def test_nothing_but_safetensors_and_json_is_written(tmp_path):
    folder = save_checkpoint(tmp_path, make(1), keep=1)
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "state.json"]
    json.loads((folder / "state.json").read_text())


def test_tensors_of_other_names_are_refused_and_one_name_of_a_shared_tensor_is_enough():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False))
    module[1].weight = module[0].weight
    saved = {"0.weight": torch.eye(2), "0.bias": torch.ones(2)}
    put_into(module, saved)
    assert torch.equal(module[1].weight, torch.eye(2)) and torch.equal(module[0].bias, torch.ones(2))
    with pytest.raises(CheckpointError, match=r"are not those of this model: 0\.bias is missing"):
        put_into(module, {"0.weight": torch.eye(2), "0.offset": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"are not those of this model: 2\.weight is unknown"):
        put_into(module, saved | {"2.weight": torch.eye(2)})


def test_an_optimizer_goes_on_to_the_bit():
    def trained(optimizer, weight, steps):
        for step in range(steps):
            weight.grad = torch.sin(torch.arange(4.0) + step)
            optimizer.step()

    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    trained(optimizer, weight, 3)
    copy = torch.nn.Parameter(weight.detach().clone())
    other = torch.optim.AdamW([copy], lr=0.1)
    restore_optimizer(other, {name: value.clone() for name, value in optimizer_tensors(optimizer).items()})
    trained(optimizer, weight, 2)
    trained(other, copy, 2)
    assert torch.equal(weight, copy)

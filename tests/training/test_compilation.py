"""torch.compile of blocks: the same training, and models that are as they were afterwards."""

import functools

import pytest
import torch
from test_distillation import TINY_RESNET, TINY_VIT, settings
from torch import nn
from transformers import AutoModelForImageClassification, ViTConfig

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.training import compilation
from rd_hf.training.run_folder import read_history
from rd_hf.training.trainer import Trainer

TERMS = ("loss", "supervised", "hybrid", "kl", "cka_loss")


@pytest.fixture
def quick_compiler(monkeypatch):
    """Graphs are traced, differentiated and guarded as ever, but not translated to C++, which takes minutes."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize(("student", "method"), [(TINY_RESNET, "drd"), (TINY_VIT, "ce")])
def test_a_compiled_run_trains_as_another_does(
    teacher, blobs_npz, tmp_path, monkeypatch, quick_compiler, student, method
):
    # compiled dropout draws other masks; two blocks are enough
    steady = {"hidden_dropout_prob": 0.0, "num_hidden_layers": 2} if student is TINY_VIT else {}
    compiled = []
    step = Trainer.optimizer_step

    def noted(self, batches):
        compiled.append(sum("forward" in vars(module) for module in self.module.modules()))
        return step(self, batches)

    monkeypatch.setattr(Trainer, "optimizer_step", noted)
    losses = []
    for folder, changes in (("plain", {}), ("compiled", {"torch_compile": True})):
        values = settings(teacher, blobs_npz, tmp_path / folder, student=student | steady, method=method, cache=False)
        trained = rd_hf.distill(**(values | {"max_steps": 2, "use_unlabeled": method != "ce"} | changes))
        assert not any("forward" in vars(module) for module in trained.modules())
        losses.append([row[t] for row in read_history(tmp_path / folder) for t in TERMS if t in row])
    assert compiled[:2] == [0, 0] and min(compiled[2:]) >= 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0]


def test_blocks_with_a_recorded_module_inside_and_models_without_blocks(quick_compiler):
    model = AutoModelForImageClassification.from_config(
        ViTConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=32)
    )
    blocks = compilation.list_blocks(model)
    inside = f"{next(iter(blocks))}.intermediate"
    with compilation.compiled(model, [inside, list(blocks)[1]]) as names:
        assert names == list(blocks)[1:]
        assert "forward" not in vars(next(iter(blocks.values())))
    with pytest.raises(ArgumentError, match="torch_compile.*Sequential"), compilation.compiled(nn.Sequential()):
        pass


def test_a_machine_without_a_compiler_is_told_before_anything_is_loaded(teacher, blobs_npz, tmp_path, monkeypatch):
    def missing(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", missing)
    with pytest.raises(ArgumentError, match=r"torch_compile.*No working C\+\+ compiler"):
        rd_hf.distill(**settings(teacher, blobs_npz, tmp_path / "run"), torch_compile=True)
    assert not (tmp_path / "run").exists()

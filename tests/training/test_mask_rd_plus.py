"""RD+ on masks: the start at a dense probe, targets of each pixel, what a run leaves, and what is refused."""

import numpy as np
import pytest
import torch
from conftest import blob_mask_arrays
from safetensors.torch import load_file
from stopped_runs import interrupted, losses
from test_mask_runs import settings
from transformers import ViTConfig, ViTModel

import rd_hf
from rd_hf.arguments.config import read_config
from rd_hf.arguments.values import ArgumentError
from rd_hf.models.backbone import Backbone
from rd_hf.models.configuration_monai import MonaiNetConfig
from rd_hf.models.features import StageFeature
from rd_hf.models.grids import resize
from rd_hf.models.modeling_monai import MonaiNetForSemanticSegmentation
from rd_hf.models.modeling_rd_segmentation import RDStudentForSemanticSegmentation
from rd_hf.models.modeling_rd_teacher_segmentation import RDTeacherForSemanticSegmentation
from rd_hf.runtime.checkpoint import list_checkpoints
from rd_hf.tasks.segmentation import Segmentation
from rd_hf.training import target_start
from rd_hf.training.passes import Passes
from rd_hf.training.run_folder import read_history
from rd_hf.training.schedules import Rise
from rd_hf.training.targets import TargetMaker

TASK = Segmentation(["background", "bright"])


@pytest.fixture(scope="module")
def masks_npz(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "masks.npz"
    np.savez(path, **blob_mask_arrays())
    return path


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reprogrammed() -> tuple[RDTeacherForSemanticSegmentation, list[StageFeature]]:
    """A small teacher of masks, and features of 12 images."""
    torch.manual_seed(0)
    config = MonaiNetConfig(
        "UNet", spatial_dims=2, in_channels=3, image_size=24, num_labels=2,
        arguments={"channels": [4, 8, 8], "strides": [2, 2]},
    )  # fmt: skip
    student = RDStudentForSemanticSegmentation.from_classifier(MonaiNetForSemanticSegmentation(config))
    vit = ViTConfig(
        hidden_size=8, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, patch_size=8, image_size=32
    )
    backbone = Backbone.from_model(ViTModel(vit, add_pooling_layer=False))
    model = RDTeacherForSemanticSegmentation.from_parts(student, backbone, 32, skips="reprogrammed", hidden_channels=16)
    return model, [feature._replace(map=feature.map.clone()) for feature in backbone.extract(random(12, 3, 32, 32))]


def test_projectors_are_fitted_such_that_the_hybrid_logits_are_the_dense_probes(monkeypatch):
    model, features = reprogrammed()
    probe = torch.nn.Conv2d(8, 2, kernel_size=1).requires_grad_(False)
    before = {name: value.clone() for name, value in model.student.state_dict().items()}
    monkeypatch.setattr(target_start, "FIT_STEPS", 0)
    untrained = target_start.start_at_probe(model, probe, features, TASK, seed=0)
    monkeypatch.setattr(target_start, "FIT_STEPS", 120)
    left = target_start.start_at_probe(model, probe, features, TASK, seed=0)
    assert left < 0.6 * untrained
    assert all(torch.equal(value, before[name]) for name, value in model.student.state_dict().items())


def test_the_targets_of_a_pixel_are_the_mean_of_hybrid_and_probe():
    probe = torch.nn.Conv2d(8, 2, kernel_size=1).requires_grad_(False)
    hybrid, student, feature = random(3, 2, 24, 24), random(3, 2, 24, 24, seed=1), StageFeature(random(3, 8, 4, 4))
    maker = TargetMaker(TASK, Rise(0.0, 10), probe, 0.5)
    found = maker([0, 1, 2], [feature], Passes(student, (hybrid,)), 5)
    probed = resize(probe(feature.map), (24, 24))
    wanted = 0.5 * hybrid + 0.5 * probed
    torch.testing.assert_close(found.student.softmax(dim=1), wanted.softmax(dim=1))
    torch.testing.assert_close(found.probe.softmax(dim=1), probed.softmax(dim=1))
    assert found.share == 0 and torch.equal(found.student, found.teacher)


def test_a_run_goes_on_to_the_bit(teacher, masks_npz, tmp_path, monkeypatch):
    monkeypatch.setattr(target_start, "FIT_STEPS", 5)
    values = settings(
        teacher, masks_npz, tmp_path / "whole", method="rd_plus", num_views=2, max_steps=6, eval_steps=3, kl_weight=3
    )
    rd_hf.distill(**values)
    row = next(row for row in read_history(tmp_path / "whole") if "loss" in row)
    assert {"supervised", "hybrid", "kl", "probe", "cka_loss"} <= set(row) and not {"mutual", "dist"} & set(row)
    config = read_config(tmp_path / "whole" / "config.yaml")
    named = ("method", "teacher_features", "target_views", "divergence", "ensemble_share", "probe_share", "kl_weight")
    assert [config[name] for name in named] == ["rd_plus", "stage", "one", "kl", 0.0, 0.5, 3.0]
    values["output_dir"] = str(tmp_path / "cut")
    interrupted(monkeypatch, values, 5)
    kept = list_checkpoints(tmp_path / "cut" / "checkpoints")[-1]
    assert load_file(kept / "probe.safetensors")["weight"].shape[2:] == (1, 1)
    rd_hf.distill(**values, resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ensemble_share": 0.5}, "`ensemble_share` and `target_views` mean are for classes"),
        ({"target_views": "mean"}, "set `ensemble_share` to 0 and `target_views` to one, or leave them out"),
        ({"teacher_features": "all"}, "`teacher_features` is only for classes"),
        ({"method": "rd", "target_views": "mean"}, "`target_views` mean is for classes, and needs a number of views"),
        ({"skips": "own"}, "`projector_start` probe needs hybrid logits that follow the teacher alone"),
        ({"method": "rd", "teacher_features": "all"}, "`teacher_features` is only for classes"),
    ],
)
def test_what_masks_do_not_have_is_refused(teacher, masks_npz, tmp_path, changes, named):
    values = settings(teacher, masks_npz, tmp_path / "run", num_views=2) | {"method": "rd_plus"} | changes
    with pytest.raises(ArgumentError, match=named):
        rd_hf.distill(**values)

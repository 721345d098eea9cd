"""`rd-hf compare` on volumes: every method with a teacher of slices and one of volumes, the probe, what is refused."""

import json

import nibabel
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from test_comparison import make_plan, results, run_here

from rd_hf.arguments.values import ArgumentError
from rd_hf.comparison import run as comparison_run
from rd_hf.comparison.costs import measure_costs
from rd_hf.comparison.losses.features import attention, hint
from rd_hf.comparison.losses.maps import channel_wise, pixel_relations
from rd_hf.comparison.methods import METHODS
from rd_hf.comparison.runs import Run
from rd_hf.comparison.workers import ComparisonError, check_finished
from rd_hf.models.configuration_monai import MonaiNetConfig
from rd_hf.models.modeling_monai import MonaiNetForSemanticSegmentation
from rd_hf.training.mask_probe import Places, class_shares, fit_heads

OF_VOLUMES = [name for name, method in METHODS.items() if method.adaptation not in ("lora", "full")]
SEGMENTER = {"model_type": "monai", "network": "UNet", "arguments": {"channels": [4, 8, 16], "strides": [2, 2]}}
CLASSIFIER = {
    "model_type": "monai", "network": "ResNet",
    "arguments": {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8], "conv1_t_size": 3},
}  # fmt: skip


def balls(count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Noisy volumes (count, 14, 12, 10) with a bright ball, and its masks."""
    axes = np.stack(np.mgrid[:14, :12, :10], axis=-1)
    centres, radii = generator.integers((4, 4, 3), (10, 8, 7), (count, 3)), generator.integers(2, 5, count)
    distances = np.linalg.norm(axes[None] - centres[:, None, None, None], axis=-1)
    masks = (distances < radii[:, None, None, None]).astype(np.uint8)
    return generator.normal(0, 0.2, masks.shape) + masks, masks


@pytest.fixture(scope="module")
def masked_volumes(tmp_path_factory):
    """The Decathlon's layout: 10 volumes to train on and 4 of test, 2 mm apart along the last axis."""
    root, generator = tmp_path_factory.mktemp("balls"), np.random.default_rng(0)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    for part, count in (("Tr", 10), ("Ts", 4)):
        for number, pair in enumerate(zip(*balls(count, generator), strict=True)):
            for kind, values in zip(("images", "labels"), pair, strict=True):
                (root / f"{kind}{part}").mkdir(exist_ok=True)
                dtype = np.float32 if kind == "images" else np.uint8
                file = root / f"{kind}{part}" / f"ball_{part}_{number}.nii.gz"
                nibabel.save(nibabel.Nifti1Image(values.astype(dtype), affine), file)
    stated = {"labels": {"0": "background", "1": "ball"}, "modality": {"0": "MRI"}, "numTraining": 10}
    (root / "dataset.json").write_text(json.dumps(stated))
    return root


@pytest.fixture(scope="module")
def classed_volumes(tmp_path_factory):
    """MedMNIST3D's layout: bright and dark volumes."""
    file, generator = tmp_path_factory.mktemp("shades") / "shades.npz", np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 12), ("val", 6), ("test", 6)):
        labels = np.arange(count) % 2
        noise = generator.integers(0, 120, (count, 8, 8, 8))
        arrays[f"{split}_images"] = (noise + 80 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None]
    np.savez(file, **arrays)
    return file


@pytest.fixture(scope="module")
def teacher_of_volumes(tmp_path_factory):
    """A folder with a small network that reads volumes."""
    folder = tmp_path_factory.mktemp("teacher_of_volumes")
    torch.manual_seed(3)
    arguments = {"channels": [6, 8, 12], "strides": [1, 2]}
    config = MonaiNetConfig("UNet", 3, 1, 16, arguments, num_labels=2)
    MonaiNetForSemanticSegmentation(config).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without plots, and with a short start of RD+."""
    monkeypatch.setattr("rd_hf.training.target_start.FIT_STEPS", 2)
    for name in ("plot_scores", "plot_frontier", "plot_costs"):
        monkeypatch.setattr(f"rd_hf.comparison.report.{name}", lambda *_: None)


@pytest.fixture
def teachers(teacher, teacher_of_volumes):
    return {"slices": {"teacher": str(teacher)}, "volumes": {"teacher": str(teacher_of_volumes)}}


@pytest.fixture
def grid(masked_volumes, teachers, tmp_path):
    """The values of a small comparison on masks of volumes."""
    return {
        "data": {"balls": {"dataset": str(masked_volumes), "crop_size": "16,8,8", "student": SEGMENTER}},
        "teachers": teachers,
        "arguments": {
            "max_steps": 2, "eval_steps": 2, "num_views": 1, "per_device_train_batch_size": 2,
            "per_device_unlabeled_batch_size": 2, "learning_rate": 5e-3,
        },
        "methods": ["ce", "rd"], "shots": [3], "seeds": [0], "output_dir": str(tmp_path / "compared"),
    }  # fmt: skip


def test_every_method_learns_masks_of_volumes_from_both_kinds_of_teachers(grid, tmp_path):
    of_masks = [name for name in OF_VOLUMES if "masks" in METHODS[name].targets and name != "ce"]
    teachers = {name: {"teachers": {name: values}} for name, values in grid["teachers"].items()}
    by_slices = teachers["slices"] | {"methods": ["ce", "linear_probe", "lp_kd", "drd"]}
    kept = {}
    for plan in (make_plan(grid, **by_slices), make_plan(grid, **teachers["volumes"], methods=of_masks)):
        assert run_here(plan) == []
        for cell in plan.cells():
            folder = tmp_path / "compared" / cell.path
            result = json.loads((folder / "result.json").read_text())
            assert result["settings"]["cka_features"] == "positions"
            assert result["volumes"] == {"size": [16, 8, 8], "channels": 1}
            assert 0 <= result["test"]["dice"] <= 1
            kept[cell.teacher, cell.entry.name] = load_file(folder / "predictions.safetensors")["test/rows"]
            assert kept[cell.teacher, cell.entry.name].shape == (4, 10)
    assert len({rows.tobytes() for rows in kept.values()}) >= len(kept) - 4  # after two steps some may agree
    check_finished(plan, plan.cells(), tmp_path / "compared")
    pooled = make_plan(
        grid, **teachers["volumes"], methods=of_masks, arguments=grid["arguments"] | {"cka_features": "pooled"}
    )
    with pytest.raises(ComparisonError, match="cka_features was 'positions', is 'pooled'"):
        check_finished(pooled, pooled.cells(), tmp_path / "compared")
    rows = comparison_run.run_comparison(make_plan(grid, **by_slices, table_only=True))
    assert len(rows) == 4
    text = (tmp_path / "compared" / "results.md").read_text()
    assert "| labelled volumes | 3 | rank |" in text and "GFLOP per crop" in text and "image" not in text
    costs = json.loads((tmp_path / "compared" / "costs.json").read_text())
    assert len(costs) == 3 and all(key == "counted_as" or cost["gflop"] > 0 for key, cost in costs.items())


def test_methods_learn_classes_of_volumes(grid, classed_volumes, tmp_path):
    shades = {"dataset": str(classed_volumes), "volume_size": 16, "student": CLASSIFIER}
    methods = {"slices": ["linear_probe"], "volumes": ["linear_probe", "fitnet", "rd"]}
    root = tmp_path / "compared"
    for name, own in methods.items():
        plan = make_plan(grid, data={"shades": shades}, teachers={name: grid["teachers"][name]}, methods=own)
        assert run_here(plan) == []
        runs = [Run(cell, root) for cell in plan.cells()]
        assert all({"test_auroc", "test_accuracy"} <= run.row.keys() and run.shown == "volume" for run in runs)
        costs = measure_costs(plan, runs, root)
    assert len(costs) == 3 and all(cost.gflop > 0 for cost in costs.values())


def test_the_probe_of_bright_voxels_finds_the_ball(grid, tmp_path):
    fine = {"fine": grid["teachers"]["volumes"] | {"teacher_stages": ["network.model.0"]}}
    plan = make_plan(grid, methods=["linear_probe"], shots=["all"], teachers=fine)
    assert run_here(plan) == []
    (found,) = results(plan, tmp_path).values()
    assert found["test"]["dice"] > 0.6 and found["test"]["hd95"] < 6  # millimetres


@pytest.mark.parametrize("name", ["lora", "full", "lora_kd"])
def test_training_the_teacher_is_refused(grid, name):
    said = {"balls": grid["data"]["balls"] | {"dimensions": 3}}
    with pytest.raises(ArgumentError, match=f"The method '{name}' trains the teacher itself, which .* for volumes"):
        make_plan(grid, methods=[name], data=said)


def test_it_is_refused_too_where_the_data_show_that_they_are_volumes(grid):
    assert ["trains the teacher itself" in line for line in run_here(make_plan(grid, methods=["lora"]))] == [True] * 2


def test_losses_of_flat_volumes_are_those_of_images():
    student, teacher = torch.randn(2, 3, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    for loss in (hint, attention, channel_wise, pixel_relations):
        assert loss(student[..., None], teacher[..., None]).item() == pytest.approx(loss(student, teacher).item())
        finer = teacher.repeat_interleave(2, dim=2)[..., None]  # averaged to the student's grid
        assert loss(student[..., None], finer).item() == pytest.approx(loss(student, teacher).item())
    with pytest.raises(ValueError, match="maps must have 4 dimensions"):
        hint(student[..., None], teacher)


def test_the_probe_of_volumes_reads_each_voxel_as_one_of_images_reads_each_pixel():
    labels = torch.arange(60) % 2
    features = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) + labels[:, None]
    shares = torch.nn.functional.one_hot(labels, 2).float()
    (flat,), (solid,) = (fit_heads(Places(features, shares, sides), (1.0,), None) for sides in (2, 3))
    with torch.no_grad():
        torch.testing.assert_close(
            flat(features.T[None, :, :, None])[0, :, :, 0], solid(features.T[None, :, None, :, None])[0, :, 0, :, 0]
        )


def test_the_shares_of_a_place_in_a_volume():
    masks = torch.tensor([[[[0, 1], [1, 255]], [[1, 1], [1, 1]]]])
    assert class_shares(masks, 2, (2, 1, 1))[0, :, :, 0, 0].tolist() == [[0.25, 0.0], [0.5, 1.0]]

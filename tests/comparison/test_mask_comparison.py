"""`rd-hf compare` on masks: every method end to end, its tables, the probe of places, and what is refused."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from test_comparison import make_plan, run_here

from rd_hf.arguments.values import ArgumentError
from rd_hf.comparison import run as comparison_run
from rd_hf.comparison.bench import Bench
from rd_hf.comparison.losses.logits import kd
from rd_hf.comparison.mask_transfers import on_pixels
from rd_hf.comparison.methods import METHODS
from rd_hf.comparison.trainings import read_whole_map
from rd_hf.runtime.processes import start_accelerator
from rd_hf.tasks.segmentation import Segmentation
from rd_hf.training.mask_probe import Places, class_shares, fit_heads
from rd_hf.training.trainer import Trainer

STUDENT = {"model_type": "monai", "network": "UNet", "arguments": {"channels": [4, 8, 16], "strides": [2, 2]}}
OF_MASKS = [name for name, method in METHODS.items() if "masks" in method.targets]


def disc_arrays(size: int = 32) -> dict[str, np.ndarray]:
    """Noisy images with a bright disc, and masks of it; 12 train, 5 validation and 6 test images."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size]
    arrays = {"classes": np.array(["background", "lesion"])}
    for split, count in (("train", 12), ("val", 5), ("test", 6)):
        images = generator.integers(0, 70, (count, size, size))
        masks = np.zeros((count, size, size), dtype=np.uint8)
        for number in range(count - (split == "test")):  # the last test image has none
            row, column, radius = generator.integers((8, 8, 4), (24, 24, 9))
            masks[number] = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        arrays[f"{split}_images"] = (images + 140 * masks).astype(np.uint8)
        arrays[f"{split}_masks"] = masks
    return arrays


@pytest.fixture
def grid(teacher, tmp_path):
    """The values of a small comparison on masks."""
    np.savez(tmp_path / "discs.npz", **disc_arrays())
    return {
        "data": {"discs": {"dataset": str(tmp_path / "discs.npz")}},
        "teachers": {"tiny": {"teacher": str(teacher)}},
        "arguments": {
            "student": STUDENT, "student_image_size": 32, "max_steps": 2, "eval_steps": 2, "num_views": 1,
            "per_device_train_batch_size": 4, "per_device_unlabeled_batch_size": 4, "learning_rate": 5e-3,
        },
        "methods": ["ce", "rd"], "shots": [4], "seeds": [0], "output_dir": str(tmp_path / "compared"),
    }  # fmt: skip


def test_every_method_for_masks_trains_from_the_same_start(grid, tmp_path, monkeypatch):
    starts, train = [], Trainer.train

    def watched(self, deadline=None):
        student = getattr(self.module, "student", self.module)
        if type(student).__name__ == "RDStudentForSemanticSegmentation":
            starts.append(torch.cat([p.detach().flatten() for p in student.parameters()]))
        return train(self, deadline)

    monkeypatch.setattr(Trainer, "train", watched)
    monkeypatch.setattr("rd_hf.training.target_start.FIT_STEPS", 2)
    skips = [{"name": f"{name}, own skips", "method": name, "skips": "own"} for name in ("rd", "drd")]
    plan = make_plan(grid, methods=[*OF_MASKS, *skips])
    assert run_here(plan) == []
    assert len(starts) == len(OF_MASKS) - 3 + 2 and all(torch.equal(starts[0], start) for start in starts[1:])
    kept, found = {}, {}
    for cell in plan.cells():
        folder = tmp_path / "compared" / cell.path
        found[cell.entry.name] = result = json.loads((folder / "result.json").read_text())
        assert 0 <= result["test"]["dice"] <= 1 and 0 <= result["validation"]["dice"] <= 1
        kept[cell.entry.name] = load_file(folder / "predictions.safetensors")["test/rows"]
        assert kept[cell.entry.name].shape == (6, 10)
    students = {name: rows for name, rows in kept.items() if METHODS.get(name, METHODS["rd"]).role != "teacher"}
    assert len({rows.tobytes() for rows in students.values()}) >= len(students) - 2  # after two steps some may agree
    deployed = {name: result["deployed_parameters"] for name, result in found.items()}
    assert len({deployed[name] for name in students}) == 1 and deployed["lora"] == deployed["full"] > deployed["rd"]
    assert found["linear_probe"]["trained_parameters"] == 2 * 24 + 2
    assert all("teacher_C" in found[name] for name in ("linear_probe", "lp_kd", "lp_dist", "lp_cwd"))


def test_tables_and_figures_are_of_dice_and_finished_runs_are_not_repeated(grid, tmp_path):
    values = grid | {"methods": ["ce", "linear_probe", "rd"], "shots": [4, "all"], "seeds": [0, 1]}
    assert run_here(make_plan(values)) == []
    root = tmp_path / "compared"
    times = {path: path.stat().st_mtime_ns for path in root.rglob("result.json")}
    rows = comparison_run.run_comparison(make_plan(values))
    assert {path: path.stat().st_mtime_ns for path in root.rglob("result.json")} == times and len(times) == len(
        rows
    ) == 12
    text = (root / "results.md").read_text()
    assert "| labelled images | 4 | all | rank |" in text and "Dice on test, mean" in text and "AUROC" not in text
    assert "Difference from RD" in text and re.search(r"\(-0.\d+ to \+0.\d+; p ", text)
    for name in ("scores", "frontier"):
        assert (root / f"{name}_discs_teacher_tiny_with_the_unlabelled_rest.png").is_file()
    written = list(csv.DictReader((root / "results.csv").open()))
    assert len(written) == 12 and {"test_dice", "test_hd95", "validation_iou"} <= set(written[0])
    costs = json.loads((root / "costs.json").read_text())
    assert sum("masks" in key and value["gflop"] > 0 for key, value in costs.items() if key != "counted_as") == 2


def test_a_method_is_refused_for_what_it_does_not_learn(grid, blobs_npz, monkeypatch):
    (line,) = run_here(make_plan(grid, methods=["rkd"]))
    assert "The method 'rkd' learns classes, but the data has masks: leave it out, or take one of ce" in line
    said = {"discs": grid["data"]["discs"] | {"task": "segmentation"}}
    with pytest.raises(ArgumentError, match="The method 'dkd' learns|The method 'lp_dkd' learns classes"):
        make_plan(grid, methods=["lp_dkd"], data=said)
    with pytest.raises(ArgumentError, match="The method 'cwd' learns masks, but the data has classes"):
        make_plan(grid, methods=["cwd"], data={"blobs": {"dataset": str(blobs_npz), "task": "classification"}})


def test_classes_and_masks_stand_beside_each_other(grid, blobs_npz, tmp_path):
    of_classes = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    blobs = {"dataset": str(blobs_npz), "student": of_classes | {"layer_type": "basic"}}
    plan = make_plan(grid, methods=["ce"], data=grid["data"] | {"blobs": blobs}, shots=[4])
    assert run_here(plan) == []
    rows = comparison_run.run_comparison(make_plan(grid, methods=["ce"], data=plan.comparison.data, table_only=True))
    assert [("test_dice" in row, "test_auroc" in row) for row in rows] == [(True, False), (False, True)]
    text = (tmp_path / "compared" / "results.md").read_text()
    assert "## All data sets of masks" in text and "## All data sets of classes" in text
    assert "| test Dice | discs 4 |" in text and "| test AUROC | blobs 4 |" in text  # of one seed


def test_the_command_tunes_by_dice_and_compares(grid, tmp_path, python):
    config, tuning = tmp_path / "compare.yaml", {"weight": [1.0, 3.0], "shots": 4, "seeds": [100]}
    config.write_text(yaml.safe_dump(grid | {"methods": ["cwd"], "tuning": tuning, "workers": 1}))
    done = python("-m", "rd_hf", "compare", "--config", str(config))
    assert done.returncode == 0, done.stderr
    tried = json.loads((tmp_path / "compared" / "tuning.json").read_text())
    assert len(tried) == 2 and sum(row["chosen"] for row in tried) == 1
    assert all(0 <= score <= 1 for row in tried for score in row["validation"])
    assert "| CWD | **" in (tmp_path / "compared" / "results.md").read_text()


def test_the_teacher_keeps_its_own_grid_for_a_probe(grid):
    plan = make_plan(grid, methods=["linear_probe"])
    arguments = plan.cell_arguments(plan.cells()[0], Path("unused"))
    bench = Bench(arguments, start_accelerator(arguments))
    models = bench.models(arguments)
    (coarse,) = (projector.input_grid for projector in models.teacher.projectors[-1:])
    read_whole_map(models.teacher, models.backbone)
    pixels = torch.zeros(1, 3, *models.transforms.teacher.size)
    assert tuple(models.backbone.extract(pixels)[-1].map.shape[2:]) == models.teacher.teacher_stages[-1].grid
    assert coarse <= models.teacher.teacher_stages[-1].grid


def test_the_probe_of_places_is_the_regression_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    features = torch.randn(120, 5, generator=generator) * 3 + 2 + torch.nn.functional.one_hot(labels, 5)
    places = Places(features, torch.nn.functional.one_hot(labels, 3).float())
    standardised = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    heads = fit_heads(places, (0.01, 1.0), None)
    for inverse, head in zip((0.01, 1.0), heads, strict=True):
        expected = LogisticRegression(C=inverse, max_iter=1000, tol=1e-8).fit(standardised.numpy(), labels.numpy())
        with torch.no_grad():
            given = head(features.T[None, :, :, None])[0, :, :, 0].T.softmax(dim=1).numpy()
        np.testing.assert_allclose(given, expected.predict_proba(standardised.numpy()), atol=2e-3)
    # A place that is half one class and half another counts as one place of each, at half the weight.
    half = Places(features.repeat(2, 1), torch.nn.functional.one_hot(torch.cat([labels, (labels + 1) % 3]), 3) / 2)
    mixed = Places(features, half.shares[:120] + half.shares[120:])
    one, two = (fit_heads(own, (0.1,), None)[0] for own in (half, mixed))
    torch.testing.assert_close(one.weight, two.weight, atol=1e-3, rtol=1e-3)


def test_the_shares_of_a_place():
    masks = torch.tensor([[[0, 1, 2, 2], [1, 1, 255, 2]]])
    shares = class_shares(masks, 3, (1, 2))
    assert shares[0, :, 0, 0].tolist() == [0.25, 0.75, 0.0] and shares[0, :, 0, 1].tolist() == [0.0, 0.0, 0.75]
    assert class_shares(masks, 3, (2, 8)).shape == (1, 3, 2, 8)  # a grid finer than the mask


def test_kd_of_pixels_is_the_divergence_of_the_task():
    student, teacher = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    task = Segmentation(["a", "b", "c", "d"])
    expected = task.divergence(teacher.view(3, 4, 5, 6), student.view(3, 4, 5, 6), 4.0) / 3
    assert on_pixels(kd)(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)

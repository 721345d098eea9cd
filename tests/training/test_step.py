"""One optimiser step, whichever way its rows are shared out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import blob_arrays, blob_mask_arrays
from drawn_data import write_masks
from safetensors.torch import load_file
from trajectory import CASES, STEPS, TINY_UNET_OF_VOLUMES, TINY_VIT
from transformers import AutoModel, ResNetConfig, ViTImageProcessorPil

SCRIPT = Path(__file__).parent / "trajectory.py"
# Processes, micro-batches of each, and the cases. What holds for two processes of two parts is not repeated for each.
LAYOUTS = {
    "one": (1, 1, list(CASES)),
    "two_processes": (2, 1, ["rd_plus", "masks_rd_plus", "volumes_drd"]),
    "two_processes_of_two_parts": (2, 2, list(CASES)),
}
CASES_OF_LAYOUTS = [(layout, case) for layout, (*_, cases) in LAYOUTS.items() for case in cases if layout != "one"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, warm_python):
    """A data set and a teacher, and in a folder for each layout what the trainings of all cases gave."""
    folder = tmp_path_factory.mktemp("trajectories")
    np.savez(folder / "blobs.npz", **blob_arrays(test=23))
    np.savez(folder / "masks.npz", **blob_mask_arrays())
    write_masks(folder / "volumes")
    torch.manual_seed(5)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 1, 1], layer_type="basic")
    AutoModel.from_config(config).save_pretrained(folder / "teacher")
    ViTImageProcessorPil(size={"height": 40, "width": 40}).save_pretrained(folder / "teacher")
    for processes in (1, 2):  # each imports what the trainings need once for its layouts
        own = {name: rest for name, (number, *rest) in LAYOUTS.items() if number == processes}
        layouts = [f"{name}={parts}={','.join(cases)}" for name, (parts, cases) in own.items()]
        command = ("-c", SCRIPT.read_text(), str(folder), *layouts)
        for done in warm_python.processes(processes, *command, cwd=folder):
            assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize(("layout", "case"), CASES_OF_LAYOUTS)
def test_one_trajectory_in_one_large_batch_in_processes_and_in_accumulated_parts(folder, layout, case):
    exact = CASES[case]["dtype"] == torch.float64
    expected, found = (json.loads((folder / name / f"{case}.json").read_text()) for name in ("one", layout))
    of_method = {"rd_plus": {"dist", "probe"}, "masks_rd_plus": {"kl", "probe"}}.get(case, {"kl"})
    assert len(found) == STEPS and {"supervised", "hybrid", "cka_loss", "cka/1"} | of_method <= found[0].keys()
    assert ("mutual" in found[-1]) == (case == "rd_plus")
    for one, other in zip(expected, found, strict=True):
        if not exact:  # a norm of 15 has no five digits after the point
            one.pop("gradient_norm"), other.pop("gradient_norm")
        assert other == pytest.approx(one, abs=1e-9 if exact else 1e-5)
    if exact:
        expected, found = (load_file(folder / name / f"{case}.safetensors") for name in ("one", layout))
        assert "logits" in found
        for name, value in expected.items():
            assert (value - found[name]).abs().max() < 1e-9, name


OF_BLOBS = {"dataset": "blobs.npz", "student": json.dumps(TINY_VIT), "student_image_size": 32}
OF_VOLUMES = {"dataset": "volumes", "student": json.dumps(TINY_UNET_OF_VOLUMES), "crop_size": 8, "cache": False}


@pytest.mark.parametrize("own", [OF_BLOBS, OF_VOLUMES], ids=["classes", "volumes"])
def test_metrics_of_one_and_three_processes_are_identical_to_the_last_digit(folder, tmp_path, job, own):
    values = own | {
        "teacher": folder / "teacher", "dataset": folder / own["dataset"], "method": "rd", "max_steps": 2,
        "per_device_eval_batch_size": 5, "output_dir": tmp_path / "run", "save_steps": 2,
    }  # fmt: skip
    options = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    scores = []
    # The three only resume the finished training of the one, to score its student, on 23 test images in batches of 5.
    for processes, changes in ((1, []), (3, ["--resume"])):
        changes += ["--per_device_train_batch_size", str(12 // processes)]
        for done in job(processes, "-m", "rd_hf", "distill", *options, *changes):
            assert done.returncode == 0, done.stderr[-3000:]
        scores.append(json.loads((tmp_path / "run" / "metrics.json").read_text()))
        (tmp_path / "run" / "metrics.json").unlink()
    for scored in scores:
        scored.pop("training")
    assert scores[0] == scores[1]

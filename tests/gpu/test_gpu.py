"""On a GPU: the numbers of the CPU, other precisions, the cache, and two processes. Skipped where there is none.

With RD_HF_GPU_TESTS_ON_CPU=1 they run on the CPU, which shows that the tests themselves work.
"""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # TF32 rounds float32 to 10 bits

import pytest
import test_mask_runs
import test_volume_distillation
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from conftest import REPOSITORY
from stopped_runs import interrupted, losses
from test_distillation import TINY_VIT, settings
from test_interrupts import options

import rd_hf
from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.runtime.checkpoint import list_checkpoints, load_latest
from rd_hf.training.assembly import build_models, build_trainer
from rd_hf.training.run_data import load_run_data

ON_CPU = os.environ.get("RD_HF_GPU_TESTS_ON_CPU") == "1"
DEVICE = "cpu" if ON_CPU else "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (ON_CPU or torch.cuda.is_available()), reason="there is no GPU"),
    pytest.mark.usefixtures("no_report"),
]
STEADY_VIT = TINY_VIT | {"hidden_dropout_prob": 0.0}
masks_npz, masks, slice_teacher = (
    test_mask_runs.masks_npz, test_volume_distillation.masks, test_volume_distillation.slice_teacher,
)  # fmt: skip


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch):
    """Accelerate keeps the device of a process; here it changes from run to run."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    monkeypatch.undo()
    AcceleratorState._reset_state(reset_partial_state=True)


def train(values: dict, name: str, device: str = DEVICE, **changes) -> list[float]:
    """The losses of a run in a folder of its own beside that of `values`."""
    folder = Path(values["output_dir"]).parent / name
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true" if device == "cpu" else "false")
        student = rd_hf.distill(**(values | {"output_dir": str(folder)} | changes))
    assert student.device.type == device
    return losses(folder)


def check(found: list[float], expected: list[float], first: float, later: float) -> None:
    """The first step shows forward passes and views; later ones also gradients, in which Adam enlarges rounding."""
    assert found[0] == pytest.approx(expected[0], rel=first)
    assert found == pytest.approx(expected, rel=later)


@pytest.mark.parametrize("method", ["rd", "drd"])
@pytest.mark.parametrize("student", ["resnet", "vit"])
def test_a_run_has_the_losses_of_the_cpu(tmp_path, teacher, blobs_npz, method, student):
    changes = {"method": method} | ({"student": STEADY_VIT} if student == "vit" else {})
    values = settings(teacher, blobs_npz, tmp_path / "run", **changes)
    expected = train(values, "cpu", "cpu", cache=False)
    check(train(values, "gpu", cache=False), expected, 1e-4, 1e-2)


def test_masks_have_the_losses_of_the_cpu(tmp_path, teacher, masks_npz):
    values = test_mask_runs.settings(teacher, masks_npz, tmp_path / "run")
    check(train(values, "gpu"), train(values, "cpu", "cpu"), 1e-3, 2e-2)


def test_volumes_have_the_losses_of_the_cpu(tmp_path, slice_teacher, masks):
    values = test_volume_distillation.settings(slice_teacher, masks, tmp_path / "run")
    check(train(values, "gpu"), train(values, "cpu", "cpu"), 1e-3, 2e-2)


@pytest.mark.parametrize(
    ("changes", "within"),
    [
        ({"bf16": True}, 0.05),
        ({"teacher_dtype": "bfloat16"}, 0.05),
        pytest.param({"fp16": True}, 0.05, marks=pytest.mark.skipif(ON_CPU, reason="accelerate asks for a GPU")),
        ({"torch_compile": True, "student": STEADY_VIT}, 1e-3),
        ({"gradient_checkpointing": True, "student": STEADY_VIT}, 1e-4),
        pytest.param({"sync_batch_norm": True}, 1e-4, marks=pytest.mark.skipif(ON_CPU, reason="it is for GPUs only")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_other_ways_to_compute_change_rounding_only(tmp_path, teacher, blobs_npz, changes, within):
    values = settings(teacher, blobs_npz, tmp_path / "run", cache=False, max_steps=3)
    values["student"] = changes.get("student", values["student"])
    expected = train(values, "float32")
    check(train(values, "other", **changes), expected, within, 2 * within)


@pytest.mark.skipif(ON_CPU, reason="accelerate asks for a GPU")
def test_fp16_resumes_with_its_scale_of_the_loss(tmp_path, teacher, blobs_npz, monkeypatch):
    values = settings(teacher, blobs_npz, tmp_path / "cut", fp16=True)
    expected = train(values, "whole")
    interrupted(monkeypatch, values, 3)
    assert load_latest(tmp_path / "cut" / "checkpoints").state["scaler"]["scale"] > 0
    rd_hf.distill(**values, resume=True)
    assert losses(tmp_path / "cut") == pytest.approx(expected, rel=1e-3)
    assert len(list_checkpoints(tmp_path / "cut" / "checkpoints")) > 0


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_cached_features_train_as_live_ones_and_are_the_teachers(tmp_path, teacher, blobs_npz, cache_dir, dtype):
    values = settings(teacher, blobs_npz, tmp_path / "run", method="drd", cache_dtype=dtype, num_views=1)
    live = train(values | {"cache_dtype": None}, "live", cache=False)
    cold = train(values, "cold")
    warm = train(values, "warm", verify_cache=30)
    check(cold, live, {"float32": 1e-4, "float16": 1e-3, "int8": 1e-2}[dtype], 2e-2)
    check(warm, cold, 1e-4, 1e-2)


def test_batches_are_pinned_and_models_and_features_are_on_the_gpu(tmp_path, teacher, blobs_npz, cache_dir):
    values = settings(teacher, blobs_npz, tmp_path / "run", num_views=1)
    train(values, "run")  # fills the cache
    arguments, accelerator = DistillationArguments(**values), Accelerator(cpu=ON_CPU)
    run_data = load_run_data(arguments)
    arguments = run_data.with_defaults(arguments)
    models = build_models(arguments, run_data, accelerator)
    run_data.open_images(models.transforms, "error")
    trainer = build_trainer(arguments, accelerator, run_data, models, tmp_path / "run")
    batch = next(iter(trainer.loader()))
    assert ON_CPU or batch["student_pixels"].is_pinned()
    assert {parameter.device.type for parameter in models.teacher.parameters()} == {DEVICE}
    assert {parameter.device.type for parameter in models.backbone.tower.parameters()} == {DEVICE}
    assert batch["teacher_pixels"] is None  # all are cached
    features = trainer.inputs.teacher_features(batch)
    assert {feature.map.device.type for feature in features} == {DEVICE}
    assert trainer.inputs.student_pixels(batch).device.type == DEVICE


@pytest.mark.parametrize("changes", [{}, pytest.param({"sync_batch_norm": True}, marks=pytest.mark.skipif(
    ON_CPU, reason="it is for GPUs only"
))], ids=["plain", "sync_batch_norm"])  # fmt: skip
def test_two_processes_share_a_gpu_and_train_as_one(tmp_path, teacher, blobs_npz, cache_dir, changes):
    student = {} if changes else {"student": STEADY_VIT}  # without batch statistics, or with those of all processes
    values = settings(teacher, blobs_npz, tmp_path / "one", **student)
    expected = train(values, "one")
    values |= {"output_dir": str(tmp_path / "two"), "per_device_train_batch_size": 4} | changes
    values["per_device_unlabeled_batch_size"] = 4
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "RD_HF_CACHE": str(cache_dir), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "-m", "rd_hf", *options(values)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    check(losses(tmp_path / "two"), expected, 1e-3, 2e-2)

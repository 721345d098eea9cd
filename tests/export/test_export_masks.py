"""Exports of students for masks: plain checkpoints of transformers and MONAI, ONNX, int8 with Dice before and after."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModelForSemanticSegmentation

from rd_hf.data.pixels import PixelTransform
from rd_hf.exports.onnx import write_int8
from rd_hf.exports.run import export
from rd_hf.inference.onnx_runtime import OnnxModel
from rd_hf.students.loading import load_student

NAMES = ["background", "lesion"]
STUDENTS = {
    "unet": {
        "model_type": "monai", "network": "UNet", "arguments": {"channels": [4, 6, 8], "strides": [2, 2]},
    },
    "segformer": {
        "model_type": "segformer", "num_encoder_blocks": 2, "hidden_sizes": [4, 6], "num_attention_heads": [1, 2],
        "depths": [1, 1], "sr_ratios": [4, 2], "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2],
        "decoder_hidden_size": 8,
    },
    "mobilenet_v2": {"model_type": "mobilenet_v2", "depth_multiplier": 0.1, "min_depth": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of each student, saved with its processor."""
    folders = {}
    for name, config in STUDENTS.items():
        torch.manual_seed(0)
        model, processor, _ = load_student(config, NAMES, "segmentation", 64)
        folders[name] = tmp_path_factory.mktemp(name) / "student"
        for part in (model.eval(), processor):
            part.save_pretrained(folders[name])
    return folders


def pixels(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def logits(model: torch.nn.Module, count: int = 3) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=pixels(count)).logits


@pytest.mark.parametrize("name", STUDENTS)
def test_a_plain_checkpoint_gives_the_same_logits(name, saved, tmp_path):
    report = export(str(saved[name]), str(tmp_path / "plain"))
    assert report["max_abs_difference"] == 0
    student = AutoModelForSemanticSegmentation.from_pretrained(saved[name])
    plain = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "plain")
    assert type(plain) is type(student.model) and plain.config.id2label == dict(enumerate(NAMES))
    torch.testing.assert_close(logits(plain), logits(student))
    code = {path.name for path in (tmp_path / "plain").glob("*.py")}
    assert code == ({"modeling_monai.py", "configuration_monai.py"} if name == "unet" else set())


@pytest.mark.parametrize("name", STUDENTS)
def test_onnx_gives_the_same_logits_for_any_batch(name, saved, tmp_path, caplog):
    report = export(str(saved[name]), str(tmp_path / "onnx"), "onnx")
    assert report["input"] == ["batch", 3, 64, 64]
    exported = OnnxModel(tmp_path / "onnx" / "model.onnx")
    student = AutoModelForSemanticSegmentation.from_pretrained(saved[name])
    for count in (1, 5):
        expected = logits(student, count)
        assert expected.ndim == 4
        torch.testing.assert_close(logits(exported, count), expected, atol=1e-4, rtol=1e-4)
    assert exported.label_names == NAMES and exported.problem_type == "segmentation"
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "onnx" / "model.onnx").metadata_props}
    preprocessing = json.loads(metadata["preprocessing"])
    assert preprocessing["size"] == [64, 64] and preprocessing["scale"] == pytest.approx([2 / 255] * 3)
    processor = PixelTransform.from_pretrained(str(tmp_path / "onnx")).processor
    assert type(processor).__name__ == "SegformerImageProcessorPil"
    assert "pipeline_tag: image-segmentation" in (tmp_path / "onnx" / "README.md").read_text()
    if name == "segformer":  # whose layer norms onnxruntime would say something of
        write_int8(tmp_path / "onnx" / "model.onnx", tmp_path / "int8.onnx", pixels(4).split(4))
        assert "Axis" not in caplog.text and (tmp_path / "int8.onnx").is_file()


def test_int8_is_scored_by_dice_before_and_after(saved, tmp_path):
    generator = np.random.default_rng(0)
    data = {}
    for split, count in (("train", 12), ("test", 6)):
        masks = np.zeros((count, 64, 64), np.uint8)
        for mask, (row, column) in zip(masks, generator.integers(4, 36, (count, 2)), strict=True):
            mask[row : row + 20, column : column + 20] = 1
        noise = generator.integers(0, 60, (count, 64, 64, 3))
        data |= {f"{split}_images": (noise + 150 * masks[..., None]).astype(np.uint8), f"{split}_masks": masks}
    np.savez(tmp_path / "data.npz", **data)
    options = {"quantize": "int8", "dataset": str(tmp_path / "data.npz")}
    report = export(str(saved["unet"]), str(tmp_path / "int8"), "onnx", **options)
    assert report["precision"] == "int8" and report["scored_on"] == "6 images of test"
    for scores in report["scores"].values():
        assert set(scores) == {"dice", "iou"} and all(0 <= value <= 1 for value in scores.values())
    assert logits(OnnxModel(tmp_path / "int8" / "model.onnx")).shape == (3, 2, 64, 64)
    weights = [i for i in onnx.load(tmp_path / "int8" / "model.onnx").graph.initializer if len(i.dims) == 4]
    assert weights and any(tensor.data_type == onnx.TensorProto.INT8 for tensor in weights)

"""Exports of students of volumes: plain networks of MONAI, MONAI bundles, ONNX of any size and of eight bits."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from functools import partial

import nibabel
import numpy as np
import pytest
import torch
from small_volumes import saved_segmenter, smooth, write_volume
from transformers import AutoModelForImageClassification, AutoModelForSemanticSegmentation

from rd_hf.arguments.values import ArgumentError
from rd_hf.cards.card import CARD_FILE, HERE, render_use
from rd_hf.data.volumes.transform import VolumeTransform
from rd_hf.exports.onnx import describe, max_difference, write_int8
from rd_hf.exports.run import export
from rd_hf.inference.onnx_runtime import OnnxModel
from rd_hf.inference.prediction import predict
from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor
from rd_hf.students.loading import load_student
from rd_hf.students.volumes import VolumeStudent

SIZE = (16, 16, 16)
NAMES = ["background", "$organ"]  # the second is a name that MONAI would take for Python
STUDENTS = {
    "dynunet": ("segmentation", "DynUNet", {
        "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2], "filters": [4, 6, 8],
    }),
    "unet": ("segmentation", "UNet", {"channels": [4, 6, 8], "strides": [2, 2]}),
    "resnet": ("single_label_classification", "ResNet", {
        "block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 6, 8, 10],
    }),
}  # fmt: skip
AFFINE = np.diag([-1.5, 1.0, 2.0, 1.0])
AUTO = {"segmentation": AutoModelForSemanticSegmentation}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder of each student with its processor, and one of two volumes."""
    folder = tmp_path_factory.mktemp("workplace")
    for name, (task, network, arguments) in STUDENTS.items():
        torch.manual_seed(0)
        config = {"model_type": "monai", "network": network, "arguments": arguments}
        student, _, _ = load_student(config, NAMES, task, volumes=VolumeStudent(1, SIZE))
        if name == "unet":
            masks = {"classes": {"0": 0, "7": 1}, "ignored": [], "are_colors": False}
            student.config.provenance = {"dataset": {"masks": masks}}
        student.eval().save_pretrained(folder / name)
        shown = {"spacing": [1.5, 1.5, 1.5], "crop_size": SIZE} if task == "segmentation" else {"size": SIZE}
        RDVolumeProcessor(**shown).save_pretrained(folder / name)
    (folder / "volumes").mkdir()
    values = np.random.default_rng(0)
    for name, shape in (("one", (20, 18, 14)), ("two", (12, 30, 20))):
        image = nibabel.Nifti1Image(values.normal(size=shape).astype(np.float32), AFFINE)
        nibabel.save(image, folder / "volumes" / f"{name}.nii.gz")
    return folder


def windows(count: int = 2, *size: int) -> torch.Tensor:
    return torch.randn(count, 1, *(size or SIZE), generator=torch.Generator().manual_seed(0))


def load(folder, name: str):
    auto = AUTO.get(STUDENTS[name][0], AutoModelForImageClassification)
    return auto.from_pretrained(folder).eval()


@pytest.mark.parametrize("name", STUDENTS)
def test_a_plain_network_loads_with_monai_and_safetensors_alone(name, workplace, run_without_rd_hf, tmp_path):
    report = export(str(workplace / name), str(tmp_path / "plain"))
    assert report["max_abs_difference"] == 0 and report["checked_on"] == "2 random windows"
    use = render_use(
        "transformers", {"volumes": {}}, "image-segmentation", model_type="monai", network=report["network"]
    )
    snippet = re.findall(r"```python\n(.*?)```", use, re.DOTALL)[-1]
    with torch.no_grad():
        torch.save((windows(), load(workplace / name, name)(windows()).logits), tmp_path / "plain" / "expected.pt")
    check = "pixels, expected = torch.load('expected.pt')\n"
    check += "torch.testing.assert_close(network.eval()(pixels), expected)\n"
    done = run_without_rd_hf(snippet + check, tmp_path / "plain")
    assert done.returncode == 0, done.stderr


def test_the_cards_code_gives_the_mask_of_predict(workplace, run_without_rd_hf, tmp_path):
    export(str(workplace / "unet"), str(tmp_path / "plain"))
    use = render_use("transformers", {"volumes": {}}, "image-segmentation", model_type="monai", network=None)
    snippet = re.findall(r"```python\n(.*?)```", use, re.DOTALL)[0]
    snippet = snippet.replace(HERE, f"model_id = {str(tmp_path / 'plain')!r}")
    shutil.copy(workplace / "volumes" / "one.nii.gz", tmp_path / "volume.nii.gz")
    done = run_without_rd_hf(snippet, tmp_path)
    assert done.returncode == 0, done.stderr
    mask = np.asarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj)
    assert same_mask(mask * 7, predicted(workplace, "unet", tmp_path, "one"))


def test_the_cards_code_reads_a_file_of_each_channel(run_without_rd_hf, tmp_path):
    dataset = {"volumes": {"channels": 2, "channel_axis": False}}
    student = str(saved_segmenter(tmp_path / "student", 2, {"dataset": dataset}))
    for channel in range(2):
        write_volume(tmp_path / f"volume_{channel:04}.nii.gz", smooth((22, 18, 10), channel))
    export(student, str(tmp_path / "plain"))
    use = render_use("transformers", dataset, "image-segmentation", model_type="monai", network=None)
    snippet, command = (re.findall(rf"```{kind}\n(.*?)```", use, re.DOTALL)[0] for kind in ("python", "bash"))
    assert "--images volume_0000.nii.gz" in command and "DICOM" not in use
    done = run_without_rd_hf(snippet.replace(HERE, f"model_id = {str(tmp_path / 'plain')!r}"), tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = predict(student, [str(tmp_path / "volume_0000.nii.gz")])
    assert same_mask(np.asarray(nibabel.load(tmp_path / "mask.nii.gz").dataobj), row["mask"])


def predicted(workplace, name: str, folder, volume: str) -> np.ndarray:
    paths = [str(workplace / "volumes" / f"{volume}.nii.gz")]
    predict(str(workplace / name), paths, output_dir=str(folder / "predicted"))
    return np.asarray(nibabel.load(folder / "predicted" / f"{volume}.nii.gz").dataobj)


def same_mask(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and (one == other).mean() > 0.999 and one.min() < one.max()


@pytest.mark.parametrize("name", ["unet", "resnet"])
def test_the_command_of_its_card_runs_a_bundle(name, workplace, warm_python, tmp_path):
    report = export(str(workplace / name), str(tmp_path / "bundle"), "bundle")
    assert report["max_abs_difference"] < 1e-5
    shutil.copytree(workplace / "volumes", tmp_path / "bundle" / "volumes")
    (tmp_path / "bundle" / "rd_hf.py").write_text("raise ImportError('a bundle needs no rd_hf')")
    text = (tmp_path / "bundle" / CARD_FILE).read_text()
    (command,) = re.findall(r"^python (-m monai\.bundle run .*)$", text, re.MULTILINE)
    run = partial(warm_python.run, *shlex.split(command), cwd=tmp_path / "bundle", environment={"PYTHONPATH": ""})
    done = run()
    assert done.returncode == 0, done.stderr
    again = run()
    ending = "nii.gz" if name == "unet" else "json"
    assert again.returncode == 1 and f"eval/one.{ending} exists already" in again.stderr
    made = sorted(path.name for path in (tmp_path / "bundle" / "eval").iterdir())
    if name == "unet":
        assert made == ["one.nii.gz", "two.nii.gz"]
        for volume in ("one", "two"):
            image = nibabel.load(tmp_path / "bundle" / "eval" / f"{volume}.nii.gz")
            np.testing.assert_allclose(image.affine, AFFINE)
            mask = np.asarray(image.dataobj)
            assert same_mask(mask, predicted(workplace, name, tmp_path, volume)) and mask.max() == 7
    else:
        assert made == ["one.json", "two.json"]
        shares = json.loads((tmp_path / "bundle" / "eval" / "one.json").read_text())
        assert list(shares) == NAMES and sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["unet", "resnet"])
def test_a_bundle_refuses_an_output_that_is_not_finite(name, workplace, run_without_rd_hf, tmp_path):
    export(str(workplace / name), str(tmp_path / "bundle"), "bundle")
    code = "import sys\nsys.path.insert(0, '')\nfrom scripts.predict import predict\nimport torch\n"
    code += "predict([sys.argv[1]], torch.nn.Identity(), lambda x, network: x[:, :1] * torch.nan, 'cpu', 'eval')"
    code = code.replace("sys.argv[1]", repr(str(workplace / "volumes" / "one.nii.gz")))
    done = run_without_rd_hf(code, tmp_path / "bundle")
    assert "one.nii.gz is not finite (NaN or infinite)" in done.stderr and not list(tmp_path.rglob("eval/*"))


def test_a_bundle_refuses_two_volumes_that_would_have_one_file(workplace, run_without_rd_hf, tmp_path):
    export(str(workplace / "unet"), str(tmp_path / "bundle"), "bundle")
    code = "import sys\nsys.path.insert(0, '')\nfrom scripts.predict import predict\n"
    done = run_without_rd_hf(
        code + "predict(['a/three.nii', 'a/three.nii.gz'], None, None, None, 'eval')", tmp_path / "bundle"
    )
    assert "Two volumes would have the file eval/three.nii.gz" in done.stderr


def test_a_bundle_of_a_student_of_files_of_channels_reads_such_files(run_without_rd_hf, tmp_path):
    dataset = {"dataset": {"volumes": {"channels": 2, "channel_axis": False}}}
    student = str(saved_segmenter(tmp_path / "student", 2, dataset))
    (tmp_path / "volumes").mkdir()
    for case in "ab":
        for channel in range(2):
            name = f"{case}_{channel:04}.nii.gz"
            write_volume(tmp_path / "volumes" / name, smooth((22, 18, 10), ord(case) + channel))
    expected = predict(student, [str(tmp_path / "volumes")], output_dir=str(tmp_path / "expected"))
    export(student, str(tmp_path / "bundle"), "bundle")
    assert "A volume is 2 files of one channel each,\nnamed" in (tmp_path / "bundle" / CARD_FILE).read_text()
    code = "import sys\nsys.path.insert(0, '')\nfrom scripts.predict import predict\n"
    code += "from monai.bundle import ConfigParser\nimport json\n"
    code += "parser = ConfigParser(json.load(open('configs/inference.json')))\nparser['dataset_dir'] = '../volumes'\n"
    run = "print(predict(parser.get_parsed_content('datalist'), network, inferer, 'cpu', './eval'))\n"
    network = "network = parser.get_parsed_content('network_def')\nparser.get_parsed_content('initialize')\n"
    code += network + "inferer = parser.get_parsed_content('inferer')\n"
    done = run_without_rd_hf(code + run, tmp_path / "bundle")
    assert "['eval/a.nii.gz', 'eval/b.nii.gz']" in done.stdout, done.stderr
    for case, row in zip("ab", expected, strict=True):
        mask = np.asarray(nibabel.load(tmp_path / "bundle" / "eval" / f"{case}.nii.gz").dataobj)
        assert row["mask"].endswith(f"{case}.nii.gz") and same_mask(mask, np.asarray(nibabel.load(row["mask"]).dataobj))
    (tmp_path / "volumes" / "b_0001.nii.gz").rename(tmp_path / "volumes" / "c.nii.gz")
    done = run_without_rd_hf(code + run.replace("./eval", "./again"), tmp_path / "bundle")
    assert "c.nii.gz is of no channel by its name: the network reads 2 files of each case" in done.stderr
    (tmp_path / "volumes" / "c.nii.gz").unlink()
    done = run_without_rd_hf(code + run.replace("./eval", "./again"), tmp_path / "bundle")
    assert "b_0001.nii.gz does not exist: the network reads 2 files" in done.stderr


def test_onnx_of_any_size(workplace, tmp_path):
    report = export(str(workplace / "dynunet"), str(tmp_path / "onnx"), "onnx", dynamic_size=True)
    assert report["input"] == ["batch", 1, "x", "y", "z"] and report["other_size"] == [16, 80, 48]
    exported, student = OnnxModel(tmp_path / "onnx" / "model.onnx"), load(workplace / "dynunet", "dynunet")
    for size in (SIZE, (24, 16, 32)):
        difference, _ = max_difference(student, exported, windows(2, *size))
        assert difference < 1e-4
    assert exported.label_names == NAMES
    mask = predicted(workplace, "dynunet", tmp_path, "two")
    predict(str(tmp_path / "onnx"), [str(workplace / "volumes" / "two.nii.gz")], output_dir=str(tmp_path / "of_onnx"))
    assert same_mask(np.asarray(nibabel.load(tmp_path / "of_onnx" / "two.nii.gz").dataobj), mask)


def test_onnx_of_eight_bits(workplace, tmp_path):
    export(str(workplace / "resnet"), str(tmp_path / "onnx"), "onnx")
    source = tmp_path / "onnx" / "model.onnx"
    write_int8(source, tmp_path / "int8.onnx", windows(4).split(1))
    describe(tmp_path / "int8.onnx", VolumeTransform(RDVolumeProcessor(size=SIZE)), NAMES, STUDENTS["resnet"][0], {})
    eight, exact = (OnnxModel(path)(pixel_values=windows()).logits for path in (tmp_path / "int8.onnx", source))
    assert 0 < (exact - eight).abs().max() < 0.3 * exact.abs().max()


def test_a_bundle_is_of_volumes(tmp_path):
    config = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    student, processor, _ = load_student(config, NAMES, "single_label_classification", 32)
    for part in (student, processor):
        part.save_pretrained(tmp_path / "images")
    with pytest.raises(ArgumentError, match="`format` bundle is for students of volumes"):
        export(str(tmp_path / "images"), str(tmp_path / "bundle"), "bundle")

"""How image files are read, from the arguments of a training to the student's config, its cards and its predictions."""

import json
import logging
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from transformers import pipeline

import rd_hf
from rd_hf.arguments.distillation import DistillationArguments
from rd_hf.arguments.values import ArgumentError
from rd_hf.data.decoding.changed_decoding import decoding_mark
from rd_hf.data.decoding.reading import Reading
from rd_hf.exports.run import export

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")
from pydicom.dataset import Dataset as DicomDataset  # noqa: E402
from pydicom.dataset import FileMetaDataset  # noqa: E402
from pydicom.pixels import set_pixel_data  # noqa: E402
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian  # noqa: E402

STUDENT = "{model_type: resnet, embedding_size: 8, hidden_sizes: [8, 8], depths: [1, 1], layer_type: basic}"
SECRET = "Secretname"


def write_dicom(path, pixels):
    dataset = DicomDataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Modality, dataset.BurnedInAnnotation = "DX", "YES"
    dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = SECRET, SECRET, SECRET
    dataset.WindowCenter, dataset.WindowWidth = 2000, 4000
    set_pixel_data(dataset, pixels, "MONOCHROME2", 12)
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Class folders of DICOM files, whose signal lies in the values up to 400, and one 16-bit PNG."""
    root = tmp_path_factory.mktemp("films")
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("validation", 2), ("test", 2)):
        for number, name in enumerate(("clear", "opaque")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 200, (16, 16)).astype(np.uint16) + 200 * number
                write_dicom(root / split / name / f"{index}.dcm", pixels)
    deep = generator.integers(0, 4096, (16, 16)).astype(np.uint16)
    Image.fromarray(deep).save(root / "train" / "clear" / "deep.png")
    return root


@pytest.fixture(scope="module")
def run(films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    log = logging.getLogger("rd_hf")
    handler = logging.StreamHandler(StringIO())
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        rd_hf.distill(
            dataset=str(films), student=STUDENT, method="ce", output_dir=str(folder), student_image_size=16,
            max_steps=2, per_device_train_batch_size=4, dicom_window="200,400", page=1,
        )  # fmt: skip
    finally:
        log.removeHandler(handler)
    return folder, handler.stream.getvalue()


def test_the_student_records_how_its_images_were_read(run):
    dataset = json.loads((run[0] / "student" / "config.json").read_text())["provenance"]["dataset"]
    assert dataset["reading"] == {"page": 1, "dicom_window": "200,400"}
    assert dataset["images"] == {"deeper_than_8_bits": 1, "dicom": 16, "burned_in_annotation": 16}


def test_one_line_per_kind_and_split_says_what_is_remarkable(run):
    lines = [line for line in run[1].splitlines() if "DICOM" in line or "burned" in line or "8 bits" in line]
    assert len([line for line in lines if "of train" in line]) == 3 and len(lines) == 7
    assert any(line.startswith("8 images of train are DICOM files. The first is row ") for line in lines)
    assert any(line.startswith("1 image of train has more than 8 bits per value") for line in lines)


def test_the_cards_say_it_and_the_steps_that_a_pipeline_lacks(run, tmp_path):
    export(str(run[0] / "student"), str(tmp_path / "plain"))
    export(str(run[0] / "student"), str(tmp_path / "onnx"), "onnx")
    for folder in (run[0] / "student", tmp_path / "plain", tmp_path / "onnx"):
        card = (folder / "README.md").read_text()
        assert "text is burned into their pixels (BurnedInAnnotation is YES): 16." in card
        assert "the window with center 200 and width 400" in card
        assert "Stretch an image of more than 8 bits" in card


def test_predict_and_evaluate_read_as_the_training_did_and_the_options_override_it(run, films, caplog):
    files = sorted((films / "test" / "clear").glob("*.dcm"))
    unasked = rd_hf.predict(str(run[0] / "student"), files)
    asked = rd_hf.predict(str(run[0] / "student"), files, dicom_window="200,400")
    other = rd_hf.predict(str(run[0] / "student"), files, dicom_window="2000,4000")
    assert unasked == asked and unasked != other
    with caplog.at_level(logging.INFO):
        scores = rd_hf.evaluate(str(run[0] / "student"), str(films))
        narrow = rd_hf.evaluate(str(run[0] / "student"), str(films), dicom_window="100,3")
    assert scores["auroc"] == json.loads((run[0] / "metrics.json").read_text())["test"]["auroc"]
    assert narrow["expected_calibration_error"] != scores["expected_calibration_error"]


def test_no_word_about_a_patient_leaves_the_files(run):
    folder, log = run
    assert SECRET not in log
    for path in folder.rglob("*"):
        assert SECRET not in str(path) and (path.is_dir() or SECRET.encode() not in path.read_bytes())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_predict_sees_what_the_pipeline_sees(mode, run, tmp_path, caplog):
    colours = Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16, 4), dtype=np.uint8))
    image = colours.convert("RGB").quantize(16) if mode == "P" else colours.convert(mode)
    image.save(tmp_path / "x.png", **({"transparency": 0} if mode == "P" else {}))
    export(str(run[0] / "student"), str(tmp_path / "plain"))
    with caplog.at_level(logging.WARNING):
        ours = rd_hf.predict(str(tmp_path / "plain"), [tmp_path / "x.png"])[0]["probabilities"]
    theirs = pipeline("image-classification", str(tmp_path / "plain"))(str(tmp_path / "x.png"))
    assert {row["label"]: row["score"] for row in theirs} == pytest.approx(ours, abs=1e-6)
    assert "1 image of those to predict has transparent pixels" in caplog.text


def test_a_window_that_is_none_is_refused_before_anything_is_read():
    with pytest.raises(ArgumentError, match="`dicom_window` is 'bone'"):
        DistillationArguments(dataset="x", student=STUDENT, method="ce", dicom_window="bone")


def rows(*contents):
    return Dataset.from_dict({"image": [{"bytes": content, "path": None} for content in contents]})


def encoded(image, kind="PNG"):
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_the_key_of_a_cache_tells_images_that_were_once_read_otherwise(films):
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    ordinary = [
        encoded(Image.fromarray(grey)), encoded(Image.fromarray(grey), "TIFF"),
        encoded(Image.fromarray(grey.astype(np.uint16))), encoded(Image.fromarray(grey.astype(np.uint16)), "TIFF"),
        encoded(Image.new("RGB", (4, 4)), "JPEG"), encoded(Image.new("RGBA", (4, 4), (1, 2, 3, 255))), b"no image",
    ]  # fmt: skip
    assert decoding_mark(rows(*ordinary), Reading()) == ""
    film = Path(next((films / "train" / "clear").glob("*.dcm"))).read_bytes()
    for changed in (film, encoded(Image.new("RGBA", (4, 4), (1, 2, 3, 4)))):
        assert decoding_mark(rows(*ordinary, changed), Reading()) == ", decoding 2"
    assert decoding_mark(rows(film), Reading(dicom_window="1,2")) != decoding_mark(rows(film), Reading())
    assert decoding_mark(rows(*ordinary), Reading(page=2)) == ', read with {"page": 2}'

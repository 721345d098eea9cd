"""Scores of a student of volumes: those of the masks that it predicts, on the source's voxels."""

import logging
import shutil

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from small_volumes import NAMES, saved_classifier, saved_segmenter, smooth, write_volume

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.inference.model_names import ModelNameError
from rd_hf.scoring.mask_metrics import segmentation_scores
from rd_hf.scoring.mask_rows import full_rows
from rd_hf.scoring.segmentation import VOLUMES, MaskRows

AXES = ("RAS", "LPS", "SLA")
SPACING = (1.0, 1.2, 2.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(saved_segmenter(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three test volumes whose files have their axes in different directions."""
    folder = tmp_path_factory.mktemp("data")
    for kind in ("images", "masks"):
        (folder / "test" / kind).mkdir(parents=True)
    for number, axes in enumerate(AXES):
        values = smooth((18 + number, 16, 9), number)
        write_volume(folder / "test" / "images" / f"{number}.nii.gz", values, SPACING, axes)
        write_volume(folder / "test" / "masks" / f"{number}.nii.gz", (values > 0) + (values > 150), SPACING, axes)
    return folder


def test_scores_are_those_of_predicted_masks_in_millimetres(model, data, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "rd_hf"):
        scores = rd_hf.evaluate(model, data, predictions=str(tmp_path / "rows.csv"))
    assert "volumes: 3D" in caplog.text
    rows = rd_hf.predict(model, data / "test" / "images")
    files = [nib.load(data / "test" / "masks" / f"{number}.nii.gz") for number in range(len(AXES))]
    spacings = [file.header.get_zooms() for file in files]
    assert len(set(spacings)) > 1
    truths = [np.asarray(file.dataobj).astype(np.uint8) for file in files]
    expected = full_rows([row["mask"] for row in rows], truths, 3, spacings)
    expected = segmentation_scores(MaskRows.of(expected, NAMES, VOLUMES), 0)
    # the split's volumes are kept in half precision, which may move a voxel from one class to the other
    for name in ("dice", "hd95", "surface_dice", "pooled_dice"):
        assert scores[name] == pytest.approx(expected[name], rel=0.02) and scores[name] > 0
    assert scores["unit"] == "mm"
    for option, name in (("predictions", "rows.csv"), ("report", "page.html")):
        (tmp_path / name).touch()
        with pytest.raises(ArgumentError, match=f"`{option}` .*{name} exists already: choose another name"):
            rd_hf.evaluate(model, data, **{option: str(tmp_path / name)})
    with pytest.raises(ArgumentError, match=r"`output_dir` .*rows.csv/masks lies in .*rows.csv, which is a file"):
        rd_hf.predict(model, data / "test" / "images", output_dir=str(tmp_path / "rows.csv" / "masks"))
    header = (tmp_path / "rows.csv").read_text().splitlines()[0].split(",")
    assert [line.split(",")[1] for line in (tmp_path / "rows.csv").read_text().splitlines()[1:]] == [
        f"{number}.nii.gz" for number in range(len(AXES))
    ]
    assert header[:5] == ["row", "file", f"dice_{NAMES[1]}", f"voxels_{NAMES[1]}", f"predicted_voxels_{NAMES[1]}"]


@pytest.mark.parametrize("form", ["folder", "table.csv", "arrays.npz"])
def test_data_of_images_is_refused_by_what_the_model_reads(model, form, tmp_path):
    pixels = np.zeros((2, 8, 8), np.uint8)
    for kind in ("images", "masks"):
        (tmp_path / "folder" / kind).mkdir(parents=True)
        Image.fromarray(pixels[0]).save(tmp_path / "folder" / kind / "0.png")
    (tmp_path / "table.csv").write_text("image,mask\nfolder/images/0.png,folder/masks/0.png\n")
    np.savez(tmp_path / "arrays.npz", test_images=pixels, test_masks=pixels)
    with pytest.raises(ArgumentError, match="The model reads volumes with masks.$") as caught:
        rd_hf.evaluate(model, str(tmp_path / form))
    assert "--" not in str(caught.value)  # arguments of a training, which evaluate does not have


def test_folders_of_nnunet_are_refused_by_a_classifier_by_what_it_reads(tmp_path):
    for kind in ("imagesTr", "labelsTr"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        write_volume(tmp_path / "data" / kind / "0.nii.gz", np.ones((4, 4, 4)))
    with pytest.raises(ArgumentError, match="are volumes and no classes. The model reads volumes with classes.$"):
        rd_hf.evaluate(str(saved_classifier(tmp_path / "model")), str(tmp_path / "data"))


def test_a_student_without_its_processor_says_how_to_get_it_again(model, data, tmp_path):
    folder = shutil.copytree(model, tmp_path / "student")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelNameError, match="the folder has no preprocessor_config.json, .* `rd-hf report RUN`"):
        rd_hf.evaluate(str(folder), data)


def test_what_is_only_for_images_is_refused(model, data):
    for name, value in (("page", 2), ("dicom_window", "40,400")):
        with pytest.raises(ArgumentError, match=f"`{name}` is for images, but this model reads volumes"):
            rd_hf.evaluate(model, data, **{name: value})

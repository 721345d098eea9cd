"""Files of predicted masks hold the values of the training's masks."""

import logging

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from small_volumes import NAMES, saved_segmenter, smooth, write_volume

import rd_hf
from rd_hf.data.masks.decoding import read_stored
from rd_hf.data.masks.reading import MaskReading
from rd_hf.inference.label_values import LabelValues
from rd_hf.inference.mask_files import MaskFiles
from rd_hf.tasks.segmentation import Segmentation

BRATS = MaskReading({0: 0, 1: 1, 2: 2, 4: 3})
MASK = np.array([[0, 1, 2], [3, 3, 0]], dtype=np.uint8)


def recorded(reading: MaskReading) -> dict:
    return {"masks": reading.to_dict()}


def test_volumes_hold_the_labels_of_the_training_and_are_read_again(tmp_path, caplog):
    reading = MaskReading({0: 0, 1: 1, 4: 2})
    trained_on = {"dataset": recorded(reading) | {"fingerprint": "", "name": "brats"}}
    segmenter = str(saved_segmenter(tmp_path / "student", provenance=trained_on))
    (tmp_path / "data" / "test").mkdir(parents=True)
    source = tmp_path / "data" / "test" / "a.nii.gz"
    write_volume(source, smooth((30, 24, 12)), axes="LIP")
    (row,) = rd_hf.predict(segmenter, source)
    with caplog.at_level(logging.INFO, "rd_hf"):
        (written,) = rd_hf.predict(segmenter, source, output_dir=str(tmp_path / "masks"))
    assert "hold the values of the training's masks: 0 is 'background', 1 is 'organ', 4 is 'tumour'." in caplog.text
    stored = np.asarray(nib.load(written["mask"]).dataobj)
    assert stored.dtype == np.uint8 and sorted(np.unique(stored)) == [0, 1, 4]
    assert np.array_equal(stored, np.array([0, 1, 4])[row["mask"]]) and written["voxels"] == row["voxels"]
    nib.save(nib.load(written["mask"]), tmp_path / "data" / "test" / "a_mask.nii.gz")
    scores = rd_hf.evaluate(segmenter, str(tmp_path / "data"), split="test")
    assert scores["dice"] > 0.99


@pytest.mark.parametrize("reading", [
    BRATS, MaskReading({0: 0, 10: 1, 20: 2, 255: 3}), MaskReading({0: 0, 1: 1, 500: 2, 1000: 3}, ignored=(255,)),
    MaskReading({0x000000: 0, 0xFF0000: 1, 0x00FF00: 2, 0x0000FF: 3}, are_colors=True),
])  # fmt: skip
def test_pngs_are_read_as_the_masks_of_the_training_were(reading, tmp_path):
    values = LabelValues.of(recorded(reading), 4)
    files = MaskFiles(Segmentation([*NAMES, "edge"]), [tmp_path / "a.png"], str(tmp_path), False, values=values)
    path = files._write(tmp_path / "mask.png", files._with_palette(MASK))
    assert np.array_equal(reading.read({"bytes": None, "path": path}, "it"), MASK)
    if not reading.are_colors:
        assert np.array_equal(np.asarray(Image.open(path)), np.array(list(reading.classes))[MASK])
    assert read_stored({"bytes": None, "path": path}, "it").kind == ("grey" if 1000 in reading.classes else "palette")


@pytest.mark.parametrize("trained_on", [
    {}, recorded(MaskReading({0: 0, 1: 1, 255: 1})), recorded(MaskReading({0: 0, 5: 2})),
    recorded(MaskReading({-1: 0, 0: 1, 1: 2})), recorded(MaskReading({0: 0, 1: 1, 70000: 2})),
])  # fmt: skip
def test_class_numbers_stand_where_a_class_has_no_value_of_its_own(trained_on, caplog):
    values = LabelValues.of(trained_on, 3)
    assert values.values == (0, 1, 2) and values.stored(MASK % 3).dtype == np.uint8
    with caplog.at_level(logging.INFO, "rd_hf"):
        values.tell(NAMES)
    assert "The predicted masks hold the class numbers: 0 is 'background'" in caplog.text

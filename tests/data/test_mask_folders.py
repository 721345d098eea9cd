"""Folders that hold masks by their names beside others: as labels, as classes, or refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rd_hf.data.columns import DataError
from rd_hf.data.scanner import scan
from rd_hf.data.sources import load_data, load_images_only

FACES = ("mask", "no_mask"), ("with_mask", "without_mask", "mask_weared_incorrect"), ("mask", "no mask", "photos")


def write(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([[0, 255], [255 * (number % 2), 0]], dtype=np.uint8)).save(path)


def write_pairs(root, image, mask, count=3):
    for number in range(count):
        write(root / image.format(number), number)
        write(root / mask.format(number), number)


def pairs(data, split="train"):
    rows = data.splits[split]
    return [tuple(Path(row[name]["path"]).name for name in ("image", "mask")) for row in rows]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("CXR_png/CHNCXR_{}_0.png", "mask/CHNCXR_{}_0_mask.png"),  # of Shenzhen
        ("anything/{}.png", "segmentation/{}_seg.png"),
        ("scans/{}.png", "segmentations/{}.png"),
        ("train_images/{}.png", "train_masks/{}.png"),
        ("train_images/{}.png", "train_labels/{}.png"),
        ("train/xray/{}.png", "train/mask/{}.png"),
        ("images/{}.png", "labels_png/{}.png"),
        ("img/{}.png", "gt_img/{}.png"),
        ("X-Ray/{}.png", "lesion_masks/{}.png"),
        ("volumes/volume-{}.png", "segmentations/segmentation-{}.png"),
        ("imageFiles/{}.png", "maskFiles/{}.png"),
    ],
)
def test_folders_whose_names_say_that_they_hold_masks(tmp_path, log, image, mask):
    write_pairs(tmp_path, image, mask)
    data = load_data(tmp_path)
    assert data.problem_type == "segmentation" and data.unlabelled is None and [*data.splits] == ["train"]
    assert pairs(data) == [(Path(image.format(row)).name, Path(mask.format(row)).name) for row in range(3)]
    assert data.labels("train")[:, 1].tolist() == [1, 2, 1]
    assert len(load_images_only(tmp_path)) == 3 and "3 files left out" in log.text


def test_volumes_beside_their_label_volumes(tmp_path):
    for images, masks in (
        ("ct/{}.nii.gz", "seg/{}.nii.gz"),
        ("volumes/volume-{}.nii", "segmentations/segmentation-{}.nii"),
    ):
        root = tmp_path / images[:2]
        for number in range(2):
            for file in (images, masks):
                write_volume(
                    root / file.format(number), (np.arange(24).reshape(4, 3, 2) % (2 + number)).astype(np.uint8)
                )
        data = load_data(root)
        assert data.problem_type == "segmentation"
        assert pairs(data) == [(Path(images.format(row)).name, Path(masks.format(row)).name) for row in range(2)]


def write_volume(path, values):
    nibabel = pytest.importorskip("nibabel")
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(path)


def test_folders_of_images_and_masks_of_each_split(tmp_path):
    for split in ("train", "val"):
        write_pairs(tmp_path, f"{split}_images/{{}}.png", f"{split}_masks/{{}}.png")
    write(tmp_path / "test_images" / "9.png", 1)
    data = load_data(tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 3, "validation": 3}
    assert data.without_labels == ("test",) and pairs(data, "validation") == [(f"{row}.png",) * 2 for row in range(3)]


@pytest.mark.parametrize("kinds", FACES)
@pytest.mark.parametrize("name", ["{}.png", "{kind}_{}.png"])
def test_faces_with_and_without_masks_are_classes(tmp_path, kinds, name):
    for kind in kinds:
        for number in range(2):
            write(tmp_path / kind / name.format(number, kind=kind), number)
    data = load_data(tmp_path)
    assert data.label_names == sorted(kinds) and len(data.splits["train"]) == 2 * len(kinds)
    assert scan(tmp_path).masks == ()


def test_artificial_masks_on_the_same_faces_are_a_class(tmp_path):
    write_pairs(tmp_path, "without_mask/{}.png", "with_mask/{}-with-mask.png")
    assert load_data(tmp_path).label_names == ["with_mask", "without_mask"]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("skin/{}.png", "masks/{}.png"),  # equal names, and nothing else says what they are
        ("stare-images/im{}.png", "labels-ah/im{}.ah.png"),
        ("images/{}_training.png", "1st_manual/{}_manual1.png"),
        ("images/{}_dr.png", "manual1/{}_dr.png"),
    ],
)
def test_folders_that_may_be_masks_or_classes_are_refused(tmp_path, log, image, mask):
    write_pairs(tmp_path, image, mask)
    folder, other = (Path(file).parent.name for file in (mask, image))
    with pytest.raises(
        DataError, match=f"folders '{folder}' and '{other}', and the names say .* `task` classification"
    ):
        load_data(tmp_path)
    with pytest.raises(DataError, match=f"folders '{folder}' and '{other}'"):
        load_data(tmp_path, task="segmentation")
    assert load_data(tmp_path, task="classification").label_names == sorted([folder, other])
    assert len(load_images_only(tmp_path)) == 6
    assert f"{folder}' may hold the masks of '{other}', and is read as images all the same" in log.text


@pytest.mark.parametrize("task", ["auto", "segmentation"])
def test_masks_of_the_field_of_view_do_not_hide_those_of_vessels(tmp_path, task):
    """DRIVE has both; the vessels were unlabelled images of train."""
    for number in (21, 22):
        write_pairs(tmp_path / "training", f"images/{number}_training.png", f"1st_manual/{number}_manual1.png", 1)
        write(tmp_path / "training" / "mask" / f"{number}_training_mask.png", number)
    with pytest.raises(DataError, match="'training/1st_manual', which may hold .*'training/images', .*'training/mask'"):
        load_data(tmp_path, task=task)
    (tmp_path / "training" / "mask").rename(tmp_path / "fov")
    (tmp_path / "training" / "1st_manual").rename(tmp_path / "training" / "masks")
    for file in (tmp_path / "training" / "masks").iterdir():
        file.rename(file.with_name(file.name.replace("manual1", "training")))
    for file in (tmp_path / "fov").iterdir():
        file.unlink()
    assert pairs(load_data(tmp_path)) == [(f"{number}_training.png",) * 2 for number in (21, 22)]


def test_a_folder_of_images_without_any_mask_is_said(tmp_path, log):
    write_pairs(tmp_path, "images/{}.png", "masks/{}.png")
    write(tmp_path / "more" / "7.png", 1)
    data = load_data(tmp_path)
    assert len(data.splits["train"]) == 3 and len(data.unlabelled) == 1
    assert f"No image of '{tmp_path / 'more'}' has a mask (1 images)" in log.text

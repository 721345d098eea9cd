"""Where masks are found: folders, tables, data sets of `datasets` and .npz files."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from conftest import SHARED
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PillowImage

from rd_hf.data.columns import DataError
from rd_hf.data.decoding.images import to_rgb
from rd_hf.data.sources import load_data
from rd_hf.inference.images import find_images

LESION = np.array([[0, 1, 1], [0, 0, 1]], dtype=np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write_image(path, value=0, size=(3, 2)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.new("L", size, value).save(path)


def write_mask(path, values=LESION):
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(np.asarray(values, dtype=np.uint8)).save(path)


def pairs(data, split="train"):
    """Of each row the grey value of its image and the classes of its mask's pixels."""
    rows = data.splits[split]
    return {to_rgb(row["image"]).getpixel((0, 0))[0]: data.masks.read(row["mask"], "it").tolist() for row in rows}


def is_lesion(data, split="train"):
    return {value: mask == LESION.tolist() for value, mask in pairs(data, split).items()}


# --- folders


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.png", "masks/{}.png"),
        ("images/{}.bmp", "masks/{}.tif"),
        ("img/{}.png", "labels/{}.gif"),
        ("images/{}.png", "masks/{}_mask.png"),
        ("images/{}_image.png", "masks/{}_mask.png"),
        ("images/img_{}.png", "ground_truth/{}.png"),
        ("images/a/{}.png", "masks/a/{}.png"),
        ("{}.png", "{}_mask.png"),
        ("{}.png", "{}-segmentation.png"),
        ("case ({}).png", "case ({})_mask.png"),
        ("{}.png", "masks/{}.png"),
        ("train/{}.png", "train_masks/{}.png"),
        ("IMG_{}.PNG", "img_{}_MASK.png"),
    ],
)
def test_images_with_masks_of_the_same_name(tmp_path, log, image, mask):
    for row, values in enumerate([LESION, 1 - LESION, LESION], start=1):
        write_image(tmp_path / image.format(row), row)
        write_mask(tmp_path / mask.format(row), values)
    data = load_data(tmp_path)
    assert is_lesion(data) == {1: True, 2: False, 3: True} and list(data.splits) == ["train"]
    assert data.problem_type == "segmentation" and data.label_names == ["background", "foreground"]
    assert data.labels("train").dtype == np.int64 and data.labels("train").tolist() == [[3, 3]] * 3
    assert data.splits["train"].column_names == ["image", "mask", "label"] and data.unlabelled is None
    assert log.text.count("task: segmentation (") == 1 and "are masks of other files" not in log.text


@pytest.mark.parametrize("places", ["{split}/{kind}", "{kind}/{split}"])
def test_split_folders_within_or_around(tmp_path, places):
    for row, split in enumerate(["train", "val", "test"], start=1):
        write_image(tmp_path / places.format(split=split, kind="images") / "1.png", row)
        write_mask(tmp_path / places.format(split=split, kind="masks") / "1.png", LESION if row > 1 else 1 - LESION)
    data = load_data(tmp_path)
    assert [is_lesion(data, name) for name in ("train", "validation", "test")] == [{1: False}, {2: True}, {3: True}]


def nnunet(root, labels, suffix="_0000", ending=".png", **more):
    for row in (1, 2):
        write_image(root / "imagesTr" / f"case_{row:03}{suffix}{ending}", row)
        write_mask(root / "labelsTr" / f"case_{row:03}{ending}", LESION * row)
    write_image(root / "imagesTs" / f"case_009{suffix}{ending}", 9)
    (root / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ending} | more))


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize(
    ("labels", "suffix"),
    [
        ({"background": 0, "organ": 1, "tumour": 2}, "_0000"),
        ({"0": "background", "1": "organ", "2": "tumour"}, ""),
    ],
)
def test_folders_of_nnunet_and_of_the_decathlon(tmp_path, log, labels, suffix, ending):
    nnunet(tmp_path, labels, suffix, ending)
    data = load_data(tmp_path)
    assert data.label_names == ["background", "organ", "tumour"] and [*data.splits] == ["train"]
    assert pairs(data) == {1: LESION.tolist(), 2: (2 * LESION).tolist()}
    assert data.without_labels == ("test",) and "Split 'test' has no masks, so it is left out" in log.text
    write_mask(tmp_path / "labelsTs" / f"case_009{ending}")
    assert is_lesion(load_data(tmp_path), "test") == {9: True}


def test_a_number_of_a_case_is_no_channel(tmp_path):
    for row in (1, 2):
        write_image(tmp_path / "imagesTr" / f"img_{row:04}.png", row)
        write_mask(tmp_path / "labelsTr" / f"img_{row:04}.png")
    assert is_lesion(load_data(tmp_path)) == {1: True, 2: True}


def test_the_label_ignore_of_nnunet_is_no_class(tmp_path):
    nnunet(tmp_path, {"background": 0, "organ": 1, "ignore": 2})
    data = load_data(tmp_path)
    assert data.label_names == ["background", "organ"] and data.labels("train").tolist() == [[3, 3], [3, 0]]


def test_channels_and_regions_of_nnunet_are_refused(tmp_path):
    nnunet(tmp_path, {"background": 0, "whole": [1, 2], "core": 2})
    with pytest.raises(DataError, match="dataset.json' gives a class several values, which are regions"):
        load_data(tmp_path)
    write_image(tmp_path / "imagesTr" / "case_001_0001.png")
    with pytest.raises(DataError, match=r"2 channels, such as 'imagesTr/case_001_0001.png'; one image"):
        load_data(tmp_path)


def busi(root):
    for row, name in enumerate(["benign", "malignant", "normal"], start=1):
        write_image(root / name / f"{name} (1).png", row)
        write_mask(root / name / f"{name} (1)_mask.png", 255 * LESION if row < 3 else 0 * LESION)


def test_class_folders_with_masks_are_classes_unless_masks_are_asked_for(tmp_path, log):
    busi(tmp_path)
    data = load_data(tmp_path)
    assert data.problem_type == "single_label_classification" and data.masks is None
    assert log.text.count("`task` segmentation uses the masks") == 1
    assert load_data(tmp_path, task="classification").source == data.source
    data = load_data(tmp_path, task="segmentation")
    assert data.label_names == ["background", "foreground"]
    assert is_lesion(data) == {1: True, 2: True, 3: False} and data.labels("train")[2].tolist() == [6, 0]


def test_several_binary_masks_of_one_image_are_united(tmp_path, log):
    busi(tmp_path)
    second = np.array([[255, 0, 0], [0, 0, 255]])
    write_mask(tmp_path / "benign" / "benign (1)_mask_1.png", second)
    data = load_data(tmp_path, task="segmentation")
    assert pairs(data)[1] == [[1, 1, 1], [0, 0, 1]]
    assert "1 image has several masks, which are united; the first is" in log.text
    write_mask(tmp_path / "benign" / "benign (1)_mask_1.png", [[0, 7, 1], [0, 0, 0]])
    with pytest.raises(DataError, match=r"\(1\)_mask.png' and '.*\(1\)_mask_1.png' are masks of one image.*\[1, 7\]"):
        load_data(tmp_path, task="segmentation")
    write_mask(tmp_path / "benign" / "benign (1)_mask_1.png", [[0, 255]])
    with pytest.raises(DataError, match=r"\(1\)_mask_1.png' are masks of one image, but differ in size"):
        load_data(tmp_path, task="segmentation")


def test_images_without_mask_are_unlabelled_in_train_only(tmp_path, log):
    for row in (1, 2, 3):
        write_image(tmp_path / "train" / "images" / f"{row}.png", row)
        write_image(tmp_path / "test" / "images" / f"{row}.png", row)
    write_mask(tmp_path / "train" / "masks" / "2.png")
    data = load_data(tmp_path)
    assert is_lesion(data) == {2: True} and data.unlabelled.column_names == ["image"] and len(data.unlabelled) == 2
    assert "2 of 3 rows of train have no mask, so they are unlabelled" in log.text
    assert data.without_labels == ("test",)
    write_mask(tmp_path / "test" / "masks" / "1.png")
    with pytest.raises(DataError, match=r"2 of 3 rows of split 'test' have no mask; the first is .*images/2\.png"):
        load_data(tmp_path)


def test_a_mask_without_image_and_two_images_of_one_mask_are_named(tmp_path):
    write_image(tmp_path / "images" / "1.png")
    write_mask(tmp_path / "masks" / "1.png")
    write_mask(tmp_path / "masks" / "2_mask.png")
    with pytest.raises(DataError, match=r"masks/2_mask.png' has no image; its image must be named '2_mask' or '2'"):
        load_data(tmp_path)
    write_image(tmp_path / "images" / "1.bmp")
    with pytest.raises(DataError, match=r"'images/1.bmp' and 'images/1.png' .* would have the same mask"):
        load_data(tmp_path)


def test_a_mask_goes_to_the_image_of_its_number_and_to_none_where_two_have_it(tmp_path):
    write_image(tmp_path / "images" / "image_1.png", 1)
    write_image(tmp_path / "images" / "img1.png", 2)
    write_mask(tmp_path / "masks" / "mask_1.png")
    data = load_data(tmp_path)
    assert is_lesion(data) == {1: True} and len(data.unlabelled) == 1
    write_image(tmp_path / "images" / "1_img.png", 3)
    with pytest.raises(DataError, match=r"mask_1.png' could be that of 'images/1_img.png' and of 'images/image_1.png'"):
        load_data(tmp_path)


def test_a_folder_without_masks_says_what_is_expected(tmp_path):
    write_image(tmp_path / "a" / "1.png")
    write_image(tmp_path / "b" / "1.png")
    with pytest.raises(DataError, match="has 2 images, but no masks. Expected a folder masks beside images"):
        load_data(tmp_path, task="segmentation")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "background\nlesion\n"),
        ("labels.json", '{"0": "background", "1": "lesion"}'),
        ("labels.json", '["background", "lesion"]'),
        ("labels.json", '{"background": 0, "lesion": 1}'),
        ("dataset.json", '{"labels": {"0": "background", "1": "lesion"}}'),
    ],
)
def test_files_that_name_the_classes(tmp_path, log, name, text):
    write_image(tmp_path / "images" / "1.png")
    write_mask(tmp_path / "masks" / "1.png")
    (tmp_path / name).write_text(text)
    assert load_data(tmp_path).label_names == ["background", "lesion"]
    assert "not read in" not in log.text
    assert f"{name}' names the classes: 0 is background, 1 is lesion. Other names" in log.text


@pytest.mark.parametrize("line", ["1.png 1", "1.png", "images/1.PNG;0", "0 scan_1.nii.gz"])
def test_a_list_of_files_names_no_classes(tmp_path, log, line):
    write_image(tmp_path / "images" / "1.png")
    write_mask(tmp_path / "masks" / "1.png")
    (tmp_path / "labels.txt").write_text(f"{line}\nother\n")
    assert load_data(tmp_path).label_names == ["background", "foreground"]
    assert "labels.txt' lists files" in log.text


@pytest.mark.parametrize("text", ['{"a": "b"}', "[1, 2]", '["a", "a"]', "{", '{"0": 1}'])
def test_a_file_that_names_no_classes_is_refused(tmp_path, text):
    write_image(tmp_path / "images" / "1.png")
    write_mask(tmp_path / "masks" / "1.png")
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(DataError, match="labels.json' (does not name classes|is not valid JSON|names two)"):
        load_data(tmp_path)
    assert load_data(tmp_path, label_names=["normal", "lesion"]).label_names == ["normal", "lesion"]


@pytest.mark.parametrize("name", ["seg_folder_busi", "seg_folder_nuclei"])
def test_folders_of_real_images(name):
    if not (SHARED / "data" / name).is_dir():
        pytest.skip(f"../shared/data/{name} is not there")
    data = load_data(SHARED / "data" / name)
    assert len(data.splits["train"]) == 20 and (data.labels("train").sum(axis=0) > 0).all()
    expected = ["background", "benign", "malignant"] if "busi" in name else ["background", "foreground"]
    assert data.label_names == expected


# --- tables


@pytest.mark.parametrize("column", ["mask", "Mask Path", "label_path", "segmentation", "annotation", "label"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_tables_with_two_columns_of_paths(tmp_path, kind, column):
    rows = []
    for row in (1, 2, 3):
        write_image(tmp_path / "scans" / f"{row}.png", row)
        write_mask(tmp_path / "drawn" / f"{row}.png", LESION if row < 3 else 1 - LESION)
        rows.append({"image": f"scans/{row}.png", column: f"drawn/{row}.png", "patient": f"p{row}"})
    rows[1][column] = None
    file = tmp_path / f"list.{kind}"
    if kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        Dataset.from_list(rows).to_parquet(file)
    else:
        lines = [[*rows[0]], *([cell or "" for cell in row.values()] for row in rows)]
        file.write_text("\n".join({"csv": ",", "tsv": "\t"}[kind].join(line) for line in lines))
    data = load_data(file, group_column="patient")
    assert is_lesion(data) == {1: True, 3: False} and data.splits["train"]["group"][:] == ["p1", "p3"]
    assert data.unlabelled["group"][:] == ["p2"] and data.unlabelled.column_names == ["image", "group"]
    assert is_lesion(load_data(file, mask_column=column, group_column="patient")) == {1: True, 3: False}


def test_a_metadata_file_with_masks(tmp_path):
    write_image(tmp_path / "train" / "1.png", 1)
    write_mask(tmp_path / "train" / "m" / "1.png")
    (tmp_path / "classes.txt").write_text("none\nlesion\n")
    (tmp_path / "metadata.csv").write_text("file_name,mask_file_name\ntrain/1.png,train/m/1.png\n")
    data = load_data(tmp_path)
    assert is_lesion(data) == {1: True} and data.label_names == ["none", "lesion"]


def test_paths_of_masks_are_those_of_masks(tmp_path, log):
    write_image(tmp_path / "images" / "1.png", 1)
    write_mask(tmp_path / "masks" / "1.png")
    (tmp_path / "list.csv").write_text("image,mask\n1.png,C:\\drawn\\1.png\n")
    assert is_lesion(load_data(tmp_path)) == {1: True}
    assert "are not used" not in log.text


def test_a_table_with_classes_and_masks_is_one_of_classes_by_default(tmp_path, log):
    for row in (1, 2):
        write_image(tmp_path / f"{row}.png", row)
        write_mask(tmp_path / f"m{row}.png")
    (tmp_path / "list.csv").write_text("image,label,mask\n1.png,a,m1.png\n2.png,b,m2.png\n")
    data = load_data(tmp_path / "list.csv")
    assert data.label_names == ["a", "b"] and "column 'mask'; `task` segmentation uses them" in log.text
    assert is_lesion(load_data(tmp_path / "list.csv", task="segmentation")) == {1: True, 2: True}
    assert is_lesion(load_data(tmp_path / "list.csv", mask_column="mask")) == {1: True, 2: True}


def test_a_missing_mask_column_is_said(tmp_path):
    write_image(tmp_path / "1.png")
    (tmp_path / "list.csv").write_text("image,outline_of\n1.png,x\n")
    with pytest.raises(DataError, match="no column of masks found; name it with `mask_column`. Columns found: image"):
        load_data(tmp_path / "list.csv", task="segmentation")
    with pytest.raises(DataError, match="mask_column is 'msk', but there is no such column"):
        load_data(tmp_path / "list.csv", mask_column="msk")
    (tmp_path / "list.csv").write_text("image,mask\n1.png,gone.png\n")
    with pytest.raises(DataError, match=r"'gone\.png'.*Column 'mask' must hold paths"):
        load_data(tmp_path / "list.csv")


def test_masks_of_a_folder_beside_a_table_of_something_else(tmp_path):
    write_image(tmp_path / "images" / "1.png", 1)
    write_mask(tmp_path / "masks" / "1.png")
    (tmp_path / "patients.csv").write_text("age,sex\n40,f\n")
    assert is_lesion(load_data(tmp_path, task="segmentation")) == {1: True}


# --- data sets of `datasets`, and .npz files


def hugging_face(columns=("image", "mask"), **more):
    rows = [PillowImage.new("L", (3, 2), value) for value in (1, 2)]
    masks = [PillowImage.fromarray(LESION), PillowImage.fromarray(1 - LESION)]
    features = Features({name: Image() for name in columns} | {name: feature for name, (feature, _) in more.items()})
    values = {columns[0]: rows, columns[1]: masks} | {name: cells for name, (_, cells) in more.items()}
    return Dataset.from_dict(values, features=features)


@pytest.mark.parametrize("columns", [("image", "mask"), ("pixel_values", "label"), ("picture", "annotation")])
def test_two_columns_of_images_in_memory_and_saved(tmp_path, columns):
    rows = hugging_face(columns)
    assert is_lesion(load_data(rows)) == {1: True, 2: False}
    assert is_lesion(load_data(rows.select([1]), task="segmentation")) == {2: False}  # a selection of rows
    DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    assert is_lesion(load_data(tmp_path / "saved"), "test") == {1: True, 2: False}


def test_a_row_in_memory_without_mask_is_unlabelled():
    rows = hugging_face().to_list()
    rows[0]["mask"] = None
    data = load_data(Dataset.from_list(rows, features=Features(image=Image(), mask=Image())))
    assert is_lesion(data) == {2: False} and len(data.unlabelled) == 1


def test_classes_and_masks_in_memory(log):
    rows = hugging_face(kind=(ClassLabel(names=["a", "b"]), [0, 1]))
    assert load_data(rows).label_names == ["a", "b"] and "column 'mask'" in log.text
    assert load_data(rows, task="segmentation").label_names == ["background", "foreground"]
    text = hugging_face(caption=(Value("string"), ["x", "y"]))
    assert load_data(text).problem_type == "segmentation"


def npz(path, **arrays):
    np.savez(path, train_images=np.arange(12, dtype=np.uint8).reshape(2, 2, 3), **arrays)
    return path


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, bool])
@pytest.mark.parametrize("shape", [(2, 2, 3), (2, 2, 3, 1), (2, 1, 2, 3)])
def test_npz_with_masks(tmp_path, kind, shape):
    masks = np.stack([LESION, 1 - LESION]).astype(kind).reshape(shape)
    data = load_data(npz(tmp_path / "x.npz", train_masks=masks, classes=np.array(["none", "lesion"])))
    assert is_lesion(data) == {0: True, 6: False} and data.label_names == ["none", "lesion"]


def test_npz_with_deep_masks_and_with_labels(tmp_path, log):
    masks = 300 * np.stack([LESION, LESION]).astype(np.uint16)
    assert is_lesion(load_data(npz(tmp_path / "x.npz", train_masks=masks))) == {0: True, 6: True}
    labels = {"train_labels": np.array([0, 1]), "classes": np.array(["a", "b"])}
    both = npz(tmp_path / "y.npz", train_masks=masks, **labels)
    assert load_data(both).label_names == ["a", "b"] and "`task` segmentation uses them" in log.text
    assert load_data(both, task="segmentation").label_names == ["background", "foreground"]


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((2, 2, 3, 5), int), r"x.npz', train_masks: got int64 of shape \(2, 2, 3, 5\)"),
        (np.zeros((3, 2, 3), int), "x.npz', train_masks: 3 masks, but 2 images"),
        (np.full((2, 2, 3), 0.5), "x.npz', train_masks: row 0 holds 0.5"),
        (np.full((2, 2, 3), -1), "x.npz', train_masks: row 0 holds -1"),
        (np.zeros((2, 3, 3), np.uint8), "row 0 of train has 3 x 3 pixels, but .* has 3 x 2"),
    ],
)
def test_npz_with_other_arrays_as_masks_is_refused(tmp_path, masks, message):
    with pytest.raises(DataError, match=message):
        load_data(npz(tmp_path / "x.npz", train_masks=masks))


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}_image", "{}_mask"), ("img_{}", "mask_{}"), ("scan_{}", "scan_mask_{}"), ("image{}", "mask{}"),
        ("volume-{}", "segmentation-{}"), ("{}_img", "{}_annotation"),
    ],
)  # fmt: skip
def test_masks_beside_images_that_say_so_in_their_names(tmp_path, image, mask):
    """In class folders they are no images of the class."""
    for kind in ("benign", "malignant"):
        for number in range(2):
            write(tmp_path / kind / f"{image.format(number)}.png", number)
            write(tmp_path / kind / f"{mask.format(number)}.png", number)
    assert len(load_data(tmp_path).splits["train"]) == 4
    data = load_data(tmp_path, task="segmentation")
    assert names_of_pairs(data) == [(image.format(number), mask.format(number)) for number in (0, 1)] * 2


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("Original/{}", "Ground Truth/{}"),  # of CVC-ClinicDB
        ("ISIC2018_Task1-2_Training_Input/ISIC_{}", "ISIC2018_Task1_Training_GroundTruth/ISIC_{}_segmentation"),
        ("case_{}/image", "case_{}/mask"),
        ("frames/{}", "Ground-Truth/{}"),
    ],
)
def test_folders_of_public_sets_and_of_cases(tmp_path, image, mask):
    for number in range(2):
        write(tmp_path / f"{image.format(number)}.png", number)
        write(tmp_path / f"{mask.format(number)}.png", number)
    found = [tuple(Path(name.format(number)).name for name in (image, mask)) for number in range(2)]
    assert names_of_pairs(load_data(tmp_path)) == found
    assert len(find_images(str(tmp_path))) == 2


def test_class_folders_of_the_same_names_stay_classes(tmp_path):
    for kind in ("retouched", "mask", "no mask"):
        for number in range(2):
            write(tmp_path / kind / f"{number}.png", number)
    assert load_data(tmp_path).label_names == ["mask", "no mask", "retouched"]


def write(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(np.array([[0, 255], [255 * number, 0]], dtype=np.uint8)).save(path)


def names_of_pairs(data):
    """The names of images and of their masks."""
    rows = data.splits["train"]
    return [tuple(Path(row[name]["path"]).stem for name in ("image", "mask")) for row in rows]

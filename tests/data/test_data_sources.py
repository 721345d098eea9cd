import dataclasses
import json
import logging
import os
import shutil
import zipfile

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, NamedSplit, Value, concatenate_datasets
from PIL import Image as PillowImage
from small_images import png

from rd_hf.arguments.values import ArgumentError
from rd_hf.data import table_files
from rd_hf.data.columns import DataError
from rd_hf.data.decoding.images import BadImageError, to_rgb
from rd_hf.data.sources import fingerprint, load_data, load_images_only
from rd_hf.inference.images import find_images
from rd_hf.tasks.classification import MultiLabel, SingleLabel


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of its own for each test, which must stay without a copy of anything local."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def write_image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.new("L", (6, 4), value).save(path)


def class_folders(root, counts, first=0):
    for number, (name, count) in enumerate(counts.items()):
        for row in range(count):
            write_image(root / name / f"{row}.png", first + 50 * number + row)


def grey(split):
    """The grey value of each image of a split."""
    return [to_rgb(row["image"]).getpixel((0, 0))[0] for row in split]


def picture(value):
    return {"bytes": png(value, (4, 6)), "path": None}


def memory(labels, feature, first=0, **columns):
    features = Features({"image": Image(), "label": feature} | {name: Value("string") for name in columns})
    images = [picture(first + row) for row in range(len(labels))]
    return Dataset.from_dict({"image": images, "label": labels, **columns}, features=features)


def named(data, split):
    return [data.label_names[label] for label in data.labels(split)]


# --- folders of images


def test_class_folders_without_splits(tmp_path):
    class_folders(tmp_path, {"normal": 2, "benign": 1})
    data = load_data(tmp_path)
    assert data.label_names == ["benign", "normal"] and data.problem_type == SingleLabel.problem_type
    assert list(data.splits) == ["train"] and data.splits["train"].column_names == ["image", "label"]
    assert data.splits["train"].features["image"] == Image(decode=False)
    assert sorted(zip(grey(data.splits["train"]), named(data, "train"), strict=True)) == [
        (0, "normal"), (1, "normal"), (50, "benign"),
    ]  # fmt: skip
    assert data.labels("train").dtype == np.int64


def test_class_folders_that_are_named_by_whole_numbers_stand_in_their_order(tmp_path):
    class_folders(tmp_path / "grades", {"10": 1, "2": 1, "1": 1})
    assert load_data(tmp_path / "grades").label_names == ["1", "2", "10"]
    class_folders(tmp_path / "mixed", {"10": 1, "2": 1, "x": 1})
    assert load_data(tmp_path / "mixed").label_names == ["10", "2", "x"]


@pytest.mark.parametrize("val", ["val", "valid", "dev", "Validation"])
def test_split_folders_have_one_list_of_names(tmp_path, val):
    class_folders(tmp_path / "train", {"b": 1, "c": 1})
    class_folders(tmp_path / val, {"a": 1, "c": 1})
    data = load_data(str(tmp_path))
    assert data.label_names == ["a", "b", "c"]
    assert named(data, "train") == ["b", "c"] and named(data, "validation") == ["a", "c"]


@pytest.mark.parametrize("name", ["all.csv", "covid_eval.csv", "test_data.csv"])
def test_a_column_of_splits_divides_a_table_of_any_name(tmp_path, name):
    for number in range(6):
        write_image(tmp_path / f"{number}.png", number)
    lines = [f"{n}.png,{'ab'[n % 2]},{split}" for n, split in enumerate(["train", "val", "test"] * 2)]
    (tmp_path / name).write_text("\n".join(["file_name,label,split", *lines]))
    for given in (tmp_path, tmp_path / name):
        assert load_data(given).source["splits"] == {"train": 2, "validation": 2, "test": 2}


def test_a_column_of_splits_does_not_contradict_the_tables_of_splits(tmp_path):
    for number in range(2):
        write_image(tmp_path / f"{number}.png", number)
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("file_name,label,split\n0.png,a,train\n1.png,b,train\n")
    with pytest.raises(DataError, match="the table of test has rows of train in its column 'split'"):
        load_data(tmp_path)


def test_files_named_like_splits_stay_in_the_data(tmp_path, caplog):
    for name in ("sick/test_1.png", "sick/val-2.png", "well/train_3.png", "test/4.png"):
        write_image(tmp_path / name)
    data = load_data(tmp_path)
    assert data.source["splits"] == {"train": 4} and data.label_names == ["sick", "test", "well"]
    assert f"The folder 'test' of '{tmp_path}' is read as a class, because there is no train beside it" in caplog.text


def test_folders_with_glob_characters_and_hidden_files(tmp_path):
    root = tmp_path / "a [b] *x" / ".hidden"
    class_folders(root, {"a[1]": 1, "b": 1})
    write_image(root / "b" / ".2.png")
    write_image(root / "__MACOSX" / "c.png")
    assert load_data(root).source["splits"] == {"train": 2}


def test_relative_folder(tmp_path, monkeypatch):
    class_folders(tmp_path / "xrays", {"a": 1, "b": 1})
    monkeypatch.chdir(tmp_path)
    assert grey(load_data("xrays").splits["train"]) == [0, 50]


@pytest.mark.parametrize(
    "files, message",
    [
        (["a/1.png", "b/p1/2.png"], r"b/p1/2\.png' is in a folder within a class folder"),
        (["a/1.png", "b/2.png", "3.png"], r"3\.png' is not in a class folder"),
        (["1.png"], "is not in a class folder"),
        (["train/1.png", "test/2.png"], "is not in a class folder"),
        (["a/1.png"], "one class folder with files to read, 'a'"),
        (["train/a/1.png", "train/b/1.png", "extra/a/1.png"], "'extra/a/1.png' is outside them"),
        (["train/a/1.png", "val/a/1.png", "dev/b/1.png"], "both stand for validation"),
    ],
)
def test_folders_without_clear_classes_are_refused(tmp_path, files, message):
    for file in files:
        write_image(tmp_path / file)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path)


def test_folder_without_images_names_what_is_there(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        load_data(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.nrrd").touch()
    with pytest.raises(DataError, match=r"files with \.nrrd 1; expected images.*save volumes as \.nii\.gz"):
        load_data(tmp_path)


@pytest.mark.parametrize("place", ["", "train"])
def test_metadata_file(tmp_path, place):
    for row in range(3):
        write_image(tmp_path / place / "scans" / f"{row}.png", row)
    table = "file_name,finding,patient\nscans/2.png,sick,p1\nscans/0.png,well,p2\n"
    (tmp_path / place / "metadata.csv").write_text(table)
    data = load_data(tmp_path, group_column="patient")
    assert grey(data.splits["train"]) == [2, 0] and named(data, "train") == ["sick", "well"]
    assert data.splits["train"]["group"][:] == ["p1", "p2"]
    assert data.splits["train"].column_names == ["image", "label", "group"]


def test_one_metadata_file_over_split_folders(tmp_path):
    write_image(tmp_path / "train" / "1.png", 1)
    write_image(tmp_path / "test" / "2.png", 2)
    (tmp_path / "metadata.jsonl").write_text(
        '{"file_name": "train/1.png", "label": "a"}\n{"file_name": "test/2.png", "label": "b"}\n'
    )
    data = load_data(tmp_path)
    assert grey(data.splits["train"]) == [1] and grey(data.splits["test"]) == [2]


def test_metadata_in_some_splits_only(tmp_path):
    write_image(tmp_path / "train" / "1.png")
    write_image(tmp_path / "test" / "2.png")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,label\n1.png,a\n")
    with pytest.raises(DataError, match="test' has no metadata file"):
        load_data(tmp_path)


def test_images_only_from_any_arrangement(tmp_path):
    for number, file in enumerate(["1.png", "a/2.png", "train/b/3.png", "test/c/d/4.TIF"]):
        write_image(tmp_path / file, number)
    (tmp_path / "notes.csv").write_text("x\n1\n")
    images = load_images_only(tmp_path)
    assert images.column_names == ["image"] and sorted(grey(images)) == [0, 1, 2, 3]


# --- tables


def test_csv_with_paths_relative_to_its_folder(tmp_path):
    write_image(tmp_path / "png" / "x.png", 7)
    write_image(tmp_path / "png" / "y.png", 8)
    (tmp_path / "list.csv").write_text("age,image_path,diagnosis\n40,png/y.png,b\n50,png/x.png,a\n")
    data = load_data(tmp_path / "list.csv")
    assert grey(data.splits["train"]) == [8, 7] and named(data, "train") == ["b", "a"]


def test_folder_of_tsv_files(tmp_path):
    for split, name in (("train", "a.png"), ("val", "b.png"), ("test", "c.png")):
        write_image(tmp_path / name, ord(name[0]))
        (tmp_path / f"my_{split}.tsv").write_text(f"image\tlabel\n{name}\t{split}\n")
    data = load_data(tmp_path)
    assert {name: grey(split) for name, split in data.splits.items()} == {
        "train": [97], "validation": [98], "test": [99]
    }  # fmt: skip


def test_columns_that_do_not_matter_may_differ_between_files(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("image,label,note\na.png,0,x\n")
    (tmp_path / "test.csv").write_text("image,label,other\na.png,1,5\n")
    assert load_data(tmp_path).label_names == ["0", "1"]


def test_column_split_divides_a_table(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "all.csv").write_text("image,label,split\na.png,x,train\na.png,y,val\na.png,y,train\n")
    data = load_data(tmp_path / "all.csv")
    assert named(data, "train") == ["x", "y"] and named(data, "validation") == ["y"]
    (tmp_path / "all.csv").write_text("image,label,split\na.png,x,train\na.png,y,fold3\n")
    with pytest.raises(DataError, match=r"'split' contains \['fold3'\]"):
        load_data(tmp_path / "all.csv")


def test_parquet_with_embedded_images_leaves_no_copy(tmp_path, cache):
    (tmp_path / "data").mkdir()
    feature = ClassLabel(names=["z", "a"])
    for number, split in enumerate(["train", "validation"]):
        rows = memory([0, 1, 1], feature, first=10 * number)
        rows.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    data = load_data(tmp_path)
    assert data.label_names == ["z", "a"] and data.labels("validation").tolist() == [0, 1, 1]
    assert grey(data.splits["validation"]) == [10, 11, 12]
    assert list(cache.rglob("*.arrow")) == []
    assert load_data(tmp_path / "data" / "train-00000-of-00001.parquet").source["splits"] == {"train": 3}


def test_parquet_that_may_not_fit_in_memory_goes_to_the_cache(tmp_path, cache, monkeypatch, caplog):
    monkeypatch.setattr(table_files, "IN_MEMORY_BYTES", 0)
    memory([0, 1], Value("int64")).to_parquet(tmp_path / "x.parquet")
    with caplog.at_level(logging.WARNING):
        assert grey(load_data(tmp_path / "x.parquet").splits["train"]) == [0, 1]
    assert "stores a copy in its cache" in caplog.text


@pytest.mark.parametrize(
    "files, message",
    [
        ({"t.csv": "image,label\nb.png,0\na.pgn,1\n"}, r"1 of 2 files.*row 1.*a\.pgn.*nearest name.*'a\.png'"),
        ({"t.csv": "image,label\na.png,0\n,1\n"}, "row 1, whose column 'image' is empty"),
        ({"t.csv": "image,label\na.png,0\na.png,0.5\n"}, "row 1, column 'label': label '0.5'"),
        ({"t.csv": "scan,label\na.png,0\n"}, r"no image column found.*scan \(string\), label \(string\)"),
        ({"t.csv": "image,outcome\na.png,0\n"}, "no label column found.*outcome"),
        ({"train.csv": "image,label\na.png,0\n", "more.csv": "image,label\n"}, "also 'more.csv'"),
        ({"train.csv": "image,label\na.png,0\n", "test.csv": "image,dx\na.png,0\n"}, "'test' has no column 'label'"),
        (
            {"train.csv": "image,label\na.png,0\n", "test.jsonl": '{"image": "a.png", "label": 0}'},
            "tables of several formats",
        ),
        ({"train_1.csv": "image,label\na.png,0\n", "train_2.csv": "image,dx\na.png,0\n"}, "name different columns"),
        ({"t.parquet": "no parquet"}, r"t\.parquet' cannot be read"),
        (
            {"t.parquet": "version https://git-lfs.github.com/spec/v1\n"},
            r"t\.parquet' is no table: it is a Git LFS pointer",
        ),
        ({"t.csv": ""}, r"t\.csv' is no table: it is empty"),
        ({"t.csv": "image,label\n"}, "no rows|cannot be read"),
    ],
)
def test_faulty_tables(tmp_path, files, message):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path)


def test_table_beside_class_folders_is_not_guessed(tmp_path):
    class_folders(tmp_path, {"a": 1, "b": 1})
    (tmp_path / "patients.csv").write_text("image,label\na/0.png,x\n")
    with pytest.raises(DataError, match=r"class folders and the table 'patients\.csv'"):
        load_data(tmp_path)
    assert load_data(tmp_path / "patients.csv").label_names == ["x"]
    (tmp_path / "patients.csv").rename(tmp_path / "test_results.csv")  # which would hide the class folders
    with pytest.raises(DataError, match=r"class folders and the table 'test_results\.csv'"):
        load_data(tmp_path)
    (tmp_path / "train.csv").write_text("image,label\na/0.png,y\nb/0.png,x\n")
    assert load_data(tmp_path).source["splits"] == {"train": 2, "test": 1}


def test_table_of_test_beside_masks_is_not_guessed(tmp_path):
    write_image(tmp_path / "images" / "0.png")
    write_image(tmp_path / "masks" / "0.png", 1)
    (tmp_path / "test_results.csv").write_text("image,label\nimages/0.png,x\n")
    with pytest.raises(DataError, match=r"has both masks and the table 'test_results\.csv'"):
        load_data(tmp_path)
    (tmp_path / "test_results.csv").write_text("image,mask\nimages/0.png,masks/0.png\n")
    assert load_data(tmp_path).source["splits"] == {"test": 1}


@pytest.mark.parametrize(
    "names",
    [
        ["labels.csv", "labels (copy).csv"],
        ["labels.csv", "labels_2.csv"],
        ["labels (1).csv", "labels (2).csv"],
        ["labels_v1.csv", "labels_v2.csv"],
        ["trainlabels.csv", "testlabels.csv"],
        ["train.csv", "train_old.csv"],
        ["a.jsonl", "b.jsonl"],
    ],
)
def test_several_tables_are_not_joined_unless_they_are_parts(tmp_path, names):
    write_image(tmp_path / "a.png")
    for name in names:
        row = '{"image": "a.png", "label": "x"}' if name.endswith("jsonl") else "image,label\na.png,x\n"
        (tmp_path / name).write_text(row)
    with pytest.raises(DataError, match="has several tables, and their names do not say that they are one") as caught:
        load_data(tmp_path)
    assert all(f"'{name}'" in str(caught.value) for name in names)


@pytest.mark.parametrize("name", ["labels_{}.csv", "part-0000{}.csv", "train-{}-of-2.csv", "{}.tsv"])
def test_numbered_parts_of_a_table_are_read_as_one(tmp_path, caplog, name):
    caplog.set_level("INFO")
    for number in range(2):
        write_image(tmp_path / f"{number}.png", number)
        separator = "\t" if name.endswith("tsv") else ","
        (tmp_path / name.format(number)).write_text(f"image,label\n{number}.png,{number}\n".replace(",", separator))
    assert grey(load_data(tmp_path).splits["train"]) == [0, 1]
    assert f"2 tables of '{tmp_path}' are read as one: '{name.format(0)}', '{name.format(1)}'." in caplog.text


@pytest.mark.parametrize(
    "names", [("trainLabels", "testLabels"), ("TrainSet", "TESTSet"), ("labelsTrain", "labelsTest")]
)
def test_splits_in_names_of_camel_case(tmp_path, names):
    for number, name in enumerate(names):
        write_image(tmp_path / f"{number}.png", number)
        (tmp_path / f"{name}.csv").write_text(f"image,label\n{number}.png,x\n")
    data = load_data(tmp_path)
    assert {name: grey(split) for name, split in data.splits.items()} == {"train": [0], "test": [1]}


# --- MedMNIST


def test_npz(blobs_npz):
    data = load_data(blobs_npz)
    assert data.label_names == ["benign", "malignant", "normal"]
    assert data.source["splits"] == {"train": 60, "validation": 24, "test": 24}
    assert data.labels("validation").tolist() == (np.arange(24) % 3).tolist()
    with np.load(blobs_npz) as arrays:
        assert np.array_equal(np.asarray(to_rgb(data.splits["test"][5]["image"]))[..., 1], arrays["test_images"][5])


def test_npz_in_colour_with_several_labels(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3)).astype(np.uint8)
    labels = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [1, 0]])
    np.savez(tmp_path / "x.npz", test_images=images, test_labels=labels, classes=["mass", "effusion"])
    data = load_data(tmp_path / "x.npz")
    assert data.problem_type == MultiLabel.problem_type and data.label_names == ["mass", "effusion"]
    assert data.labels("test").dtype == np.float32 and data.labels("test").tolist() == labels.tolist()
    assert np.array_equal(np.asarray(to_rgb(data.splits["test"][3]["image"])), images[3])
    assert np.asarray(data.splits["test"].with_format("numpy")["label"][:]).tolist() == labels.tolist()


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"images": np.zeros((2, 4, 4), np.uint8)}, "no array named train_images.*images"),
        ({"train_images": np.zeros((2, 4, 4, 4), np.uint8)}, r"\(2, 4, 4, 4\).*`dimensions` 3 reads it as volumes"),
        ({"train_images": np.zeros((2, 4, 4))}, "float64"),
        ({"train_images": np.zeros((2, 4, 4), np.uint8), "train_labels": np.zeros(3, int)}, "2 images, but 3 labels"),
        ({"train_images": np.zeros((2, 4, 4), np.uint8), "train_labels": np.full(2, 0.5)}, "expected whole numbers"),
        ({"train_images": np.zeros((2, 4, 4), np.uint8), "train_labels": np.array([[0, 1], [2, 0]])}, r"row 1 is \[2"),
        ({"train_images": np.zeros((2, 4, 4), np.uint8)}, "no label column"),
        ({"train_images": np.zeros((1, 4, 4), np.uint8), "train_labels": [[3]], "classes": ["a", "b"]}, "label 3.*2"),
        ({"train_images": np.zeros((1, 4, 4), np.uint8), "train_labels": [[0]], "classes": ["a", "a"]}, "occurs twice"),
        ({"train_images": np.array([{}], dtype=object)}, "not a plain array of numbers"),
    ],
)  # fmt: skip
def test_faulty_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "x.npz")


def test_npz_is_unpacked_as_far_as_it_is_needed(tmp_path, monkeypatch):
    arrays = {"train_images": np.zeros((4, 8, 8), np.uint8), "train_labels": np.array([0, 1, 0, 1])}
    np.savez_compressed(tmp_path / "x.npz", thumbnails=np.zeros(2**22, np.uint8), **arrays)
    read, unpacked = np.lib.npyio.NpzFile.__getitem__, []
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda file, key: unpacked.append(key) or read(file, key))
    load_data(tmp_path / "x.npz")
    assert unpacked == list(arrays)
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as file, file.open("train_images.npy", "w") as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**9, 64, 64)}
        np.lib.format.write_array_header_1_0(member, header)
        member.write(bytes(100))
    with pytest.raises(DataError, match=r"y\.npz' cannot be read: it is damaged.*train_images promises 4096000000"):
        load_data(tmp_path / "y.npz")
    assert unpacked == list(arrays)


@pytest.mark.parametrize("kept", [500, -1, -40, 0.5])
def test_npz_that_is_cut_off(blobs_npz, kept):
    content = blobs_npz.read_bytes()
    blobs_npz.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    with pytest.raises(DataError, match=r"blobs\.npz' cannot be read: it is damaged, or was not downloaded completely"):
        load_data(blobs_npz)


def test_npz_with_a_damaged_array(blobs_npz):
    content = bytearray(blobs_npz.read_bytes())
    content[len(content) // 2] ^= 255
    blobs_npz.write_bytes(content)
    with pytest.raises(DataError, match="it is damaged"):
        load_data(blobs_npz)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 4\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"", "it is empty"),
        (b"\x93NUMPY\x01\x00", "single array"),
        (b"nothing of the kind", "does not begin like one"),
    ],
)
def test_files_that_are_no_npz(tmp_path, content, message):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.npz' is no \.npz file: .*{message}") as error:
        load_data(tmp_path / "x.npz")
    assert "pickle" not in str(error.value)


def test_npz_of_objects_is_refused_without_unsafe_advice(tmp_path):
    np.savez(tmp_path / "x.npz", train_images=np.array([np.zeros(2), np.zeros(3)], dtype=object))
    with pytest.raises(DataError, match="x.npz', train_images: .*differ in size") as error:
        load_data(tmp_path / "x.npz")
    assert "pickle" not in str(error.value) and error.value.__cause__ is None and error.value.__suppress_context__


@pytest.mark.parametrize("channels", [1, 3])
def test_npz_with_channels_first(tmp_path, caplog, channels):
    caplog.set_level(logging.INFO)
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 5, channels)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images.transpose(0, 3, 1, 2), train_labels=[0, 1])
    data = load_data(tmp_path / "x.npz")
    assert "read as channels first" in caplog.text
    for row, image in enumerate(images):
        pixels = np.asarray(to_rgb(data.splits["train"][row]["image"]))
        assert np.array_equal(pixels, np.broadcast_to(image, (6, 5, 3)))


@pytest.mark.parametrize("shape", [(2, 5, 3, 3), (2, 3, 6, 3), (2, 6, 5, 1)])
def test_npz_with_channels_last_stays_so(tmp_path, shape):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=[0, 1])
    pixels = np.asarray(to_rgb(load_data(tmp_path / "x.npz").splits["train"][1]["image"]))
    assert np.array_equal(pixels, np.broadcast_to(images[1], (*shape[1:3], 3)))


@pytest.mark.parametrize(
    "labels, names, expected",
    [
        (np.eye(2, dtype=np.float32)[[0, 1, 1]], ["0", "1"], [0, 1, 1]),  # one-hot, as Keras writes it
        (np.array([0.0, 2.0, 0.0]), ["0", "2"], [0, 1, 0]),
        (np.array(["well", "ill ", "well"]), ["ill", "well"], [1, 0, 1]),
        (np.array([b"well", b"ill", b"well"]), ["ill", "well"], [1, 0, 1]),
        (np.array([["b"], ["a"], ["b"]]), ["a", "b"], [1, 0, 1]),
    ],
)
def test_npz_with_labels_of_other_types(tmp_path, labels, names, expected):
    np.savez(tmp_path / "x.npz", train_images=np.zeros((3, 4, 4), np.uint8), train_labels=labels)
    data = load_data(tmp_path / "x.npz")
    assert data.label_names == names and data.labels("train").tolist() == expected


def test_npz_with_uncertain_labels(tmp_path):
    labels = np.array([[1, -1], [1, 1], [0, 0]])
    np.savez(tmp_path / "x.npz", train_images=np.zeros((3, 4, 4), np.uint8), train_labels=labels, classes=["a", "b"])
    with pytest.raises(DataError, match="b: 1 uncertain .*`uncertain`"):
        load_data(tmp_path / "x.npz")
    data = load_data(tmp_path / "x.npz", uncertain="negative")
    assert data.labels("train").tolist() == [[1, 0], [1, 1], [0, 0]] and data.source["uncertain"] == "negative"


def test_npz_split_without_labels_is_left_out(tmp_path):
    images = np.zeros((2, 4, 4), np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images, train_labels=[0, 1], test_images=images)
    assert load_data(tmp_path / "x.npz").without_labels == ("test",)


@pytest.mark.parametrize(
    "name, splits, names",
    [
        ("breastmnist", (546, 78, 156), ["0", "1"]),
        ("pneumoniamnist", (4708, 524, 624), ["0", "1"]),
        ("busi_128", (546, 78, 156), ["benign", "malignant", "normal"]),
        ("mednist_7200", (4800, 960, 1440), ["AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"]),
    ],
)
def test_real_npz(shared_data, name, splits, names):
    data = load_data(shared_data / f"{name}.npz")
    assert data.source["splits"] == dict(zip(("train", "validation", "test"), splits, strict=True))
    assert data.label_names == names
    with np.load(shared_data / f"{name}.npz") as arrays:
        for split, key in (("train", "train"), ("validation", "val"), ("test", "test")):
            assert data.labels(split).tolist() == arrays[f"{key}_labels"].ravel().tolist()
            for row in (0, len(data.splits[split]) - 1):
                pixels = np.asarray(to_rgb(data.splits[split][row]["image"]))
                assert np.array_equal(pixels[..., 0], arrays[f"{key}_images"][row])


# --- data sets in memory and on disk


def test_data_set_in_memory_with_selected_rows(tmp_path):
    rows = memory([0, 1, 2, 1], ClassLabel(names=["a", "b", "c"]), patient=["p", "q", "r", "s"]).select([3, 0])
    data = load_data(rows, group_column="patient")
    assert grey(data.splits["train"]) == [3, 0] and data.labels("train").tolist() == [1, 0]
    assert data.splits["train"]["group"][:] == ["s", "p"]


def test_groups_are_cleaned_as_labels_are():
    groups = ["p ", "q", "p", "u\u0308", "\u00fc"]
    rows = memory([0, 1, 0, 1, 0], ClassLabel(names=["a", "b"]), patient=groups).select([4, 3, 2, 1, 0])
    assert load_data(rows, group_column="patient").splits["train"]["group"][:] == ["\u00fc"] * 2 + ["p", "q", "p"]


def test_groups_of_a_training_are_read_where_every_row_has_one():
    names = ClassLabel(names=["a", "b"])
    splits = DatasetDict(train=memory([0, 1], names), test=memory([0], names))
    data = load_data(splits, recorded_groups="patient", made_again="test")
    assert "group" not in data.splits["test"].column_names
    with pytest.raises(DataError, match="by which its split 'validation' was made of train"):
        load_data(splits, recorded_groups="patient", made_again="validation")
    for patients, read in ((["p", "q"], True), (["p", None], False), (["p", " "], False)):
        data = load_data(memory([0, 1], names, patient=patients), recorded_groups="patient")
        assert ("group" in data.splits["train"].column_names) == read


def test_labels_follow_splits_made_anew():
    data = load_data(memory([0, 1, 2, 1], ClassLabel(names=["a", "b", "c"])))
    rows = data.splits["train"]
    made = dataclasses.replace(data, splits=DatasetDict(train=rows.select([2, 0]), test=rows.select([1])))
    assert made.labels("train").tolist() == [2, 0] and made.labels("test").tolist() == [1]


@pytest.mark.parametrize("several", [False, True])
def test_saved_data_set_is_left_as_it_is(tmp_path, several):
    rows = memory([0, 1], ClassLabel(names=["a", "b"]))
    (DatasetDict(train=rows, dev=rows) if several else rows).save_to_disk(tmp_path / "saved")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    data = load_data(tmp_path / "saved")
    assert list(data.splits) == (["train", "validation"] if several else ["train"])
    assert grey(data.splits["train"].select([1])) == [1]
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_multi_label_in_memory():
    data = load_data(memory([["x"], [], ["y", "x"]], List(Value("string"))))
    assert data.problem_type == MultiLabel.problem_type and data.labels("train").tolist() == [[1, 0], [0, 0], [1, 1]]
    assert data.labels("train").dtype == np.float32


def test_several_columns_of_labels():
    rows = Dataset.from_dict({"image": [picture(1), picture(2)], "mass": [1, 0], "cyst": [0, 0]})
    data = load_data(rows.cast_column("image", Image()), label_column=["mass", "cyst"])
    assert data.label_names == ["mass", "cyst"] and data.labels("train").tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    "dataset, options, message",
    [
        (memory([0], Value("int64")), {"image_column": "scan"}, "image_column is 'scan'.*columns found: image"),
        (memory([0], Value("int64")), {"label_column": "dx"}, "label_column is 'dx'"),
        (memory([0], Value("int64")), {"group_column": "pid"}, "the column 'pid' that `group_column` names"),
        (memory([0, 1], Value("int64"), pid=["a", None]), {"group_column": "pid"}, "row 1: group column 'pid'"),
        (memory([0], Value("int64")), {"revision": "main"}, "revision is 'main', but only Hub data sets have one"),
        (memory([0], Value("int64")), {"config_name": "x"}, "config_name is 'x'"),
        (memory([0], Value("int64")).to_iterable_dataset(), {}, "streaming=True"),
        (memory([], Value("int64")), {}, "'train' has no rows"),
        (DatasetDict(), {}, "no split"),
        (DatasetDict(val=memory([0], Value("int64")), dev=memory([0], Value("int64"))), {}, "'val' and 'dev'"),
        (5, {}, "a int is not a data set"),
    ],
)  # fmt: skip
def test_faulty_arguments(dataset, options, message):
    with pytest.raises(DataError, match=message):
        load_data(dataset, **options)


def test_images_of_all_splits_without_labels(blobs_npz, caplog):
    with caplog.at_level(logging.WARNING):
        images = load_images_only(blobs_npz)
    assert len(images) == 108 and images.column_names == ["image"]
    assert "train, validation, test" in caplog.text
    rows = DatasetDict(train=memory([0], Value("int64")).remove_columns("label"))
    assert grey(concatenate_datasets([images, load_images_only(rows)]).select([108])) == [0]


# --- names that are not there


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "/".join(["folder"] * 800) + "/1.png"])
def test_path_that_is_too_long_is_missing(tmp_path, name):
    with pytest.raises(DataError, match="2 of 2 files of split 'train' are missing; the first is row 0"):
        load_data(Dataset.from_dict({"image": [name, "y.png"], "label": ["a", "b"]}))
    (tmp_path / "t.csv").write_text(f"file_name,label\n{name},a\ny.png,b\n")
    with pytest.raises(DataError, match="2 of 2 files"):
        load_data(tmp_path / "t.csv")
    for path in (name, name.replace(".png", ".csv")):
        with pytest.raises(DataError, match="there is no file or folder"):
            load_data(path)
    with pytest.raises(ArgumentError, match="There is no image at"):
        find_images([name])


def test_missing_file_gives_the_nearest_name(blobs_npz):
    with pytest.raises(DataError, match=r"no file or folder.*nearest name.*'blobs\.npz'"):
        load_data(blobs_npz.parent / "blob.npz")


def test_missing_relative_folder_may_be_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "my_xrays").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"Hub data set 'my_xray'.*not in the cache.*HF_HUB_OFFLINE.*'my_xrays'"):
        load_data("my_xray")
    with pytest.raises(DataError, match=r"no file or folder.*'my_xrays'"):
        load_data("./my_xray/")


def test_hub_id_names_configuration_and_revision():
    with pytest.raises(DataError, match="'someone/xrays', configuration 'small', revision 'v1' is not in the cache"):
        load_data("someone/xrays", config_name="small", revision="v1")


def test_file_of_another_kind(tmp_path):
    (tmp_path / "x.zip").touch()
    with pytest.raises(DataError, match=r"unsupported format; expected \.npz, \.parquet, \.csv"):
        load_data(tmp_path / "x.zip")


def cached_hub_data(cache, commit):
    """Lay out a data set as `datasets` caches one of the Hub."""
    folder = cache / "someone___xrays" / "default" / "0.0.0" / commit
    folder.mkdir(parents=True)
    builder = memory([0, 1], ClassLabel(names=["a", "b"]))
    builder.save_to_disk(cache.parent / "made")
    (arrow,) = (cache.parent / "made").glob("*.arrow")
    shutil.copy(arrow, folder / "xrays-train.arrow")
    info = builder.info.copy()
    info.config_name, info.dataset_name, info.builder_name, info.version = "default", "xrays", "parquet", "0.0.0"
    info.splits = {"train": {"name": "train", "num_bytes": 1, "num_examples": 2, "dataset_name": "xrays"}}
    info.splits = datasets.SplitDict.from_split_dict(info.splits)
    info.write_to_directory(str(folder))


def test_hub_data_from_the_cache(tmp_path, cache):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached_hub_data(cache, commit)
    data = load_data("someone/xrays")
    assert data.source["id"] == "someone/xrays" and data.source["revision"] == commit
    assert data.source["config_name"] == "default" and named(data, "train") == ["a", "b"]
    assert load_data("someone/xrays", revision=commit).source["revision"] == commit
    with pytest.raises(DataError, match=f"revision 'v2'.*cache has {commit}"):
        load_data("someone/xrays", revision="v2")


# --- a trained model's names


def test_labels_are_matched_with_the_model_by_name():
    rows = memory([0, 1, 1], ClassLabel(names=["well", "sick"]))
    data = load_data(rows, label_names=["other", "sick", "well"])
    assert data.label_names == ["other", "sick", "well"] and data.labels("train").tolist() == [2, 1, 1]


def test_labels_that_the_model_does_not_know():
    rows = memory([0, 1, 1], ClassLabel(names=["well", "sick", "unused"]))
    with pytest.raises(DataError, match=r"does not know: \['sick'\]; the model's classes are \['well'\]"):
        load_data(rows, label_names=["well"])


@pytest.mark.parametrize(
    "labels, names, expected",
    [
        ([0, 2], ["a", "b", "c"], [0, 2]),
        ([1, 2], ["1", "2"], [0, 1]),  # trained on the same numbers, which are its names then
        ([2, 0], ["0", "1", "2"], [2, 0]),
    ],
)
def test_integers_without_names(labels, names, expected):
    data = load_data(memory(labels, Value("int64")), label_names=names)
    assert data.labels("train").tolist() == expected and data.label_names == names


def test_integers_outside_the_model():
    with pytest.raises(DataError, match=r"row 1.*label 2 is outside the 2 names"):
        load_data(memory([0, 2], Value("int64")), label_names=["a", "b"])


def test_multi_label_by_name():
    rows = memory([["x"], ["y", "x"]], List(Value("string")))
    assert load_data(rows, label_names=["z", "y", "x"]).labels("train").tolist() == [[0, 0, 1], [0, 1, 1]]
    with pytest.raises(DataError, match=r"\['y'\]"):
        load_data(rows, label_names=["x"])


# --- provenance, fingerprints, bad images


def test_source_is_plain_and_without_paths(tmp_path):
    class_folders(tmp_path / "secret", {"a": 1, "b": 1})
    source = load_data(tmp_path / "secret").source
    text = json.dumps(source)
    assert source["id"] == "local" and source["revision"] is None and source["splits"] == {"train": 2}
    assert "secret" not in text and str(tmp_path) not in text and ".png" not in text


def test_fingerprint_follows_content_and_not_the_path(tmp_path):
    class_folders(tmp_path / "one", {"a": 2, "b": 1})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first = load_data(tmp_path / "one").source["fingerprint"]
    assert load_data(tmp_path / "two").source["fingerprint"] == first
    write_image(tmp_path / "two" / "b" / "0.png", 99)
    changed = load_data(tmp_path / "two").source["fingerprint"]
    os.rename(tmp_path / "one" / "b", tmp_path / "one" / "c")
    renamed = load_data(tmp_path / "one").source["fingerprint"]
    assert len({first["train"], changed["train"], renamed["train"]}) == 3


def test_fingerprint_of_other_labels_and_of_many_rows():
    rows = [
        load_data(memory(labels, ClassLabel(names=["a", "b"]))).splits["train"] for labels in ([0, 1, 1], [0, 1, 0])
    ]
    whole = [fingerprint(split) for split in rows]
    assert whole[0] != whole[1] and whole[0].startswith("sha256:")
    part = [fingerprint(split, max_rows=2) for split in rows]
    assert part[0] != part[1] and part[0].startswith("sha256 of 2 of 3 rows and all labels:")
    between = load_data(memory([0, 0, 1], ClassLabel(names=["a", "b"]))).splits["train"]
    assert fingerprint(between, max_rows=2) not in part  # by labels, also of rows whose images are not read


def test_bad_image_fails_at_its_own_row(tmp_path):
    class_folders(tmp_path, {"a": 2, "b": 1})
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    rows = load_data(tmp_path).splits["train"]
    assert to_rgb(rows[0]["image"]).size == (6, 4)
    with pytest.raises(BadImageError, match=r"row 1.*a/1\.png"):
        to_rgb(rows[1]["image"], name="row 1")


def test_a_gap_in_a_column_of_splits_is_told_whatever_the_table_is_called(tmp_path):
    for number in range(3):
        write_image(tmp_path / f"{number}.png", number)
    (tmp_path / "covid_eval.csv").write_text("file_name,label,split\n0.png,a,train\n1.png,b,\n2.png,a,test\n")
    with pytest.raises(DataError, match="1 of 3 rows have nothing in column 'split'; the first is row 1"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("own_name", "name"),
    [("test[:50%]", "test"), ("test+validation", "test"), ("validation", "validation"), ("all", "train")],
)
def test_a_part_of_a_split_has_the_name_of_the_split(own_name, name):
    rows = Dataset(memory([0, 1], ClassLabel(names=["a", "b"])).data, split=NamedSplit(own_name))
    assert list(load_data(rows).splits) == [name]

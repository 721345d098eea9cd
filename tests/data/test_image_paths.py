import base64
import logging
import os
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from PIL import Image

from rd_hf.data.columns import DataError
from rd_hf.data.decoding.images import BadImageError, to_rgb
from rd_hf.data.sources import load_data, load_images_only
from rd_hf.data.volumes.source import Source


def write(root, *files):
    """Write images whose grey value is their number."""
    for value, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), value).save(root / file)


def values(root, names, column="file_name"):
    """The grey values of the images that a table of these names lists."""
    lines = [f'"{name}",{"ab"[number % 2]}' for number, name in enumerate(names)]
    (root / "t.csv").write_text("\n".join([f"{column},label", *lines]) + "\n")
    return [to_rgb(row["image"]).getpixel((0, 0))[0] for row in load_data(root / "t.csv").splits["train"]]


@pytest.mark.parametrize(
    "names",
    [
        ["train/1.png", "train/2.png"],
        ["./train/1.png", "test/../train/2.png"],
        ["train\\1.png", "train\\2.png"],
        ["C:\\scans\\set\\train\\1.png", "C:\\scans\\set\\train\\2.png"],
        ["/home/else/train/1.png", "/home/else/train/2.png"],
        ["archive/set/train/1.png", "archive/set/train/2.png"],
        ["/home/dev/x/1.png", "C:\\Users\\test\\x\\2.png"],  # whose users have names of splits
        ["1.png", "2.png"],
        [" train/1.png ", "train/2.png"],
        ["TRAIN/1.PNG", "train/2.PNG"],
        ["1", "2"],
        ["train/1", "train/2"],
        ["001", "2"],
        ["1.0", "2.0"],
    ],
)
def test_names_that_mean_one_file(tmp_path, names):
    write(tmp_path, "test/0.png", "train/1.png", "train/2.png")
    assert values(tmp_path, names) == [1, 2]


def test_ids_with_zeros_and_ids_that_are_numbers(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path, "00000.png", "00013.png", "00002.png")
    assert values(tmp_path, ["00013", "00002"]) == [1, 2]
    assert "2 of 2 paths in column 'file_name' of split 'train' name no file, but each fits one image" in caplog.text
    Dataset.from_dict({"image_id": [13, 2], "label": ["a", "b"]}).to_parquet(tmp_path / "t.parquet")
    data = load_data(tmp_path / "t.parquet", image_column="image_id")
    assert [to_rgb(row["image"]).getpixel((0, 0))[0] for row in data.splits["train"]] == [1, 2]


def test_unicode_forms_and_bytes(tmp_path):
    name = unicodedata.normalize("NFD", "Brüste.png")
    write(tmp_path, name, "x.png")
    assert values(tmp_path, [unicodedata.normalize("NFC", name), "x.png"]) == [0, 1]
    os.rename(tmp_path / "x.png", os.fsencode(tmp_path) + "/für.png".encode("cp1252"))
    assert values(tmp_path, [name, "für.png"]) == [0, 1]


@pytest.mark.parametrize(
    "files, names, message",
    [
        (["a/1.png", "b/1.png"], ["1.png", "b/1.png"], "row 0 of split 'train', fits several files, such as 'a/1.png'"),
        (["1.png", "2.png"], ["p1/1.png", "p2/1.png"], "'p1/1.png' and 'p2/1.png' in column .* would both mean"),
        (["1.png", "2.png"], ["1.png", "p2/1.png"], "'1.png' and 'p2/1.png' in column 'file_name' would both mean"),
        (["x/1.jpg", "2.png"], ["1.png", "2.png"], r"1 of 2 files.*row 0, '1.png'.*A file there is '2.png'"),
        (["img_1.png", "img_2.png"], ["1", "2"], r"2 of 2 files.*row 0, '1'.*A file there is 'img_1.png'"),
    ],
)  # fmt: skip
def test_names_that_mean_no_file_or_several(tmp_path, files, names, message):
    write(tmp_path, *files)
    with pytest.raises(DataError, match=message):
        values(tmp_path, names)


@pytest.mark.parametrize(
    "files, names",
    [
        (["train/1.png", "train/2.png", "old/3.png"], ["train/1.png", "train/2.png", "train/3.png"]),  # a lost file
        (["train/1.png", "test/2.png", "old/3.png"], ["train/1.png", "train/2.png"]),
        (["test/1.png", "test/2.png"], ["train/1.png", "train/2.png"]),  # a lost folder
        (["test/1.png", "test/2.png"], ["train/1", "train/2"]),
        (["train/1.png", "more/2.png"], ["train/1.png", "train/2"]),
    ],
)
def test_a_lost_file_is_missing_and_not_another_of_its_name(tmp_path, files, names):
    write(tmp_path, *files)
    with pytest.raises(DataError, match=r"files of split 'train' are missing; the first is row \d, 'train/"):
        values(tmp_path, names)


def test_one_file_for_two_names_of_two_splits_is_refused(tmp_path):
    write(tmp_path, "1.png", "2.png")
    (tmp_path / "t.csv").write_text("file_name,label,split\nx/1.png,a,train\n2.png,b,train\ny/1.png,a,test\n")
    with pytest.raises(DataError, match="would both mean the file"):
        load_data(tmp_path / "t.csv")


def test_images_that_a_table_does_not_list_are_counted(tmp_path, caplog):
    write(tmp_path, "s/1.png", "s/2.png", "s/3.png", "s/1_mask.png", "other/4.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\ns/1.png,a\ns/2.png,b\n")
    load_data(tmp_path)
    assert "lists 2 images, but not 2 others beside them, which are not used; the first is 'other/4.png'" in caplog.text
    caplog.clear()
    load_data(tmp_path / "metadata.csv")  # the table alone: only the folders of its images count
    assert "lists 2 images, but not 1 others beside them, which are not used; the first is 's/3.png'" in caplog.text


def test_images_as_base64_text(tmp_path):
    write(tmp_path, "0.png", "1.png")
    texts = [base64.b64encode((tmp_path / f"{number}.png").read_bytes()).decode() for number in range(2)]
    assert values(tmp_path, [texts[0], f"data:image/png;base64,{texts[1]}"], column="image") == [0, 1]


def test_long_text_that_is_no_image_is_cut_in_the_message(tmp_path):
    with pytest.raises(DataError) as caught:
        values(tmp_path, ["not base64! " * 100, "x"])
    assert "not base64! not base64!" in str(caught.value) and len(str(caught.value)) < 700


def test_ids_of_a_table_with_gaps_are_whole_numbers(tmp_path):
    write(tmp_path, "00000.png", "00013.png")
    Dataset.from_dict({"image_id": [13.0, 0.0], "label": ["a", "b"]}).to_parquet(tmp_path / "t.parquet")
    data = load_data(tmp_path / "t.parquet")
    assert [to_rgb(row["image"]).getpixel((0, 0))[0] for row in data.splits["train"]] == [1, 0]
    Dataset.from_dict({"image_id": [13.5, 0.0], "label": ["a", "b"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column 'image_id' of split 'train' contains double"):
        load_data(tmp_path / "t.parquet")


def test_texts_of_any_arrow_type(tmp_path):
    write(tmp_path, "0.png", "1.png", "2.png")
    cells = {"file_name": ["2.png", "1.png"], "label": ["b", "a"], "label_name": ["x", "y"]}
    columns = {name: pa.array(texts, pa.string_view()) for name, texts in cells.items()}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    data = load_data(tmp_path / "t.parquet")
    assert [to_rgb(row["image"]).getpixel((0, 0))[0] for row in data.splits["train"]] == [2, 1]
    assert [data.label_names[label] for label in data.labels("train")] == ["b", "a"]


def test_listed_links_and_folders_are_called_so(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path, "1.png", "3/2.png", "3/4.png")
    (tmp_path / "0.png").symlink_to("gone.png")
    (tmp_path / "t.csv").write_text("file_name,label\n0.png,a\n1.png,b\n")
    data = load_data(tmp_path / "t.csv")
    with pytest.raises(
        BadImageError, match="0.png is not a readable image: it is a link to 'gone.png', which does not"
    ):
        to_rgb(data.splits["train"][0]["image"])
    assert "but each fits" not in caplog.text
    with pytest.raises(DataError, match=r"row 0, '3' \(a folder\)"):
        values(tmp_path, ["3", "1.png"])


def test_addresses_that_cannot_be_opened_are_unreadable_images(tmp_path):
    data = load_data(Dataset.from_dict({"image": ["hf://nowhere/1.png", "hf://nowhere/2.png"], "label": ["a", "b"]}))
    with pytest.raises(BadImageError, match="hf://nowhere/1.png is not a readable image"):
        to_rgb(data.splits["train"][0]["image"])


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/1.png", "zip://1.png::https://h/a.zip", "S3://b/1.png"])
def test_addresses_in_a_column_are_never_fetched(tmp_path, monkeypatch, address):
    monkeypatch.delattr("datasets.utils.file_utils.xopen")
    write(tmp_path, "0.png")
    with pytest.raises(DataError, match=r"row 1 of split 'train' has the address .* in column 'file_name'.*download"):
        values(tmp_path, ["0.png", address])
    with pytest.raises(DataError, match=r"row 0 of split .* in column 'image'"):
        load_data(Dataset.from_dict({"image": [address, address], "label": ["a", "b"]}))
    for read in (to_rgb, Source.of):
        with pytest.raises(BadImageError, match="it is an address, and rd_hf fetches none"):
            read({"bytes": None, "path": address})


def test_images_that_an_unlabelled_table_does_not_list_are_counted(tmp_path, caplog):
    write(tmp_path, "0.png", "1.png", "2.png")
    (tmp_path / "t.csv").write_text("file_name\n1.png\n")
    assert len(load_images_only(tmp_path / "t.csv")) == 1
    assert "The table lists 1 images, but not 2 others beside them" in caplog.text


def test_images_that_the_table_of_another_split_lists_are_listed(tmp_path, caplog):
    write(tmp_path, "train/1.png", "train/2.png", "test/1.png", "test/2.png")
    for split in ("train", "test"):
        (tmp_path / split / "metadata.csv").write_text("file_name,label\n1.png,a\n2.png,b\n")
    assert load_data(tmp_path).source["splits"] == {"train": 2, "test": 2} and "others beside" not in caplog.text
    (tmp_path / "test" / "metadata.csv").write_text("file_name,label\n1.png,a\n")
    load_data(tmp_path)
    assert caplog.messages == [
        "The tables list 3 images, but not 1 others beside them, which are not used; the first is 'test/2.png'."
    ]

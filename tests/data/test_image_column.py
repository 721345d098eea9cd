"""Columns of images: rows without content are completed, and the others are not copied."""

import base64

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Image, concatenate_datasets
from small_images import png

from rd_hf.data.columns import DataError
from rd_hf.data.image_column import image_table


def column(*rows) -> Dataset:
    storage = pa.array(rows, type=Image.pa_type)
    return Dataset(pa.table({"image": storage})).cast(Features({"image": Image(decode=False)}))


def content(value: int) -> dict:
    return {"bytes": png(value), "path": None}


def addresses(table, name="image") -> list[int]:
    return [chunk.field("bytes").buffers()[2].address for chunk in table.column(name).chunks]


def test_a_row_that_the_split_does_not_show_changes_nothing():
    images = column(content(1), None, content(2))
    shown = images.select([2, 0])
    assert addresses(image_table(shown, "image", None, "train")) == addresses(images.data)
    with pytest.raises(DataError, match=r"1 of 2 rows of split 'train' are incomplete; the first is row 1"):
        image_table(images.select([0, 1]), "image", None, "train")


def test_only_the_chunks_with_rows_to_complete_are_copied(tmp_path):
    (tmp_path / "a.png").write_bytes(png(9))
    text = {"bytes": None, "path": base64.b64encode(png(3)).decode()}
    file = {"bytes": None, "path": str(tmp_path / "a.png")}
    images = concatenate_datasets([column(content(1), content(2)), column(content(4), text, file, content(5))])
    table = image_table(images, "image", None, "train")
    found = table.column("image").to_pylist()
    assert [row["bytes"] for row in found] == [png(1), png(2), png(4), png(3), None, png(5)]
    assert found[3]["path"] is None and found[4]["path"] == file["path"]
    assert addresses(table)[0] == addresses(images.data)[0] and len(addresses(table)) == 2
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"1 of 6 files of split 'train' are missing; the first is row 4"):
        image_table(images, "image", None, "train")


def test_masks_may_be_empty(tmp_path):
    (tmp_path / "a.png").write_bytes(png(9))
    file, empty = {"bytes": None, "path": str(tmp_path / "a.png")}, {"bytes": None, "path": ""}
    masks = column(content(1), None, empty, file)
    found = image_table(masks, "image", None, "train", called="mask", may_be_empty=True).column("mask").to_pylist()
    assert found == [{"bytes": png(1), "path": None}, None, None, file]
    bare = column(content(1), None)
    table = image_table(bare, "image", None, "train", called="mask", may_be_empty=True)
    assert addresses(table, "mask") == addresses(bare.data)

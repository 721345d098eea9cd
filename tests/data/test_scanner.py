import logging
import os
from pathlib import Path, PurePath

import pytest
from datasets import load_dataset
from PIL import Image

from rd_hf.arguments.values import ArgumentError
from rd_hf.data.columns import DataError
from rd_hf.data.decoding.images import BadImageError, to_rgb
from rd_hf.data.image_paths import shown
from rd_hf.data.scanner import printable, scan
from rd_hf.data.sources import load_data, load_images_only
from rd_hf.data.volumes.source import Source, VolumeError
from rd_hf.inference.images import find_images


def write(root, *files, value=0):
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), value).save(root / file, format="PNG")


def paths(files):
    return [file.as_posix() for file in files]


def rows(data, split="train"):
    """The file below its class folder, and the class, of each row."""
    images = [os.path.basename(row["path"]) for row in data.splits[split].select_columns(["image"])[:]["image"]]
    return list(zip(images, (data.label_names[label] for label in data.labels(split)), strict=True))


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO)
    return caplog


def test_what_is_an_image_a_table_or_neither(tmp_path):
    write(tmp_path, "1.PNG", "b/2.Jpeg", "scan.tif")
    dicom = b"\0" * 128 + b"DICM"
    for name in ("IM0001", "1.2.840.113619.2", "slice.dcm", "SLICE.IMA"):
        (tmp_path / name).write_bytes(dicom)
    for name in ("LICENSE", "notes.1", "3.heic", "README.md", "x.h5"):
        (tmp_path / name).write_bytes(b"text")
    (tmp_path / "rows.CSV").write_text("a,b\n")
    found = scan(tmp_path)
    assert paths(found.images) == [
        "1.2.840.113619.2", "1.PNG", "IM0001", "SLICE.IMA", "b/2.Jpeg", "scan.tif", "slice.dcm"
    ]  # fmt: skip
    assert paths(found.tables) == ["rows.CSV"]
    assert paths(found.others) == ["3.heic", "LICENSE", "README.md", "notes.1", "x.h5"]


def test_hidden_files_are_passed_over_everywhere(tmp_path, log):
    write(tmp_path, "a/1.png", "b/2.png", ".a/3.png", "a/._1.png", "__MACOSX/a/4.png", "@eaDir/a/5.png")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert paths(scan(tmp_path).images) == ["a/1.png", "b/2.png"] and scan(tmp_path).others == ()
    assert rows(load_data(tmp_path)) == [("1.png", "a"), ("2.png", "b")]
    assert len(load_images_only(tmp_path)) == 2
    assert find_images(str(tmp_path)) == [tmp_path / "a/1.png", tmp_path / "b/2.png"]
    assert find_images([str(tmp_path / "a" / "*")]) == [tmp_path / "a/1.png"]
    assert log.text == ""


def test_files_that_are_not_read_are_counted(tmp_path, log):
    write(tmp_path, "a/1.png", "b/2.png")
    for name in ("a/3.heic", "a/4.HEIC", "b/5.txt", "b/noted"):
        (tmp_path / name).write_bytes(b"x")
    load_data(tmp_path)
    assert f"4 files not read in '{tmp_path}': .heic 2, .txt 1, no suffix 1." in log.text


def test_links_are_followed_and_loops_are_told_once(tmp_path, log):
    elsewhere = tmp_path / "disk"
    write(elsewhere, "patients/1.png", "single/2.png")
    root = tmp_path / "data"
    write(root, "a/0.png")
    (root / "b").symlink_to(elsewhere / "patients", target_is_directory=True)
    (root / "a" / "2.png").symlink_to(elsewhere / "single" / "2.png")
    (root / "again").symlink_to(root, target_is_directory=True)
    (root / "b" / "up").symlink_to(tmp_path, target_is_directory=True)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    found = scan(root)
    assert paths(found.images)[:3] == ["a/0.png", "a/2.png", "b/1.png"]
    assert paths(found.broken_links) == ["gone"] and PurePath("again") in found.loops
    found.tell_what_is_left_out()
    assert log.text.count("lead back to a folder that contains them") == 1
    assert "1 links in" in log.text and "lead nowhere; the first is 'gone'" in log.text


def test_link_to_a_missing_image_is_an_image_that_cannot_be_read(tmp_path):
    (tmp_path / "1.png").symlink_to(tmp_path / "gone.png")
    assert paths(scan(tmp_path).images) == ["1.png"]
    write(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "1.png").rename(tmp_path / "a" / "2.png")
    data = load_data(tmp_path)
    assert data.labels("train").tolist() == [0, 0, 1]
    with pytest.raises(BadImageError, match="2.png is not a readable image: it is a link to '.*gone.png', which does"):
        to_rgb(data.splits["train"][1]["image"])
    with pytest.raises(ArgumentError, match=r"no image at .*2.png \(it is a link to '.*gone.png'"):
        find_images(tmp_path / "a" / "2.png")


def test_globs_pass_over_what_folders_do(tmp_path, log):
    write(tmp_path, "a/1.png", "a/1_mask.png", "__MACOSX/2.png", "b/1.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "c").symlink_to(tmp_path / "b", target_is_directory=True)
    assert find_images(tmp_path / "**" / "*.png") == [tmp_path / name for name in ("a/1.png", "b/1.png", "c/1.png")]
    assert log.text.count("1 files that") == 1 and "are masks of other files; the first is" in log.text
    assert find_images(tmp_path / "a" / "*_mask.png") == [tmp_path / "a" / "1_mask.png"]


def test_one_file_by_several_names_is_found_once(tmp_path, monkeypatch, log):
    write(tmp_path, "1.png")
    monkeypatch.chdir(tmp_path)
    assert find_images(["1.png", "./1.png", str(tmp_path / "1.png"), "."]) == [Path("1.png")]
    assert "3 files are named more than once: each file is taken once." in log.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_without_permission_is_named(tmp_path):
    write(tmp_path, "a/1.png")
    (tmp_path / "a").chmod(0)
    try:
        with pytest.raises(DataError, match="a' cannot be read: Permission denied"):
            scan(tmp_path)
    finally:
        (tmp_path / "a").chmod(0o700)


@pytest.mark.parametrize(
    "files, masks",
    [
        (["1.png", "1_mask.png", "1_mask_1.png", "2.png"], ["1_mask.png", "1_mask_1.png"]),
        (["b (1).png", "b (1)_mask.png"], ["b (1)_mask.png"]),
        (["x.jpg", "x-Segmentation.png", "mask_x.png"], ["mask_x.png", "x-Segmentation.png"]),
        (["images/1.png", "masks/1.png"], ["masks/1.png"]),
        (["imagesTr/1.png", "labelsTr/1.png"], ["labelsTr/1.png"]),
        (["benign/1.png", "benign_masks/1.png", "normal/1.png"], ["benign_masks/1.png"]),
        (
            ["1.png", "1 (mask).png", "1mask.png", "mask1.png", "1_anno.bmp"],
            ["1 (mask).png", "1_anno.bmp", "1mask.png", "mask1.png"],
        ),
        (["images/a/1.png", "masks/a/1.png"], ["masks/a/1.png"]),
        (["1.png", "2.png", "masks/1.png", "masks/2_mask.png"], ["masks/1.png", "masks/2_mask.png"]),
        # none of these is a mask
        (["1.png", "masks/1.png", "masks/2.png"], []),
        (["mask/1.png", "no_mask/1.png"], []),
        (["face_mask.png", "mask.png", "seg_1.png"], []),
        (["masks/1.png", "faces/2.png"], []),
        (["a/1.png", "b/1_mask.png"], []),
        (["skin/1.png", "skin_mask/2.png"], []),
        (["labels/1.png", "labels_2/1.png"], []),
    ],
)
def test_masks_beside_images(tmp_path, files, masks):
    write(tmp_path, *files)
    found = scan(tmp_path)
    assert paths(found.masks) == masks
    assert sorted(paths((*found.images, *found.masks))) == sorted(files)


def test_masks_are_left_out_everywhere_and_said(tmp_path, log):
    write(tmp_path, "a/1.png", "a/1_mask.png", "b/2.png")
    assert rows(load_data(tmp_path)) == [("1.png", "a"), ("2.png", "b")]
    assert len(load_images_only(tmp_path)) == 2 and len(find_images([tmp_path])) == 2
    assert log.text.count("masks of other files; the first is 'a/1_mask.png'") == 3
    assert find_images([tmp_path / "a" / "1_mask.png"]) == [tmp_path / "a" / "1_mask.png"]


def test_rows_are_in_the_order_of_imagefolder(tmp_path):
    names = ["a", "a b", "a-b", "a.b", "B", "é"]
    write(tmp_path, *(f"{name}/{file}.png" for name in names for file in ("10", "2", "Z", "_x", "é")))
    theirs = load_dataset("imagefolder", data_dir=str(tmp_path), cache_dir=tmp_path / ".cache", split="train")
    of_theirs = [theirs.features["label"].names[label] for label in theirs["label"]]
    ours = load_data(tmp_path)
    assert ours.label_names == theirs.features["label"].names
    assert [name for _, name in rows(ours)] == of_theirs
    files = [row["path"] for row in ours.splits["train"].select_columns(["image"])[:]["image"]]
    assert files == [image.filename for image in theirs["image"]]


def test_names_of_any_bytes_and_with_colons(tmp_path):
    write(tmp_path, "a/p::1.png", "b/zip:2.png::x.png")
    odd = os.fsencode(tmp_path) + b"/b/\xff\xfe.png"
    with open(odd, "wb") as file:
        file.write((tmp_path / "a" / "p::1.png").read_bytes())
    data = load_data(tmp_path)
    assert len(data.labels("train")) == 3 and all(to_rgb(row["image"]).size == (4, 4) for row in data.splits["train"])
    assert rows(data)[-1] == ("\\xff\\xfe.png", "b")
    assert len(load_images_only(tmp_path)) == 3 and len(find_images([tmp_path])) == 3


def test_folders_without_images_are_named(tmp_path, log):
    write(tmp_path, "train/a/1.png", "train/b/1.png")
    for folder in ("train/cyst", "train/empty", "test/a"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "train" / "cyst" / "1.heic").touch()
    data = load_data(tmp_path)
    assert data.label_names == ["a", "b"] and list(data.splits) == ["train"]
    assert (
        "cyst' has nothing to read and counts neither as a split nor as a class; it holds files that are not read ("
        in log.text
    )
    assert "train/empty' has nothing to read and counts neither as a split nor as a class; it holds no file" in log.text
    assert f"'{tmp_path / 'test'}' has nothing to read" in log.text


def test_image_masks_alone_make_no_classes(tmp_path):
    write(tmp_path, "images/1.png", "masks/1.png")
    with pytest.raises(DataError, match="only one class folder with files to read, 'images'"):
        load_data(tmp_path, task="classification")


def test_pipes_and_devices_are_not_read_and_named(tmp_path, log):
    write(tmp_path, "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/dev/zero")
    assert paths(scan(tmp_path).images) == ["a.png"]
    for name in ("b.png", "c.png"):
        assert f"{tmp_path / name}' is a pipe or a device" in log.text
        with pytest.raises(BadImageError, match=f"{name} is not a readable image: it is a pipe or a device"):
            to_rgb(tmp_path / name)
        with pytest.raises(VolumeError, match="pipe or a device"):
            Source.of(tmp_path / name)


def test_names_cannot_steer_a_terminal_or_forge_lines_of_the_log(tmp_path):
    name = "a\x1b]0;x\x07\nrd-hf: all fine.png"
    (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(BadImageError) as caught:
        to_rgb(tmp_path / name)
    for text in (printable(tmp_path / name), str(caught.value), shown(name)):
        assert text.isprintable() and r"a\x1b]0;x\x07\nrd-hf: all fine.png" in text

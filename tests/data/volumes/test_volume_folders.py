"""Folders of volumes: classes, DICOM series, masks, nnU-Net's and the Decathlon's layout, and what is refused."""

import json
import os
import shutil

import numpy as np
import pytest
from drawn_series import ct_slice, dataset_of, draw_series, save
from drawn_volumes import AFFINE, ORGAN, SHAPE, write_labels, write_volume
from PIL import Image
from pydicom.uid import EnhancedSRStorage, MediaStorageDirectoryStorage

from rd_hf.data.columns import DataError
from rd_hf.data.decoding.images import BadImageError
from rd_hf.data.sources import load_data, load_images_only
from rd_hf.data.volumes.reading import read_volume
from rd_hf.data.volumes.volume import VolumeReading


def values(rows, reading=None):
    """Of each row the first voxel of every channel."""
    return [read_volume(row["image"], "it", reading or VolumeReading()).values[:, 0, 0, 0].tolist() for row in rows]


def classes(data, split="train"):
    """Of each row its first voxel and its class."""
    names = [data.label_names[label] for label in data.labels(split)]
    return sorted(zip([first for (first,) in values(data.splits[split])], names, strict=True))


def masks(data, split="train"):
    """Of each row its first voxel, and whether its mask is ORGAN."""
    rows = data.splits[split]
    read = [np.array_equal(data.masks.read(row["mask"], "it"), ORGAN) for row in rows]
    return dict(zip([first for (first,) in values(rows)], read, strict=True))


# --- class folders


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_class_folders(tmp_path, log, ending):
    for value, name in enumerate(["a/1", "a/2", "b/1", "b/2"]):
        write_volume(tmp_path / f"{name}{ending}", value)
    (tmp_path / "notes.txt").write_text("x")
    data = load_data(tmp_path)
    assert classes(data) == [(0, "a"), (1, "a"), (2, "b"), (3, "b")] and data.volumes == VolumeReading()
    assert data.source["volumes"] == {"channels": 1, "channel_axis": False} and "path" not in str(data.source)
    assert log.text.count("volumes: 3D (NIfTI files)") == 1 and "1 file not read" in log.text


def test_split_folders_and_a_split_without_labels(tmp_path):
    for value, name in enumerate(["train/a/1", "train/b/1", "val/a/1", "val/b/2"]):
        write_volume(tmp_path / f"{name}.nii.gz", value)
    write_volume(tmp_path / "test" / "9.nii.gz", 9)
    data = load_data(tmp_path)
    assert classes(data, "validation") == [(2, "a"), (3, "b")] and data.without_labels == ("test",)


def test_fingerprints_follow_contents_and_not_places(tmp_path):
    for value, name in enumerate(["a/1", "b/1"]):
        write_volume(tmp_path / "x" / f"{name}.nii", value)
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    before = load_data(tmp_path / "x").source
    assert load_data(tmp_path / "y").source == before
    write_volume(tmp_path / "y" / "b" / "1.nii", 5)
    assert load_data(tmp_path / "y").source["fingerprint"] != before["fingerprint"]


def test_numbered_names_are_channels_only_where_channels_are_asked_for(tmp_path):
    for value, name in enumerate(["a/1_0000", "a/1_0001", "b/2_0000", "b/2_0001"]):
        write_volume(tmp_path / f"{name}.nii.gz", value)
    assert len(load_data(tmp_path).splits["train"]) == 4
    data = load_data(tmp_path, volume_channels=2)
    assert data.volumes == VolumeReading(2)
    assert sorted(values(data.splits["train"], data.volumes)) == [[0, 1], [2, 3]]


def test_a_fourth_axis_of_channels_that_are_asked_for(tmp_path):
    for name in ("a/1", "b/1"):
        write_labels(tmp_path / f"{name}.nii.gz", np.zeros((*SHAPE, 3), dtype=np.float32))
    data = load_data(tmp_path, volume_channels=3)
    assert data.volumes == VolumeReading(3, channel_axis=True)
    assert values(data.splits["train"], data.volumes) == [[0, 0, 0]] * 2


# --- DICOM series


def series(root, *names):
    for number, name in enumerate(names):
        draw_series(root / name, slices=5, SeriesInstanceUID=f"1.2.{number}", RescaleIntercept=number)


def move_into(folder, other):
    """Move the slices of another folder into one, under other names."""
    folder.mkdir(exist_ok=True)
    for file in [*other.iterdir()]:
        shutil.move(file, folder / f"{other.name}{file.name}")
    other.rmdir()


def series_classes(data, split="train"):
    names = [data.label_names[label] for label in data.labels(split)]
    firsts = [read_volume(row["image"], "it").values.min() for row in data.splits[split]]
    return sorted(zip(firsts, names, strict=True))


@pytest.mark.parametrize("above", ["", "train/"])
def test_folders_of_slices_in_class_folders(tmp_path, log, above):
    series(tmp_path, *(f"{above}{name}" for name in ("sick/1.2.3", "sick/p2", "well/p3")))
    data = load_data(tmp_path, dimensions=3)
    assert series_classes(data) == [(0, "sick"), (1, "sick"), (2, "well")]
    assert "volumes: 3D (DICOM series)" in log.text


def test_series_that_lie_together_in_class_folders(tmp_path):
    series(tmp_path / "apart", "0", "1", "2")
    for number, name in enumerate(["sick", "sick", "well"]):
        move_into(tmp_path / name, tmp_path / "apart" / str(number))
    (tmp_path / "apart").rmdir()
    assert series_classes(load_data(tmp_path, dimensions=3)) == [(0, "sick"), (1, "sick"), (2, "well")]


def test_a_fingerprint_covers_every_slice(tmp_path):
    series(tmp_path, "sick/p1", "well/p2")
    before = load_data(tmp_path, dimensions=3).source["fingerprint"]
    (tmp_path / "well" / "p2" / sorted(file.name for file in (tmp_path / "well" / "p2").iterdir())[-1]).unlink()
    assert load_data(tmp_path, dimensions=3).source["fingerprint"] != before


def test_slices_are_images_unless_volumes_are_asked_for(tmp_path, log):
    series(tmp_path, "sick", "well")
    data = load_data(tmp_path)
    assert data.volumes is None and len(data.splits["train"]) == 10
    assert log.text.count("`dimensions` 3 reads each series as one volume") == 1


def test_folders_of_slices_in_class_folders_need_to_be_asked_for(tmp_path):
    series(tmp_path, "sick/p1", "well/p2")
    with pytest.raises(DataError, match="in a folder within a class folder.* as one volume, give `dimensions` 3. For "):
        load_data(tmp_path)


def test_several_series_in_a_folder_of_a_class(tmp_path):
    series(tmp_path, "sick/p1", "well/p3", "apart")
    move_into(tmp_path / "sick" / "p1", tmp_path / "apart")
    with pytest.raises(DataError, match=r"sick/p1' holds 2 DICOM series, and a folder within a class folder is one"):
        load_data(tmp_path, dimensions=3)


def test_scouts_are_left_out_and_a_single_slice_is_no_volume(tmp_path, log):
    series(tmp_path, "sick/p1", "well/p2")
    draw_series(tmp_path / "scout", slices=1, SeriesInstanceUID="1.9")
    move_into(tmp_path / "sick" / "p1", tmp_path / "scout")
    draw_series(tmp_path / "well" / "p3", slices=1)
    data = load_data(tmp_path, dimensions=3)
    assert (
        len(data.splits["train"]) == 3
        and "1 DICOM object left out of" in log.text
        and f"left out of '{tmp_path}': 'sick/p1/" in log.text
        and "it is a single image" in log.text
    )
    row = next(row["image"] for row in data.splits["train"] if "p3" in row["image"]["path"])
    with pytest.raises(BadImageError, match="well/p3"):
        read_volume(row, "it")


def test_a_single_slice_alone_is_refused(tmp_path, log):
    draw_series(tmp_path, slices=1)
    (row,) = load_images_only(tmp_path, dimensions=3)
    with pytest.raises(BadImageError, match="its DICOM series"):
        read_volume(row["image"], "it")
    assert "left out" not in log.text


def test_folders_of_an_export_without_a_volume_are_left_out(tmp_path, log):
    """As a PACS writes them; a file that cannot be read stays, since it may have been a volume."""
    series(tmp_path, "patient/axial")
    save(dataset_of(None, EnhancedSRStorage, "SR"), tmp_path / "patient" / "dose" / "sr.dcm")
    save(ct_slice(0, ImageType=["DERIVED", "PRIMARY", "LOCALIZER"]), tmp_path / "patient" / "scout" / "1.dcm")
    directory = dataset_of(None)
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    del directory.SOPClassUID, directory.Modality, directory.SeriesInstanceUID
    save(directory, tmp_path / "DICOMDIR")
    (row,) = load_images_only(tmp_path, dimensions=3)
    assert read_volume(row["image"], "it").values.shape == (1, 5, 6, 5)
    assert (
        "3 DICOM objects left out of" in log.text
        and "'DICOMDIR' (it is a DICOMDIR, which lists other files)" in log.text
        and "'patient/dose/sr.dcm' (it holds a structured report)" in log.text
        and "'patient/scout/1.dcm' (it is a scout view)" in log.text
        and "not read" not in log.text
    )
    (tmp_path / "patient" / "cut").mkdir()
    (tmp_path / "patient" / "cut" / "1.dcm").write_bytes(b"damaged")
    draw_series(tmp_path / "patient" / "single", slices=1)
    assert len(load_images_only(tmp_path, dimensions=3)) == 3


def test_a_class_of_reports_alone_is_told(tmp_path, log):
    series(tmp_path, "sick/p1", "well/p2")
    save(dataset_of(None, EnhancedSRStorage, "SR"), tmp_path / "other" / "p3" / "sr.dcm")
    data = load_data(tmp_path, dimensions=3)
    assert len(data.splits["train"]) == 2
    assert "'other' has nothing to read" in log.text.replace(str(tmp_path) + "/", "")
    assert "it holds DICOM objects that are no volume (1)." in log.text


def test_a_dicomdir_beside_images_and_nifti_files_is_not_read(tmp_path, log):
    for number, name in enumerate(("a/1", "b/2")):
        draw_series(tmp_path / "images" / name, slices=1)
        write_volume(tmp_path / "volumes" / f"{name}.nii", number)
    directory = dataset_of(None)
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    del directory.SOPClassUID, directory.Modality, directory.SeriesInstanceUID
    for kind in ("images", "volumes"):
        save(directory, tmp_path / kind / "DICOMDIR")
    assert len(load_images_only(tmp_path / "images")) == 2 and "1 file not read" in log.text
    assert len(load_images_only(tmp_path / "volumes")) == 2


def test_folders_of_one_series_each_are_no_classes(tmp_path):
    series(tmp_path, "patient1", "patient2")
    with pytest.raises(
        DataError, match="slices of a series lie directly in '.*patient1'; .* put each series in a folder of its own"
    ):
        load_data(tmp_path, dimensions=3)


def test_series_with_label_volumes(tmp_path):
    series(tmp_path, "imagesTr/p.1", "imagesTr/p.2")
    for name in ("p.1", "p.2"):
        volume = read_volume(tmp_path / "imagesTr" / name / "IM003.dcm", "it")
        write_labels(tmp_path / "labelsTr" / f"{name}.nii.gz", np.uint8(volume.values[0] > 0), volume.affine)
    data = load_data(tmp_path, dimensions=3)
    assert [row["mask"]["path"][-10:-7] for row in data.splits["train"]] == ["p.1", "p.2"]
    assert all("p.1" in row["image"]["path"] for row in data.splits["train"].select([0]))


# --- masks


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}.nii", "masks/{}.nii.gz"),
        ("images/{}.nii.gz", "masks/{}.nii.gz"),
        ("imagesTr/{}.nii.gz", "labelsTr/{}.nii"),
        ("imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz"),
        ("{}.nii.gz", "{}_mask.nii.gz"),
        ("case.{}.nii", "case.{}_seg.nii.gz"),
        ("train/images/{}.nii.gz", "train/labels/{}.nii.gz"),
        ("img/img{}.nii.gz", "label/label{}.nii.gz"),
        ("case_{}/imaging.nii.gz", "case_{}/segmentation.nii.gz"),
        ("{}/{}.nii", "{}/seg.nii.gz"),
    ],
)
def test_volumes_with_label_volumes(tmp_path, log, image, mask):
    for row, labels in enumerate([ORGAN, ORGAN[::-1], ORGAN], start=1):
        write_volume(tmp_path / image.replace("{}", f"{row:02}"), row)
        write_labels(tmp_path / mask.replace("{}", f"{row:02}"), labels)
    data = load_data(tmp_path)
    assert masks(data) == {1: True, 2: False, 3: True} and data.volumes == VolumeReading()
    assert data.labels("train").tolist() == [[54, 6]] * 3 and data.source["masks"]["classes"] == {"0": 0, "1": 1}
    assert data.masks.read(data.splits["train"][0]["mask"], "it").dtype == np.uint8
    assert "volumes: 3D" in log.text and log.text.count("task: segmentation (") == 1


def test_a_label_volume_of_two_volumes_is_refused(tmp_path):
    write_volume(tmp_path / "img" / "img1.nii.gz", 1)
    write_volume(tmp_path / "img" / "image_1.nii.gz", 2)
    write_labels(tmp_path / "label" / "label1.nii.gz")
    with pytest.raises(
        DataError, match=r"label1.nii.gz' could be that of 'img/image_1.nii.gz' and of 'img/img1.nii.gz'"
    ):
        load_data(tmp_path)


def test_volumes_without_labels_are_unlabelled(tmp_path, log):
    for row in (1, 2, 3):
        write_volume(tmp_path / "imagesTr" / f"{row}.nii.gz", row)
    write_volume(tmp_path / "imagesTs" / "9.nii.gz", 9)
    write_labels(tmp_path / "labelsTr" / "1.nii.gz")
    data = load_data(tmp_path)
    assert masks(data) == {1: True} and values(data.unlabelled) == [[2], [3]]
    assert data.without_labels == ("test",) and "2 of 3 rows of train have no mask" in log.text


@pytest.mark.parametrize("labels", [{"0": "background", "1": "organ"}, {"background": 0, "organ": 1}])
@pytest.mark.parametrize("names", [{"modality": {"0": "T1", "1": "T2"}}, {"channel_names": {"0": "T1", "1": "T2"}}])
def test_channels_and_names_of_dataset_json(tmp_path, labels, names):
    for row in (1, 2):
        for channel in (0, 1):
            write_volume(tmp_path / "imagesTr" / f"case_{row}_{channel:04}.nii.gz", 10 * row + channel)
        write_labels(tmp_path / "labelsTr" / f"case_{row}.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels} | names))
    data = load_data(tmp_path)
    assert data.label_names == ["background", "organ"] and data.volumes == VolumeReading(2)
    assert values(data.splits["train"], data.volumes) == [[10, 11], [20, 21]]
    before = data.source["fingerprint"]
    write_volume(tmp_path / "imagesTr" / "case_2_0001.nii.gz", 99)
    assert load_data(tmp_path).source["fingerprint"] != before
    with pytest.raises(DataError, match="volume_channels is 3, but dataset.json .* names 2: T1, T2"):
        load_data(tmp_path, volume_channels=3)
    (tmp_path / "imagesTr" / "case_2_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"case '.*imagesTr/case_2' lacks the channel _0001 of 2"):
        load_data(tmp_path)


BRATS = ("flair", "t1", "t1ce", "t2")


@pytest.mark.parametrize(
    ("words", "between", "seg"), [(BRATS, "_", "seg"), (("t1c", "t1n", "t2f", "t2w"), "-", "seg"),
                                  (("FLAIR", "T1", "T1CE", "T2"), "_", "SEG")],
)  # fmt: skip
def test_the_folders_of_brats_cases(tmp_path, words, between, seg):
    for row in (1, 2, 3):
        for channel, word in enumerate(words):
            write_volume(tmp_path / f"B_{row}" / f"B_{row}{between}{word}.nii.gz", 10 * row + channel)
        if row < 3:
            write_labels(tmp_path / f"B_{row}" / f"B_{row}{between}{seg}.nii.gz")
    data = load_data(tmp_path)
    assert data.volumes == VolumeReading(4) and data.problem_type == "segmentation"
    assert values(data.splits["train"], data.volumes) == [[10, 11, 12, 13], [20, 21, 22, 23]]
    assert values(data.unlabelled, data.volumes) == [[30, 31, 32, 33]]
    assert values(load_images_only(tmp_path, volumes=data.volumes), data.volumes)[0] == [10, 11, 12, 13]
    with pytest.raises(DataError, match=f"is of channel {words[3]}, but volume_channels .* there are 2"):
        load_data(tmp_path, volume_channels=2)
    with pytest.raises(DataError, match="BraTS's channels, .* says that there are 5"):
        load_data(tmp_path, volume_channels=5)
    (tmp_path / "B_2" / f"B_2{between}{words[2]}.nii.gz").unlink()
    with pytest.raises(DataError, match=rf"case '.*B_2/B_2' lacks the channel {words[2]} of 4"):
        load_data(tmp_path)


def test_a_table_lists_the_first_of_brats_channels_or_files_of_four_axes(tmp_path):
    for word, value in zip(BRATS, range(4), strict=True):
        write_volume(tmp_path / f"a_{word}.nii.gz", value)
        write_volume(tmp_path / f"b_{word}.nii.gz", value)
    for word, wanted, expected in (("flair", 4, VolumeReading(4)), ("t1", 2, VolumeReading(2, channel_axis=True))):
        table = "".join(f"{case}_{word}.nii.gz,{case}\n" for case in "ab")
        (tmp_path / "list.csv").write_text(f"image,label\n{table}")
        assert load_data(tmp_path / "list.csv", volume_channels=wanted).volumes == expected


def test_one_sequence_of_brats_cases_is_one_channel(tmp_path):
    for row in (1, 2):
        write_volume(tmp_path / f"b_{row}_t1ce.nii.gz", row)
        write_labels(tmp_path / f"b_{row}_seg.nii.gz")
    data = load_data(tmp_path)
    assert masks(data) == {1: True, 2: True} and data.volumes == VolumeReading()


def test_sequences_without_label_volumes_are_volumes_of_their_own(tmp_path):
    for value, name in enumerate(["a/1_t1", "a/1_t2", "b/2_t1", "b/2_t2"]):
        write_volume(tmp_path / f"{name}.nii.gz", value)
    assert classes(load_data(tmp_path)) == [(0, "a"), (1, "a"), (2, "b"), (3, "b")]


def test_the_decathlon_stores_channels_along_a_fourth_axis(tmp_path):
    write_labels(tmp_path / "imagesTr" / "1.nii.gz", np.zeros((*SHAPE, 2), dtype=np.int16))
    write_labels(tmp_path / "labelsTr" / "1.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "T2", "1": "ADC"}}))
    assert load_data(tmp_path).volumes == VolumeReading(2, channel_axis=True)


def test_labels_without_a_volume_and_folders_without_labels(tmp_path):
    write_volume(tmp_path / "imagesTr" / "1.nii.gz")
    write_volume(tmp_path / "imagesTs" / "2.nii.gz")
    with pytest.raises(DataError, match="has imagesTr with 2 volumes, but no labelsTr"):
        load_data(tmp_path)
    for row in (1, "Ptr3"):
        write_labels(tmp_path / "labelsTr" / f"{row}.nii.gz")
    with pytest.raises(DataError, match="has the folders of nnU-Net, whose labels are volumes and no classes"):
        load_data(tmp_path, task="classification")
    with pytest.raises(
        DataError,
        match=r"labelsTr/Ptr3.nii.gz' has no volume; its volume must be named 'Ptr3', with the suffix .nii.gz",
    ):
        load_data(tmp_path)


# --- which are meant


def test_images_and_volumes_in_one_folder(tmp_path, log):
    for value, name in enumerate(["a/1", "b/1"]):
        write_volume(tmp_path / f"{name}.nii.gz", value)
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
    with pytest.raises(DataError, match=r"2 volumes, such as 'a/1.nii.gz', and 2 images \(.png 2\), such as 'a/1.png'"):
        load_data(tmp_path)
    assert load_data(tmp_path, dimensions=2).volumes is None and ".nii.gz 2" in log.text
    assert classes(load_data(tmp_path, dimensions=3)) == [(0, "a"), (1, "b")] and ".png 2" in log.text


def test_what_is_asked_for_must_be_there(tmp_path):
    write_volume(tmp_path / "volumes" / "a" / "1.nii.gz")
    with pytest.raises(DataError, match=r"holds volumes \(.nii.gz 1\) and no images; leave `dimensions` 2 out"):
        load_data(tmp_path / "volumes", dimensions=2)
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "images" / "a" / "1.png")
    with pytest.raises(DataError, match=r"holds no volume, .* it holds images \(.png 1\)"):
        load_data(tmp_path / "images", dimensions=3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        load_data(tmp_path / "empty", dimensions=3)
    (tmp_path / "empty" / "1.mha").touch()
    with pytest.raises(DataError, match="save volumes as .nii.gz"):
        load_data(tmp_path / "empty")


def test_a_trained_model_s_reading_must_fit(tmp_path):
    for value, name in enumerate(["a/1_0000", "a/1_0001", "b/2_0000", "b/2_0001"]):
        write_volume(tmp_path / f"{name}.nii.gz", value)
    assert load_data(tmp_path, volumes=VolumeReading(2, channel_axis=True)).volumes == VolumeReading(2)
    for options in ({"dimensions": 2}, {"volume_channels": 3}):
        with pytest.raises(DataError, match="but the model reads volumes"):
            load_data(tmp_path, volumes=VolumeReading(2), **options)


# --- without labels


def test_volumes_of_any_depth_without_labels(tmp_path, log):
    write_volume(tmp_path / "imagesTr" / "1.nii.gz", 1)
    write_volume(tmp_path / "imagesTs" / "deep" / "2.nii.gz", 2)
    write_labels(tmp_path / "labelsTr" / "1.nii.gz")
    assert values(load_images_only(tmp_path)) == [[1], [2]] and "masks of other files" in log.text
    series(tmp_path / "dicom", "p1", "deep/p2")
    rows = load_images_only(tmp_path / "dicom", volumes=VolumeReading())
    assert len(rows) == 2 and rows.column_names == ["image"]


def test_volumes_without_labels_are_stored_as_those_with_labels(tmp_path):
    for channel in (0, 1):
        write_volume(tmp_path / "files" / f"1_{channel:04}.nii.gz", channel)
    write_labels(tmp_path / "axis" / "1.nii.gz", np.zeros((*SHAPE, 2), dtype=np.int16))
    assert values(load_images_only(tmp_path / "files", volumes=VolumeReading(2)), VolumeReading(2)) == [[0, 1]]
    with pytest.raises(
        DataError, match="2 channels along a fourth axis, but those with labels have 2 channels in files"
    ):
        load_images_only(tmp_path / "axis", volumes=VolumeReading(2))


def test_the_ct_series_of_another_scanner(shared_data, log):
    rows = load_images_only(shared_data / "dicom" / "ct_series", dimensions=3)
    assert read_volume(rows[0]["image"], "it").values.shape == (1, 128, 128, 16) and len(rows) == 1
    assert "1 DICOM object left out of" in log.text and "it is a scout view" in log.text


def test_the_hippocampus_data_of_the_decathlon(shared_data):
    data = load_data(shared_data / "hippocampus")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 92, "test": 30}
    assert data.label_names == ["background", "Anterior", "Posterior"] and data.volumes == VolumeReading()
    assert (data.labels("train") > 0).all() and AFFINE.shape == (4, 4)


@pytest.mark.parametrize("name", ["a\u200e\u202ab", "a\nb", "M\u00fcller"])
def test_folders_of_series_with_signs_in_their_names(tmp_path, name):
    for kind in "ab":
        draw_series(tmp_path / kind / name)
        (tmp_path / kind / name).rename(tmp_path / kind / f"{name}{kind}")
    data = load_data(tmp_path, dimensions=3)
    volumes = [read_volume(row["image"], "it", data.volumes).values for row in data.splits["train"]]
    assert [volume.shape for volume in volumes] == [(1, 5, 6, 4)] * 2
    (tmp_path / "t.jsonl").write_text(
        "\n".join(json.dumps({"series": f"{kind}/{name}{kind}", "label": kind}) for kind in "ab")
    )
    data = load_data(tmp_path / "t.jsonl", dimensions=3)
    assert read_volume(data.splits["train"][0]["image"], "it", data.volumes).values.shape == (1, 5, 6, 4)


def test_volumes_of_several_files_below_a_name_that_is_not_utf_8(tmp_path):
    for kind in "ab":
        odd = os.fsdecode(b"M\xfcller")
        draw_series(tmp_path / "ct" / kind / odd)
        for channel in range(2):
            write_volume(tmp_path / "mr" / kind / f"{odd}_000{channel}.nii.gz")
        write_volume(tmp_path / "single" / kind / f"{odd}.nii.gz", ord(kind))
    for folder, asked in (("ct", {"dimensions": 3}), ("mr", {"volume_channels": 2})):
        with pytest.raises(DataError, match=r"M\\xfcller.* is not UTF-8, so that the other .*; rename its folder"):
            load_data(tmp_path / folder, **asked)
    assert values(load_data(tmp_path / "single").splits["train"]) == [[97], [98]]

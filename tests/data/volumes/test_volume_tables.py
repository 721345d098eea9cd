"""Tables, data sets of `datasets` and .npz files of volumes."""

import json
import shutil
import tracemalloc

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Nifti, Value
from drawn_series import draw_series
from drawn_volumes import ORGAN, SHAPE, write_labels, write_volume

from rd_hf.data.columns import DataError
from rd_hf.data.image_column import image_table
from rd_hf.data.image_data import fingerprint
from rd_hf.data.masks.survey import survey
from rd_hf.data.sources import load_data, load_images_only
from rd_hf.data.split_tables import without_masks
from rd_hf.data.volumes.reading import read_volume
from rd_hf.data.volumes.volume import VolumeReading


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def firsts(data, split="train"):
    """The first voxel of each row."""
    return [read_volume(row["image"], "it", data.volumes).values.flat[0] for row in data.splits[split]]


def write_table(path, rows):
    """Write rows of text as the file's suffix says."""
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        path.write_text("".join(f"{(',' if path.suffix == '.csv' else chr(9)).join(line)}\n" for line in lines))


# --- tables


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("column", ["path", "image", "Volume"])
def test_tables_of_paths_with_labels_and_groups(tmp_path, log, ending, column):
    rows = []
    for row, label in enumerate(["well", "sick", "sick"], start=1):
        write_volume(tmp_path / "scans" / f"{row}.nii.gz", row)
        rows.append({column: f"scans/{row}.nii.gz", "label": label, "patient": f"p{row // 2}"})
    write_volume(tmp_path / "scans" / "9.nii.gz")
    write_table(tmp_path / f"rows{ending}", rows)
    for named in (tmp_path, tmp_path / f"rows{ending}"):
        data = load_data(named, group_column="patient")
        assert firsts(data) == [1, 2, 3] and data.label_names == ["sick", "well"]
        assert data.splits["train"]["group"] == ["p0", "p1", "p1"] and data.volumes == VolumeReading()
    assert log.text.count("not 1 others beside them") == 2 and log.text.count("volumes: 3D (NIfTI files)") == 2


def test_ids_and_paths_of_another_machine(tmp_path, log):
    for row in (1, 2):
        write_volume(tmp_path / "scans" / f"case_{row}.nii.gz", row)
    for first, second in (("case_1", "case_2"), (r"C:\data\scans\case_1.nii.gz", "/mnt/x/scans/CASE_2.nii.gz")):
        (tmp_path / "rows.csv").write_text(f"path,label\n{first},a\n{second},b\n")
        assert firsts(load_data(tmp_path)) == [1, 2]
    assert "as 'case_1' fits 'scans/case_1.nii.gz'" in log.text and log.text.count("volumes: 3D (NIfTI files)") == 2


def test_a_table_of_volumes_and_label_volumes(tmp_path, log):
    for row in (1, 2, 3):
        write_volume(tmp_path / "ct" / f"{row}.nii.gz", row)
    for row in (1, 2):
        write_labels(tmp_path / "organs" / f"{row}_seg.nii.gz")
    (tmp_path / "classes.txt").write_text("background\nliver\n")
    (tmp_path / "metadata.csv").write_text(
        "image,mask\nct/1.nii.gz,organs/1_seg.nii.gz\nct/2.nii.gz,organs/2_seg.nii.gz\nct/3.nii.gz,\n"
    )
    data = load_data(tmp_path)
    assert firsts(data) == [1, 2] and data.label_names == ["background", "liver"] and len(data.unlabelled) == 1
    assert all(np.array_equal(data.masks.read(row["mask"], "it"), ORGAN) for row in data.splits["train"])
    assert "others beside" not in log.text


def test_the_one_column_of_paths_is_that_of_the_volumes(tmp_path):
    for row in (1, 2):
        write_volume(tmp_path / f"{row}.nii.gz", row)
        write_labels(tmp_path / f"{row}_seg.nii.gz")
    (tmp_path / "classes.csv").write_text("scan,label\n1.nii.gz,a\n2.nii.gz,b\n")
    assert firsts(load_data(tmp_path / "classes.csv")) == [1, 2]
    assert len(load_images_only(tmp_path / "classes.csv")) == 2
    (tmp_path / "masks.csv").write_text("scan,truth\n1.nii.gz,1_seg.nii.gz\n2.nii.gz,2_seg.nii.gz\n")
    assert firsts(load_data(tmp_path / "masks.csv", mask_column="truth")) == [1, 2]
    (tmp_path / "two.csv").write_text("before,after,label\n1.nii.gz,2.nii.gz,a\n2.nii.gz,1.nii.gz,b\n")
    with pytest.raises(DataError, match="no image column found; name it with --image_column"):
        load_data(tmp_path / "two.csv")


def test_tables_of_channels(tmp_path, log):
    for row in (1, 2):
        for channel in (0, 1):
            write_volume(tmp_path / f"{row}_{channel:04}.nii.gz", 10 * row + channel)
    (tmp_path / "rows.csv").write_text("path,label\n1_0000.nii.gz,a\n2_0000.nii.gz,b\n")
    data = load_data(tmp_path / "rows.csv", volume_channels=2)
    assert data.volumes == VolumeReading(2) and firsts(data) == [10, 20]
    assert read_volume(data.splits["train"][1]["image"], "it", data.volumes).values[1].max() == 21
    assert "others beside" not in log.text


@pytest.mark.parametrize("of_folders", [True, False])
def test_a_table_of_series(tmp_path, log, of_folders):
    names = []
    for number, name in enumerate(["p.1", "p.2"]):
        files = draw_series(tmp_path / name, slices=5, SeriesInstanceUID=f"1.2.{number}", RescaleIntercept=number)
        names.append(name if of_folders else f"{name}/{files[2].name}")
    (tmp_path / "rows.csv").write_text(f"path,label\n{names[0]},a\n{names[1]},b\n")
    data = load_data(tmp_path / "rows.csv") if of_folders else load_data(tmp_path, dimensions=3)
    assert firsts(data) == [0, 1] and "volumes: 3D (DICOM series)" in log.text and "beside" not in log.text
    assert [row["image"]["path"] for row in data.splits["train"]] == [
        str(min((tmp_path / name).iterdir())) for name in ("p.1", "p.2")
    ]
    for file in [*(tmp_path / "p.1").iterdir()]:
        shutil.copy(file, tmp_path / "p.2" / f"second{file.name}")
    if of_folders:
        with pytest.raises(DataError, match=r"p.2' holds 2 DICOM series, such as those of 'IM\d+.dcm' and 'second"):
            load_data(tmp_path / "rows.csv")


def test_slices_of_one_series_are_one_row(tmp_path):
    files = draw_series(tmp_path, slices=5)
    (tmp_path / "rows.csv").write_text(f"path,label\n{files[0].name},a\n{files[1].name},b\n")
    with pytest.raises(DataError, match="in column 'path' of split 'train' are one DICOM series"):
        load_data(tmp_path, dimensions=3)
    assert len(load_data(tmp_path).splits["train"]) == 2


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (["1.nii.gz", "2.png"], {}, r"1 volumes, such as '1.nii.gz' in row 0 .* 1 images, such as '2.png' in row 1"),
        (["2.png", "3.png"], {"dimensions": 3}, "names no volumes, .* but '2.png'; leave `dimensions` out"),
        (["1.nii.gz", "4.nii.gz"], {"dimensions": 2}, "holds volumes; leave `dimensions` 2 out to read them"),
        (["1.nii.gz", "9.nii.gz"], {}, r"1 of 2 files of split 'train' are missing; the first is row 1, '9.nii.gz'"),
        (["1.nii.gz", "notes"], {}, r"notes' is a folder without DICOM files"),
    ],
)  # fmt: skip
def test_faulty_tables(tmp_path, cells, options, message):
    write_volume(tmp_path / "1.nii.gz")
    (tmp_path / "notes").mkdir()
    (tmp_path / "rows.csv").write_text("path,label\n" + "".join(f"{cell},{row}\n" for row, cell in enumerate(cells)))
    with pytest.raises(DataError, match=message):
        load_data(tmp_path, **options)


# --- data sets of `datasets`


def nifti_rows(tmp_path, as_bytes, feature):
    files = [write_volume(tmp_path / f"{row}.nii.gz", row) for row in (1, 2)]
    images = [file.read_bytes() if as_bytes else str(file) for file in files]
    features = Features({"image": feature, "label": ClassLabel(names=["a", "b"])})
    rows = [{"bytes": image, "path": None} if as_bytes else {"bytes": None, "path": image} for image in images]
    return Dataset.from_dict({"image": rows, "label": [0, 1]}, features=features)


@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize("feature", [Nifti(), Nifti(decode=False), Image(decode=False)])
def test_columns_of_nifti(tmp_path, log, as_bytes, feature):
    rows = nifti_rows(tmp_path, as_bytes, feature)
    for named in (rows, DatasetDict(train=rows)):
        assert firsts(load_data(named)) == [1, 2]
    with pytest.raises(DataError, match="holds volumes; leave `dimensions` 2 out to read them"):
        load_data(rows, dimensions=2)
    rows.save_to_disk(tmp_path / "saved")
    assert firsts(load_data(tmp_path / "saved")) == [1, 2] and "volumes: 3D (NIfTI files)" in log.text


def test_columns_of_bytes_and_of_label_volumes(tmp_path):
    volume, labels = write_volume(tmp_path / "1.nii", 7).read_bytes(), write_labels(tmp_path / "2.nii.gz").read_bytes()
    features = Features({"image": Value("binary"), "mask": Nifti()})
    rows = Dataset.from_dict({"image": [volume], "mask": [{"bytes": labels, "path": None}]}, features=features)
    data = load_data(rows)
    assert firsts(data) == [7] and np.array_equal(data.masks.read(data.splits["train"][0]["mask"], "it"), ORGAN)
    assert len(load_images_only(rows.select_columns(["image"]))) == 1


def test_embedded_volumes_are_read_one_at_a_time_and_stay_where_they_are(tmp_path):
    volume = write_volume(tmp_path / "1.nii", 7, shape=(64, 64, 64)).read_bytes()
    labels = write_labels(tmp_path / "2.nii", np.arange(64**3, dtype=np.uint8).reshape(64, 64, 64) % 2).read_bytes()
    columns = {"image": [volume] * 32, "mask": [labels] * 31 + [None]}
    rows = {name: [c and {"bytes": c, "path": None} for c in contents] for name, contents in columns.items()}
    split = Dataset.from_dict(rows, features=Features({name: Image(decode=False) for name in columns}))
    tracemalloc.start()
    (found,) = survey({"train": split}, of_volumes=True).values()
    fingerprint(split, volumes=VolumeReading())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * len(volume) and found[0].counts == {0: 64**3 // 2, 1: 64**3 // 2} and found[31] is None
    table = image_table(split, "mask", None, "train", called="mask", may_be_empty=True, of_volumes=True)
    assert address(table, "mask") == address(split.data, "mask")
    rows = split.select([31, 3, 5])
    fewer = without_masks(rows, np.array([2]))
    assert address(fewer.data, "image") == address(split.data, "image")
    assert [row["mask"] and row["mask"]["bytes"] for row in fewer] == [None, None, labels]
    assert fewer[0]["image"]["bytes"] == volume and fewer.column_names == ["image", "mask"]


def address(table, column):
    """Where the contents of a column of images lie in memory."""
    return table.column(column).chunk(0).field("bytes").buffers()[2].address


# --- .npz files


def write_npz(path, shape, dtype=np.uint8, **more):
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    arrays = {f"{split}_images": values for split in ("train", "val", "test")}
    np.savez(path, **arrays, **more)
    return values


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.bool_, ">i2"])
@pytest.mark.parametrize(
    ("shape", "reading"),
    [
        ((2, 6, 7, 8), VolumeReading()),
        ((2, 6, 7, 8, 1), VolumeReading()),
        ((2, 6, 7, 8, 2), VolumeReading(2, channel_axis=True)),
    ],
)
def test_npz_files_of_volumes(tmp_path, log, dtype, shape, reading):
    labels = {f"{split}_labels": np.array([[0], [1]]) for split in ("train", "val", "test")}
    values = write_npz(tmp_path / "x.npz", shape, dtype, **labels)
    data = load_data(tmp_path / "x.npz")
    assert data.volumes == reading and [*data.splits] == ["train", "validation", "test"]
    expected = values.reshape(2, 6, 7, 8, -1).transpose(0, 4, 1, 2, 3).astype(np.float32)
    volumes = [read_volume(row["image"], "it", reading) for row in data.splits["test"]]
    assert all(np.array_equal(volume.values, wanted) for volume, wanted in zip(volumes, expected, strict=True))
    assert all(np.array_equal(volume.affine, np.eye(4)) for volume in volumes) and "volumes: 3D (arrays" in log.text
    assert len(load_images_only(tmp_path / "x.npz")) == 6


def test_npz_files_with_channels_first(tmp_path, log):
    values = write_npz(tmp_path / "x.npz", (2, 3, 6, 7, 8), np.float32)
    rows = load_images_only(tmp_path / "x.npz")
    read = read_volume(rows[1]["image"], "it", VolumeReading(3, channel_axis=True))
    assert np.array_equal(read.values, values[1]) and "is read as channels first, (N, C, D, H, W)" in log.text


def test_npz_files_with_label_volumes(tmp_path):
    masks = np.stack([ORGAN, 2 * ORGAN, 0 * ORGAN])
    of_masks = {f"{split}_masks": masks for split in ("train", "val", "test")}
    write_npz(tmp_path / "x.npz", (3, *SHAPE), classes=np.array(["background", "a", "b"]), **of_masks)
    data = load_data(tmp_path / "x.npz", dimensions=3)
    assert data.label_names == ["background", "a", "b"] and data.volumes == VolumeReading()
    assert data.labels("train").tolist() == [[54, 6, 0], [54, 0, 6], [60, 0, 0]]
    read = [data.masks.read(row["mask"], "it") for row in data.splits["train"]]
    assert np.array_equal(read, masks)


@pytest.mark.parametrize(("shape", "is_3d"), [((2, 8, 8, 3), False), ((2, 3, 8, 8), False), ((2, 8, 8, 8), True)])
def test_arrays_that_were_images_stay_images(tmp_path, shape, is_3d):
    write_npz(tmp_path / "x.npz", shape, train_labels=np.array([0, 1]))
    assert (load_data(tmp_path / "x.npz").volumes is not None) == is_3d
    assert load_data(tmp_path / "x.npz", dimensions=3).volumes == VolumeReading()


@pytest.mark.parametrize(
    ("shape", "more", "options", "message"),
    [
        ((2, 6, 7, 8), {}, {"dimensions": 2}, r"shape \(2, 6, 7, 8\); expected uint8 .* `dimensions` 3 reads it"),
        ((2, 6, 7), {}, {"dimensions": 3}, r"shape \(2, 6, 7\); expected volumes \(N, D, H, W\)"),
        ((2, 6, 7, 8, 2), {}, {"volume_channels": 3}, r"has 2 channels, but volume_channels is 3"),
        ((2, 6, 7, 8), {"val_images": np.zeros((1, 6, 7), np.uint8)}, {}, "the splits are images and volumes"),
        ((2, 6, 7, 8), {"train_masks": np.zeros((2, 6, 7), np.uint8)}, {}, r"train_masks: got uint8 of shape \(2"),
        ((2, 2, 2, 5), {"train_masks": np.full((2, 2, 2, 5), 0.5)}, {}, "train_masks: row 0 holds 0.5; expected whole"),
    ],
)  # fmt: skip
def test_faulty_npz_files(tmp_path, shape, more, options, message):
    values = np.zeros(shape, dtype=np.uint8)
    np.savez(tmp_path / "x.npz", **({"train_images": values, "val_images": values} | more))
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "x.npz", label_column="label" if not more else None, **options)


def test_the_adrenal_data_of_medmnist(shared_data):
    data = load_data(shared_data / "adrenalmnist3d.npz")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1188, "validation": 98, "test": 298}
    row = data.splits["test"][0]["image"]
    assert data.volumes == VolumeReading() and read_volume(row, "it").values.shape == (1, 28, 28, 28)

"""Label volumes: which values are classes, and what is refused of a volume's labels."""

import gzip
import tracemalloc

import nibabel
import numpy as np
import pytest
from PIL import Image

from rd_hf.data.columns import DataError
from rd_hf.data.decoding.images import BadImageError
from rd_hf.data.masks.digest import describe_mask
from rd_hf.data.masks.reading import MaskReading
from rd_hf.data.masks.survey import survey
from rd_hf.data.sources import load_data
from rd_hf.data.volumes.grid_volume import GridReader
from rd_hf.data.volumes.store import VolumeStore
from rd_hf.models.image_processing_rd_volume import RDVolumeProcessor
from rd_hf.scoring.segmentation import IGNORED_LABEL

SHAPE = (3, 4, 5)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
LABELS = np.arange(60).reshape(SHAPE) % 3


def save(path, values, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(np.asarray(values), affine).to_filename(path)
    return path


def save_cases(root, *labels, affine=AFFINE):
    for row, values in enumerate(labels, start=1):
        save(root / "images" / f"{row}.nii.gz", np.full(SHAPE, row, dtype=np.int16))
        save(root / "labels" / f"{row}.nii.gz", values, affine)


def read(data, row=0):
    return data.masks.read(data.splits["train"][row]["mask"], "it")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_values_are_classes_in_every_type(tmp_path, dtype):
    save_cases(tmp_path, LABELS.astype(dtype), (LABELS > 0).astype(dtype))
    data = load_data(tmp_path)
    assert data.label_names == ["background", "class 1", "class 2"] and np.array_equal(read(data), LABELS)
    assert data.labels("train").tolist() == [[20, 20, 20], [20, 40, 0]] and read(data).dtype == np.uint8


def test_gaps_white_and_names(tmp_path, log):
    save_cases(tmp_path / "a", np.int16([0, 4, 1000])[LABELS])
    assert np.array_equal(read(load_data(tmp_path / "a")), LABELS) and "They have gaps" in log.text
    data = load_data(tmp_path / "a", label_names={0: "air", 4: "bone", 1000: "ignore"})
    assert data.label_names == ["air", "bone"] and set(read(data)[LABELS == 2].tolist()) == {IGNORED_LABEL}
    save_cases(tmp_path / "b", 255 * (LABELS > 0).astype(np.uint8))
    assert load_data(tmp_path / "b").label_names == ["background", "foreground"]
    save_cases(tmp_path / "c", 70_000 * (LABELS > 0).astype(np.int32))
    assert np.array_equal(read(load_data(tmp_path / "c")), LABELS > 0)


def test_labels_whose_axes_run_another_way_are_turned_onto_their_volume(tmp_path, log):
    first = nibabel.Nifti1Image(np.uint8(LABELS), AFFINE)
    for number, codes in enumerate(("RAS", "LPS", "SLA", "PIR")):
        start, end = (nibabel.orientations.axcodes2ornt(axes) for axes in ("RAS", codes))
        other = first.as_reoriented(nibabel.orientations.ornt_transform(start, end))
        save_cases(tmp_path / codes, other.dataobj, affine=other.affine)
        data = load_data(tmp_path / codes)
        rows = data.splits["train"]
        store = VolumeStore(rows, RDVolumeProcessor(spacing=[2, 2, 3], crop_size=4), "train", data.volumes, data.masks)
        assert np.array_equal(store.source_mask(0), LABELS)
        assert np.array_equal(
            GridReader(rows, store.processor, "train", data.volumes, data.masks).read(0).on_grid.mask, LABELS
        )
        assert log.text.count("The axes of 1 label volumes have another order") == number


def test_a_trained_model_s_reading_holds(tmp_path):
    save_cases(tmp_path, 2 * (LABELS > 0).astype(np.uint8))
    recorded = MaskReading({0: 0, 1: 1, 2: 2})
    data = load_data(tmp_path, masks=recorded, label_names=["background", "left", "right"])
    assert data.labels("train").tolist() == [[20, 0, 40]] and set(np.unique(read(data))) == {0, 2}
    with pytest.raises(DataError, match=r"1.nii.gz\) holds 2, which is no class"):
        load_data(tmp_path, masks=MaskReading({0: 0, 1: 1}), label_names=["background", "left"])


@pytest.mark.parametrize(
    ("labels", "affine", "message"),
    [
        (np.zeros((3, 4, 6), np.uint8), AFFINE, r"3 x 4 x 6 voxels, but volume row 0 of train \(.*\) has 3 x 4 x 5"),
        (np.uint8(LABELS), np.diag([2, 2, 4, 1.0]), "their voxels are 2 x 2 x 4 mm apart, .* 2 x 2 x 3"),
        (np.uint8(LABELS), np.diag([-2, 2, 3, 1.0]), "their axes have other directions"),
        (np.uint8(LABELS), AFFINE @ np.eye(4)[[1, 0, 2, 3]], "their axes have other directions"),
        (np.int16(LABELS == 5), AFFINE, "the masks hold nothing but 'background'"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit(tmp_path, labels, affine, message):
    save_cases(tmp_path, labels, affine=affine)
    with pytest.raises(DataError, match=message) as caught:
        load_data(tmp_path)
    assert "labels/1.nii.gz" in str(caught.value)


def test_labels_may_lie_a_fraction_of_a_voxel_elsewhere(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] = 0.1
    save_cases(tmp_path / "near", np.uint8(LABELS), affine=moved)
    assert len(load_data(tmp_path / "near").splits["train"]) == 1
    moved[0, 3] = 7
    save_cases(tmp_path / "far", np.uint8(LABELS), affine=moved)
    with pytest.raises(DataError, match="their first voxels are 7 mm apart .* copy its affine"):
        load_data(tmp_path / "far")


def test_an_image_and_a_volume_are_no_pair(tmp_path):
    save(tmp_path / "1.nii.gz", np.zeros(SHAPE, np.int16))
    save(tmp_path / "2.nii.gz", np.uint8(LABELS))
    Image.new("L", (3, 4)).save(tmp_path / "1.png")
    (tmp_path / "a.csv").write_text("image,mask\n1.nii.gz,1.png\n")
    with pytest.raises(DataError, match=r"1.png\) is a picture, but volume row 0 of train"):
        load_data(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("image,mask\n1.png,2.nii.gz\n")
    with pytest.raises(DataError, match=r"2.nii.gz\) is a label volume, but its image is read as an image"):
        load_data(tmp_path / "b.csv")


@pytest.mark.parametrize(
    ("values", "words"),
    [(LABELS / 2, "it holds 0.5, but labels are whole numbers"), (np.zeros((*SHAPE, 2)), "four axes, the last of 2")],
)
def test_what_is_no_label_volume(tmp_path, values, words):
    save_cases(tmp_path, values)
    with pytest.raises(BadImageError, match=rf"labels/1.nii.gz\) is not a readable label volume: .*{words}"):
        load_data(tmp_path)


def test_damaged_labels_are_told_and_damaged_volumes_are_left_to_their_reading(tmp_path):
    save_cases(tmp_path, np.uint8(LABELS))
    content = gzip.compress(gzip.decompress((tmp_path / "labels" / "1.nii.gz").read_bytes()), mtime=0)
    (tmp_path / "images" / "1.nii.gz").write_bytes(b"x")
    assert len(load_data(tmp_path).splits["train"]) == 1
    (tmp_path / "labels" / "1.nii.gz").write_bytes(content[:-20])
    with pytest.raises(BadImageError, match=r"the mask of row 0 of train \(.*labels/1.nii.gz\)"):
        load_data(tmp_path)


def test_colours_and_several_labels_of_a_volume_are_refused(tmp_path):
    save(tmp_path / "1.nii.gz", np.zeros(SHAPE, np.int16))
    save(tmp_path / "1_mask.nii.gz", np.uint8(LABELS))
    with pytest.raises(DataError, match="mask_colors is for masks of images"):
        load_data(tmp_path, mask_colors={"#ff0000": "tumour"})
    save(tmp_path / "1_mask_1.nii.gz", np.uint8(LABELS))
    with pytest.raises(DataError, match="are label volumes of one volume, which are not united"):
        load_data(tmp_path)


def test_a_scan_is_no_label_volume(tmp_path):
    image = np.zeros((30, 30, 30), np.int16)
    save(tmp_path / "images" / "1.nii.gz", image)
    save(tmp_path / "labels" / "1.nii.gz", np.arange(27000, dtype=np.int16).reshape(image.shape))
    with pytest.raises(DataError, match="27000 different values, as a scan has"):
        load_data(tmp_path)


def test_labels_are_looked_at_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("rd_hf.data.volumes.nifti.CHUNK_BYTES", 2**16)
    monkeypatch.setattr("rd_hf.data.masks.reading._COUNTED_AT_ONCE", 2**13)
    for row in range(4):
        save(tmp_path / "images" / f"{row}.nii.gz", np.zeros((64, 64, 64), np.int16))
        labels = np.zeros((64, 64, 64), np.uint8)
        labels[:10] = 1
        save(tmp_path / "labels" / f"{row}.nii.gz", labels)
    splits = load_data(tmp_path).splits
    tracemalloc.start()
    survey(splits, of_volumes=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * 64**3 * 8  # one volume as int64, and its copy in a small type


def test_masks_in_words(tmp_path):
    mask = np.uint8(LABELS)
    assert describe_mask(mask, ["background", "a", "b"]).startswith("a 33.3 %, b 33.3 % (mask ")

"""NIfTI files: values, affine and labels as nibabel reads them, and a sentence for each that is no volume."""

import gzip
import io
import sys
import tracemalloc
import zipfile

import nibabel
import numpy as np
import pytest
from conftest import SHARED

from rd_hf.data.decoding.images import BadImageError
from rd_hf.data.volumes import source
from rd_hf.data.volumes.reading import header_of, read_labels, read_volume, same_grid, volume_bytes
from rd_hf.data.volumes.volume import Header, VolumeReading, spacing_of

HIPPOCAMPUS = SHARED / "data" / "hippocampus"
AFFINE = np.array([[-2, 0, 0, 10], [0, 3, 0.5, -20], [0, -0.75, 4, 5], [0, 0, 0, 1.0]])


def draw(path, shape=(4, 5, 6), dtype=np.int16, affine=AFFINE, values=None, kind=nibabel.Nifti1Image, **fields):
    """Save a volume by nibabel, whose header then gets `fields`, also those that nibabel would correct."""
    if values is None:
        values = np.random.default_rng(3).integers(0, 200, shape).astype(dtype)
    image = kind(values, affine, dtype=values.dtype)
    image.to_filename(path)
    if fields:
        pack = gzip if path.suffix == ".gz" else io
        with pack.open(path, "rb") as file:
            content = file.read()
        header = kind.header_class(content[: kind.header_class.template_dtype.itemsize], check=False)
        for name, value in fields.items():
            header[name] = value
        with pack.open(path, "wb") as file:
            file.write(header.binaryblock + content[len(header.binaryblock) :])
    return path


def refusal(path, read=read_volume, **options):
    """What is said of a file; the same whether it comes as a path or as bytes."""
    with pytest.raises(BadImageError) as caught:
        read({"bytes": None, "path": str(path)}, "row 3 of train", **options)
    words = str(caught.value)
    assert words.startswith(f"row 3 of train ({path}) is not a readable ") and words.endswith(".") and "\n" not in words
    return words


def test_more_voxels_than_a_small_file_may_unpack_to_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rd_hf.data.volumes.values._MOST_VOXELS", 119)
    for name in ("a.nii.gz", "b.nii"):
        words = refusal(draw(tmp_path / name))
        assert "it has 4 x 5 x 6 voxels, which are more than 4 GiB when read" in words


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">f4", np.float64])
def test_values_and_affine_are_those_of_nibabel(tmp_path, monkeypatch, name, kind, dtype):
    monkeypatch.setattr("rd_hf.data.volumes.nifti.CHUNK_BYTES", 100)  # so that several parts are read
    path = draw(tmp_path / name, dtype=dtype, kind=kind)
    expected = nibabel.load(path)
    volume = read_volume(path, "x")
    assert volume.values.dtype == np.float32 and volume.affine.dtype == np.float64
    assert np.array_equal(volume.values, expected.get_fdata()[None])
    assert np.array_equal(volume.affine, expected.affine)
    assert spacing_of(volume.affine) == pytest.approx([2, np.sqrt(9 + 0.75**2), np.sqrt(0.25 + 16)])
    content = {"bytes": path.read_bytes(), "path": None}
    assert np.array_equal(read_volume(content, "x").values, volume.values)
    header = header_of(content, "x")
    assert header.shape == (4, 5, 6) and header.channels == 1 and np.array_equal(header.affine, volume.affine)
    assert b"".join(volume_bytes(path, "x")) == path.read_bytes()


def test_slope_and_intercept_are_applied(tmp_path):
    path = draw(tmp_path / "a.nii.gz", scl_slope=2.5, scl_inter=-1000)
    stored = draw(tmp_path / "b.nii.gz")
    assert np.array_equal(read_volume(path, "x").values, read_volume(stored, "x").values * 2.5 - 1000)


def test_without_a_transform_the_spacing_gives_the_affine_as_in_nibabel(tmp_path):
    path = draw(tmp_path / "a.nii.gz", sform_code=0, qform_code=0)
    assert np.array_equal(read_volume(path, "x").affine, nibabel.load(path).affine)
    assert header_of(path, "x").spacing == pytest.approx(nibabel.load(path).header.get_zooms())
    only_qform = draw(tmp_path / "b.nii.gz", sform_code=0, qform_code=1, affine=np.diag([-2, 3, 4, 1.0]))
    assert np.allclose(header_of(only_qform, "x").affine, np.diag([-2, 3, 4, 1]))


@pytest.mark.parametrize(("units", "factor"), [(1, 1000), (2, 1), (3, 0.001), (0, 1), (2 + 8, 1)])
def test_other_units_become_millimetres(tmp_path, units, factor):
    path = draw(tmp_path / "a.nii.gz", xyzt_units=units)
    expected = AFFINE.copy()
    expected[:3] *= factor
    assert np.allclose(header_of(path, "x").affine, expected)


@pytest.mark.parametrize("case", ["001", "003"])
def test_hippocampi_are_read_as_nibabel_reads_them(case):
    if not HIPPOCAMPUS.is_dir():
        pytest.skip("../shared/data/hippocampus is not here")
    path, labels = (HIPPOCAMPUS / folder / f"hippocampus_{case}.nii.gz" for folder in ("imagesTr", "labelsTr"))
    expected = nibabel.load(path)
    assert np.array_equal(read_volume(path, "x").values[0], expected.get_fdata(dtype=np.float32))
    found = read_labels(labels, "x")
    assert found.values.dtype == np.int32 and np.unique(found.values).tolist() == [0, 1, 2]
    assert np.array_equal(found.values, nibabel.load(labels).get_fdata())
    assert same_grid(header_of(path, "x"), header_of(labels, "x"))


def test_a_volume_is_in_memory_once(tmp_path):
    path = draw(tmp_path / "a.nii.gz", shape=(128, 128, 96))
    tracemalloc.start()
    volume = read_volume(path, "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < volume.values.nbytes + 6 * source.CHUNK_BYTES  # in float64 alone it would be twice the values


def test_channels_along_the_last_axis_are_read_where_it_is_said(tmp_path):
    path = draw(tmp_path / "a.nii.gz", shape=(4, 5, 6, 3))
    stored = nibabel.load(path).get_fdata()
    volume = read_volume(path, "x", VolumeReading(channels=3, channel_axis=True))
    assert volume.values.shape == (3, 4, 5, 6) and np.array_equal(volume.values, np.moveaxis(stored, -1, 0))
    assert header_of(path, "x").channels == 3 and header_of(path, "x").shape == (4, 5, 6)
    assert "four axes (4 x 5 x 6 x 3)" in refusal(path) and "train with `volume_channels` 3" in refusal(path)
    assert "has 3 channels, but" in refusal(path, reading=VolumeReading(2, True))
    single = draw(tmp_path / "b.nii.gz")
    assert "has 1 channel, but" in refusal(single, reading=VolumeReading(2, True))
    assert "four axes, the last of 3" in refusal(path, read_labels)


def test_a_fourth_axis_of_one_entry_is_none(tmp_path):
    path = draw(tmp_path / "a.nii.gz", values=np.ones((4, 5, 6, 1), np.uint8))
    assert read_volume(path, "x").values.shape == (1, 4, 5, 6) == (1, *read_labels(path, "x").values.shape)


def test_channel_files_make_up_one_volume(tmp_path):
    files = [draw(tmp_path / f"case_{number:04d}.nii.gz", values=np.full((2, 3, 4), number + 1.0)) for number in (0, 1)]
    two = VolumeReading(channels=2)
    assert read_volume(files[0], "x", two).values[:, 0, 0, 0].tolist() == [1, 2]
    assert read_volume(files[0], "x").values.shape == (1, 2, 3, 4)
    assert b"".join(volume_bytes(files[0], "x", two)) == files[0].read_bytes() + files[1].read_bytes()
    assert "case_0002.nii.gz is missing" in refusal(files[0], reading=VolumeReading(channels=3))
    assert "ends in _0000" in refusal(files[1], reading=two)
    draw(files[1], shape=(2, 3, 5))
    assert "of its channel case_0001.nii.gz, it has another shape or affine" in refusal(files[0], reading=two)
    files[1].write_bytes(files[1].read_bytes()[:-9])
    assert "of its channel case_0001.nii.gz, its gzip data are damaged" in refusal(files[0], reading=two)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pixdim": [1, 0, 1, 1, 1, 1, 1, 1]}, "voxels are 0 x 1 x 1 mm apart"),
        ({"pixdim": [1, 1, np.nan, 1, 1, 1, 1, 1]}, "voxels are 1 x nan x 1 mm apart"),
        ({"srow_x": [0, 0, 0, 0], "srow_y": [0, 1, 0, 0], "srow_z": [0, 0, 1, 0]}, "voxels are 0 x 1 x 1 mm apart"),
        ({"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0], "srow_z": [0, 0, 1, 0]}, "two axes in one direction"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "voxels are nan"),
        ({"dim": [2, 4, 30, 1, 1, 1, 1, 1]}, "it has 4 x 30 pixels, so it is a picture"),
        ({"dim": [5, 2, 2, 1, 2, 3, 1, 1]}, "it has 5 axes (2 x 2 x 1 x 2 x 3)"),
        ({"dim": [3, 4, 0, 6, 1, 1, 1, 1]}, "header is damaged: it says that the volume has 4 x 0 x 6 voxels"),
        ({"dim": [3, 4, -5, 6, 1, 1, 1, 1]}, "header is damaged: it says that the volume has 4 x -5 x 6 voxels"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "it is cut off: its header promises 70"),
        ({"datatype": 128, "bitpix": 24}, "its voxels are colours (RGB)"),
        ({"datatype": 32, "bitpix": 64}, "its voxels are of type complex64"),
        ({"datatype": 77}, "its header is damaged"),
        ({"scl_slope": 1, "scl_inter": np.inf}, "its header is damaged"),
        ({"vox_offset": np.nan}, "its header is damaged"),
        ({"vox_offset": 1e30}, "it is cut off"),
        ({"magic": b"ni1"}, "a pair of files (.hdr and .img)"),
        ({"magic": b""}, "it is an Analyze file"),
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_headers_that_describe_no_volume(tmp_path, name, fields, words):
    path = draw(tmp_path / name, affine=np.eye(4), **fields)
    assert words in refusal(path) and ":" in refusal(path).split(words)[0] + refusal(path).split(words)[1]
    assert words in refusal(path, header_of)


def test_a_huge_header_allocates_nothing(tmp_path):
    path = draw(tmp_path / "a.nii.gz", dim=[3, 2000, 2000, 2000, 1, 1, 1, 1])
    tracemalloc.start()
    refusal(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "run `git lfs pull`"),
        (b"<!DOCTYPE html><html>Sign in</html>", "it is a web page"),
        (b"\0" * 900, "nothing but zeros"),
        (b"NRRD0004\ntype: short\n", "it is an NRRD volume: save it as .nii.gz"),
        (b"ObjectType = Image\nNDims = 3\n", "it is a MetaImage volume"),
        (b"PK\x03\x04abc", "it is a zip archive"),
        (b"\x89PNG\r\n\x1a\n", "it is a PNG picture"),
        (b"patient,label\n1,2\n", "does not begin like a NIfTI or DICOM file, and it is text"),
        (bytes(range(200, 256)) * 9, "does not begin like a NIfTI or DICOM file, and its format is unknown"),
        (gzip.compress(b"hello" * 200, mtime=0), "what is inside is not a NIfTI volume"),
        (gzip.compress(b"\0\0\0\1" + b"\5" * 400, mtime=0), "it is a FreeSurfer volume"),
        (gzip.compress(b"\x5c\x01\0\0" + b"\5" * 40, mtime=0), "cut off within its header"),
        (b"\x1f\x8b\x08\0rubbish", "gzip data are damaged or cut off"),
    ],
)
def test_other_files_are_said_to_be_what_they_are(tmp_path, content, words):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    for read in (read_volume, read_labels, header_of):
        assert words in refusal(path, read)


def test_files_that_are_not_as_their_name_says(tmp_path):
    plain = draw(tmp_path / "a.nii").rename(tmp_path / "a.nii.gz")
    assert "ends in .gz, but it is not compressed: rename it" in refusal(plain)
    packed = draw(tmp_path / "b.nii.gz").rename(tmp_path / "b.nii")
    assert read_volume(packed, "x").values.shape == (1, 4, 5, 6)
    assert "there is no such file" in refusal(tmp_path / "c.nii.gz")
    assert "it is a folder" in refusal(tmp_path)


def test_members_of_archives_are_read(tmp_path):
    path = draw(tmp_path / "a.nii.gz")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(path, "case/a.nii.gz")
    row = {"bytes": None, "path": f"zip://case/a.nii.gz::{tmp_path / 'all.zip'}"}
    assert np.array_equal(read_volume(row, "x").values, read_volume(path, "x").values)
    assert b"".join(volume_bytes(row, "x")) == path.read_bytes()


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    path = draw(tmp_path / "a.nii.gz")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    for read in (read_volume, read_labels, header_of):
        assert "needs the extra `volumes`: pip install 'rd-hf[volumes]'" in refusal(path, read)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_files_that_are_cut_off(tmp_path, share):
    for name, words in (("a.nii.gz", "gzip data are damaged or cut off"), ("a.nii", "it is cut off")):
        path = draw(tmp_path / name, shape=(10, 11, 12))
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        assert words in refusal(path) and "fetch it again" in refusal(path)


def test_a_wrong_checksum_is_found(tmp_path):
    path = draw(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 255
    path.write_bytes(content)
    assert "gzip data are damaged" in refusal(path)


def test_values_that_are_not_finite_are_counted(tmp_path):
    values = np.zeros((4, 5, 6), np.float32)
    values[0, 0, :2], values[3, 4, 5] = np.nan, -np.inf
    path = draw(tmp_path / "a.nii.gz", values=values)
    assert "3 of its 120 voxels are NaN or infinite: replace them" in refusal(path)
    assert "3 of its 120 voxels are NaN or infinite" in refusal(path, read_labels)
    assert header_of(path, "x").shape == (4, 5, 6)
    too_large = draw(tmp_path / "b.nii.gz", values=np.full((2, 2, 2), 1e300))
    assert "8 of its 8 voxels" in refusal(too_large)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0, 1, 1.5], "it holds 1.5, but labels are whole numbers"),
        ([0, 1, 2.002], "it holds 2.002, but labels are whole numbers"),
        ([0, 1, -1], "it holds -1, but labels are whole numbers from 0 on"),
        ([0, 1, 3e10], "too large for a label"),
    ],
)
def test_values_that_are_no_labels(tmp_path, values, words):
    path = draw(tmp_path / "a.nii.gz", values=np.float64(values).reshape(1, 1, 3))
    assert words in refusal(path, read_labels)
    assert read_volume(path, "x").values.shape == (1, 1, 1, 3)


def test_labels_saved_as_floats_or_with_a_slope_are_whole(tmp_path):
    whole = draw(tmp_path / "a.nii.gz", values=np.float32([0, 1, 7]).reshape(1, 1, 3))
    assert read_labels(whole, "x").values.ravel().tolist() == [0, 1, 7]
    scaled = draw(tmp_path / "b.nii.gz", values=np.int16([0, 2, 4]).reshape(1, 1, 3), scl_slope=0.5, scl_inter=1)
    assert read_labels(scaled, "x").values.ravel().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("dtype", "labels"),
    [(np.uint8, [0, 1, 2]), (np.int16, [0, 7, 14]), (np.int16, [0, 16, 2035]), (np.uint8, [0, 1, 20])],
)
def test_labels_that_nibabel_has_scaled(tmp_path, dtype, labels):
    """It chooses a slope for floats that are saved as integers, and the values come back with a rounding error."""
    image = nibabel.Nifti1Image(np.float64(labels).reshape(1, 1, 3), np.eye(4))
    image.set_data_dtype(dtype)
    image.to_filename(tmp_path / "a.nii.gz")
    assert nibabel.load(tmp_path / "a.nii.gz").dataobj.slope != 1
    assert read_labels(tmp_path / "a.nii.gz", "x").values.ravel().tolist() == labels


def test_grids_are_the_same_to_a_tenth_of_a_voxel():
    grid = Header((10, 10, 10), np.diag([1, 1, 5.0, 1]))
    assert same_grid(grid, Header((10, 10, 10), grid.affine + 1e-3))
    assert not same_grid(grid, Header((10, 10, 11), grid.affine))
    moved = grid.affine.copy()
    moved[0, 3] = 0.2
    assert not same_grid(grid, Header((10, 10, 10), moved))
    wider = np.diag([1.02, 1, 5, 1])  # .02 mm a voxel are .18 mm at the far corner
    assert not same_grid(grid, Header((10, 10, 10), wider))

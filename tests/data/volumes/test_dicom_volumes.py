"""DICOM as volumes: order, affine and values of series and enhanced files, and a sentence for each that is no box."""

import json
import logging
import os
import sys

import numpy as np
import pydicom
import pytest
import small_volumes
from conftest import SHARED
from drawn_series import (
    PATIENT,
    SERIES,
    change,
    ct_slice,
    dataset_of,
    draw_series,
    enhanced,
    save,
    slice_values,
)
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedSRStorage, ExplicitVRLittleEndian

from rd_hf.data.decoding.images import BadImageError
from rd_hf.data.volumes import dicom_series
from rd_hf.data.volumes.dicom_header import header_of_file
from rd_hf.data.volumes.dicom_series import series_of_folder
from rd_hf.data.volumes.reading import header_of, read_labels, read_volume, volume_bytes
from rd_hf.data.volumes.volume import VolumeReading, spacing_of

DICOM = SHARED / "data" / "dicom"
SECRETS = ("Doe", "4711", "secret", SERIES)


def refusal(path, read=read_volume, **options):
    """What is said of a series, which never quotes what its files say of a patient."""
    with pytest.raises(BadImageError) as caught:
        read({"bytes": None, "path": str(path)}, "row 3 of train", **options)
    words = str(caught.value)
    assert words.startswith(f"row 3 of train ({path}) is not a readable ") and words.endswith(".") and "\n" not in words
    assert not any(secret in words.replace(str(path), "") for secret in SECRETS)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    return words


def test_a_folder_of_several_series_is_looked_through_once(tmp_path, monkeypatch):
    """An export may have all series of a hospital in one folder."""
    for name, number in (("one", 1), ("two", 2), ("three", 3)):
        small_volumes.write_series(tmp_path / name, np.full((4, 4, 4), number))
        for path in list((tmp_path / name).iterdir()):
            path.rename(tmp_path / f"{name}_{path.name}")
        (tmp_path / name).rmdir()
    looked = []
    monkeypatch.setattr(dicom_series, "header_of_file", lambda file: looked.append(file) or header_of_file(file))
    found = [read_volume(tmp_path / f"{name}_00.dcm", "it").values for name in ("one", "two", "three")]
    assert [values.mean() for values in found] == [1, 2, 3] and {values.shape for values in found} == {(1, 4, 4, 4)}
    assert len(looked) == 12
    (tmp_path / "two_03.dcm").unlink()  # the second one
    assert "slice" in refusal(tmp_path / "two_00.dcm") and len(looked) == 23


def test_a_folder_that_has_not_changed_for_a_while_is_not_listed_again(tmp_path, monkeypatch):
    paths = draw_series(tmp_path)
    os.utime(tmp_path, (1e9, 1e9))
    listed, files_of = [], dicom_series._files
    monkeypatch.setattr(dicom_series, "_files", lambda folder: listed.append(folder) or files_of(folder))
    assert [header_of(path, "x").shape for path in paths] == [(5, 6, 4)] * 4 and len(listed) == 1
    change(paths[1], ImagePositionPatient=[-10, -20, 30], PatientName="A longer name than before")
    os.utime(tmp_path, (1e9, 1e9))  # writing into a file leaves its folder's time as it was
    assert "several slices at one place" in refusal(paths[0]) and len(listed) == 2
    paths[3].unlink()
    assert "several slices at one place" in refusal(paths[0]) and len(listed) > 2


def test_the_public_series_has_its_order_spacing_affine_and_hounsfield_range():
    if not DICOM.is_dir():
        pytest.skip("../shared/data/dicom is not here")
    folder = DICOM / "ct_series"
    expected = json.loads((DICOM / "series.json").read_text())["ct_series"]
    scout, series = series_of_folder(list(folder.iterdir()))
    assert (scout.first.name, scout.is_volume, scout.why_not) == ("IM050.dcm", False, "it is a scout view")
    assert series.is_volume and series.first.name == "IM186.dcm" and len(series.files) == 16
    volume = read_volume(series.first, "x")
    slices, rows, columns = expected["shape_slices_rows_columns"]
    assert volume.values.shape == (1, columns, rows, slices)
    assert np.allclose(volume.affine, expected["affine_ijk_to_RAS"], atol=1e-4)
    assert spacing_of(volume.affine) == pytest.approx((*expected["pixel_spacing_row_column"][::-1], 5))
    found = [volume.values.min(), volume.values.max(), volume.values.mean(dtype=np.float64)]
    assert found == pytest.approx([expected["hounsfield"][kind] for kind in ("min", "max", "mean")], rel=1e-6)
    for number, name in enumerate(expected["slices_in_order"]):
        dataset = pydicom.dcmread(folder / name)
        values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        assert np.array_equal(volume.values[0, :, :, number].T, values)


def test_the_tilted_public_series_is_refused():
    if not DICOM.is_dir():
        pytest.skip("../shared/data/dicom is not here")
    words = refusal(DICOM / "ct_series_tilted" / "IM680.dcm")
    assert "gantry tilted by 18.5 degrees" in words and "dcm2niix" in words
    assert "28 files in the folder ct_series_tilted, the first is IM138.dcm" in words


def test_slices_are_sorted_by_place_and_become_an_affine_of_ras(tmp_path):
    paths = draw_series(tmp_path / "ct")
    assert sorted(paths) != paths
    for path in paths:  # each stands for the series
        volume = read_volume(path, "x")
        assert volume.values.shape == (1, 5, 6, 4)
        for number in range(4):
            assert np.array_equal(volume.values[0, :, :, number].T, slice_values(number) * 2.0 - 1000)
        # DICOM: left, back, head; 2 mm from column to column, 3 mm from row to row
        assert np.allclose(volume.affine, [[-2, 0, 0, 10], [0, -3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])
    header = header_of(paths[2], "x")
    assert header.shape == (5, 6, 4) and np.array_equal(header.affine, volume.affine)


def test_oblique_slices_are_sorted_along_their_normal(tmp_path):
    row, column = np.array([0, 0.8, -0.6]), np.array([1.0, 0, 0])
    normal = np.cross(row, column)
    for number in range(3):
        place = (np.array([5, 6, 7]) + 4 * number * normal).tolist()
        saved = ct_slice(number, place, ImageOrientationPatient=[*row, *column])
        save(saved, tmp_path / f"{9 - number}.dcm")
    volume = read_volume(tmp_path / "9.dcm", "x")
    to_ras = np.diag([-1, -1, 1])
    expected = np.stack([to_ras @ row * 2, to_ras @ column * 3, to_ras @ normal * 4, to_ras @ [5, 6, 7]], axis=1)
    assert np.allclose(volume.affine[:3], expected) and np.linalg.det(volume.affine[:3, :3]) > 0
    assert volume.values[0, 0, 0].tolist() == [-1000, -800, -600]


def test_each_slice_has_its_own_slope(tmp_path):
    paths = draw_series(tmp_path / "pet", 3)
    change(paths[1], RescaleSlope=3, RescaleIntercept=0)
    change(paths[2], RescaleSlope=None, RescaleIntercept=None)
    assert read_volume(paths[0], "x").values[0, 1, 0].tolist() == [1 * 2 - 1000, 101 * 3, 201]


@pytest.mark.parametrize("as_bytes", [True, False])
def test_frames_of_an_enhanced_file_are_sorted_and_rescaled_one_by_one(tmp_path, as_bytes):
    path = save(enhanced(), tmp_path / "e.dcm")
    save(ct_slice(0), tmp_path / "other.dcm")  # of the same series, but the file stands for itself
    row = {"bytes": path.read_bytes() if as_bytes else None, "path": str(path)}
    volume = read_volume(row, "x")
    assert np.allclose(volume.affine, [[-2, 0, 0, 10], [0, -3, 0, 20], [0, 0, 4, 22], [0, 0, 0, 1]])
    for number in range(3):  # stored from the top down
        expected = slice_values(2 - number) * (3.0 - number) - 5
        assert np.array_equal(volume.values[0, :, :, number].T, expected)
    assert header_of(row, "x").shape == (5, 6, 3)


def test_public_enhanced_files():
    if not DICOM.is_dir():
        pytest.skip("../shared/data/dicom is not here")
    siemens = read_volume(DICOM / "enhanced_mr_siemens_6_frames.dcm", "x")
    assert siemens.values.shape == (1, 64, 64, 6) and spacing_of(siemens.affine) == pytest.approx((3.375, 3.375, 2.4))
    assert header_of(DICOM / "enhanced_ct_2_frames.dcm", "x").spacing[2] == pytest.approx(10)
    assert "it has 10 frames, of which it does not say where they lie" in refusal(DICOM / "enhanced_mr_10_frames.dcm")
    assert "it holds a segmentation: leave it out" in refusal(DICOM / "seg_binary_3_frames.dcm")
    assert "it holds an object of class Parametric Map Storage" in refusal(DICOM / "parametric_map_float.dcm")
    assert "has a single slice" in refusal(DICOM / "us_palette_rle.dcm")


def faulty(folder, fault):
    """A series of five slices of which one is changed; the slices are IM003, IM010, IM006, IM002, IM009."""
    paths = draw_series(folder, 5)
    fault(paths)
    return min(path for path in paths if path.exists())


FAULTS = {
    "missing": (lambda paths: paths[2].unlink(), "lacks a slice between IM010.dcm and IM002.dcm, which are 8 mm apart"),
    "two missing": (
        lambda paths: [change(path, ImagePositionPatient=[-10, -20, 54]) for path in paths[4:]],
        "lacks slices between IM002.dcm and IM009.dcm, which are 12 mm apart",
    ),
    "uneven": (
        lambda paths: change(paths[1], ImagePositionPatient=[-10, -20, 33]),
        "slices at several distances, from 3 to 5 mm: resample it",
    ),
    "twice": (
        lambda paths: change(paths[1], ImagePositionPatient=[-10, -20, 30]),
        "several slices at one place, such as IM003.dcm and IM010.dcm",
    ),
    "shifted": (
        lambda paths: change(paths[2], ImagePositionPatient=[-8, -20, 38]),
        "slices that are shifted sideways, such as IM006.dcm by 2 mm",
    ),
    "tilted": (
        lambda paths: [
            change(path, ImagePositionPatient=[-10, -20 + number, 30 + 4 * number]) for number, path in enumerate(paths)
        ],
        "gantry tilted by 14.0 degrees",
    ),
    "orientation": (
        lambda paths: change(paths[3], ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
        "slices of several orientations, such as IM002.dcm and IM003.dcm",
    ),
    "spacing": (
        lambda paths: change(paths[3], PixelSpacing=[3, 3]),
        "several spacings, such as IM002.dcm with 3 x 3 mm and IM003.dcm with 3 x 2 mm",
    ),
    "size": (
        lambda paths: save(dataset_of(np.ones((4, 4), np.uint16), ImagePositionPatient=[-10, -20, 42]), paths[3]),
        "does not say where IM002.dcm lies (ImageOrientationPatient, PixelSpacing is missing",
    ),
    "rows": (
        lambda paths: change(paths[3], Rows=5),
        "several sizes, such as IM002.dcm with 5 x 5 pixels and IM003.dcm with 6 x 5",
    ),
    "no place": (lambda paths: change(paths[0], ImagePositionPatient=None), "does not say where IM003.dcm lies"),
    "no spacing": (lambda paths: change(paths[0], PixelSpacing=[0, 2]), "(PixelSpacing is missing or damaged)"),
    "skewed": (
        lambda paths: change(paths[0], ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
        "(ImageOrientationPatient is missing or damaged)",
    ),
    "one slice": (lambda paths: [path.unlink() for path in paths[1:]], "has a single slice, which is no volume"),
    "cut off": (
        lambda paths: paths[2].write_bytes(paths[2].read_bytes()[:-9]),
        "its slice IM006.dcm cannot be read: the DICOM file is cut off",
    ),
    "colours": (
        lambda paths: change(paths[2], PhotometricInterpretation="PALETTE COLOR"),
        "its slice IM006.dcm cannot be read: the DICOM file holds colours",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_series_that_are_no_box_are_named_by_folder_first_file_and_number(tmp_path, name):
    fault, words = FAULTS[name]
    path = faulty(tmp_path / "case", fault)
    found = refusal(path)
    assert words in found
    if "cannot be read" not in words:
        count = len(list(path.parent.iterdir()))
        files = f"{count} file{'s' if count > 1 else ''} in the folder case, the first is {path.name}"
        assert f"its DICOM series ({files})" in found and words in refusal(path, header_of)
        assert series_of_folder(list(path.parent.iterdir()))[0].is_volume is (name != "one slice")


def test_what_is_not_of_the_series_in_its_folder_is_left_out(tmp_path):
    paths = draw_series(tmp_path)
    expected = read_volume(paths[0], "x")
    save(dataset_of(None, EnhancedSRStorage, "SR"), tmp_path / "A_report.dcm")
    save(dataset_of(np.ones((3, 3), np.uint16), SeriesInstanceUID="1.2.9"), tmp_path / "B_capture.dcm")
    save(ct_slice(0, ImageType=["DERIVED", "PRIMARY", "LOCALIZER"], SeriesInstanceUID="1.2.8"), tmp_path / "C.dcm")
    for number, orientation in enumerate([[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]]):
        scout = ct_slice(number, ImageOrientationPatient=orientation, SeriesInstanceUID="1.2.7")
        save(scout, tmp_path / f"D{number}.dcm")
    unknown = ct_slice(0, SeriesInstanceUID="1.2.6")
    unknown.file_meta.TransferSyntaxUID = "1.2.999.1"
    save_anyhow(unknown, tmp_path / "E_unknown.dcm")
    (tmp_path / "F_encrypted.dcm").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "notes.txt").write_text("text")
    directory = dataset_of(None)
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    del directory.SOPClassUID, directory.Modality, directory.SeriesInstanceUID
    save(directory, tmp_path / "DICOMDIR")
    save(enhanced(), tmp_path / "G_enhanced.dcm")
    found = {each.first.name: (len(each.files), each.why_not) for each in series_of_folder(list(tmp_path.iterdir()))}
    assert found == {
        "A_report.dcm": (1, "it holds a structured report"),
        "B_capture.dcm": (1, "it is a single image"),
        "C.dcm": (1, "it is a scout view"),
        "D0.dcm": (3, "its 3 images have 3 orientations, as of a scout view"),
        "DICOMDIR": (1, "it is a DICOMDIR, which lists other files"),
        "E_unknown.dcm": (1, "it is a single image"),
        "F_encrypted.dcm": (1, "it is named like a DICOM file, but does not begin like one"),
        "G_enhanced.dcm": (1, None),
        min(paths).name: (4, None),
    }
    volume = read_volume(paths[0], "x")
    assert np.array_equal(volume.values, expected.values) and np.array_equal(volume.affine, expected.affine)
    assert "it holds a structured report: leave it out" in refusal(tmp_path / "A_report.dcm")
    assert "it is a DICOMDIR" in refusal(tmp_path / "DICOMDIR")


def save_anyhow(dataset, path):
    """Save with a transfer syntax that pydicom does not know, in the encoding of explicit little endian."""
    with path.open("wb") as file:
        pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)


def test_an_unknown_transfer_syntax_within_the_series_is_an_error(tmp_path):
    paths = draw_series(tmp_path)
    dataset = ct_slice(1)
    dataset.file_meta.TransferSyntaxUID = "1.2.999.1"
    save_anyhow(dataset, paths[1])
    text = refusal(paths[0])
    assert f"its slice {paths[1].name} cannot be read: the DICOM file is compressed as an unknown" in text
    assert "and series to NIfTI" in text


def test_an_encrypted_slice_says_that_it_is_encrypted(tmp_path):
    paths = draw_series(tmp_path)
    encrypted = Dataset()
    encrypted.EncryptedContentTransferSyntaxUID, encrypted.EncryptedContent = ExplicitVRLittleEndian, b"secret"
    change(paths[1], PixelData=None, EncryptedAttributesSequence=[encrypted])
    text = refusal(paths[0])
    assert f"its slice {paths[1].name} cannot be read: the DICOM file is encrypted" in text
    assert "decrypt it" in text and "export it again without encryption" in text


def test_a_file_that_changes_is_read_again(tmp_path):
    paths = draw_series(tmp_path)
    assert header_of(paths[0], "x").shape == (5, 6, 4)
    paths[3].unlink()
    assert header_of(paths[0], "x").shape == (5, 6, 3)
    change(paths[1], ImagePositionPatient=[-10, -20, 30], PatientName="A longer name than before")
    assert "several slices at one place" in refusal(paths[0])


def test_content_for_hashing_has_pixels_and_geometry_and_nothing_of_the_patient(tmp_path):
    paths = draw_series(tmp_path / "a")
    content = b"".join(volume_bytes(paths[0], "x"))
    assert all(slice_values(number).tobytes() in content for number in range(4))
    assert not any(secret.encode() in content for secret in SECRETS)
    for path in paths:
        change(path, PatientName="Other^Name", PatientID="7", SeriesDescription="x")
    assert b"".join(volume_bytes(paths[2], "x")) == content
    change(paths[1], RescaleIntercept=0)
    assert b"".join(volume_bytes(paths[0], "x")) != content
    frames = b"".join(volume_bytes(save(enhanced(), tmp_path / "e.dcm"), "x"))
    assert frames.count(slice_values(1).tobytes()) == 1 and not any(word.encode() in frames for word in SECRETS)
    moved = enhanced(positions=[[-10, -20, 40 - 4 * number] for number in range(3)])
    assert b"".join(volume_bytes(save(moved, tmp_path / "m.dcm"), "x")) != frames


def test_dicom_has_one_channel_and_is_no_label_volume(tmp_path):
    path = draw_series(tmp_path)[0]
    assert "it is DICOM, which has one channel, and the data set has 2" in refusal(path, reading=VolumeReading(2))
    assert "label volumes are NIfTI files or arrays" in refusal(path, read_labels)


def test_bytes_of_one_slice_are_no_volume(tmp_path):
    row = {"bytes": draw_series(tmp_path)[0].read_bytes(), "path": None}
    with pytest.raises(BadImageError, match=r"^row 3 is not .*: its DICOM file \(1 frame\) has a single slice"):
        read_volume(row, "row 3")


def test_frames_without_places_are_no_volume_and_their_number_is_not_trusted(tmp_path):
    dataset = enhanced()
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.NumberOfFrames = 2_000_000_000
    path = save(dataset, tmp_path / "e.dcm")
    assert "it has 2000000000 frames, of which it does not say where they lie: leave it out" in refusal(path)


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    path = draw_series(tmp_path)[0]
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "needs the extra `volumes`: pip install 'rd-hf[volumes]'" in refusal(path)
    assert "needs the extra `volumes`" in refusal(path, header_of)


def test_reading_says_nothing_of_the_patient(tmp_path, caplog, capfd, recwarn):
    """pydicom warns of values that the standard does not allow, and quotes them."""
    caplog.set_level(logging.DEBUG)
    paths = draw_series(tmp_path)
    for path in paths:
        change(path, PatientName=PATIENT * 20)
    paths[1].write_bytes(paths[1].read_bytes().replace(b"4711-secret", b"4711\xff\xfe\0\xdbret"))
    read_volume(paths[0], "x")
    series_of_folder(paths)
    captured = capfd.readouterr()
    said = caplog.text + captured.out + captured.err + "".join(str(each.message) for each in recwarn)
    assert not any(secret in said for secret in SECRETS)

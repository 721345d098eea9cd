"""Predictions of volumes: masks on the grid of their source, amounts, DICOM SEG, classes, and what is refused."""

import json
import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread
from small_volumes import NAMES, PATIENT, saved_classifier, saved_segmenter, smooth, write_series, write_volume

import rd_hf
from rd_hf.arguments.values import ArgumentError
from rd_hf.cli import main
from rd_hf.data.decoding.images import BadImageError
from rd_hf.data.volumes import series_rows
from rd_hf.data.volumes.dicom_series import series_of_folder
from rd_hf.data.volumes.finding import find_volumes
from rd_hf.data.volumes.reading import read_volume
from rd_hf.inference.dicom_seg import write_dicom_seg
from rd_hf.inference.loading import load_model
from rd_hf.inference.volumes import volume_logits


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return str(saved_segmenter(tmp_path_factory.mktemp("segmenter")))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return str(saved_classifier(tmp_path_factory.mktemp("classifier")))


def expected_mask(model: str, path) -> np.ndarray:
    """The likeliest class of the logits, brought to the voxels of the source by the processor."""
    loaded, volume = load_model(model), read_volume(path, "it")
    processor = loaded.transform.processor
    shown = processor.shown(volume.values, volume.affine)
    logits = volume_logits(lambda x: loaded.model(pixel_values=x).logits, processor, shown, torch.device("cpu"))
    return processor.to_source(logits, volume.values.shape[1:], volume.affine).argmax(dim=0).numpy()


def test_masks_have_the_grid_of_their_source_and_are_never_written_over(segmenter, tmp_path, caplog):
    data = tmp_path / "data"
    (data / "late").mkdir(parents=True)
    write_volume(data / "a.nii.gz", smooth((30, 24, 12)), axes="LIP")
    write_volume(data / "late" / "a.nii", smooth((20, 20, 9), 1), axes="SAR")
    out = tmp_path / "masks"
    with caplog.at_level(logging.INFO, "rd_hf"):
        rows = rd_hf.predict(segmenter, data, output_dir=str(out), overlay=True)
    assert "voxels on the model's grid is read in windows of 16 x 16 x 16; its logits take" in caplog.text
    assert [row["image"] for row in rows] == [str(data / "a.nii.gz"), str(data / "late" / "a.nii")]
    assert [row["mask"] for row in rows] == [str(out / "a.nii.gz"), str(out / "late" / "a.nii.gz")]
    for row in rows:
        source, mask = nib.load(row["image"]), nib.load(row["mask"])
        assert mask.shape == source.shape and np.array_equal(mask.affine, source.affine)
        assert [mask.header[f"{form}form_code"] for form in "qs"] == [
            source.header[f"{form}form_code"] for form in "qs"
        ]
        values = np.asarray(mask.dataobj)
        assert values.dtype == np.uint8 and np.array_equal(values, expected_mask(segmenter, row["image"]))
        counts = np.bincount(values.ravel(), minlength=3).tolist()
        assert row["voxels"] == dict(zip(NAMES, counts, strict=True)) and min(counts) > 0
        assert list(row["millilitres"].values()) == pytest.approx([count * 0.003 for count in counts])
        assert np.asarray(Image.open(row["overlay"])).ndim == 3
    with pytest.raises(ArgumentError, match=r"masks/a.nii.gz exists already"):
        rd_hf.predict(segmenter, [data / "a.nii.gz", data / "late" / "a.nii"], output_dir=str(out))
    (out / "late" / "a.nii.gz").unlink()
    again = rd_hf.predict(segmenter, data, output_dir=str(out), overlay=True, skip_existing=True)
    assert again == rows[1:]


def test_a_volume_smaller_than_the_window_is_padded_and_said(segmenter, tmp_path, caplog):
    write_volume(tmp_path / "large.nii", smooth((30, 24, 12)))
    write_volume(tmp_path / "small.nii", smooth((30, 12, 12)))
    with caplog.at_level(logging.INFO, "rd_hf"):
        rows = rd_hf.predict(segmenter, tmp_path)
    assert [row["mask"].shape for row in rows] == [(30, 24, 12), (30, 12, 12)]
    (said,) = [record.getMessage() for record in caplog.records if "padded" in record.getMessage()]
    assert said.startswith(
        f"{tmp_path / 'small.nii'} has 20 x 10 x 20 voxels on the model's grid, fewer than the window's"
    )


@pytest.mark.parametrize("kind", ["segmenter", "classifier"])
def test_a_volume_without_a_finite_output_is_named(kind, request, tmp_path):
    loaded = load_model(request.getfixturevalue(kind))
    (*_, last) = loaded.model.parameters()
    torch.nn.init.constant_(last, torch.nan)
    write_volume(tmp_path / "scan.nii.gz", smooth((20, 18, 12)))
    with pytest.raises(ValueError, match=rf"The model's output for {tmp_path / 'scan.nii.gz'} is not finite"):
        rd_hf.predict(loaded, tmp_path / "scan.nii.gz", on_bad_image="skip")


def test_the_axes_of_a_file_do_not_move_the_mask(segmenter, tmp_path):
    found = []
    for axes in ("RAS", "LPS", "ASL", "PIR"):
        path = tmp_path / f"{axes}.nii.gz"
        affine = write_volume(path, smooth((24, 20, 10), 3), axes=axes)
        (row,) = rd_hf.predict(segmenter, path)
        assert row["mask"].shape == nib.load(path).shape and "overlay" not in row
        found.append(np.asarray(nib.as_closest_canonical(nib.Nifti1Image(row["mask"], affine)).dataobj))
    assert all(np.array_equal(found[0], other) for other in found[1:])


def test_a_series_of_dicom_gets_nifti_and_a_segmentation_that_refers_to_it(segmenter, tmp_path, capsys, caplog):
    hd = pytest.importorskip("highdicom")
    write_series(tmp_path / "ct" / "one", smooth((22, 18, 10)))
    out = tmp_path / "masks"
    command = ["predict", "--model", segmenter, "--images", str(tmp_path / "ct"), "--output_dir", str(out)]
    with caplog.at_level(logging.DEBUG):
        assert main([*command, "--dicom_seg", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert "Kowalski" not in caplog.text and "P-77" not in caplog.text
    assert row["image"] == str(tmp_path / "ct" / "one") and row["dicom_seg"] == str(out / "one.seg.dcm")
    mask = nib.load(row["mask"])
    volume = read_volume(tmp_path / "ct" / "one" / "00.dcm", "it")
    values = np.asarray(mask.dataobj)
    assert np.allclose(mask.affine, volume.affine) and values.shape == (22, 18, 10)
    assert np.array_equal(values, expected_mask(segmenter, tmp_path / "ct" / "one" / "07.dcm"))
    segmentation = hd.seg.segread(out / "one.seg.dcm")
    assert str(segmentation.PatientName) == PATIENT
    assert [segmentation.get_segment_description(n).SegmentLabel for n in (1, 2)] == NAMES[1:]
    assert len(segmentation.get_source_image_uids()) == 10
    stored = segmentation.get_volume(combine_segments=True)
    voxels = np.argwhere(values)
    places = np.diag([-1, -1, 1]) @ (volume.affine[:3, :3] @ voxels.T + volume.affine[:3, 3:])
    inside = np.rint(np.linalg.inv(stored.affine) @ np.vstack([places, np.ones(len(voxels))]))[:3].astype(int)
    assert np.array_equal(stored.array[tuple(inside)], values[tuple(voxels.T)])
    assert (stored.array > 0).sum() == len(voxels)


def test_a_segmentation_has_class_names_beyond_the_characters_of_its_series(tmp_path):
    pytest.importorskip("highdicom")
    names, patient = ["Hintergrund", "Größe", "脾臓"], "Müller^Jörg"
    write_series(tmp_path / "ct", smooth((9, 9, 6)))
    for path in (tmp_path / "ct").iterdir():
        dataset = dcmread(path)
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 100", patient
        dataset.save_as(path)
    mask = np.zeros((9, 9, 6), np.uint8)
    mask[2, 3, 4], mask[4, 4, 4] = 1, 2
    write_dicom_seg(mask, names, tmp_path / "ct" / "00.dcm", tmp_path / "ct.seg.dcm")
    segmentation = dcmread(tmp_path / "ct.seg.dcm")
    assert [segment.SegmentLabel for segment in segmentation.SegmentSequence] == names[1:]
    assert segmentation.PatientName == patient and segmentation.SpecificCharacterSet == "ISO_IR 192"


def test_slices_without_a_preamble_and_a_series_that_no_segmentation_can_refer_to(segmenter, tmp_path):
    pytest.importorskip("highdicom")
    empty = ("PatientBirthDate", "StudyID", "ReferringPhysicianName")
    for name, lacks in (("old", empty), ("poor", ("PatientName", "StudyInstanceUID"))):
        write_series(tmp_path / name, smooth((9, 9, 6)))
        for path in (tmp_path / name).iterdir():
            dataset = dcmread(path)
            for element in lacks:
                delattr(dataset, element)
            dataset.save_as(path)
            path.write_bytes(path.read_bytes()[132:])
    out = tmp_path / "out"
    folders = [tmp_path / "old", tmp_path / "poor"]
    good, bad = rd_hf.predict(segmenter, folders, output_dir=str(out), dicom_seg=True, on_bad_image="skip")
    assert good["dicom_seg"] == str(out / "old.seg.dcm") and "no DICOM SEG can refer to this series" in bad["error"]
    assert sorted(path.name for path in out.iterdir()) == ["old.nii.gz", "old.seg.dcm"]
    segmentation = dcmread(out / "old.seg.dcm")
    assert segmentation.PatientName == PATIENT
    assert [segmentation[keyword].value for keyword in empty[:2]] in ([None, None], ["", ""])


def test_a_series_is_read_once_however_many_of_its_slices_are_named(tmp_path, monkeypatch):
    write_series(tmp_path / "ct", smooth((9, 9, 6)))
    read = []
    monkeypatch.setattr(series_rows, "series_of_folder", lambda files: read.append(files) or series_of_folder(files))
    (found,) = find_volumes(str(tmp_path / "ct" / "*"))
    assert [found] == find_volumes(sorted((tmp_path / "ct").iterdir())) and len(read) == 2


def test_unreadable_headers_are_told_before_a_volume_is_computed(segmenter, tmp_path):
    write_volume(tmp_path / "a.nii", smooth((9, 9, 9)))
    for name in "bc":
        (tmp_path / f"{name}.nii").write_bytes(b"no header")
    out = tmp_path / "out"
    with pytest.raises(BadImageError, match=r"2 of 3 volumes cannot be read:\n.*b.nii.*\n.*c.nii"):
        rd_hf.predict(segmenter, tmp_path, output_dir=str(out))
    with pytest.raises(BadImageError, match=r"^(?!.*volumes).*b.nii"):
        rd_hf.predict(segmenter, [tmp_path / "a.nii", tmp_path / "b.nii"], output_dir=str(out))
    assert not out.exists()
    rows = rd_hf.predict(segmenter, tmp_path, output_dir=str(out), on_bad_image="skip")
    assert ["error" in row for row in rows] == [False, True, True]


def test_a_file_that_is_cut_off_is_told_when_the_other_masks_are_written(segmenter, tmp_path, capsys):
    for name in "abc":
        write_volume(tmp_path / f"{name}.nii.gz", smooth((9, 9, 9)))
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "b.nii.gz").read_bytes()[:-40])
    arguments = ["predict", "--model", segmenter, "--images", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    assert main(arguments) != 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz"]
    error = capsys.readouterr().err
    assert "b.nii.gz is not a readable volume" in error and "The masks of the others are in" in error


def test_what_is_not_dicom_gets_no_segmentation_of_dicom(segmenter, tmp_path):
    write_volume(tmp_path / "a.nii", smooth((9, 9, 9)))
    with pytest.raises(ArgumentError, match=r"a.nii is not DICOM: leave it out"):
        rd_hf.predict(segmenter, tmp_path, output_dir=str(tmp_path / "out"), dicom_seg=True)
    with pytest.raises(ArgumentError, match="are about files: name their folder with `output_dir`"):
        rd_hf.predict(segmenter, tmp_path, overlay=True)
    with pytest.raises(ArgumentError, match="`dicom_window` is for images, but this model reads volumes"):
        rd_hf.predict(segmenter, tmp_path, dicom_window="40,400")
    assert main(["predict", "--model", segmenter, "--images", str(tmp_path)]) == 2


def test_channels_are_files_or_the_last_axis_as_in_training(tmp_path):
    parts = [smooth((12, 10, 9), seed) for seed in (0, 1)]
    for channel, values in enumerate(parts):
        affine = write_volume(tmp_path / f"case_{channel:04d}.nii.gz", values)
    in_one = nib.Nifti1Image(np.stack(parts, axis=3).astype(np.float32), affine)
    nib.save(in_one, tmp_path / "both.nii.gz")
    dataset = {"dataset": {"volumes": {"channels": 2, "channel_axis": False}}}
    of_files = str(saved_segmenter(tmp_path / "of_files", 2, dataset))
    of_axis = str(saved_segmenter(tmp_path / "of_axis", 2))
    (row,) = rd_hf.predict(of_files, tmp_path / "case_*.nii.gz", output_dir=str(tmp_path / "out"))
    assert row["mask"] == str(tmp_path / "out" / "case.nii.gz")
    (same,) = rd_hf.predict(of_axis, tmp_path / "both.nii.gz")
    assert np.array_equal(np.asarray(nib.load(row["mask"]).dataobj), same["mask"])
    with pytest.raises(BadImageError, match="has 1 channel"):
        rd_hf.predict(of_axis, tmp_path / "case_0000.nii.gz")


def test_classes_of_volumes_and_an_unreadable_one_that_is_skipped(classifier, tmp_path, capsys):
    write_volume(tmp_path / "a.nii.gz", smooth((9, 12, 10)))
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:-40])
    with pytest.raises(BadImageError, match="b.nii.gz"):
        rd_hf.predict(classifier, tmp_path)
    good, bad = rd_hf.predict(classifier, tmp_path, on_bad_image="skip")
    loaded, volume = load_model(classifier), read_volume(tmp_path / "a.nii.gz", "it")
    pixels = loaded.transform.processor(volume.values, volume.affine).pixel_values
    with torch.no_grad():
        expected = loaded.model(pixel_values=pixels).logits.softmax(dim=1)[0].tolist()
    assert list(good["probabilities"].values()) == pytest.approx(expected, abs=1e-6)
    assert set(bad) == {"image", "error"}
    assert main(["predict", "--model", classifier, "--images", str(tmp_path / "a.nii.gz")]) == 0
    assert "healthy 0." in capsys.readouterr().out
    with pytest.raises(ArgumentError, match="but this one gives classes"):
        rd_hf.predict(classifier, tmp_path, output_dir=str(tmp_path / "out"))

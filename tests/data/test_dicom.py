"""DICOM in 2D: values and pictures of public files, each step of the display on files made here, and privacy."""

import csv
import logging
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image

from rd_hf.data.decoding import dicom, dicom_file
from rd_hf.data.decoding.image_notes import Note
from rd_hf.data.decoding.images import BadImageError, read_image, to_rgb
from rd_hf.data.decoding.reading import Reading

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.pixels import set_pixel_data  # noqa: E402
from pydicom.uid import (  # noqa: E402
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    SegmentationStorage,
    UltrasoundImageStorage,
)

FOLDER = SHARED / "data" / "dicom"
LOSSY = {
    "cr_monochrome1_jpeg2000.dcm", "ct_jpeg_baseline_8bit.dcm", "ct_jpeg_extended_12bit.dcm", "693_J2KI.dcm",
    "enhanced_ct_2_frames.dcm", "examples_ybr_color.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm",
}  # fmt: skip
PATIENT = "Doe^Jane^Secret"


def expected_rows():
    if not (FOLDER / "expected.tsv").is_file():
        return [pytest.param({}, marks=pytest.mark.skip(reason="../shared/data/dicom is not here"), id="shared data")]
    with (FOLDER / "expected.tsv").open(encoding="utf-8") as file:
        return [pytest.param(row, id=row["file"]) for row in csv.DictReader(file, delimiter="\t")]


def content_of(row):
    path = FOLDER / row["file"] if row["where"] == "here" else get_testdata_file(row["file"])
    return Path(path).read_bytes()


@pytest.mark.parametrize("row", expected_rows())
def test_public_files_have_the_right_values_and_pictures(row):
    content = content_of(row)
    if row["error"]:
        with pytest.raises(BadImageError, match=r"x\.dcm is not a readable image: the DICOM file .*[^.]\.$") as caught:
            read_image({"bytes": content, "path": "x.dcm"})
        assert "\n" not in str(caught.value)
        return
    assert dicom_file.is_dicom(content)
    dataset = dicom_file.open_dataset(content)
    values, pictures = [], []
    for frame in range(dicom_file.number_of_frames(dataset)):
        stored = dicom_file.stored_values(dataset, frame)
        values.append(dicom.modality_values(dataset, stored, frame) if stored.ndim == 2 else stored)
        pictures.append(dicom.shown(dataset, stored, frame, Reading()))
    slope = float(row["slope"]) if row["slope"][:1].isdigit() else 1.0
    step = 3 * slope if row["file"] in LOSSY else 0.01  # decoders of lossy JPEG differ by up to 3 stored values
    found = [np.min(values), np.max(values), np.mean(values)]
    assert found == pytest.approx([float(row[f"value_{kind}"]) for kind in ("min", "max", "mean")], rel=1e-3, abs=step)
    display = float(row["display_mean"])
    display = display / 257 if display > 255 else display  # of 16-bit colour the table has the stored mean
    assert np.mean(pictures) == pytest.approx(display, abs=1 if row["file"] in LOSSY else 0.05)


def public_images():
    return [param for param in expected_rows() if param.values[0] and not param.values[0]["error"]]


@pytest.mark.parametrize("row", public_images())
def test_public_files_are_read_as_images_by_frame_or_refused(row):
    content, shape = content_of(row), row["shape"].split("x")
    if row["modality"] in ("SEG", "RTDOSE") or row["file"].startswith("parametric_map"):
        with pytest.raises(BadImageError, match="the DICOM file holds .*, not an image"):
            read_image(content)
        return
    frames = int(shape[0]) if len(shape) == 4 or (len(shape) == 3 and shape[-1] != "3") else 1
    if frames > 1:
        with pytest.raises(BadImageError, match=f"has {frames} frames.*`page`"):
            read_image(content)
    made = read_image(content, reading=Reading(page=frames))
    assert made.rgb.mode == "RGB" and made.notes & Note.DICOM
    size = [int(side) for side in (shape[1:3] if frames > 1 else shape[:2])]
    assert [made.rgb.height, made.rgb.width] == size
    with pytest.raises(BadImageError, match=f"`page` is {frames + 1}"):
        read_image(content, reading=Reading(page=frames + 1))


def make(pixels, photometric="MONOCHROME2", bits=None, kind=UltrasoundImageStorage, modality="US", **elements):
    """The content of an uncompressed DICOM file, with a patient's name in it."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = kind
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = kind, "1.2.3", modality
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = PATIENT, "4711-secret", "19700101"
    shown_as = photometric if photometric != "PALETTE COLOR" else "MONOCHROME2"
    set_pixel_data(dataset, pixels, shown_as, bits or pixels.dtype.itemsize * 8)
    dataset.PhotometricInterpretation = photometric
    for name, value in elements.items():
        setattr(dataset, name, value)
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def grey(content, **reading):
    return np.asarray(to_rgb(content, reading=Reading(**reading)))[..., 0].tolist()


VALUES = np.array([[0, 100, 200, 300, 400]], dtype=np.uint16)


def test_without_a_window_minimum_and_maximum_are_black_and_white():
    assert grey(make(VALUES, bits=12)) == [[0, 64, 128, 191, 255]]
    assert grey(make(VALUES, "MONOCHROME1", bits=12)) == [[255, 191, 128, 64, 0]]


def test_the_first_window_is_applied_by_the_formula_of_the_standard():
    content = make(VALUES, bits=12, WindowCenter=[200, 50], WindowWidth=[201, 10])
    # ((x - (c - 0.5)) / (w - 1) + 0.5) * 255, PS3.3 C.11.2.1.2
    assert grey(content) == [[0, 1, 128, 255, 255]]
    assert grey(make(VALUES, "MONOCHROME1", bits=12, WindowCenter=200, WindowWidth=201)) == [[255, 254, 127, 0, 0]]


def test_the_other_window_functions():
    exact = make(VALUES, bits=12, WindowCenter=200, WindowWidth=200, VOILUTFunction="LINEAR_EXACT")
    assert grey(exact) == [[0, 0, 128, 255, 255]]
    sigmoid = make(VALUES, bits=12, WindowCenter=200, WindowWidth=200, VOILUTFunction="SIGMOID")
    expected = 255 / (1 + np.exp(-4 * (VALUES - 200.0) / 200))
    assert grey(sigmoid) == np.rint(expected).astype(int).tolist()


def test_the_window_of_the_arguments_comes_after_slope_and_intercept():
    content = make(VALUES, bits=12, RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=0, WindowWidth=10)
    assert grey(content, dicom_window="-600,401") == [[0, 0, 128, 255, 255]]
    assert grey(content, dicom_window="minmax") == [[0, 64, 128, 191, 255]]


def test_no_window_keeps_the_whole_range_of_the_bits():
    values = np.array([[0, 1024, 4095]], dtype=np.uint16)
    assert grey(make(values[:, :2], bits=12, WindowCenter=5, WindowWidth=5), dicom_window="none") == [[0, 64]]
    signed = make(np.array([[-2048, 0]], dtype=np.int16), bits=12, RescaleSlope=1, RescaleIntercept=-24)
    assert grey(signed, dicom_window="none") == [[0, 128]]


@pytest.mark.parametrize("window", ["40", "40,0", "a,b", "40,400,1", "nan,4", "wide"])
def test_a_window_that_is_none_is_refused(window):
    with pytest.raises(ValueError, match="dicom_window"):
        Reading(dicom_window=window)


def lut(descriptor, values):
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if descriptor[1] < 0 else "US", descriptor)
    item.add_new("LUTData", "US", values)
    return item


def test_lookup_tables_of_modality_and_of_interest():
    values = np.array([[0, 1, 2]], dtype=np.uint16)
    table = lut([3, 0, 16], [0, 300, 100])
    table.ModalityLUTType = "HU"
    assert grey(make(values, ModalityLUTSequence=[table])) == [[0, 255, 85]]
    content = make(values, VOILUTSequence=[lut([3, 0, 8], [255, 0, 51])], WindowCenter=1, WindowWidth=2)
    assert grey(content) == [[255, 0, 51]]
    ramp = lut([1024, -24, 8], [number // 4 for number in range(1024)])  # more entries than its eight bits count
    content = make(np.array([[0, 400, 2000]], np.uint16), VOILUTSequence=[ramp], RescaleSlope=1, RescaleIntercept=-24)
    assert grey(content) == [[0, 100, 255]]


def test_a_missing_intercept_and_empty_elements_do_not_matter():
    content = make(VALUES, bits=12, RescaleSlope=2, WindowCenter=400, WindowWidth=401)
    assert grey(content)[0][2] == 128
    assert grey(make(VALUES, bits=12, RescaleSlope=None, WindowCenter=None, WindowWidth=None)) == [
        [0, 64, 128, 191, 255]
    ]


def test_the_padding_value_is_black_and_counts_for_no_range():
    values = np.array([[-2000, 0, 50, 100]], dtype=np.int16)
    assert grey(make(values, PixelPaddingValue=-2000)) == [[0, 0, 128, 255]]
    assert grey(make(values, "MONOCHROME1", PixelPaddingValue=-2000)) == [[0, 255, 128, 0]]
    windowed = make(values, "MONOCHROME1", PixelPaddingValue=-2000, WindowCenter=50, WindowWidth=101)
    assert grey(windowed)[0][0] == 0
    limit = make(values, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-5)
    assert grey(limit) == [[0, 0, 128, 255]]
    element = b"\x28\x00\x20\x01"  # many files say that its two bytes have no sign, though the pixels have one
    for pixels, said, other in ((values, b"SS", b"US"), (values.astype(np.uint16), b"US", b"SS")):
        content = make(pixels, PixelPaddingValue=int(pixels[0, 0]))
        assert element + said in content
        assert grey(content.replace(element + said, element + other)) == [[0, 0, 128, 255]]


def test_colours_of_either_plane_order_and_palettes():
    colours = np.array([[[250, 10, 0], [0, 20, 30]]], dtype=np.uint8)
    assert np.array_equal(np.asarray(to_rgb(make(colours, "RGB"))), colours)
    by_plane = make(colours, "RGB", PlanarConfiguration=1, PixelData=np.moveaxis(colours, 2, 0).tobytes())
    assert np.array_equal(np.asarray(to_rgb(by_plane)), colours)
    tables = {
        f"{name}PaletteColorLookupTable{part}": value
        for name, data in (("Red", [0, 255]), ("Green", [51, 0]), ("Blue", [0, 102]))
        for part, value in (("Descriptor", [2, 0, 8]), ("Data", bytes(data)))
    }
    palette = make(np.array([[0, 1]], dtype=np.uint8), "PALETTE COLOR", **tables)
    assert np.asarray(to_rgb(palette)).tolist() == [[[0, 51, 0], [255, 0, 102]]]


def test_enhanced_files_have_slope_and_window_in_their_functional_groups():
    def group(center, slope):
        window, transformation, item = Dataset(), Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center, 101
        transformation.RescaleSlope, transformation.RescaleIntercept, transformation.RescaleType = slope, 0, "US"
        item.FrameVOILUTSequence, item.PixelValueTransformationSequence = [window], [transformation]
        return item

    frames = np.array([[[0, 50, 100]], [[0, 50, 100]]], dtype=np.uint16)
    groups = [group(50.5, 1), group(100.5, 2)]
    content = make(frames, bits=12, NumberOfFrames=2, PerFrameFunctionalGroupsSequence=groups)
    assert grey(content, page=1) == [[0, 128, 255]]
    # 0, 100 and 200 through the second window, which reaches from 50 to 150
    assert grey(content, page=2) == [[0, 128, 255]]
    assert grey(content, page=2, dicom_window="50.5,101") == [[0, 255, 255]]


def test_the_frames_of_a_file_share_one_range():
    frames = np.array([[[0, 10]], [[0, 100]]], dtype=np.uint16)
    content = make(frames, bits=12, NumberOfFrames=2)
    assert grey(content, page=1) == [[0, 26]] and grey(content, page=2) == [[0, 255]]


def test_a_file_without_preamble_and_without_suffix_is_known_by_its_first_bytes(tmp_path):
    content = make(VALUES, bits=12)
    (tmp_path / "1.2.840.10008").write_bytes(content)
    assert grey(tmp_path / "1.2.840.10008") == [[0, 64, 128, 191, 255]]
    assert dicom_file.is_dicom(content[132:]) and grey(content[132:]) == [[0, 64, 128, 191, 255]]
    assert not dicom_file.is_dicom(b"\x89PNG\r\n\x1a\n" + b"\0" * 200)


@pytest.mark.parametrize("shift", [0, 12])
def test_a_file_that_is_compressed_as_a_whole_is_counted_before_it_is_unpacked(monkeypatch, shift):
    dataset = pydicom.dcmread(BytesIO(make(np.zeros((400, 500), np.uint8))))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    assert len(content) < 5000 and grey(content)[0][0] == 0
    monkeypatch.setattr(dicom_file, "LARGEST", 100_000)
    content = content[:132] + content[132 + shift :]  # without the length of the meta information
    with pytest.raises(
        BadImageError, match="meta information has no length" if shift else "unpacks to more than 2 GiB"
    ):
        read_image(content)


def test_what_is_burned_in_is_noted():
    assert read_image(make(VALUES, BurnedInAnnotation="YES")).notes & Note.BURNED_IN
    assert not read_image(make(VALUES, BurnedInAnnotation="NO")).notes & Note.BURNED_IN


@pytest.mark.parametrize(
    "content, message",
    [
        (make(VALUES, kind=SegmentationStorage, modality="SEG"), "holds a segmentation, not an image"),
        (make(VALUES, modality="RTDOSE"), "holds a radiotherapy dose, not an image"),
        (make(VALUES, kind="1.2.840.10008.5.1.4.1.1.88.11"), "holds an object of class Basic Text SR Storage"),
        (make(VALUES)[:-4], r"cut off, with 6 of 10 bytes"),
        (make(VALUES)[:300], "damaged"),
        (make(VALUES).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.77"), "unknown transfer syntax"),
        (make(VALUES, Rows=5000), "cut off|damaged"),
        (make(VALUES, BitsAllocated=7), "damaged"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why_without_a_word_about_the_patient(content, message, caplog, recwarn):
    with caplog.at_level(logging.DEBUG), pytest.raises(BadImageError, match=f"DICOM file.*({message})") as caught:
        read_image(content, "row 1")
    assert "secret" not in (str(caught.value) + caplog.text + "".join(str(w.message) for w in recwarn)).lower()


def test_no_warning_quotes_what_a_damaged_file_holds(recwarn, caplog):
    """A damaged length makes an element swallow those of the patient that follow it."""
    content = make(VALUES)
    for place in range(130, 600):
        broken = bytearray(content)
        broken[place] = 0x99
        try:
            read_image(bytes(broken))
        except BadImageError as error:
            assert "secret" not in str(error).lower()
    assert not recwarn.list and not caplog.text


def test_elements_of_the_patient_are_never_in_memory():
    dataset = dicom_file.open_dataset(make(VALUES))
    assert "PatientName" not in dataset and "PatientID" not in dataset and "secret" not in str(dataset).lower()


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(BadImageError, match=r"pip install 'rd-hf\[dicom\]'"):
        read_image(b"\0" * 128 + b"DICM" + b"\0" * 50)


def test_the_content_decides_and_the_suffix_where_it_says_nothing(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM\2\0\0\0UL\4\0\0\0\0\0")
    with pytest.raises(BadImageError, match=r"a\.dcm is not a readable image: the DICOM file holds no pixels"):
        read_image(tmp_path / "a.dcm")
    (tmp_path / "b.dcm").write_bytes(b"neither this nor that")
    with pytest.raises(BadImageError, match=r"b\.dcm is not a readable image: the DICOM file holds no pixels"):
        read_image(tmp_path / "b.dcm")
    buffer = BytesIO()
    Image.new("L", (4, 4), 7).save(buffer, "PNG")
    assert grey({"bytes": buffer.getvalue(), "path": "a.dcm"}) == [[7] * 4] * 4


def test_a_decoder_that_is_not_installed_is_no_damage(monkeypatch):
    missing = type("Decoder", (), {"is_available": False})()
    monkeypatch.setattr("pydicom.pixels.get_decoder", lambda syntax: missing)
    with pytest.raises(BadImageError, match=r"x\.dcm is not a readable image: the DICOM file is .*decoder"):
        read_image({"bytes": make(VALUES, bits=12), "path": "x.dcm"})

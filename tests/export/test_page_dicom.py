"""DICOM files in the scripts of the web page: the bytes of rd_hf's reading, or a refusal in words."""

import io
from pathlib import Path

import numpy as np
import pytest
from page_in_node import NODE, encoded, in_node, pixels

from rd_hf.data.decoding.images import BadImageError, read_image
from rd_hf.data.decoding.reading import Reading

pydicom = pytest.importorskip("pydicom", reason="the extra `dicom` is not installed")
from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")
# of the pydicom wheel: grey and colour, both byte orders, implicit VR, overlays, odd numbers of bytes
READ = [
    "CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_expb.dcm", "MR_small_implicit.dcm",
    "MR_small_padded.dcm", "SC_rgb_small_odd.dcm", "SC_rgb_small_odd_big_endian.dcm", "ExplVR_BigEnd.dcm",
    "examples_overlay.dcm", "examples_rgb_color.dcm",
]  # fmt: skip
REFUSED = {
    "JPEG2000.dcm": "compressed", "MR_small_RLE.dcm": "compressed", "image_dfl.dcm": "compressed",
    "MR_truncated.dcm": "damaged", "rtplan.dcm": "a radiotherapy plan", "reportsi.dcm": "a structured report",
    "examples_palette.dcm": "colours", "SC_ybr_full_422_uncompressed.dcm": "colours",
}  # fmt: skip


def contents(names):
    return {name: Path(get_testdata_file(name, download=False)).read_bytes() for name in names}


def read(content, **reading):
    return ["reading.js", "readImage", [{"file": encoded(content)}, reading]]


def test_uncompressed_files_are_shown_as_rd_hf_shows_them():
    files = contents(READ)
    for answer, (name, content) in zip(in_node([read(one) for one in files.values()]), files.items(), strict=True):
        assert np.array_equal(pixels(answer), np.asarray(read_image(content).rgb)), name


def test_other_files_are_refused_in_words_that_quote_nothing():
    files = contents(REFUSED)
    for answer, name in zip(in_node([read(one) for one in files.values()]), files, strict=True):
        assert answer["error"].startswith("the DICOM file ") and REFUSED[name] in answer["error"], name


def edited(**elements):
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for name, value in elements.items():
        setattr(dataset, name, value)
        if dataset[name].VR == "US or SS":
            dataset[name].VR = "SS"  # as the values of this file
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


def table(first, bits, data):
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(data), first, bits], data
    item["LUTDescriptor"].VR, item["LUTData"].VR = "SS" if first < 0 else "US", "US"
    return Sequence([item])


def test_each_step_of_the_display_is_that_of_rd_hf():
    """Windows of three kinds, tables, inverted grey, padding, values outside, and the windows that a run may choose."""
    soft = {"WindowCenter": "40\\80", "WindowWidth": "400\\200"}
    cases = [(edited(), {"dicom_window": choice}) for choice in ("40,400", "none", "minmax", "0,1")]
    for kind in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        cases.append((edited(VOILUTFunction=kind, **soft), {}))
    cases += [
        (edited(PhotometricInterpretation="MONOCHROME1", **soft), {}),
        (edited(PhotometricInterpretation="MONOCHROME1"), {"dicom_window": "minmax"}),
        (edited(PixelPaddingValue=150, PixelPaddingRangeLimit=400, **soft), {}),
        (edited(PixelPaddingValue=150, PixelPaddingRangeLimit=400), {"dicom_window": "minmax"}),
        (edited(VOILUTSequence=table(-500, 12, [min(4095, 3 * one) for one in range(1500)])), {}),
        (edited(ModalityLUTSequence=table(100, 16, [65535 - 20 * one for one in range(2000)])), {}),
        (edited(RescaleSlope="0.5", RescaleIntercept="", WindowCenter="200", WindowWidth="1"), {}),
    ]
    made = in_node([read(content, **reading) for content, reading in cases])
    for number, (answer, (content, reading)) in enumerate(zip(made, cases, strict=True)):
        expected = np.asarray(read_image(content, reading=Reading(**reading)).rgb)
        assert np.array_equal(pixels(answer), expected), number


def test_a_file_that_is_cut_off_is_no_image():
    lengths = (20_000, 900)
    contents = [edited()[:length] for length in lengths]
    for answer, content in zip(in_node([read(one) for one in contents]), contents, strict=True):
        assert answer["error"].startswith("the DICOM file "), len(content)
        with pytest.raises(BadImageError):
            read_image(content)

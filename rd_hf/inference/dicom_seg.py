"""The mask of a DICOM series as a DICOM segmentation that refers to its slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .._version import __version__
from ..arguments.values import ArgumentError
from ..data.decoding.images import BadImageError
from ..data.scanner import printable
from ..data.volumes.dicom_volume import slice_files
from ..runtime.files import written_whole
from ..runtime.quiet import quiet

LONGEST_LABEL = 64  # characters, of DICOM's LO
UTF_8 = "ISO_IR 192"  # which writes any class name, whatever the series is written in
# of patient and study, which a segmentation repeats and the standard lets be empty (type 2)
MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def check_highdicom() -> None:
    """:raises ArgumentError: when highdicom, which writes DICOM segmentations, is not installed."""
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ArgumentError(
            f"`dicom_seg` writes DICOM segmentations with highdicom, which cannot be imported ({error}): pip install "
            "highdicom, or leave it out and use the NIfTI files."
        ) from error


def write_dicom_seg(mask: np.ndarray, names: list[str], source: Path, path: Path) -> None:
    """Write a mask as a DICOM SEG with a segment for each foreground class.

    As the standard demands, it carries the patient and study of the series that it refers to.

    :param mask: (X, Y, Z) class numbers on the voxels of the series, as `rd_hf.data.volumes` reads it.
    :param names: of the classes, the background first.
    :param source: a file of the series, or the multi-frame file.
    :raises BadImageError: where the headers of the series lack what a segmentation must repeat.
    """
    import highdicom as hd
    from pydicom import config

    frames, files = _frames(mask, source)
    with quiet("pydicom"), quiet("highdicom"), config.disable_value_validation():
        try:
            segmentation = hd.seg.Segmentation(
                source_images=[_header(file) for file in files],
                pixel_array=frames,
                segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[_description(number, name) for number, name in enumerate(names[1:], start=1)],
                series_instance_uid=hd.UID(),
                series_number=1,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="rd_hf",
                manufacturer_model_name="student of rd_hf",
                software_versions=__version__,
                device_serial_number="none",
                series_description="Segmentation by rd_hf",
                omit_empty_frames=bool(mask.any()),
                specific_character_set=UTF_8,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            lacks = f", because it lacks {error.name}" if isinstance(error, AttributeError) else ""
            raise BadImageError(
                f"{printable(source)}: no DICOM SEG can refer to this series{lacks}. Leave out `dicom_seg`, and use "
                "the NIfTI file."
            ) from None  # what the library says may quote the header
    with written_whole(path) as aside:
        segmentation.save_as(aside)


def _header(file: Path) -> Any:
    """The data set of a file without its pixels; elements that are missing and may be empty are empty."""
    from pydicom import dcmread

    header = dcmread(file, stop_before_pixels=True, force=True)
    for keyword in MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    return header


def _frames(mask: np.ndarray, source: Path) -> tuple[np.ndarray, list[Path]]:
    """The mask as frames (N, rows, columns) in the order of the files' frames, and these files."""
    slices = slice_files(source)
    sorted_frames = np.ascontiguousarray(mask.transpose(2, 1, 0))
    files = list(dict.fromkeys(file for file, _ in slices))
    if len(files) > 1:
        return sorted_frames, files
    frames = np.empty_like(sorted_frames)
    frames[[frame for _, frame in slices]] = sorted_frames
    return frames, files


def _description(number: int, name: str) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:LONGEST_LABEL],
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="rd_hf", version=__version__, family=codes.cid7162.ArtificialIntelligence
        ),
    )

"""Whether a row holds a volume, by its name or by its first bytes."""

from __future__ import annotations

from typing import Any

from ..decoding.dicom_file import is_dicom
from ..decoding.impostors import is_nifti_content
from .names import is_nifti
from .source import NPY

ARRAYS = "arrays"  # which do not say how their axes lie in the patient


def is_volume(row: dict[str, Any]) -> bool:
    """Tell whether a row is a NIfTI file or an array, which hold volumes only; a file of DICOM may be either.

    :param row: ``{"bytes": ..., "path": ...}``, undecoded.
    """
    content = row.get("bytes")
    if content is None:
        return is_nifti(row.get("path") or "")
    return content.startswith(NPY) or is_nifti_content(content)


def described_kind(row: dict[str, Any]) -> str:
    """What the log calls the kind of a row that is read as a volume."""
    content = row.get("bytes")
    if content is not None and content.startswith(NPY):
        return ARRAYS
    is_file = is_nifti(row.get("path") or "") if content is None else not is_dicom(content)
    return "NIfTI files" if is_file else "DICOM series"

"""Names of files of volumes, whose suffix may be a double one."""

from __future__ import annotations

from pathlib import PurePath

NIFTI_SUFFIXES = (".nii", ".nii.gz")


def is_nifti(name: str | PurePath) -> bool:
    """Tell whether a name is that of a NIfTI file."""
    return str(name)[-len(".nii.gz") :].lower().endswith(NIFTI_SUFFIXES)


def suffix_of(file: PurePath) -> str:
    """The suffix of a file as it is written, ``.nii.gz`` as one."""
    return file.name[-len(".nii.gz") :] if file.name.lower().endswith(".nii.gz") else file.suffix


def stem_of(file: PurePath) -> str:
    """The name of a file without its suffix: `a` for `a.nii.gz`, as for `a.nii` and `a.png`."""
    return file.name[: len(file.name) - len(suffix_of(file))]

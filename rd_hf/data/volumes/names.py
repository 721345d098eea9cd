"""Names of files of volumes, whose suffix may be a double one."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import TypeVar

NIFTI_SUFFIXES = (".nii", ".nii.gz")
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.DOTALL)  # nnU-Net's, of a name without suffix

File = TypeVar("File", bound=PurePath)


def is_nifti(name: str | PurePath) -> bool:
    """Tell whether a name is that of a NIfTI file."""
    return str(name)[-len(".nii.gz") :].lower().endswith(NIFTI_SUFFIXES)


def suffix_of(file: PurePath) -> str:
    """The suffix of a file as it is written, ``.nii.gz`` as one."""
    return file.name[-len(".nii.gz") :] if file.name.lower().endswith(".nii.gz") else file.suffix


def stem_of(file: PurePath) -> str:
    """The name of a file without its suffix: `a` for `a.nii.gz`, as for `a.nii` and `a.png`."""
    return file.name[: len(file.name) - len(suffix_of(file))]


def file_of_channel(file: File, channel: int) -> File:
    """The file of a channel of the case that a file of nnU-Net's names is of: `a_0002.nii` for `a_0000.nii`."""
    return file.with_name(f"{CHANNEL.fullmatch(stem_of(file))['case']}_{channel:04}{suffix_of(file)}")

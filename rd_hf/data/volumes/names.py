"""Names of files of volumes: their suffix, which may be a double one, and the channel that a name is of.

nnU-Net numbers channels, ``CASE_0000`` and so on. BraTS names them, ``CASE_flair``, or since 2023 ``CASE-t2f``.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import NamedTuple, TypeVar

NIFTI_SUFFIXES = (".nii", ".nii.gz")
BRATS = (("flair", "t1", "t1ce", "t2"), ("t1c", "t1n", "t2f", "t2w"))  # its channels, in their order
_NUMBERED = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.DOTALL)  # of names without suffix
_NAMED = re.compile(rf"(?P<case>.+)[_-](?P<channel>{'|'.join(sum(BRATS, ()))})", re.DOTALL | re.IGNORECASE)

File = TypeVar("File", bound=PurePath)


def is_nifti(name: str | PurePath) -> bool:
    """Tell whether a name is that of a NIfTI file."""
    return str(name)[-len(".nii.gz") :].lower().endswith(NIFTI_SUFFIXES)


def suffix_of(file: PurePath) -> str:
    """The suffix of a file as it is written, ``.nii.gz`` as one; that of a DICOM file named 1.2.840.10008 is none."""
    if file.name.lower().endswith(".nii.gz"):
        return file.name[-len(".nii.gz") :]
    return "" if file.suffix[1:].isdecimal() else file.suffix


def stem_of(file: PurePath) -> str:
    """The name of a file without its suffix: `a` for `a.nii.gz`, as for `a.nii` and `a.png`."""
    return file.name[: len(file.name) - len(suffix_of(file))]


class Channel(NamedTuple):
    """What the name of a channel's file says.

    :ivar case: the name without the channel.
    :ivar number: of the channel, counted from 0.
    :ivar words: the endings of BraTS's channels; empty where they are numbers.
    """

    case: str
    number: int
    words: tuple[str, ...] = ()

    def ending(self, number: int) -> str:
        """How the names of another channel's files end, such as `_0002` or `t1ce`."""
        return self.words[number] if self.words else f"_{number:04}"


def channel_of(file: PurePath | str) -> Channel | None:
    """The channel that a file of nnU-Net's or BraTS's names is of; None for other names.

    :param file: a path, or a name without suffix.
    """
    stem = file if isinstance(file, str) else stem_of(file)
    numbered, named = _NUMBERED.fullmatch(stem), _NAMED.fullmatch(stem)
    if numbered is not None:
        return Channel(numbered["case"], int(numbered["channel"]))
    if named is None:
        return None
    word = named["channel"]
    words = next(words for words in BRATS if word.lower() in words)
    written = tuple(other.upper() if word.isupper() else other for other in words)
    return Channel(named["case"], words.index(word.lower()), written)


def file_of_channel(file: File, number: int) -> File:
    """The file of another channel of the same case: `a_0002.nii` for `a_0000.nii`, `a_t2.nii` for `a_flair.nii`."""
    channel, stem = channel_of(file), stem_of(file)
    bare = stem[: len(stem) - len(channel.ending(channel.number))]
    return file.with_name(f"{bare}{channel.ending(number)}{suffix_of(file)}")

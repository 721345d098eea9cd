"""Finds the volumes that a user names for a prediction: files, folders and globs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...arguments.values import ArgumentError, nearest_name, paths_of
from ..image_column import image_row
from ..mask_names import masks_among
from ..scanner import is_image, printable, scan, visible_matches
from .channel_layout import first_channels
from .layouts import is_dicom_name, volumes_among
from .names import channel_of, is_nifti, stem_of, suffix_of
from .series_rows import Folder, files_of_series
from .volume import VolumeReading

PLAIN = VolumeReading()
FIRST = "_0000"  # ends the names of nnU-Net's files of the first channel
MOST_CHANNELS = 8  # of a case; more files of one name are numbered patients


class FoundVolume(NamedTuple):
    """One volume.

    :param shown: its file, or the folder of its series.
    :param stem: relative path of what is written of it, without a suffix: its own below the folder that all matches of
        a name share, or where two would be the same, below the folder that all share.
    :param source: ``{"bytes": ..., "path": ...}``, undecoded.
    :param position: of a volume in memory its place among those that were given, from 0.
    """

    shown: str
    stem: str
    source: dict[str, Any]
    position: int | None = None


class _Named(NamedTuple):
    shown: Path
    bare: str  # its name without suffix
    file: str  # absolute, what stands for it


def volumes_given(volumes: Any, reading: VolumeReading = PLAIN) -> list[FoundVolume]:
    """Volumes from names, as `find_volumes` finds them, or from memory, in order.

    :param volumes: names, or images of nibabel, which know their spacing; one, or several.
    :raises ArgumentError: as `find_volumes`, and for anything else.
    """
    if isinstance(volumes, (str, os.PathLike, np.ndarray)):
        return find_volumes(volumes, reading)
    given = list(volumes) if isinstance(volumes, Iterable) and not _is_in_memory(volumes) else [volumes]
    if not any(map(_is_in_memory, given)):
        return find_volumes(given, reading)
    if not all(map(_is_in_memory, given)):
        raise ArgumentError(f"Among {len(given)} volumes some are in memory and some are not: give one kind at a time.")
    contents = ({"bytes": volume.to_bytes(), "path": None} for volume in given)
    return [FoundVolume(f"volume {n}", f"volume_{n}", content, n) for n, content in enumerate(contents)]


def _is_in_memory(volume: Any) -> bool:
    """Whether something is an image of nibabel that can be written."""
    return hasattr(volume, "affine") and hasattr(volume, "to_bytes")


def find_volumes(
    names: str | os.PathLike | Iterable[str | os.PathLike], reading: VolumeReading = PLAIN
) -> list[FoundVolume]:
    """Volumes from files, folders and globs, in order and without repeats.

    A file that is named is taken as it is, and a slice stands for its DICOM series. Folders hold NIfTI files and series
    at any depth. Where channels are files, that of the first channel stands for its case.

    :param names: one, or several.
    :param reading: how the volumes of the model's training were read.
    :raises ArgumentError: for a name that matches no volume, and for the files of several channels where the model
        reads one.
    """
    named, folders = [], {}
    for name in paths_of(names, "volumes", "images of nibabel"):
        path = Path(os.path.expanduser(name))
        if os.path.isdir(path):
            matches = _below(path, reading)
        else:
            matches = [_of_file(path, folders)] if os.path.isfile(path) else _of_glob(path, reading, folders)
        if not matches:
            hint = "" if os.path.isdir(path) else f" ({nearest_name(path.absolute())})"
            raise ArgumentError(
                f"There is no volume at {printable(name)}{hint}. Volumes are .nii and .nii.gz files, and folders of "
                "DICOM slices."
            )
        named.append(_without_repeats(matches))
    found = _without_repeats(chain.from_iterable(named))
    if reading.channels == 1:
        _refuse_several_channels(found)
    in_files = reading.channels > 1 and not reading.channel_axis
    are_firsts = all(each.bare.endswith(FIRST) for each in found)
    stems = _stems_of_names(named, in_files or are_firsts)
    return [FoundVolume(str(each.shown), stems[each.file], image_row(each.file)) for each in found]


def _without_repeats(matches: Iterable[_Named]) -> list[_Named]:
    """Each file once, as it was found first."""
    found: dict[str, _Named] = {}
    for match in matches:
        found.setdefault(match.file, match)
    return [*found.values()]


def _refuse_several_channels(found: Sequence[_Named]) -> None:
    """:raises ArgumentError: for a case of which several channels are named, because they are not several patients."""
    cases: dict[tuple[Path, str, str], dict[int, Path]] = {}
    for file in (Path(each.file) for each in found):
        channel = channel_of(file) if is_nifti(file) else None
        if channel is not None:
            cases.setdefault((file.parent, channel.case, suffix_of(file)), {})[channel.number] = file
    for files in cases.values():
        if {0, 1} <= files.keys() and len(files) <= MOST_CHANNELS:
            raise ArgumentError(
                f"{printable(files[0])} and {printable(files[1].name)} are two channels of one case by their "
                "names, but the model reads one channel: give the files of the channel that it was trained on. If they "
                "are two patients, predict them apart, or give them other names."
            )


def _stems_of_names(named: Sequence[Sequence[_Named]], of_cases: bool) -> dict[str, str]:
    """The stem of each file, below the folder that all matches of its name share, or else that all of all names share.

    :param named: the matches of each name of the user's.
    :param of_cases: whether the names are those of first channels, whose ending is left out.
    """
    stems: dict[str, str] = {}
    for matches in named:
        stems = _stems(matches, of_cases) | stems
    if len(set(stems.values())) == len(stems):
        return stems
    return _stems(_without_repeats(chain.from_iterable(named)), of_cases)


def _stems(found: Sequence[_Named], of_cases: bool) -> dict[str, str]:
    """The stem of each file, below the folder that all share."""
    absolute = [Path(os.path.abspath(each.shown)) for each in found]
    shared = os.path.commonpath([path.parent for path in absolute]) if absolute else ""
    folders = [path.parent.relative_to(shared) for path in absolute]
    names = [_case(each.bare) if of_cases else each.bare for each in found]
    bare = [folder / name for folder, name in zip(folders, names, strict=True)]
    uses = Counter(bare)
    return {
        each.file: str(stem if uses[stem] == 1 else folder / each.shown.name)
        for stem, folder, each in zip(bare, folders, found, strict=True)
    }


def _case(bare: str) -> str:
    channel = channel_of(bare)
    return bare if channel is None or channel.number else channel.case


def _below(folder: Path, reading: VolumeReading) -> list[_Named]:
    """The volumes of a folder, of which each series is named by its folder if it is alone there."""
    files = scan(folder)
    if not any(map(is_nifti, files.others)) and not any(map(is_dicom_name, files.images)):
        return []
    volumes = volumes_among(files, 3)
    volumes.tell_what_is_left_out()
    places = first_channels(volumes.images, reading)
    if len(places) == 1 and volumes.first_of.get(places[0]) == places[0]:  # slices directly in the folder
        return [_Named(folder, os.path.basename(os.path.abspath(folder)), volumes.path_of(places[0]))]
    return [_Named(folder / place, volumes.stem(place), volumes.path_of(place)) for place in places]


def _of_file(file: Path, folders: dict[str, Folder]) -> _Named:
    path = os.path.abspath(file)
    return _Named(file, stem_of(file), files_of_series([path], "those to predict", "path", folders)[0])


def _of_glob(pattern: Path, reading: VolumeReading, folders: dict[str, Folder]) -> list[_Named]:
    """The volumes that a pattern matches, and those of the folders that it matches."""
    visible = visible_matches(pattern)
    volumes = [file for file in visible if file.is_file() and (is_nifti(file) or _is_dicom(file))]
    masks = masks_among(volumes)
    named = [
        _of_file(file, folders) for file in first_channels([file for file in volumes if file not in masks], reading)
    ]
    return [match for folder in visible if folder.is_dir() for match in _below(folder, reading)] + named


def _is_dicom(file: Path) -> bool:
    return is_image(file) and is_dicom_name(file)

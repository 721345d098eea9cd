"""Which files of a folder are volumes, and where in it each of them lies."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from ...arguments.words import counted
from ...runtime.progress import Progress
from ..columns import DataError, OtherKindError
from ..decoding.dicom_file import DICOM_SUFFIXES
from ..mask_names import bases_of_mask, key_of_name, masks_among, masks_in_pairs
from ..scanner import IMAGE_SUFFIXES, FoundFiles, counted_suffixes, is_dicomdir, printable
from .choice import Dimensions
from .dicom_series import Series, series_of_folder
from .names import channel_of, is_nifti, stem_of
from .source import VolumeError

logger = logging.getLogger(__name__)

LOOKED_AT = 30  # DICOM files whose series is looked up before the log mentions volumes
FEW_SLICES = 5
MANY_SLICES = 5000  # whose headers take long to read


def volumes_among(found: FoundFiles, dimensions: Dimensions) -> FoundFiles | None:
    """Give the volumes of a folder in place of its images.

    A NIfTI file is a volume. A DICOM series is one if volumes are asked for: it takes the place of its folder, as if
    that were its file, or where several series lie in a folder, that of its first file.

    :param found: the files of the folder.
    :return: the files, of which `images` and `masks` are volumes; None where images are meant.
    :raises DataError: if it is not clear which are meant, or if those that are asked for are not there. Where there
        are tables, they decide.
    """
    nifti = [file for file in (*found.others, *found.broken_links) if is_nifti(file)]
    images = [*found.images, *found.masks]
    dicom = [file for file in images if is_dicom_name(file)]
    if not _are_meant(found, nifti, images, dicom, dimensions):
        return None
    directories = [file for file in found.others if is_dicomdir(file)]
    first_of, left_out = _series(found, [*dicom, *directories], has_others=bool(nifti))
    volumes = sorted([*nifti, *first_of], key=lambda file: file.as_posix())
    masks = masks_among(volumes) | masks_in_pairs(volumes).keys() | masks_of_brats(volumes).keys()
    unread = {*images} - {*dicom}
    others = {*found.others, *unread} - {*nifti} - left_out
    return replace(
        found,
        images=tuple(file for file in volumes if file not in masks),
        masks=tuple(file for file in volumes if file in masks),
        others=tuple(sorted(others)),
        left_out=tuple(sorted(left_out)),
        broken_links=tuple(file for file in found.broken_links if not is_nifti(file)),
        first_of=first_of,
    )


def is_dicom_name(file: PurePath) -> bool:
    """Tell whether a file that is read as an image is one of DICOM, by its suffix or for want of one."""
    suffix = file.suffix.lower()
    return suffix in DICOM_SUFFIXES or suffix not in IMAGE_SUFFIXES


def in_class_folders(found: FoundFiles, splits: Sequence[PurePath]) -> FoundFiles:
    """Find the class folders where volumes are folders of DICOM slices.

    A class folder has such folders in it, or the slices of several series. A folder in a class folder is one volume.

    :param found: the files, as `volumes_among` gives them.
    :param splits: the folders of the splits, relative to the root.
    :raises DataError: if a folder in a class folder has several series.
    """
    tops = {folder for folder in {file.parent for file in found.first_of.values()} if folder.parent in splits}
    singles = {folder for folder in tops if folder in found.first_of}
    several = Counter(file.parent for file in found.first_of if found.first_of[file] == file)
    for folder, count in several.items():
        if folder not in tops and folder not in splits:
            raise DataError(
                f"'{printable(found.root / folder)}' holds {count} DICOM series, and a folder within a class folder "
                "is one volume; move each series into a folder of its own, or list one file of each that is meant in "
                "a metadata.csv"
            )
    if not tops - singles:
        return found
    moved = {folder: found.first_of[folder] for folder in singles}
    first_of = {moved.get(file, file): first for file, first in found.first_of.items()}
    return replace(found, images=tuple(moved.get(file, file) for file in found.images), first_of=first_of)


def _are_meant(
    found: FoundFiles,
    nifti: Sequence[PurePath],
    images: Sequence[PurePath],
    dicom: Sequence[PurePath],
    dimensions: Dimensions,
) -> bool:
    root = printable(found.root)
    if dimensions == 3 and not nifti and not dicom and images and not found.tables:
        raise OtherKindError(
            f"'{root}' holds no volume, which is a NIfTI file or a DICOM series; it holds images "
            f"({counted_suffixes(images)})",
            "leave `dimensions` out to read them",
        )
    if dimensions == 3:
        return bool(nifti or dicom)
    if dimensions == 2 and nifti and not images and not found.tables:
        raise OtherKindError(
            f"'{root}' holds volumes ({counted_suffixes(nifti)}) and no images",
            "leave `dimensions` 2 out to read volumes, or save their slices as PNG files",
        )
    if dimensions == 2 or not nifti:
        if dimensions == "auto":
            _tell_of_series(found, dicom)
        return False
    if images and not found.tables:
        raise DataError(
            f"'{root}' holds {counted(len(nifti), 'volume')}, such as '{printable(nifti[0])}', and "
            f"{counted(len(images), 'image')} ({counted_suffixes(images)}), such as '{printable(images[0])}'. Say "
            "which are meant: `dimensions` 3 reads volumes, and `dimensions` 2 reads images"
        )
    return not images


def masks_of_brats(volumes: Iterable[PurePath]) -> dict[PurePath, str]:
    """The label volumes that lie beside files of BraTS's channels, such as `a_seg.nii` beside `a_flair.nii`.

    :return: with the key of their case's name.
    """
    files = [file for file in volumes if is_nifti(file)]
    named = [(file, channel_of(file)) for file in files]
    cases = {(file.parent, key_of_name(channel.case)) for file, channel in named if channel and channel.words}
    bases = {file: bases_of_mask(stem_of(file)) for file in files}
    return {file: base for file in files for base in bases[file] if (file.parent, base) in cases}


def _series(
    found: FoundFiles, dicom: Sequence[PurePath], has_others: bool
) -> tuple[dict[PurePath, PurePath], set[PurePath]]:
    """Find the series that are volumes; the log counts the DICOM objects that are none.

    In a folder without a volume, what may be left of one is taken for it, and where no other folder has a volume
    either, the first object: the fault is told when it is read.

    :param has_others: whether there are volumes besides DICOM.
    :return: the place of each series with its first file, and the files that are left out.
    """
    by_folder, places, left_out = _series_by_folder(found, dicom), {}, []
    has_volumes = has_others or any(series.is_volume for every in by_folder.values() for series in every)
    for folder, every in by_folder.items():
        volumes = [series for series in every if series.is_volume]
        if not volumes:
            volumes = [series for series in every if series.may_be_volume][:1] or ([] if has_volumes else every[:1])
        taken = set(map(id, volumes))
        left_out += [series for series in every if id(series) not in taken]
        firsts = [folder / series.first.name for series in volumes]
        if len(firsts) == 1 and folder.parts:
            places[folder] = firsts[0]
        else:
            places |= {first: first for first in firsts}
    root = found.root.absolute()
    if left_out:
        _tell_left_out(left_out, root, printable(found.root))
    return places, {PurePath(file.relative_to(root)) for series in left_out for file in series.files}


def _tell_left_out(left_out: Sequence[Series], root: Path, where: str) -> None:
    reasons: dict[str, list[Series]] = {}
    for series in left_out:
        reasons.setdefault(series.why_not or "the folder has no volume", []).append(series)
    kinds = [
        f"{f'{len(of)} such as ' if len(of) > 1 else ''}'{printable(of[0].first.relative_to(root))}' ({why})"
        for why, of in reasons.items()
    ]
    logger.info("%s left out of '%s': %s.", counted(len(left_out), "DICOM object"), where, ", ".join(kinds))


def _series_by_folder(found: FoundFiles, dicom: Sequence[PurePath]) -> dict[PurePath, list[Series]]:
    by_folder: dict[PurePath, list[PurePath]] = {}
    for file in dicom:
        by_folder.setdefault(file.parent, []).append(file)
    root, series = found.root.absolute(), {}
    with Progress("reading DICOM headers", len(by_folder), "folder", shown=len(dicom) >= MANY_SLICES) as progress:
        for folder, files in by_folder.items():
            try:
                series[folder] = series_of_folder([root / file for file in files])
            except VolumeError as error:
                raise DataError(f"'{printable(found.root)}' has DICOM files: {error}") from None
            progress.advance()
    return series


def _tell_of_series(found: FoundFiles, dicom: Sequence[PurePath]) -> None:
    """Log that a folder of DICOM images could be read as volumes, where its fullest folder holds slices of a series."""
    folders = Counter(file.parent for file in dicom)
    if not folders or folders.most_common(1)[0][1] < FEW_SLICES:
        return
    folder = folders.most_common(1)[0][0]
    files = [found.root / file for file in dicom if file.parent == folder]
    try:
        every = series_of_folder(files[:LOOKED_AT])
    except VolumeError:  # without pydicom, which reading the images tells
        return
    if any(series.is_volume and len(series.files) >= FEW_SLICES for series in every):
        logger.info(
            "'%s' holds slices of DICOM series. Each is read as an image; `dimensions` 3 reads each series as one "
            "volume.", printable(found.root / folder),
        )  # fmt: skip

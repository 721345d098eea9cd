"""Finds the files below a folder: one rule for training, prediction, tables and images without labels."""

from __future__ import annotations

import glob
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder as ImageFolderBuilder

from ..arguments.words import counted
from ..runtime.quiet import escaped
from .columns import DataError
from .decoding.dicom_file import DICOM_SUFFIXES, START_BYTES, is_dicom
from .mask_names import masks_among
from .volumes.names import is_nifti, stem_of, suffix_of

logger = logging.getLogger(__name__)

# Pillow knows these suffixes, but has no decoder for them, or they hold no still image.
_NOT_DECODED = frozenset({".bufr", ".grib", ".mpeg", ".mpg", ".emf", ".wmf", ".eps", ".ps"})
IMAGE_SUFFIXES = (frozenset(ImageFolderBuilder.EXTENSIONS) - _NOT_DECODED) | DICOM_SUFFIXES | {".avif", ".mpo", ".pfm"}
LONGEST_PATH = 4096  # longer cells hold images
TABLE_LOADERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json"}
_OF_THE_SYSTEM = frozenset(
    {
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "$recycle.bin",
        "system volume information",
        "@eadir",
        "icon\r",
    }
)


@dataclass(frozen=True)
class FoundFiles:
    """The visible files below a folder, relative to it, in the order of their paths.

    :param root: the folder.
    :param folders: all folders below it.
    :param images: files that are read as images.
    :param masks: images that look like the masks of others.
    :param tables: files that are read as tables.
    :param others: files that are not read.
    :param broken_links: links that lead nowhere and do not look like an image.
    :param loops: links to a folder that contains them.
    :param left_out: of volumes, DICOM objects that are none, which the log has counted.
    :param first_of: of volumes that take the place of a folder of DICOM slices, the file that stands for them.
    """

    root: Path
    folders: tuple[PurePath, ...]
    images: tuple[PurePath, ...]
    masks: tuple[PurePath, ...]
    tables: tuple[PurePath, ...]
    others: tuple[PurePath, ...]
    broken_links: tuple[PurePath, ...]
    loops: tuple[PurePath, ...]
    left_out: tuple[PurePath, ...] = ()
    first_of: Mapping[PurePath, PurePath] = field(default_factory=dict)

    def path_of(self, file: PurePath) -> str:
        """The absolute path of a file, or of the one that stands for it."""
        return str(self.root.absolute() / self.first_of.get(file, file))

    def stem(self, file: PurePath) -> str:
        """The name of a file without its suffix; a folder has none."""
        is_folder = self.first_of.get(file, file) != file
        return file.name if is_folder else stem_of(file)

    def tell_what_is_left_out(self) -> None:
        """Log, in one line for each reason, which files are not read as images or tables."""
        where = printable(self.root)
        if self.others:
            logger.info(
                "%s not read in '%s': %s.", counted(len(self.others), "file"), where, counted_suffixes(self.others)
            )
        if self.masks:
            logger.warning(
                "%s left out in '%s', because the names say that they are masks of other files; the first is '%s'.",
                counted(len(self.masks), "file"), where, printable(self.masks[0]),
            )  # fmt: skip
        if self.broken_links:
            logger.warning(
                "%d links in '%s' lead nowhere; the first is '%s'.",
                len(self.broken_links), where, printable(self.broken_links[0]),
            )  # fmt: skip
        if self.loops:
            logger.warning(
                "%d links in '%s' lead back to a folder that contains them, and are not followed; the first is '%s'.",
                len(self.loops), where, printable(self.loops[0]),
            )  # fmt: skip


def scan(root: Path) -> FoundFiles:
    """List the files below a folder, through links to other folders.

    - A file is an image by its suffix, in any case; a file without a suffix, or with a number as its suffix, if it
      begins like DICOM.
    - Names that start with a dot, and files that Windows, macOS and file servers leave behind, are passed over.
    - An image counts as a mask if its name is that of another image in its folder with a word such as `_mask`, also in
      the place of one such as `_image`; or if its folder is named like one of masks and lies beside one of images
      (`masks` beside `images`, `benign_masks` beside `benign`, `Ground Truth` beside any folder with the same names) or
      beside the images themselves, with their names.

    :param root: an existing folder.
    :raises DataError: if a folder cannot be read; names it.
    """
    files: list[PurePath] = []
    folders: list[PurePath] = []
    loops: list[PurePath] = []
    _walk(root, PurePath(), [_identity(root)], files, folders, loops)
    files.sort(key=lambda file: file.as_posix())
    kinds: dict[str, list[PurePath]] = {"image": [], "table": [], "other": [], "broken link": []}
    for file in files:
        kinds[_kind(root / file, file)].append(file)
    masks = masks_among(kinds["image"])
    return FoundFiles(
        root,
        folders=tuple(folders),
        images=tuple(file for file in kinds["image"] if file not in masks),
        masks=tuple(file for file in kinds["image"] if file in masks),
        tables=tuple(kinds["table"]),
        others=tuple(kinds["other"]),
        broken_links=tuple(kinds["broken link"]),
        loops=tuple(sorted(loops)),
    )


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is passed over: `.DS_Store`, `._x.png`, `__MACOSX`, `Thumbs.db`."""
    return name.startswith((".", "__")) or name.lower() in _OF_THE_SYSTEM


def names_image(cell: str) -> bool:
    """Tell whether a cell or a word is the name of a file that holds an image or a volume, by its suffix."""
    name = cell.strip()
    return len(cell) <= LONGEST_PATH and (PurePath(name).suffix.lower() in IMAGE_SUFFIXES or is_nifti(name))


def is_image(path: Path) -> bool:
    """Tell whether a file is read as an image, by its suffix or, without one, by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return True
    return _says_nothing(suffix) and not is_dicomdir(path) and _begins_like_dicom(path)


def is_dicomdir(file: PurePath) -> bool:
    """Tell whether a file is named as the list of an export's DICOM files, which begins like DICOM and has no image."""
    return file.name.upper() == "DICOMDIR"


def is_table(file: PurePath) -> bool:
    """Tell whether a file's suffix is that of a table that is read."""
    return file.suffix.lower() in TABLE_LOADERS


def counted_suffixes(files: Iterable[PurePath]) -> str:
    """Suffixes with their number of files, the most frequent first: ``.heic 9, .txt 3``."""
    counts = Counter(suffix_of(file).lower() or "no suffix" for file in files)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(ordered) - 10} other kinds" if len(ordered) > 10 else ""
    return ", ".join(f"{printable(suffix)} {count}" for suffix, count in ordered[:10]) + more


def printable(path: str | os.PathLike) -> str:
    """A path as text that can be printed and stored, also where its name has control characters or is not UTF-8."""
    return escaped(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _walk(
    folder: Path,
    inside: PurePath,
    above: list[tuple[int, int]],
    files: list[PurePath],
    folders: list[PurePath],
    loops: list[PurePath],
) -> None:
    """Collect what lies below `folder`. :param above: the identities of the folders that contain it, and its own."""
    try:
        with os.scandir(folder) as listing:
            entries = sorted((entry for entry in listing if not is_hidden(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder '{printable(folder)}' cannot be read: {error.strerror}") from error
    for entry in entries:
        here = inside / entry.name
        if not entry.is_dir():
            if entry.is_file() or not os.path.exists(entry.path):
                files.append(here)
            else:
                logger.warning("'%s' is a pipe or a device, not a file, and is not read.", printable(entry.path))
            continue
        identity = _identity(folder / entry.name)
        if identity in above:
            loops.append(here)
        else:
            folders.append(here)
            _walk(folder / entry.name, here, [*above, identity], files, folders, loops)


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _kind(path: Path, file: PurePath) -> str:
    if file.suffix.lower() in IMAGE_SUFFIXES:
        return "image"
    if not path.exists():
        return "broken link"
    if is_table(file):
        return "table"
    return "image" if is_image(path) else "other"


def _says_nothing(suffix: str) -> bool:
    return suffix[1:].isdecimal() or suffix == ""  # a DICOM file is often named by its UID, as 1.2.840.10008.1


def _begins_like_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(START_BYTES))
    except OSError:
        return False


def visible_matches(pattern: Path) -> list[Path]:
    """Files and folders that a glob matches, in order, without hidden ones and ways through a link to a folder above.

    What the pattern names itself may be hidden.
    """
    parts = pattern.parts
    fixed = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    found = [Path(file) for file in sorted(glob.glob(str(pattern), recursive=True))]
    return [file for file in found if not any(map(is_hidden, file.parts[fixed:])) and not _is_in_loop(file)]


def _is_in_loop(file: Path) -> bool:
    folders = [os.path.realpath(folder) for folder in Path(os.path.abspath(file)).parents]
    return len(set(folders)) < len(folders)

"""Finds the files below a folder: one rule for training, prediction, tables and images without labels."""

from __future__ import annotations

import glob
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder as ImageFolderBuilder

from ..arguments.words import counted
from ..runtime.quiet import escaped
from .columns import DataError
from .decoding.dicom_file import DICOM_SUFFIXES, START_BYTES, is_dicom
from .volumes.names import stem_of, suffix_of

logger = logging.getLogger(__name__)

# Pillow knows these suffixes, but has no decoder for them, or they hold no still image.
_NOT_DECODED = frozenset({".bufr", ".grib", ".mpeg", ".mpg", ".emf", ".wmf", ".eps", ".ps"})
IMAGE_SUFFIXES = (frozenset(ImageFolderBuilder.EXTENSIONS) - _NOT_DECODED) | DICOM_SUFFIXES | {".avif", ".mpo", ".pfm"}
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
# longer words first: what follows one may be without a sign between them
_MASK_WORDS = r"(?:masks?|msk|segmentations?|seg|gt|ground[_\- ]?truth|annotations?|anno|contours?|outlines?)"
_MASK_AFTER = re.compile(rf"(?P<base>.+?)[_\-. ]*\(?(?:{_MASK_WORDS}|labels?)(?:[_\-. ]?\d+)?\)?", re.IGNORECASE)
_MASK_INSIDE = re.compile(
    rf"(?P<before>.+?)(?P<sign>[_\-. ])(?:{_MASK_WORDS}|labels?)[_\-. ](?P<after>.+)", re.IGNORECASE
)
_MASK_BEFORE = re.compile(rf"(?:{_MASK_WORDS}|labels?)[_\-. ]*(?P<base>.+)", re.IGNORECASE)
MASK_NAME = re.compile(rf"{_MASK_WORDS}|labels?", re.IGNORECASE)
MASK_FOLDER = re.compile(rf"{_MASK_WORDS}|labels?(?:tr|ts|va)?", re.IGNORECASE)
MASKS_OF_FOLDER = re.compile(r"(?P<base>.+?)[_\-. ](?:masks?|msk|seg|segmentations?)", re.IGNORECASE)
GROUND_TRUTH_FOLDER = re.compile(r"(?:.+[_\-. ])?ground[_\- ]?truth", re.IGNORECASE)
IMAGE_FOLDER = re.compile(r"(?:images?|imgs?|pictures?|originals?|inputs?)(?:tr|ts|va)?", re.IGNORECASE)
_IMAGE_WORDS = r"(?:images?|imgs?|volumes?|vol|scans?)"
_IMAGE_NAME = re.compile(_IMAGE_WORDS, re.IGNORECASE)
_WITH_IMAGE_WORD = re.compile(
    rf"{_IMAGE_WORDS}[_\-. ]+(.+)|(.+?)[_\-. ]+{_IMAGE_WORDS}|{_IMAGE_WORDS}(\d.*)", re.IGNORECASE
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


def masks_among(images: Sequence[PurePath]) -> set[PurePath]:
    """Find the images whose names say that they are masks of others; see `scan`.

    :param images: of one tree, with their folders.
    """
    names: dict[PurePath, set[str]] = {}  # of the images directly in each folder; empty for folders of folders
    for file in images:
        names.setdefault(file.parent, set()).add(key_of_name(stem_of(file)))
        for folder in file.parent.parents:
            names.setdefault(folder, set())
    beside: dict[PurePath, list[PurePath]] = {}
    for folder in names:
        beside.setdefault(folder.parent, []).append(folder)
    mask_folders = {folder for folder in names if _is_mask_folder(folder, names, beside[folder.parent])}
    with_bare = {folder: own | set(map(without_image_word, own)) for folder, own in names.items()}
    of_cases = {mask for mask, other in masks_in_pairs(images).items() if _IMAGE_NAME.fullmatch(stem_of(other))}
    return {
        file
        for file in images
        if mask_folders & {*file.parents}
        or file in of_cases
        or any(base in with_bare[file.parent] for base in bases_of_mask(stem_of(file)))
    }


def masks_in_pairs(files: Iterable[PurePath]) -> dict[PurePath, PurePath]:
    """Of folders with one case each, such as `case_1/image.png` and `mask.png`: the mask and the other file."""
    inside: dict[PurePath, list[PurePath]] = {}
    for file in files:
        inside.setdefault(file.parent, []).append(file)
    pairs = [sorted(pair, key=is_named_mask) for pair in inside.values() if len(pair) == 2]
    return {mask: other for other, mask in pairs if is_named_mask(mask) and not is_named_mask(other)}


def is_named_mask(file: PurePath) -> bool:
    """Tell whether a file's whole name is a word for masks, such as `seg.nii.gz`."""
    return MASK_NAME.fullmatch(stem_of(file)) is not None


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


def bases_of_mask(stem: str) -> list[str]:
    """The names of images whose mask a file may be: those of ``1_mask`` and ``mask_1`` are both ``1``.

    That of ``scan_mask_1`` may also be ``scan_1``.
    """
    matches = (_MASK_AFTER.fullmatch(stem), _MASK_BEFORE.fullmatch(stem))
    bases = [match["base"] for match in matches if match is not None]
    inside = _MASK_INSIDE.fullmatch(stem)
    if inside is not None:
        bases.append(inside["before"] + inside["sign"] + inside["after"])
    return list(map(key_of_name, bases))


def without_image_word(name: str) -> str:
    """A name without a word for images: ``1`` for ``1_image``, ``img_1``, ``image1`` and ``volume-1``."""
    match = _WITH_IMAGE_WORD.fullmatch(name)
    return name if match is None else next(filter(None, match.groups()))


def key_of_name(stem: str) -> str:
    """What two names of one image have in common, whatever their capitals and Unicode form."""
    return unicodedata.normalize("NFC", stem).casefold()


def _is_mask_folder(folder: PurePath, names: dict[PurePath, set[str]], beside: list[PurePath]) -> bool:
    of_all, of_folder = MASK_FOLDER.fullmatch(folder.name), MASKS_OF_FOLDER.fullmatch(folder.name)
    is_truth = GROUND_TRUTH_FOLDER.fullmatch(folder.name) is not None
    if of_all is None and of_folder is None and not is_truth:
        return False
    siblings = [other for other in beside if other != folder]
    if is_truth and any(_are_masks_of(names[folder], names[other]) for other in siblings):
        return True
    if of_all is not None:
        above = names.get(folder.parent, set())
        return any(IMAGE_FOLDER.fullmatch(other.name) for other in siblings) or _are_masks_of(names[folder], above)
    if of_folder is None:
        return False
    of_images = [names[other] for other in siblings if key_of_name(other.name) == key_of_name(of_folder["base"])]
    return any(_are_masks_of(names[folder], of) for of in of_images)


def _are_masks_of(masks: set[str], images: set[str]) -> bool:
    return bool(masks) and all(name in images or set(bases_of_mask(name)) & images for name in masks)

"""Which names say that a file or a folder holds masks, and which folders hold the images of these."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from .volumes.names import stem_of

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
# What a folder's name says, word by word: `labels_png`, `gt_img`, `CXR_png`, `train_images`.
_SAYS_MASKS = re.compile(
    r"masks?|msks?|segmentations?|segs?|gts?|truths?|groundtruths?|annotations?|anno|contours?|outlines?|labels?"
)
_SAYS_IMAGES = re.compile(
    r"images?|imgs?|pictures?|pics?|photos?|originals?|inputs?|scans?|volumes?|vols?|slices?|frames?|cts?|mrs?|mris?|"
    r"xrays?|cxrs?"
)
_SAYS_DRAWN = re.compile(r"manuals?|observers?|annotators?|graders?|raters?")  # by whom, as in `1st_manual` of DRIVE
_SAYS_FORMAT = re.compile(r"png|jpe?g|tiff?|bmp|gif|nii|gz|nifti|dcm|dicom|npy|files?|folder|dir")
_SAYS_WORN = re.compile(r"no|non|not|with|without|un|off|in?correct\w*|wear\w*|worn")  # of masks on faces


def masks_among(images: Sequence[PurePath]) -> set[PurePath]:
    """Find the images whose names say that they are masks of others; see `rd_hf.data.scanner.scan`.

    :param images: of one tree, with their folders.
    """
    names = _names_of_folders(images)
    folders = mask_folders(images)
    with_bare = {folder: _with_bare(own) for folder, own in names.items()}
    of_cases = {mask for mask, other in masks_in_pairs(images).items() if _IMAGE_NAME.fullmatch(stem_of(other))}
    return {
        file
        for file in images
        if folders.keys() & {*file.parents}
        or file in of_cases
        or any(base in with_bare[file.parent] for base in bases_of_mask(stem_of(file)))
    }


def mask_folders(files: Iterable[PurePath]) -> dict[PurePath, list[PurePath]]:
    """Find the folders whose name, and often the names in them, say that they hold the masks of other folders.

    :param files: images and masks of one tree, with their folders.
    :return: each of them with the folders beside it whose files it names; none where these are not known.
    """
    names = _names_of_folders(files)
    found = {}
    for folder, siblings in _siblings(names).items():
        named = [other for other in siblings if _are_masks_of(names[folder], names[other])]
        of = [] if _are_of_worn(folder, siblings) else [other for other in named if _are_clear(folder, other, names)]
        if of or _is_mask_folder(folder, names, siblings):
            found[folder] = of
    return found


def unclear_mask_folders(files: Iterable[PurePath]) -> list[tuple[PurePath, PurePath]]:
    """Pairs of folders, side by side, of which the first may hold the masks of the second.

    :param files: files that are read as images.
    """
    names = _names_of_folders(files)
    return [
        (folder, other)
        for folder, siblings in _siblings(names).items()
        if names[folder] and not _are_of_worn(folder, siblings)
        for other in siblings
        if names[other]
        and not _may_be_masks(other.name)
        and (_says(other.name, _SAYS_IMAGES) or _are_masks_of(names[folder], names[other]))
    ]


def is_drawn_by_hand(folder: PurePath) -> bool:
    """Tell whether a folder's name says who drew what it holds: `1st_manual`, `manual1`."""
    return _says(folder.name, _SAYS_DRAWN)


def _names_of_folders(files: Iterable[PurePath]) -> dict[PurePath, set[str]]:
    """The names of the files directly in each folder; empty for folders of folders."""
    names: dict[PurePath, set[str]] = {}
    for file in files:
        names.setdefault(file.parent, set()).add(key_of_name(stem_of(file)))
        for folder in file.parent.parents:
            names.setdefault(folder, set())
    return names


def _siblings(folders: Iterable[PurePath]) -> dict[PurePath, list[PurePath]]:
    """Each folder that is named like one of masks, with those beside it."""
    inside: dict[PurePath, list[PurePath]] = {}
    for folder in folders:
        if folder.parts:
            inside.setdefault(folder.parent, []).append(folder)
    named = (MASK_FOLDER.fullmatch, GROUND_TRUTH_FOLDER.fullmatch, _may_be_masks)
    return {
        folder: [other for other in every if other != folder]
        for every in inside.values()
        for folder in every
        if any(is_named(folder.name) for is_named in named)
    }


def _are_clear(folder: PurePath, other: PurePath, names: dict[PurePath, set[str]]) -> bool:
    """Whether a folder whose files are named as those of another holds their masks, and the two are no classes.

    The names of its files say it, or the names of both folders, which then differ in these words only.
    """
    if not _says(folder.name, _SAYS_MASKS) or _may_be_masks(other.name):
        return False
    if not names[folder] & names[other]:
        return True
    rests = [_rest(folder.name), _rest(other.name)]
    return _says(other.name, _SAYS_IMAGES) and (rests[0] == rests[1] or not all(rests))


def _may_be_masks(name: str) -> bool:
    return _says(name, _SAYS_MASKS) or _says(name, _SAYS_DRAWN)


def _are_of_worn(folder: PurePath, siblings: Iterable[PurePath]) -> bool:
    """Whether folders are classes of faces with and without a mask."""
    words = [_words(other.name) for other in (folder, *siblings)]
    return any(any(map(_SAYS_MASKS.fullmatch, of)) and any(map(_SAYS_WORN.fullmatch, of)) for of in words)


def _says(name: str, what: re.Pattern) -> bool:
    return any(map(what.fullmatch, _words(name)))


def _rest(name: str) -> set[str]:
    """The words of a folder's name that say something else."""
    patterns = (_SAYS_MASKS, _SAYS_IMAGES, _SAYS_FORMAT)
    return {word for word in _words(name) if not any(pattern.fullmatch(word) for pattern in patterns)}


def _words(name: str) -> list[str]:
    divided = re.sub(r"(?<=[^\W\d_A-Z])(?=[A-Z])", "_", re.sub(r"(?i)x[_\-. ]rays?", "xray", name))
    return re.findall(r"[^\W\d_]+", key_of_name(divided))


def _with_bare(names: set[str]) -> set[str]:
    return names | set(map(without_image_word, names))


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


def _is_mask_folder(folder: PurePath, names: dict[PurePath, set[str]], siblings: Sequence[PurePath]) -> bool:
    of_all, of_folder = MASK_FOLDER.fullmatch(folder.name), MASKS_OF_FOLDER.fullmatch(folder.name)
    is_truth = GROUND_TRUTH_FOLDER.fullmatch(folder.name) is not None
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
    if masks <= images:
        return bool(masks)
    bare = _with_bare(images)
    return all(name in bare or set(bases_of_mask(name)) & bare for name in masks)

"""Which mask of a folder belongs to which image, and which folders are splits."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import NamedTuple

import pyarrow as pa
from datasets import Dataset, DatasetDict, DatasetInfo, Features, Image
from datasets.table import InMemoryTable

from ..columns import DataError, OtherKindError
from ..folders import ImageFolder
from ..image_column import image_row
from ..mask_names import (
    GROUND_TRUTH_FOLDER,
    IMAGE_FOLDER,
    MASK_FOLDER,
    MASKS_OF_FOLDER,
    bases_of_mask,
    is_named_mask,
    key_of_name,
    mask_folders,
    without_image_word,
)
from ..scanner import FoundFiles, printable
from ..split_names import split_of_folder
from ..volumes.layouts import masks_of_brats
from ..volumes.names import channel_of, is_nifti, stem_of
from .names import NAME_FILES
from .unclear import refuse_other_masks, refuse_unclear_classes
from .union import united_row

logger = logging.getLogger(__name__)

_SPLIT_OF_ENDING = {"": (), "tr": ("train",), "ts": ("test",), "va": ("validation",)}
_ENDING = re.compile(r"(?:images?|imgs?|pictures?|labels?)(?P<ending>tr|ts|va)", re.IGNORECASE)
Place = tuple[tuple[str, ...], str]  # folders below the root without those that only say "images" or "masks"; a name


def are_masks_labels(found: ImageFolder, task: str) -> bool:
    """Whether the masks of a folder are its labels: if they are asked for, or if there are no class folders.

    :raises DataError: where masks are asked for, but there are only images.
    """
    masks = found.found.masks
    if task == "segmentation":
        if not masks:
            refuse_unclear_classes(found.found)
            volumes = _are_volumes(found.found)
            what, suffix = ("volumes", ".nii.gz") if volumes else ("images", ".png")
            raise DataError(
                f"'{printable(found.root)}' has {len(found.images)} {what}, but no masks. Expected a folder masks "
                f"beside images, NAME_mask{suffix} beside NAME{suffix}, imagesTr and labelsTr, or a table with columns "
                "image and mask"
            )
        return True
    of_brats = masks_of_brats((*found.images, *masks))
    are_of_cases = any(map(_is_of_nnunet, masks)) or all(is_named_mask(mask) or mask in of_brats for mask in masks)
    classes = {name for name in found.class_folders() if not IMAGE_FOLDER.fullmatch(name)}
    if masks and len(classes) > 1 and not are_of_cases:
        logger.info("There are masks and class folders. The classes are read; `task` segmentation uses the masks.")
        return False
    return bool(masks)


def _are_volumes(found: FoundFiles) -> bool:
    return bool(found.first_of) or any(map(is_nifti, found.images))


def refuse_as_classes(found: FoundFiles) -> None:
    """:raises DataError: where folders of volumes have nnU-Net's names, which are no classes."""
    folder = next((file.parent for file in found.images if _is_of_nnunet(file)), None)
    if folder is None:
        return
    if found.masks:
        raise OtherKindError(
            f"'{printable(found.root)}' has the folders of nnU-Net, whose labels are volumes and no classes",
            "leave `task` out",
        )
    raise DataError(
        f"'{printable(found.root)}' has {printable(folder)} with {len(found.images)} volumes, but no labelsTr with "
        "their labels; add it. Without labels the folder can only be an unlabeled_dataset"
    )


def read_mask_folder(found: FoundFiles) -> DatasetDict:
    """Pair the images of a folder with their masks; see docs/how-to/masks.md for the layouts.

    :param found: the files of the folder, of which some are masks.
    :return: splits with the undecoded columns ``image`` and ``mask``; null where an image has no mask.
    :raises DataError: if a mask has no image or could be that of several; names it.
    """
    replace(
        found, masks=(), others=tuple(file for file in found.others if file.name not in NAME_FILES)
    ).tell_what_is_left_out()
    images = _by_place(found)
    refuse_other_masks(found)
    places_of = _Places.of(images)
    of_folders = _images_of_folders(found, images)
    masks: dict[Place, list[PurePath]] = {}
    for file in found.masks:
        masks.setdefault(_place_of_mask(file, found, places_of, of_folders), []).append(file)
    several = [files for files in masks.values() if len(files) > 1]
    if several:
        count = "1 image has" if len(several) == 1 else f"{len(several)} images have"
        logger.info("%s several masks, which are united; the first is '%s'.", count, printable(several[0][0]))
    tell_bare = _folders_without_masks(images, masks)
    splits = DatasetDict()
    for split, places in _divided(found, [*images]).items():
        rows = [
            {"image": image_row(found.path_of(images[place])), "mask": _mask_row(found, masks.get(place, []))}
            for place in places
        ]
        splits[split] = _dataset(rows)
        bare = Counter(images[place].parent for place in places if images[place].parent in tell_bare)
        for folder, number in bare.items() if split == "train" else ():
            logger.warning(
                "No image of '%s' has a mask (%d images), so all of them are unlabelled.",
                printable(found.root / folder), number,
            )  # fmt: skip
    return splits


def _folders_without_masks(images: dict[Place, PurePath], masks: dict[Place, list[PurePath]]) -> set[PurePath]:
    with_masks = {image.parent for place, image in images.items() if place in masks}
    return {image.parent for image in images.values()} - with_masks


def _images_of_folders(found: FoundFiles, images: dict[Place, PurePath]) -> dict[PurePath, dict[str, list[Place]]]:
    """Of each folder of masks the images beside it that it names, by their names with and without the word image."""
    inside: dict[PurePath, dict[str, list[Place]]] = {}
    for place, image in images.items():
        for name in {place[1], without_image_word(place[1])}:
            inside.setdefault(image.parent, {}).setdefault(name, []).append(place)
    of_folders: dict[PurePath, dict[str, list[Place]]] = {}
    for folder, others in mask_folders((*found.images, *found.masks)).items():
        of = of_folders.setdefault(folder, {})
        for other in others:
            for name, places in inside.get(other, {}).items():
                of.setdefault(name, []).extend(places)
    return of_folders


def _by_place(found: FoundFiles) -> dict[Place, PurePath]:
    images: dict[Place, PurePath] = {}
    cases = _cases(found) | _cases_of_brats(found)
    for file in found.images:
        place = _folders(file), key_of_name(cases.get(file, found.stem(file)))
        if place in images:
            raise DataError(
                f"'{printable(images[place])}' and '{printable(file)}' in '{printable(found.root)}' would have the "
                "same mask; rename or remove one"
            )
        images[place] = file
    return images


def _cases(found: FoundFiles) -> dict[PurePath, str]:
    """The names of nnU-Net's images without the number of the channel, ``_0000``; empty where names have none.

    :raises DataError: if there are several channels.
    """
    masks = {key_of_name(stem_of(file)) for file in found.masks}
    channels = {file: channel_of(found.stem(file)) for file in found.images if _is_of_nnunet(file)}
    channels = {file: channel for file, channel in channels.items() if channel is not None and not channel.words}
    has_channels = any(
        key_of_name(channel.case) in masks and key_of_name(found.stem(file)) not in masks
        for file, channel in channels.items()
    )
    if not has_channels:
        return {}
    last = max(channels, key=lambda file: channels[file].number)
    count = len({channel.number for channel in channels.values()})
    if count > 1:
        raise DataError(
            f"'{printable(found.root)}' has images in {count} channels, such as '{printable(last)}'; one image of grey "
            "or RGB per case is read. Keep the channel _0000, or merge three of them into RGB images"
        )
    return {file: channel.case for file, channel in channels.items()}


def _cases_of_brats(found: FoundFiles) -> dict[PurePath, str]:
    """The names of BraTS's volumes without their channel, where the case has a label volume."""
    cases = {(mask.parent, base) for mask, base in masks_of_brats((*found.images, *found.masks)).items()}
    named = [(file, channel_of(file)) for file in found.images if is_nifti(file)]
    return {
        file: channel.case
        for file, channel in named
        if channel and channel.words and (file.parent, key_of_name(channel.case)) in cases
    }


def _is_of_nnunet(file: PurePath) -> bool:
    return any(_ENDING.fullmatch(part) for part in file.parts[:-1])


def _folders(file: PurePath) -> tuple[str, ...]:
    """The folders of a file without those that only say images or masks; those of nnU-Net are splits."""
    folders: list[str] = []
    for part in file.parts[:-1]:
        if IMAGE_FOLDER.fullmatch(part) or MASK_FOLDER.fullmatch(part):
            ending = _ENDING.fullmatch(part)
            folders += _SPLIT_OF_ENDING[ending["ending"].lower()] if ending else ()
        else:
            folders.append(split_of_folder(part))
    return tuple(map(key_of_name, folders))


class _Places(NamedTuple):
    """The places of images, and where to look for one.

    :ivar images: by their place.
    :ivar worded: by their folders and their names without the word image: `1` of `image_1`.
    :ivar numbered: likewise those that are no volumes and have no sign between the two: `1` of `image1`.
    :ivar in_folder: by their folders.
    :ivar beside: by the folders above theirs and their names.
    """

    images: dict[Place, PurePath]
    worded: dict[Place, list[Place]]
    numbered: dict[Place, list[Place]]
    in_folder: dict[tuple[str, ...], list[Place]]
    beside: dict[Place, list[Place]]

    @classmethod
    def of(cls, images: dict[Place, PurePath]) -> _Places:
        worded, numbered, in_folder, beside = (defaultdict(list) for _ in range(4))
        for place, image in images.items():
            inside, name = place
            bare = without_image_word(name)
            has_sign = not (name.endswith(bare) and name[: -len(bare)].isalpha())
            (worded if has_sign or is_nifti(image) else numbered)[inside, bare].append(place)
            in_folder[inside].append(place)
            beside[inside[:-1], name].append(place)
        return cls(images, dict(worded), dict(numbered), dict(in_folder), dict(beside))


def _place_of_mask(
    file: PurePath, found: FoundFiles, places: _Places, of_folders: dict[PurePath, dict[str, list[Place]]]
) -> Place:
    """That of a mask's image."""
    folders = _folders(file)
    bare = [MASKS_OF_FOLDER.fullmatch(part) for part in folders]
    of_folder = tuple(match["base"] if match else part for match, part in zip(bare, folders, strict=True))
    names = dict.fromkeys([key_of_name(stem_of(file)), *bases_of_mask(stem_of(file))])
    for place in [(inside, name) for inside in dict.fromkeys((folders, of_folder)) for name in names]:
        if place in places.images:
            return place
    for place in [(inside, name) for inside in dict.fromkeys((folders, of_folder)) for name in names]:
        for by_name in (places.worded, places.numbered):
            if place in by_name:
                return _only_one(file, found, by_name[place], places.images)
    for name in names:
        if found_there := of_folders.get(file.parent, {}).get(name):
            return _only_one(file, found, found_there, places.images)
    in_folder = places.in_folder.get(folders, [])
    if is_named_mask(file) and len(in_folder) == 1:
        return in_folder[0]
    for above in (folders, folders[:-1]):  # of a folder `Ground Truth` beside one of any name
        found_there = [place for name in names for place in places.beside.get((above, name), [])]
        if GROUND_TRUTH_FOLDER.fullmatch(file.parent.name) and found_there:
            return _only_one(file, found, found_there, places.images)
    what, suffix = ("volume", "with the suffix .nii.gz or .nii") if is_nifti(file) else ("image", "with any suffix")
    if is_nifti(file) and found.first_of:
        suffix += " or as a folder of DICOM slices"
    raise DataError(
        f"the mask '{printable(found.root / file)}' has no {what}; its {what} must be named "
        f"{' or '.join(repr(_as_written(name, stem_of(file))) for name in names)}, {suffix}. Add the {what}, or remove "
        "the mask"
    )


def _as_written(name: str, stem: str) -> str:
    """A part of a mask's name with the capitals that it has there."""
    start = key_of_name(stem).find(name)
    part = stem[start : start + len(name)]
    return part if key_of_name(part) == name else name


def _only_one(mask: PurePath, found: FoundFiles, places: list[Place], images: dict[Place, PurePath]) -> Place:
    if len(places) > 1:
        first, second = (printable(images[place]) for place in places[:2])
        raise DataError(
            f"the mask '{printable(found.root / mask)}' could be that of '{first}' and of '{second}'; give it the "
            "name of its image"
        )
    return places[0]


def _divided(found: FoundFiles, places: Sequence[Place]) -> dict[str, list[Place]]:
    """The places of each split."""
    paths = {PurePath(*folders, name): (folders, name) for folders, name in places}
    folders = ImageFolder(replace(found, images=tuple(paths))).split_folders()
    return {
        split: [place for path, place in paths.items() if path.is_relative_to(folder)]
        for split, folder in folders.items()
    }


def _mask_row(found: FoundFiles, files: list[PurePath]) -> dict | None:
    rows = [image_row(found.path_of(file)) for file in files]
    return united_row(rows) if len(rows) > 1 else (rows or [None])[0]


def _dataset(rows: list[dict]) -> Dataset:
    columns = {name: pa.array([row[name] for row in rows], type=Image.pa_type) for name in ("image", "mask")}
    features = Features({name: Image(decode=False) for name in columns})
    return Dataset(InMemoryTable(pa.table(columns)), info=DatasetInfo(features=features))

"""A data set as its loader gave it: splits with all their columns, under standard names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from .columns import DataError
from .image_paths import ImagePaths
from .split_names import SPLIT_NAMES, standard_split_name
from .volumes.volume import VolumeReading


@dataclass(frozen=True)
class RawData:
    """Splits with all their columns, and what is known about them.

    :param splits: as the loader gave them, under standard names.
    :param origin: ``id`` (Hub id or "local"), ``config_name`` and ``revision`` (commit), None where there is none.
    :param folders: per split where relative image paths start; a split without one takes them as they are.
    :param images: of a folder with tables, all images that lie in it.
    :param label_names: names of integer labels, where the source gives them apart.
    :param mask_names: names of mask values, likewise.
    :param names_folder: where a file may name the mask values, where that is not one of `folders`.
    :param volumes: how volumes are read, where the source is known to hold them.
    """

    splits: DatasetDict
    origin: dict[str, Any] = field(default_factory=lambda: {"id": "local", "config_name": None, "revision": None})
    folders: dict[str, Path] = field(default_factory=dict)
    images: list[str] | None = None
    label_names: list[str] | None = None
    mask_names: dict[int, str] | None = None
    names_folder: Path | None = None
    volumes: VolumeReading | None = None


def image_paths(raw: RawData, volumes: VolumeReading | None, of_masks: bool = False) -> dict[str, ImagePaths]:
    """What finds the files of each split's table; splits of one folder share it.

    :param volumes: how volumes are read; None for images.
    :param of_masks: whether masks are to be found.
    """
    of_volumes = volumes is not None
    of_folder = {folder: ImagePaths(folder, of_masks, of_volumes) for folder in raw.folders.values()}
    return {split: of_folder[folder] for split, folder in raw.folders.items()}


def standard_splits(loaded: Dataset | DatasetDict) -> DatasetDict:
    """Give splits their standard names and order.

    :raises DataError: if there is none, or if two stand for one.
    """
    if isinstance(loaded, Dataset):
        first = re.split(r"[\[+]", str(loaded.split))[0]  # of "test[:50%]" or "test+validation"
        return DatasetDict({standard_split_name(first) or "train": loaded})
    splits: dict[str, Dataset] = {}
    own_names: dict[str, str] = {}
    for own_name, split in loaded.items():
        name = standard_split_name(str(own_name)) or str(own_name)
        if name in splits:
            raise DataError(
                f"splits '{own_names[name]}' and '{own_name}' both stand for {name}; keep one, or rename one"
            )
        splits[name], own_names[name] = split, str(own_name)
    if not splits:
        raise DataError("the data set has no split")
    return in_order(splits)


def in_order(splits: Mapping[str, Dataset]) -> DatasetDict:
    """Put train first, then validation and test, then all others."""
    names = [*(name for name in SPLIT_NAMES if name in splits), *(name for name in splits if name not in SPLIT_NAMES)]
    return DatasetDict({name: splits[name] for name in names})

"""Images with masks in splits, from whatever `rd_hf.data.readers` has read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Image, List, Value

from ..columns import DataError
from ..decoding.images import described
from ..image_column import image_table
from ..image_data import ImageData, fingerprint
from ..image_paths import tell_unlisted
from ..labels.values import clean
from ..raw_data import RawData, image_paths
from ..split_tables import assemble, check_groups, check_splits, group_table, label_table
from ..subgroups import subgroup_tables
from ..unlabelled import without_label_column
from ..volumes.volume import VolumeReading
from .classes import MaskClasses, check_learnable, find_classes, match_classes
from .names import read_names
from .reading import MaskReading
from .survey import MaskValues, survey

logger = logging.getLogger(__name__)


def load_masks(
    raw: RawData,
    image: str,
    mask: str,
    group_column: str | None = None,
    subgroup_columns: Sequence[str] = (),
    names: Sequence[str] | Mapping[int, str] | None = None,
    colors: Mapping[str, str] | None = None,
    recorded: MaskReading | None = None,
    model_names: Sequence[str] | None = None,
    scored: Sequence[str] = ("validation", "test"),
    volumes: VolumeReading | None = None,
) -> ImageData:
    """Read every mask once, and decide what its values mean.

    :param raw: splits with all their columns.
    :param image: the column of images.
    :param mask: the column of masks.
    :param group_column: column whose equal values belong together.
    :param subgroup_columns: columns whose values are kept.
    :param names: the class of each mask value; a list begins with that of value 0. By default the data's own names.
    :param colors: the class of each colour, see `rd_hf.arguments.values.color_of`.
    :param recorded: how the masks of a trained model were read.
    :param model_names: its class names, in its order; given with `recorded`.
    :param scored: splits in which either every image has a mask or none.
    :param volumes: how files become volumes, whose masks are label volumes; None for images.
    :raises DataError: if the data cannot be used as it is; the message names the file, column or row.
    """
    if volumes is not None and colors is not None:
        raise DataError("mask_colors is for masks of images, and label volumes have no colours; leave it out")
    bare = without_label_column(raw.splits, [mask])
    kept = DatasetDict({name: split for name, split in raw.splits.items() if name not in bare})
    groups = [] if group_column is None else [group_column]
    check_splits(kept, [image, mask, *groups])
    if group_column is not None:
        check_groups(kept, group_column)
    tables, columns = _tables(raw, kept, image, mask, group_column, volumes)
    for name, split in kept.items():
        own, features = subgroup_tables(split, subgroup_columns)
        tables[name], columns[name] = tables[name] + own, columns[name] | features
    paired = {name: assemble(split, tables[name], columns[name]) for name, split in kept.items()}
    were_colors = recorded is not None and recorded.are_colors
    values = survey(paired, by_color=were_colors or colors is not None, of_volumes=volumes is not None)
    names = None if were_colors else _own_names(raw) if names is None else names
    found = _classes(values, names, colors, recorded, model_names)
    for note in found.notes:
        logger.info("%s", note)
    counted = {}
    for name, split in kept.items():
        counts = np.array([_pixels(row, found) for row in values[name]], dtype=np.int64)
        feature = {"label": List(Value("int64"), length=len(found.names))}
        counted[name] = assemble(split, [*tables[name], label_table(split, counts)], columns[name] | feature)
    missing = {name: np.array([row is None for row in rows]) for name, rows in values.items()}
    splits, unlabelled, empty = _divided(counted, missing, scored)
    source = raw.origin | {
        "splits": {name: len(split) for name, split in splits.items()},
        "fingerprint": {name: fingerprint(split, volumes=volumes) for name, split in splits.items()},
        "masks": found.reading.to_dict(),
    }
    if volumes is not None:
        source["volumes"] = volumes.to_dict()
    readings = {"masks": found.reading, "volumes": volumes, "folders": raw.folders}
    return ImageData(splits, found.names, "segmentation", source, unlabelled, (*bare, *empty), **readings)


def _divided(
    counted: Mapping[str, Dataset], missing: Mapping[str, np.ndarray], scored: Sequence[str]
) -> tuple[DatasetDict, Dataset | None, list[str]]:
    """The rows with masks of each split, those of train without, and the splits without any mask.

    :raises DataError: if only some images of a scored split have a mask.
    """
    splits, unlabelled, empty = DatasetDict(), None, []
    for name, split in counted.items():
        bare = missing[name]
        if bare.all():
            empty.append(name)
            logger.warning("Split '%s' has no masks, so it is left out.", name)
            continue
        if bare.any() and name in scored:
            raise DataError(_some_lack_masks(name, split, bare))
        splits[name] = split.select(np.flatnonzero(~bare)) if bare.any() else split
        if bare.any() and name == "train":
            unlabelled = split.select(np.flatnonzero(bare)).remove_columns(["label", "mask"])
            logger.info("%d of %d rows of train have no mask, so they are unlabelled.", bare.sum(), len(bare))
    return splits, unlabelled, empty


def _tables(
    raw: RawData,
    splits: DatasetDict,
    image: str,
    mask: str,
    group_column: str | None,
    volumes: VolumeReading | None,
) -> tuple[dict[str, list], dict[str, dict[str, Any]]]:
    """The columns of each split, and their features."""
    of_images, of_masks = image_paths(raw, volumes), image_paths(raw, volumes, of_masks=True)
    tables, columns = {}, {}
    for name, split in splits.items():
        tables[name] = [
            image_table(split, image, of_images.get(name), name, of_volumes=volumes is not None),
            image_table(split, mask, of_masks.get(name), name, called="mask", may_be_empty=True),
        ]
        columns[name] = {"image": Image(decode=False), "mask": Image(decode=False)}
        if group_column is not None:
            tables[name].append(group_table(split, group_column, name))
            columns[name]["group"] = split.features[group_column]
    masks = {file for paths in of_masks.values() for file in paths.listed}
    tell_unlisted([*dict.fromkeys(of_images.values())], raw.images, masks)
    return tables, columns


def _classes(
    values: Mapping[str, Sequence[MaskValues | None]],
    names: Sequence[str] | Mapping[int, str] | None,
    colors: Mapping[str, str] | None,
    recorded: MaskReading | None,
    model_names: Sequence[str] | None,
) -> MaskClasses:
    masks = [row for rows in values.values() for row in rows if row is not None]
    if not masks:
        raise DataError(f"no row of {' or '.join(values)} has a mask; add some masks to train")
    if names is not None:
        pairs = names if isinstance(names, Mapping) else dict(enumerate(names))
        names = {int(value): clean(name) for value, name in pairs.items()}
    if recorded is None:
        found = find_classes(masks, names, colors)
        check_learnable(masks, found)
        return found
    own = None if names is None and colors is None else find_classes(masks, names, colors)
    return match_classes(masks, own, recorded, model_names)


def _own_names(raw: RawData) -> dict[int, str] | None:
    """Names that the data itself has, perhaps in a file of its folder."""
    folder = raw.names_folder or next(iter(raw.folders.values()), None)
    return read_names(folder) if raw.mask_names is None and folder is not None else raw.mask_names


def _pixels(row: MaskValues | None, found: MaskClasses) -> np.ndarray:
    """(K,) pixels of each class."""
    counts = np.zeros(len(found.names), dtype=np.int64)
    for value, count in ({} if row is None else row.counts).items():
        if value in found.reading.classes:
            counts[found.reading.classes[value]] += count
    return counts


def _some_lack_masks(name: str, split: Dataset, missing: np.ndarray) -> str:
    row = int(np.flatnonzero(missing)[0])
    return (
        f"{missing.sum()} of {len(missing)} rows of split '{name}' have no mask; the first is "
        f"{described(split[row]['image'], f'row {row}')}. This split is scored, so every row needs a mask, also one "
        "without any object: add the masks, or remove these rows"
    )

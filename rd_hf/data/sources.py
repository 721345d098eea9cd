"""Turns whatever the user names as a data set into splits with standard columns and known labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value, concatenate_datasets

from .columns import (
    DataError,
    columns_found,
    find_image_column,
    find_label_column,
    find_mask_column,
    has_label_column,
)
from .image_column import image_table, written_paths
from .image_data import ImageData, fingerprint
from .image_paths import tell_unlisted
from .labels.labels import LabelKind, Labels, Uncertain, align_labels, names_of_numbers, without_unused
from .labels.reader import read_labels
from .labels.spellings import check_spellings, names_beside
from .masks.loading import load_masks
from .masks.reading import MaskReading
from .raw_data import RawData, image_paths
from .readers import Task, read_data
from .split_division import split_column
from .split_tables import assemble, check_groups, check_splits, group_table, label_table
from .subgroups import check_subgroup_columns, choose_group_column, subgroup_tables
from .unlabelled import divide_labelled, without_label_column
from .volumes.cells import find_reading
from .volumes.choice import Dimensions, VolumeChoice, check_alike, check_channels_of_model
from .volumes.volume import VolumeReading

logger = logging.getLogger(__name__)


def load_data(
    dataset: Any,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    group_column: str | None = None,
    recorded_groups: str | None = None,
    made_again: str | None = None,
    subgroup_columns: Sequence[str] = (),
    label_names: Sequence[str] | Mapping[int, str] | None = None,
    label_kind: LabelKind = "auto",
    uncertain: Uncertain | None = None,
    scored: Sequence[str] = ("validation", "test"),
    task: Task = "auto",
    mask_column: str | None = None,
    mask_colors: Mapping[str, str] | None = None,
    masks: MaskReading | None = None,
    dimensions: Dimensions = "auto",
    volume_channels: int | None = None,
    volumes: VolumeReading | None = None,
) -> ImageData:
    """Load images or volumes with classes or masks from the Hub, from a local file or folder, or from memory.

    Images are not decoded, so that a bad one fails at its own row; none of the user's files are changed.

    :param dataset: see `rd_hf.data.readers.read_data`.
    :param config_name: configuration of a Hub data set.
    :param revision: branch, tag or commit of a Hub data set.
    :param image_column: column of images or image paths; found by its type or a usual name if None.
    :param label_column: column of labels, or a list of columns of 0 and 1; found likewise if None.
    :param group_column: column whose equal values belong together, such as the patient's id.
    :param recorded_groups: that column in a model's training. It is read where the data has it in every row, and always
        for a split that is made again.
    :param made_again: the split that is made of train again, unless the data has it.
    :param subgroup_columns: columns whose values are kept; see `rd_hf.data.subgroups`.
    :param label_names: a trained model's class names in its order. Labels are matched with them by name; integers
        without names are indices into them. For masks without `masks` they name the values of the masks; a mapping
        gives the name of each value.
    :param label_kind: see `rd_hf.data.labels.reader.read_labels`.
    :param uncertain: likewise.
    :param scored: splits in which either every row has a label or none.
    :param task: "classification", "segmentation", or "auto": segmentation where the data has masks and no labels of
        classes.
    :param mask_column: column of masks or mask paths; found by its type or a usual name if None.
    :param mask_colors: the class of each colour of masks, such as ``{"#ff0000": "tumour"}``.
    :param masks: how a trained model's masks were read; then `label_names` are its names.
    :param dimensions: see `rd_hf.data.volumes.choice.VolumeChoice`.
    :param volume_channels: likewise.
    :param volumes: how a trained model's volumes were read; then volumes of as many channels are loaded.
    :return: the splits that the data set has, usual names standardised (`val` to `validation`).
    :raises DataError: if the data cannot be used as it is; the message names the file, column or row.
    """
    choice = VolumeChoice.of(dimensions, volume_channels, volumes)
    raw = read_data(dataset, config_name, revision, task=task, mask_column=mask_column, choice=choice)
    mask = _mask_column(raw, task, image_column, label_column, mask_column)
    image = _image_column(raw, image_column, mask)
    check_subgroup_columns(raw.splits, subgroup_columns)
    made_again = None if made_again in raw.splits else made_again
    group_column = choose_group_column(raw.splits, group_column, recorded_groups, made_again)
    if mask is not None:
        reading = _volume_reading(raw, image, choice, volumes)
        names = {"names": label_names} if masks is None else {"recorded": masks, "model_names": label_names}
        kept = {"group_column": group_column, "subgroup_columns": subgroup_columns}
        return load_masks(raw, image, mask, **kept, colors=mask_colors, scored=scored, volumes=reading, **names)
    if isinstance(label_names, Mapping):
        raise DataError(
            "`label_names` names the values of masks, but the data is read as images with classes: leave it out, or "
            "ask for masks with `task` segmentation"
        )
    label = find_label_column(next(iter(raw.splits.values())).features, label_column)
    raw, bare = _with_label_column(raw, image, label)
    reading = _volume_reading(raw, image, choice, volumes)
    used = [image, group_column, split_column(next(iter(raw.splits.values())).features)]
    labels = _read_labels(raw, label, [name for name in used if name], label_names, label_kind, uncertain)
    if not labels.names:
        raise DataError(f"no row of {' or '.join(raw.splits)} has a label in {label!r}; label some rows")
    splits = _with_classes(raw, image, labels, group_column, subgroup_columns, reading)
    splits, unlabelled, empty = divide_labelled(splits, labels, label, scored)
    source = _facts(raw, splits, reading, uncertain)
    places = {"volumes": reading, "folders": raw.folders}
    return ImageData(splits, labels.names, labels.problem_type, source, unlabelled, (*bare, *empty), **places)


def _image_column(raw: RawData, wanted: str | None, mask: str | None) -> str:
    """The column of images or volumes, which is not that of masks."""
    first = next(iter(raw.splits.values()))
    features = Features({name: feature for name, feature in first.features.items() if name != mask})
    return find_image_column(features, wanted, [name for name in written_paths(first, of_volumes=True) if name != mask])


def _with_label_column(raw: RawData, image: str, label: str | list[str]) -> tuple[RawData, list[str]]:
    """The data without the splits that lack the column of labels, and the names of these."""
    columns = [label] if isinstance(label, str) else label
    bare = without_label_column(raw.splits, columns)
    raw = replace(raw, splits=DatasetDict({name: split for name, split in raw.splits.items() if name not in bare}))
    check_splits(raw.splits, [image, *columns])
    return raw, bare


def _with_classes(
    raw: RawData,
    image: str,
    labels: Labels,
    group_column: str | None,
    subgroup_columns: Sequence[str],
    reading: VolumeReading | None,
) -> DatasetDict:
    """The splits with the columns ``image``, ``label``, subgroups, and ``group`` where rows with a label have one."""
    labelled = [name for name in raw.splits if not labels.missing[name].all()]
    check_splits({name: raw.splits[name] for name in labelled}, [] if group_column is None else [group_column])
    if group_column is not None:
        check_groups({name: raw.splits[name] for name in labelled}, group_column)
    for note in labels.notes:
        logger.info("%s", note)
    splits, paths = DatasetDict(), image_paths(raw, reading)
    for name, split in raw.splits.items():
        images = image_table(split, image, paths.get(name), name, of_volumes=reading is not None)
        tables = [images, label_table(split, labels.values[name])]
        columns = {"image": Image(decode=False), "label": _label_feature(labels)}
        if group_column is not None and name in labelled:
            tables.append(group_table(split, group_column, name))
            columns["group"] = split.features[group_column]
        own, features = subgroup_tables(split, subgroup_columns)
        tables, columns = tables + own, columns | features
        splits[name] = assemble(split, tables, columns)
    tell_unlisted([*dict.fromkeys(paths.values())], raw.images)
    return splits


def _facts(
    raw: RawData, splits: DatasetDict, reading: VolumeReading | None, uncertain: Uncertain | None
) -> dict[str, Any]:
    """What the student keeps of its data."""
    facts = raw.origin | {
        "splits": {name: len(split) for name, split in splits.items()},
        "fingerprint": {name: fingerprint(split, volumes=reading) for name, split in splits.items()},
    }
    if reading is not None:
        facts["volumes"] = reading.to_dict()
    if uncertain is not None:
        facts["uncertain"] = uncertain  # so that the student is evaluated on the same reading
    return facts


def _volume_reading(
    raw: RawData, image: str, choice: VolumeChoice, recorded: VolumeReading | None
) -> VolumeReading | None:
    """How volumes are read, which the log says; None for images."""
    reading, kind = find_reading(raw, image, choice)
    if reading is not None:
        check_channels_of_model(reading, recorded)
        channels = "" if reading.channels == 1 else f", {reading.channels} channels"
        logger.info("volumes: 3D (%s%s)", kind, channels)
    return reading


def _mask_column(
    raw: RawData,
    task: Task,
    image_column: str | None,
    label_column: str | Sequence[str] | None,
    mask_column: str | None,
) -> str | None:
    """The column of masks if they are the labels; None for classes. The log says which, and why, where there are masks.

    :raises DataError: if masks are asked for, and there are none.
    """
    if task == "classification":
        return None
    first = next(iter(raw.splits.values()))
    mask = find_mask_column(first.features, image_column or "", mask_column, written_paths(first))
    if mask is None:
        if task == "segmentation":
            raise DataError(
                f"no column of masks found; name it with `mask_column`. Columns found: {columns_found(first.features)}"
            )
        return None
    if task == "auto" and mask_column is None:
        if label_column is not None or has_label_column(first.features, mask):
            logger.info("The data also has masks, in column '%s'; `task` segmentation uses them.", mask)
            return None
        logger.info("task: segmentation (the data has masks and no labels of classes)")
    elif task == "auto":
        logger.info("task: segmentation (mask_column is '%s')", mask)
    return mask


def load_images_only(
    dataset: Any,
    *,
    image_column: str | None = None,
    dimensions: Dimensions = "auto",
    volumes: VolumeReading | None = None,
) -> Dataset:
    """Load images or volumes without labels, from any source of `load_data` or a folder with images at any depth.

    :param dataset: see `rd_hf.data.readers.read_data`.
    :param image_column: column of images or image paths; found by its type or a usual name if None.
    :param dimensions: see `rd_hf.data.volumes.choice.VolumeChoice`; 2 beside labelled images.
    :param volumes: how the labelled volumes beside are read; these must be stored likewise.
    :return: the images of all splits, as the one column ``image``, undecoded.
    :raises DataError: if the data cannot be used as it is; the message names the file, column or row.
    """
    choice = VolumeChoice.of(dimensions, None, volumes)
    raw = read_data(dataset, None, None, labelled=False, choice=choice)
    if len(raw.splits) > 1:
        logger.warning("The images of all splits are used without labels: %s.", ", ".join(raw.splits))
    first = next(iter(raw.splits.values()))
    column = find_image_column(first.features, image_column, written_paths(first, of_volumes=True))
    check_splits(raw.splits, [column])
    reading, _ = find_reading(raw, column, choice)
    if reading is not None and volumes is not None:
        check_alike(reading, volumes)
    images, paths = [], image_paths(raw, reading)
    for name, split in raw.splits.items():
        table = image_table(split, column, paths.get(name), name, of_volumes=reading is not None)
        images.append(assemble(split, [table], {"image": Image(decode=False)}))
    tell_unlisted([*dict.fromkeys(paths.values())], raw.images)
    return concatenate_datasets(images)


def _read_labels(
    raw: RawData,
    column: str | list[str],
    used: Sequence[str],
    wanted: Sequence[str] | None,
    kind: LabelKind,
    uncertain: Uncertain | None,
) -> Labels:
    if isinstance(column, str) and kind == "multi" and column in (wanted or ()):
        alone = _finding_alone(raw.splits, column, uncertain)
        if alone is not None:
            return align_labels(alone, wanted, are_columns=True)
    are_columns = not isinstance(column, str)
    labels = read_labels(raw.splits, column, raw.label_names, kind, uncertain)
    named = _name_numbers(raw.splits, column, labels, used)
    if wanted is None:
        where = f"label column '{column}'" if isinstance(column, str) else f"label_column {column}"
        check_spellings(dict(zip(named.names, named.counts().tolist(), strict=True)), where)
        return without_unused(named) if isinstance(column, str) else named
    if named.names != labels.names and set(named.names) & set(wanted):
        return align_labels(named, wanted, are_columns)
    if not labels.are_numbered or set(labels.names) <= set(wanted):  # it may have been trained on the same numbers
        return align_labels(labels, wanted, are_columns)
    same_numbers = names_of_numbers(labels, wanted)
    if same_numbers is not None:
        return align_labels(same_numbers, wanted)
    told = _as_a_class(labels, column, wanted)
    if told is not None:
        return align_labels(told, wanted)
    read = read_labels(raw.splits, column, wanted, kind, uncertain)
    numbers = [int(name) for name in labels.names if name.isdecimal() and not labels.are_vectors]
    pairs = ", ".join(f"{number} is {wanted[number]!r}" for number in numbers[:20])
    return read.noted(
        f"The numbers of '{column}' are read as positions of the model's classes, counted from 0: {pairs}."
        if numbers
        else None
    )


def _as_a_class(labels: Labels, column: str, wanted: Sequence[str]) -> Labels | None:
    """The 0 and 1 of a column that has the name of one of a model's two classes; None for any other labels.

    :raises DataError: where the model has more classes.
    """
    if column not in wanted or labels.are_vectors or not set(labels.names) <= {"0", "1"}:
        return None
    if len(wanted) > 2:
        raise DataError(
            f"column '{column}' has 0 and 1, and the name of one of the model's {len(wanted)} classes; name a column "
            "with the class of each row"
        )
    other = next(name for name in wanted if name != column)
    names = {number: column if name == "1" else other for number, name in enumerate(labels.names)}
    return labels.renamed(names).noted(f"In column '{column}', 1 is read as '{column}' and 0 as '{other}'.")


def _finding_alone(splits: DatasetDict, column: str, uncertain: Uncertain | None) -> Labels | None:
    """The column of 0 and 1 of one finding, among those of a model of several; None if it holds something else."""
    try:
        return read_labels(splits, [column], None, "multi", uncertain)
    except DataError:
        return None


def _name_numbers(splits: DatasetDict, column: str | list[str], labels: Labels, used: Sequence[str]) -> Labels:
    """Take the names of numbers from a column beside them, where there is one."""
    are_codes = labels.are_numbered or all(name.isdecimal() for name in labels.names)
    if not isinstance(column, str) or labels.are_vectors or not are_codes:
        return labels
    names, note = names_beside(splits, column, labels.names, labels.values, used)
    return labels.noted(note) if names is None else labels.renamed(names).noted(note)


def _label_feature(labels: Labels) -> ClassLabel | List:
    if labels.are_vectors:
        return List(Value("float32"), length=len(labels.names))
    return ClassLabel(names=labels.names)

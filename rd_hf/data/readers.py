"""Reads whatever a user can name as a data set, with the `datasets` loader for its kind."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, Literal

import pyarrow as pa
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    DatasetInfo,
    Features,
    Image,
    load_from_disk,
)
from datasets.table import InMemoryTable

from .columns import DataError, find_mask_column
from .folders import ImageFolder
from .hub_data import read_hub
from .image_column import can_be_named, image_row, written_paths
from .labels.values import whole_number
from .masks.folders import are_masks_labels, read_mask_folder, refuse_as_classes
from .masks.unclear import refuse_unclear_classes, tell_unclear_masks
from .medmnist import read_medmnist
from .raw_data import RawData, in_order, standard_splits
from .scanner import TABLE_LOADERS, counted_suffixes, is_table, printable, scan
from .split_division import divide_loaded
from .split_names import split_of_file
from .streams import is_stream
from .table_files import loading, read_tables, tables_by_split
from .volumes.channel_layout import with_channels
from .volumes.choice import VolumeChoice
from .volumes.layouts import in_class_folders, volumes_among
from .volumes.names import is_nifti
from .volumes.volume import VolumeReading

logger = logging.getLogger(__name__)

Task = Literal["auto", "classification", "segmentation"]
NO_LABEL = -1  # of a ClassLabel, by the convention of `datasets`
SAVED_DATASET_FILES = ("dataset_dict.json", "state.json")
VOLUME_SUFFIXES = {".mha", ".mhd", ".nrrd", ".mgz", ".mgh", ".mnc"}
NO_CHOICE = VolumeChoice()


def read_data(
    dataset: Any,
    config_name: str | None = None,
    revision: str | None = None,
    labelled: bool = True,
    task: Task = "auto",
    mask_column: str | None = None,
    choice: VolumeChoice = NO_CHOICE,
) -> RawData:
    """Read what the user named.

    :param dataset: a `Dataset` or `DatasetDict`; a file (.npz in MedMNIST's layout, .parquet, .csv, .tsv, .jsonl); a
        folder (a saved data set, tables, images or volumes with class folders or a metadata file, with or without split
        folders, or with masks);
        or a Hub id.
    :param config_name: configuration of a Hub data set.
    :param revision: branch, tag or commit of a Hub data set.
    :param labelled: whether labels are wanted; if not, images may lie anywhere in a folder.
    :param task: which labels: classes, masks, or what the data has.
    :param mask_column: the column of masks that the user named; then a table is read, and no folder of masks.
    :param choice: whether images or volumes are asked for.
    :return: its splits.
    :raises DataError: if there is no such data set, or it cannot be read.
    """
    if is_stream(dataset):
        raise DataError(
            "a streaming data set has no rows to split or to count; load it without streaming=True; images without "
            "labels may be streamed as `unlabeled_dataset`"
        )
    if isinstance(dataset, (Dataset, DatasetDict)):
        _refuse_hub_arguments("a data set in memory", config_name, revision)
        splits = [dataset] if isinstance(dataset, Dataset) else dataset.values()
        if any(split.format["type"] == "custom" for split in splits):
            logger.warning("The data set has a transform, which is not applied: images are read as they are stored.")
        return RawData(in_order(divide_loaded(standard_splits(dataset))))
    if not isinstance(dataset, (str, os.PathLike)):
        raise DataError(
            f"a {type(dataset).__name__} is not a data set; give a Hub id, a path, a Dataset or a DatasetDict"
        )
    if os.fspath(dataset) == "":
        raise DataError("the name of the data set is empty; give a Hub id or a path, or . for the working folder")
    path = Path(os.path.expanduser(dataset))
    if not os.path.exists(path):  # as Path.exists, but for a path that is too long
        return read_hub(os.fspath(dataset), path, config_name, revision)
    _refuse_hub_arguments(f"'{path}'", config_name, revision)
    return _read_folder(path, labelled, task, mask_column, choice) if path.is_dir() else _read_file(path, choice)


def _refuse_hub_arguments(what: str, config_name: str | None, revision: str | None) -> None:
    for argument, value in (("config_name", config_name), ("revision", revision)):
        if value is not None:
            raise DataError(
                f"{argument} is '{value}', but only Hub data sets have one, and {what} is not one; leave it out"
            )


def _read_file(file: Path, choice: VolumeChoice) -> RawData:
    if file.suffix.lower() == ".npz":
        read = read_medmnist(file, choice)
        are_of_masks = read.names is not None and not any("label" in rows.column_names for rows in read.splits.values())
        of_masks = dict(enumerate(read.names)) if are_of_masks else None
        return RawData(standard_splits(read.splits), label_names=read.names, mask_names=of_masks, volumes=read.volumes)
    if is_table(file):
        return read_tables({split_of_file(PurePath(file.name)) or "train": [file]})
    advice = "For images, give their folder"
    if file.suffix.lower() in (".xlsx", ".xls", ".ods"):
        advice = "Save the sheet as .csv"
    raise DataError(f"'{file}' has an unsupported format; expected .npz, {', '.join(TABLE_LOADERS)}. {advice}")


def _read_folder(folder: Path, labelled: bool, task: Task, mask_column: str | None, choice: VolumeChoice) -> RawData:
    if any((folder / name).is_file() for name in SAVED_DATASET_FILES):
        return RawData(in_order(divide_loaded(standard_splits(loading(folder, lambda: load_from_disk(str(folder)))))))
    files = scan(folder)
    volumes = volumes_among(files, choice.dimensions)
    found = ImageFolder(files if volumes is None else volumes)
    if found.images and not labelled:
        found, reading = (found, None) if volumes is None else _of_channels(found, choice)
        found.found.tell_what_is_left_out()
        tell_unclear_masks(found.found)
        return RawData(DatasetDict(train=_images(found, found.images)), volumes=reading)
    metadata = found.metadata_files()
    tables = {} if metadata else tables_by_split(found)
    if _are_masks_meant(found, metadata or tables, task, mask_column):
        found, reading = (found, None) if volumes is None else _of_channels(found, choice)
        return RawData(in_order(read_mask_folder(found.found)), names_folder=folder, volumes=reading)
    found.found.tell_what_is_left_out()
    if metadata:
        return read_tables(metadata, found)
    if tables:
        _refuse_beside(found, tables)
        return read_tables(tables, found)
    if volumes is not None and found.images:
        refuse_as_classes(found.found)
        if task == "auto":
            refuse_unclear_classes(found.found)
        found, reading = _of_channels(found, choice)
        placed = in_class_folders(found.found, [*found.split_folders().values()])
        return replace(_read_class_folders(ImageFolder(placed)), volumes=reading)
    if found.images:
        if task == "auto":
            refuse_unclear_classes(found.found)
        return _read_class_folders(found)
    raise DataError(_nothing_to_read(found))


def _refuse_beside(found: ImageFolder, tables: Mapping[str, Sequence[Path]]) -> None:
    """:raises DataError: where a table of no train would hide the class folders or masks beside it."""
    file = next(iter(tables.values()))[0]
    if "train" in tables and (split_of_file(PurePath(file.name)) is not None or not found.has_class_folders()):
        return
    what = "class folders" if found.has_class_folders() else "masks" if found.found.masks else None
    if what is not None and not (what == "masks" and _has_mask_column(tables)):
        raise DataError(
            f"'{printable(found.root)}' has both {what} and the table '{printable(file.name)}'; give the table itself, "
            "or move it elsewhere"
        )


def _of_channels(found: ImageFolder, choice: VolumeChoice) -> tuple[ImageFolder, VolumeReading]:
    files, reading = with_channels(found.found, choice.channels)
    in_files = reading.channels > 1 and not reading.channel_axis
    for file in map(files.path_of, files.images):
        if not can_be_named(file) and (in_files or not is_nifti(file)):
            raise DataError(
                f"the path '{printable(file)}' is not UTF-8, so that the other files of its volume cannot be found; "
                "rename its folder, or the file itself"
            )
    return ImageFolder(files), reading


def _are_masks_meant(found: ImageFolder, tables: Mapping[str, Sequence[Path]], task: Task, column: str | None) -> bool:
    """Whether the masks of a folder are its labels, and not its class folders or the columns of a table."""
    if task == "classification" or column is not None or not found.images:
        return False
    if tables and (task == "auto" or not found.found.masks or _has_mask_column(tables)):
        return False
    return are_masks_labels(found, task)


def _has_mask_column(tables: Mapping[str, Sequence[Path]]) -> bool:
    first = read_tables(tables).splits
    features = next(iter(first.values())).features
    return find_mask_column(features, "", written=written_paths(next(iter(first.values())))) is not None


def _nothing_to_read(found: ImageFolder) -> str:
    files = (*found.found.others, *found.found.tables, *found.found.masks)
    expected = f"images, volumes, a table ({', '.join(TABLE_LOADERS)}) or a saved data set"
    if not files:
        return f"'{printable(found.root)}' is empty; expected {expected}"
    suffixes = {file.suffix.lower() for file in files}
    advice = "; give the .npz file itself" if ".npz" in suffixes else ""
    if VOLUME_SUFFIXES & suffixes:
        advice = "; save volumes as .nii.gz"
    return f"'{printable(found.root)}' contains files with {counted_suffixes(files)}; expected {expected}{advice}"


def _read_class_folders(found: ImageFolder) -> RawData:
    by_split = found.classes()
    found.tell_empty_folders()
    names = _in_order({printable(name) for rows in by_split.values() for _, name in rows if name is not None})
    number = {name: position for position, name in enumerate(names)} | {None: NO_LABEL}
    splits = {}
    for split, rows in by_split.items():
        images = _images(found, [file for file, _ in rows])
        labels = [number[None if name is None else printable(name)] for _, name in rows]
        splits[split] = images.add_column("label", labels, feature=ClassLabel(names=names))
    return RawData(in_order(splits))


def _in_order(names: set[str]) -> list[str]:
    """Names of classes in the order of the alphabet, or of numbers where all are whole numbers: 2 before 10."""
    numbers = {name: whole_number(name) for name in names}
    return sorted(names, key=lambda name: (name if None in numbers.values() else numbers[name], name))


def _images(found: ImageFolder, files: Sequence[PurePath]) -> Dataset:
    rows = [image_row(found.found.path_of(file)) for file in files]
    table = pa.table({"image": pa.array(rows, type=Image.pa_type)})
    return Dataset(InMemoryTable(table), info=DatasetInfo(features=Features({"image": Image()})))

"""Reads whatever a user can name as a data set, with the `datasets` loader for its kind."""

from __future__ import annotations

import glob
import logging
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Literal

import pyarrow as pa
from datasets import (
    ClassLabel,
    Dataset,
    DatasetBuilder,
    DatasetDict,
    DatasetInfo,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    config,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetsError
from datasets.packaged_modules.cache.cache import Cache
from datasets.table import InMemoryTable

from ..arguments.values import nearest_name
from ..runtime.stand_ins import HEAD_BYTES, stand_in
from .columns import DataError, find_mask_column
from .folders import METADATA_STEM, ImageFolder
from .image_column import image_row, written_paths
from .masks.folders import are_masks_labels, read_mask_folder
from .medmnist import read_medmnist
from .scanner import IMAGE_SUFFIXES, TABLE_LOADERS, counted_suffixes, is_table, printable, scan
from .split_names import SPLIT_NAMES, divide_by_split, split_of_file, standard_split_name
from .tables import read_json_lines, read_table

logger = logging.getLogger(__name__)

IN_MEMORY_BYTES = 4 * 2**30
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
Task = Literal["auto", "classification", "segmentation"]
NO_LABEL = -1  # of a ClassLabel, by the convention of `datasets`
SAVED_DATASET_FILES = ("dataset_dict.json", "state.json")
VOLUME_SUFFIXES = {".nii", ".mha", ".mhd", ".nrrd"}
# What loaders raise on files that are damaged, mislabelled or at odds with one another, and the Hub's client on names
# and connections (RuntimeError where the data set is a script, which `datasets` no longer runs).
LOADING_ERRORS = (DatasetsError, OSError, ValueError, KeyError, TypeError, RuntimeError, pa.ArrowException)


@dataclass(frozen=True)
class RawData:
    """Splits with all their columns, and what is known about them.

    :param splits: as the loader gave them, under standard names.
    :param origin: ``id`` (Hub id or "local"), ``config_name`` and ``revision`` (commit), None where there is none.
    :param folders: per split where relative image paths start; a split without one takes them as they are.
    :param images: of a folder with tables, all images that lie in it.
    :param label_names: names of integer labels, where the source gives them apart.
    :param mask_names: names of mask values, likewise.
    """

    splits: DatasetDict
    origin: dict[str, Any] = field(default_factory=lambda: {"id": "local", "config_name": None, "revision": None})
    folders: dict[str, Path] = field(default_factory=dict)
    images: list[str] | None = None
    label_names: list[str] | None = None
    mask_names: dict[int, str] | None = None


def read_data(
    dataset: Any,
    config_name: str | None = None,
    revision: str | None = None,
    labelled: bool = True,
    task: Task = "auto",
    mask_column: str | None = None,
) -> RawData:
    """Read what the user named.

    :param dataset: a `Dataset` or `DatasetDict`; a file (.npz in MedMNIST's layout, .parquet, .csv, .tsv, .jsonl); a
        folder (a saved data set, tables, images with class folders or a metadata file, with or without split folders);
        or a Hub id.
    :param config_name: configuration of a Hub data set.
    :param revision: branch, tag or commit of a Hub data set.
    :param labelled: whether labels are wanted; if not, images may lie anywhere in a folder.
    :param task: which labels: classes, masks, or what the data has.
    :param mask_column: the column of masks that the user named; then a table is read, and no folder of masks.
    :return: its splits.
    :raises DataError: if there is no such data set, or it cannot be read.
    """
    if isinstance(dataset, (IterableDataset, IterableDatasetDict)):
        raise DataError("a streaming data set has no rows to split; load it without streaming=True")
    if isinstance(dataset, (Dataset, DatasetDict)):
        _refuse_hub_arguments("a data set in memory", config_name, revision)
        return RawData(_standard_splits(dataset))
    if not isinstance(dataset, (str, os.PathLike)):
        raise DataError(
            f"a {type(dataset).__name__} is not a data set; give a Hub id, a path, a Dataset or a DatasetDict"
        )
    path = Path(dataset).expanduser()
    if not path.exists():
        return _read_hub(os.fspath(dataset), path, config_name, revision)
    _refuse_hub_arguments(f"'{path}'", config_name, revision)
    return _read_folder(path, labelled, task, mask_column) if path.is_dir() else _read_file(path)


def _refuse_hub_arguments(what: str, config_name: str | None, revision: str | None) -> None:
    for argument, value in (("config_name", config_name), ("revision", revision)):
        if value is not None:
            raise DataError(
                f"{argument} is '{value}', but only Hub data sets have one, and {what} is not one; leave it out"
            )


def _standard_splits(loaded: Dataset | DatasetDict) -> DatasetDict:
    if isinstance(loaded, Dataset):
        return DatasetDict({standard_split_name(str(loaded.split)) or "train": loaded})
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
    return _in_order(splits)


def _in_order(splits: Mapping[str, Dataset]) -> DatasetDict:
    names = [*(name for name in SPLIT_NAMES if name in splits), *(name for name in splits if name not in SPLIT_NAMES)]
    return DatasetDict({name: splits[name] for name in names})


def _read_file(file: Path) -> RawData:
    if file.suffix.lower() == ".npz":
        splits, names = read_medmnist(file)
        are_of_masks = names is not None and not any("label" in split.column_names for split in splits.values())
        of_masks = dict(enumerate(names)) if are_of_masks else None
        return RawData(_standard_splits(splits), label_names=names, mask_names=of_masks)
    if is_table(file):
        return _read_tables({split_of_file(PurePath(file.name)) or "train": [file]})
    advice = "For images, give their folder"
    if file.suffix.lower() in (".xlsx", ".xls", ".ods"):
        advice = "Save the sheet as .csv"
    raise DataError(f"'{file}' has an unsupported format; expected .npz, {', '.join(TABLE_LOADERS)}. {advice}")


def _read_folder(folder: Path, labelled: bool, task: Task, mask_column: str | None) -> RawData:
    if any((folder / name).is_file() for name in SAVED_DATASET_FILES):
        return RawData(_standard_splits(_loading(folder, lambda: load_from_disk(str(folder)))))
    found = ImageFolder(scan(folder))
    if found.images and not labelled:
        found.found.tell_what_is_left_out()
        return RawData(DatasetDict(train=_images(found, found.images)))
    metadata = found.metadata_files()
    tables = {} if metadata else _tables_by_split(found)
    if _are_masks_meant(found, metadata or tables, task, mask_column):
        masked = read_mask_folder(found.found)
        return RawData(_in_order(masked.splits), mask_names=masked.names)
    found.found.tell_what_is_left_out()
    if metadata:
        return _read_tables(metadata, found)
    file = next(iter(tables.values()))[0] if tables else None
    if file is not None and split_of_file(PurePath(file.name)) is None and found.has_class_folders():
        raise DataError(
            f"'{folder}' has both class folders and the table '{file.name}'; give the table itself, or move it "
            "elsewhere"
        )
    if tables:
        return _read_tables(tables, found)
    if found.images:
        return _read_class_folders(found)
    raise DataError(_nothing_to_read(found))


def _are_masks_meant(found: ImageFolder, tables: Mapping[str, Sequence[Path]], task: Task, column: str | None) -> bool:
    """Whether the masks of a folder are its labels, and not its class folders or the columns of a table."""
    if task == "classification" or column is not None or not found.images:
        return False
    if tables and (task == "auto" or not found.found.masks or _has_mask_column(tables)):
        return False
    return are_masks_labels(found, task)


def _has_mask_column(tables: Mapping[str, Sequence[Path]]) -> bool:
    first = _read_tables(tables).splits
    features = next(iter(first.values())).features
    return find_mask_column(features, "", written=written_paths(next(iter(first.values())))) is not None


def _tables_by_split(found: ImageFolder) -> dict[str, list[Path]]:
    """Find the tables of a folder itself, or (as in a copy of a Hub repository) .parquet files at any depth."""
    every = found.found.tables
    files = [file for file in every if len(file.parts) == 1]
    files = files or [file for file in every if file.suffix.lower() == ".parquet"]
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_of_file(file), []).append(found.root / file)
    unclear = by_split.pop(None, [])
    if unclear and by_split:
        raise DataError(
            f"'{found.root}' has a table for {' and '.join(by_split)}, and also '{unclear[0].name}', whose name does "
            "not tell which split it is; rename it, move it elsewhere, or give one file"
        )
    return by_split or ({"train": unclear} if unclear else {})


def _nothing_to_read(found: ImageFolder) -> str:
    files = (*found.found.others, *found.found.tables, *found.found.masks)
    expected = f"images, a table ({', '.join(TABLE_LOADERS)}) or a saved data set"
    if not files:
        return f"'{printable(found.root)}' is empty; expected {expected}"
    suffixes = {file.suffix.lower() for file in files}
    advice = "; give the .npz file itself" if ".npz" in suffixes else ""
    if VOLUME_SUFFIXES & suffixes or any(file.name.lower().endswith(".nii.gz") for file in files):
        advice = "; volumes are not read yet: convert volumes to images, with an intensity window that suits the task"
    return f"'{printable(found.root)}' contains files with {counted_suffixes(files)}; expected {expected}{advice}"


def _read_class_folders(found: ImageFolder) -> RawData:
    by_split = found.classes()
    found.tell_empty_folders()
    names = sorted({printable(name) for rows in by_split.values() for _, name in rows if name is not None})
    number = {name: position for position, name in enumerate(names)} | {None: NO_LABEL}
    splits = {}
    for split, rows in by_split.items():
        images = _images(found, [file for file, _ in rows])
        labels = [number[None if name is None else printable(name)] for _, name in rows]
        splits[split] = images.add_column("label", labels, feature=ClassLabel(names=names))
    return RawData(_in_order(splits))


def _images(found: ImageFolder, files: Sequence[PurePath]) -> Dataset:
    rows = [image_row(str(found.root.absolute() / file)) for file in files]
    table = pa.table({"image": pa.array(rows, type=Image.pa_type)})
    return Dataset(InMemoryTable(table), info=DatasetInfo(features=Features({"image": Image()})))


def _read_tables(files: Mapping[str, Sequence[Path]], found: ImageFolder | None = None) -> RawData:
    """Read tables whose image paths are relative to the table's own folder.

    :param found: the folder that the user gave, if it was not the table itself.
    """
    kinds = sorted({TABLE_LOADERS[file.suffix.lower()] for paths in files.values() for file in paths})
    first = next(iter(files.values()))[0]
    if len(kinds) > 1:
        raise DataError(f"'{first.parent}' has tables of several formats ({', '.join(kinds)}); give one file")
    splits = {split: _read_split(paths, kinds[0]) for split, paths in files.items()}
    folders = {split: paths[0].absolute().parent for split, paths in files.items()}
    if list(splits) == ["train"]:
        splits = divide_by_split(splits["train"], first.stem == METADATA_STEM)
        folders = dict.fromkeys(splits, folders["train"])
    images = None if found is None else [str(found.root.absolute() / file) for file in found.images]
    return RawData(_in_order(splits), folders=folders, images=images)


def _read_split(paths: Sequence[Path], kind: str) -> Dataset:
    if kind == "parquet":
        for path in paths:
            with path.open("rb") as file:
                if reason := stand_in(file.read(HEAD_BYTES)):
                    raise DataError(f"'{printable(path)}' is no table: {reason}")
        patterns = {"train": [glob.escape(str(path.absolute())) for path in paths]}
        return _load(kind, paths[0], patterns, sum(path.stat().st_size for path in paths))["train"]
    tables = [read_table(path) if kind == "csv" else read_json_lines(path) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        if set(table.column_names) != set(tables[0].column_names):
            raise DataError(
                f"'{printable(path)}' and '{printable(paths[0])}' name different columns, so they cannot be one table; "
                "give the one that lists the images, or move the other elsewhere"
            )
    together = [table.select(tables[0].column_names) for table in tables]
    return Dataset(InMemoryTable(pa.concat_tables(together, promote_options="permissive")))


def _load(loader: str, named: Path, files: dict[str, list[str]], size: int, **options: Any) -> DatasetDict:
    """Run a packaged loader on local files of `size` bytes in all.

    It writes an Arrow copy, and of embedded images that is a copy of patients' images. So the copy goes to a folder
    that is gone right after loading, unless the data may not fit in memory.
    """
    if size > IN_MEMORY_BYTES:
        logger.warning("'%s' is large. `datasets` stores a copy in its cache, %s", named, config.HF_DATASETS_CACHE)
        return _loading(named, lambda: load_dataset(loader, data_files=files, **options))
    with tempfile.TemporaryDirectory(prefix="rd_hf_data_") as scratch:
        return _loading(
            named, lambda: load_dataset(loader, data_files=files, cache_dir=scratch, keep_in_memory=True, **options)
        )


def _loading(named: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except LOADING_ERRORS as error:
        reason = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ is not None else error
        raise DataError(f"'{named}' cannot be read: {reason}") from error


def _read_hub(name: str, path: Path, config_name: str | None, revision: str | None) -> RawData:
    if not HUB_ID.fullmatch(name) or path.suffix.lower() in {*TABLE_LOADERS, *IMAGE_SUFFIXES, ".npz", ".zip"}:
        raise DataError(f"there is no file or folder '{path}': {nearest_name(path.absolute())}")
    try:
        builder = load_dataset_builder(name, config_name, revision=revision)
        _check_revision(builder, name, revision)
        builder.download_and_prepare()
        splits = _standard_splits(builder.as_dataset())
    except DataError:
        raise
    except LOADING_ERRORS as error:
        raise DataError(_hub_message(name, path, config_name, revision, error)) from error
    return RawData(splits, {"id": name, "config_name": builder.config.name, "revision": builder.hash})


def _check_revision(builder: DatasetBuilder, name: str, revision: str | None) -> None:
    """Reject another revision, which `datasets` takes from its cache if the Hub cannot be reached."""
    if revision is not None and isinstance(builder, Cache) and builder.hash != revision:
        raise DataError(
            f"the Hub cannot be reached for revision '{revision}' of '{name}', but the cache has {builder.hash}; give "
            "that as the revision, or go online"
        )


def _hub_message(name: str, path: Path, config_name: str | None, revision: str | None, error: Exception) -> str:
    wanted = f"the Hub data set '{name}'"
    wanted += f", configuration '{config_name}'" if config_name is not None else ""
    wanted += f", revision '{revision}'" if revision is not None else ""
    local = f"There is no such file or folder either: {nearest_name(path.absolute())}. ({error})"
    if config.HF_HUB_OFFLINE:
        return f"{wanted} is not in the cache, and HF_HUB_OFFLINE prevents its download. {local}"
    return f"{wanted} cannot be loaded. {local}"

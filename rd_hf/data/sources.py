"""Turns whatever the user names as a data set into splits with standard columns and known labels."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, Image, List, Value, concatenate_datasets
from datasets.fingerprint import Hasher
from datasets.table import InMemoryTable, Table, concat_tables

from .columns import DataError, columns_found, find_image_column, find_label_column
from .decoding.images import BadImageError, image_bytes
from .image_column import image_table, selected_rows
from .image_paths import ImagePaths
from .labels.labels import LabelKind, Labels, Uncertain, align_labels, names_of_numbers, without_unused
from .labels.reader import read_labels
from .labels.spellings import check_spellings, names_beside
from .readers import RawData, read_data
from .unlabelled import divide_labelled, without_label_column

logger = logging.getLogger(__name__)

FINGERPRINT_ROWS = 20_000
BATCH_ROWS = 64


@dataclass(frozen=True)
class ImageData:
    """Labelled images in splits.

    :param splits: with the columns ``image``, undecoded (``{"bytes", "path"}``, see
        `rd_hf.data.decoding.images.to_rgb`); ``label``, a class index or K entries of 0.0 and 1.0; and ``group``, if
        asked for.
    :param label_names: the K class names, in the order of the indices.
    :param problem_type: transformers' name of the problem that the labels pose.
    :param source: plain JSON without paths: ``id`` (Hub id or "local"), ``config_name``, ``revision`` (commit),
        ``splits`` (rows of each, as loaded) and ``fingerprint`` (of each, as loaded; see `fingerprint`).
    :param unlabelled: the rows of train without a label, with the columns ``image`` and perhaps ``group``; None if
        every row has one.
    :param without_labels: splits that are left out because no row of them has a label.
    """

    splits: DatasetDict
    label_names: list[str]
    problem_type: str
    source: dict[str, Any]
    unlabelled: Dataset | None = None
    without_labels: tuple[str, ...] = ()

    def labels(self, split: str) -> np.ndarray:
        """Give a split's labels: (N,) int64 class indices, or (N, K) float32 of 0 and 1, NaN where not known."""
        rows = self.splits[split].select_columns(["label"]).with_format("arrow")[:].column("label").to_pylist()
        if isinstance(self.splits[split].features["label"], List):
            return np.asarray(rows, dtype=np.float32).reshape(-1, len(self.label_names))
        return np.asarray(rows, dtype=np.int64)


def load_data(
    dataset: Any,
    *,
    config_name: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | Sequence[str] | None = None,
    group_column: str | None = None,
    label_names: Sequence[str] | None = None,
    label_kind: LabelKind = "auto",
    uncertain: Uncertain | None = None,
    scored: Sequence[str] = ("validation", "test"),
) -> ImageData:
    """Load labelled images from the Hub, from a local file or folder, or from memory.

    Images are not decoded, so that a bad one fails at its own row; none of the user's files are changed.

    :param dataset: see `rd_hf.data.readers.read_data`.
    :param config_name: configuration of a Hub data set.
    :param revision: branch, tag or commit of a Hub data set.
    :param image_column: column of images or image paths; found by its type or a usual name if None.
    :param label_column: column of labels, or a list of columns of 0 and 1; found likewise if None.
    :param group_column: column whose equal values belong together, such as the patient's id.
    :param label_names: a trained model's class names in its order. Labels are matched with them by name; integers
        without names are indices into them.
    :param label_kind: see `rd_hf.data.labels.reader.read_labels`.
    :param uncertain: likewise.
    :param scored: splits in which either every row has a label or none.
    :return: the splits that the data set has, usual names standardised (`val` to `validation`).
    :raises DataError: if the data cannot be used as it is; the message names the file, column or row.
    """
    raw = read_data(dataset, config_name, revision)
    features = next(iter(raw.splits.values())).features
    image = find_image_column(features, image_column)
    label = find_label_column(features, label_column)
    groups = [] if group_column is None else [group_column]
    label_columns = [label] if isinstance(label, str) else label
    bare = without_label_column(raw.splits, label_columns)
    raw = replace(raw, splits=DatasetDict({name: split for name, split in raw.splits.items() if name not in bare}))
    _check_splits(raw.splits, [image, *label_columns])
    labels = _read_labels(raw, label, [image, *groups, "split"], label_names, label_kind, uncertain)
    labelled = [name for name in raw.splits if not labels.missing[name].all()]
    _check_splits({name: raw.splits[name] for name in labelled}, groups)
    for note in labels.notes:
        logger.info("%s", note)
    splits, paths = DatasetDict(), _paths(raw)
    for name, split in raw.splits.items():
        tables = [image_table(split, image, paths.get(name), name), _label_table(split, labels, name)]
        columns = {"image": Image(decode=False), "label": _label_feature(labels)}
        if group_column is not None and name in labelled:
            tables.append(_group_table(split, group_column, name))
            columns["group"] = split.features[group_column]
        splits[name] = _assemble(split, tables, columns)
    for found in set(paths.values()):
        found.tell_unlisted(raw.images)
    splits, unlabelled, empty = divide_labelled(splits, labels, label, scored)
    source = raw.origin | {
        "splits": {name: len(split) for name, split in splits.items()},
        "fingerprint": {name: fingerprint(split) for name, split in splits.items()},
    }
    if uncertain is not None:
        source["uncertain"] = uncertain  # kept with the student, so that it is evaluated on the same reading
    return ImageData(splits, labels.names, labels.problem_type, source, unlabelled, (*bare, *empty))


def load_images_only(
    dataset: Any, *, config_name: str | None = None, revision: str | None = None, image_column: str | None = None
) -> Dataset:
    """Load images without labels, from any source of `load_data` or a folder with images at any depth.

    :param dataset: see `rd_hf.data.readers.read_data`.
    :param config_name: configuration of a Hub data set.
    :param revision: branch, tag or commit of a Hub data set.
    :param image_column: column of images or image paths; found by its type or a usual name if None.
    :return: the images of all splits, as the one column ``image``, undecoded.
    :raises DataError: if the data cannot be used as it is; the message names the file, column or row.
    """
    raw = read_data(dataset, config_name, revision, labelled=False)
    if len(raw.splits) > 1:
        logger.warning("The images of all splits are used without labels: %s.", ", ".join(raw.splits))
    column = find_image_column(next(iter(raw.splits.values())).features, image_column)
    _check_splits(raw.splits, [column])
    images, paths = [], _paths(raw)
    for name, split in raw.splits.items():
        table = image_table(split, column, paths.get(name), name)
        images.append(_assemble(split, [table], {"image": Image(decode=False)}))
    for found in set(paths.values()):
        found.tell_unlisted(raw.images)
    return concatenate_datasets(images)


def _paths(raw: RawData) -> dict[str, ImagePaths]:
    """What finds the files of each split's table; splits of one folder share it."""
    of_folder = {folder: ImagePaths(folder) for folder in raw.folders.values()}
    return {split: of_folder[folder] for split, folder in raw.folders.items()}


def fingerprint(split: Dataset, max_rows: int = FINGERPRINT_ROWS) -> str:
    """Hash a split's images (their file contents) and labels, in order, wherever the files lie.

    Of a split with more than `max_rows` rows, that many, evenly spaced, are hashed, and the result says so. An image
    that cannot be read counts as empty.

    :param split: with the column ``image``, undecoded, and perhaps ``label``.
    :param max_rows: rows that are read at most.
    :return: ``sha256:...``, or ``sha256 of n of N rows:...``.
    """
    count, columns = len(split), [name for name in ("image", "label") if name in split.column_names]
    digest = hashlib.sha256(str(count).encode())
    if isinstance(split.features.get("label"), ClassLabel):
        digest.update(json.dumps(split.features["label"].names).encode())
    rows, extent = split.select_columns(columns).with_format("arrow"), "sha256"
    if count > max_rows:
        rows = rows.select(np.linspace(0, count - 1, max_rows).astype(np.int64))
        extent = f"sha256 of {len(rows)} of {count} rows"
    for batch in rows.iter(BATCH_ROWS):
        for row in batch.to_pylist():
            digest.update(hashlib.sha256(_content(row["image"])).digest())
            digest.update(json.dumps(row.get("label")).encode())
    return f"{extent}:{digest.hexdigest()}"


def _content(image: dict[str, Any]) -> bytes:
    try:
        return image_bytes(image)
    except BadImageError:  # told apart when the row is decoded, which the user may have asked to skip
        return b""


def _check_splits(splits: Mapping[str, Dataset], columns: Sequence[str]) -> None:
    for name, split in splits.items():
        for column in columns:
            if column not in split.features:
                raise DataError(
                    f"split '{name}' has no column '{column}'; its columns are: {columns_found(split.features)}. "
                    "Rename the column that is meant, or leave this split out of the data"
                )
        if len(split) == 0:
            raise DataError(f"split '{name}' has no rows")


def _read_labels(
    raw: RawData,
    column: str | list[str],
    used: Sequence[str],
    wanted: Sequence[str] | None,
    kind: LabelKind,
    uncertain: Uncertain | None,
) -> Labels:
    labels = read_labels(raw.splits, column, raw.label_names, kind, uncertain)
    named = _name_numbers(raw.splits, column, labels, used)
    if wanted is None:
        where = f"label column '{column}'" if isinstance(column, str) else f"label_column {column}"
        check_spellings(dict(zip(named.names, named.counts().tolist(), strict=True)), where)
        return without_unused(named) if isinstance(column, str) else named
    if named.names != labels.names and set(named.names) & set(wanted):
        return align_labels(named, wanted)
    if not labels.are_numbered or set(labels.names) <= set(wanted):  # it may have been trained on the same numbers
        return align_labels(labels, wanted)
    same_numbers = names_of_numbers(labels, wanted)
    if same_numbers is not None:
        return align_labels(same_numbers, wanted)
    read = read_labels(raw.splits, column, wanted, kind, uncertain)
    numbers = [int(name) for name in labels.names if name.isdecimal() and not labels.are_vectors]
    pairs = ", ".join(f"{number} is {wanted[number]!r}" for number in numbers[:20])
    return read.noted(
        f"The numbers of '{column}' are read as positions of the model's classes, counted from 0: {pairs}."
        if numbers
        else None
    )


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


def _label_table(split: Dataset, labels: Labels, name: str) -> Table:
    values, selected = labels.values[name], selected_rows(split)
    if selected is not None:  # rows that the split does not show get a label that nobody sees
        stored = np.zeros((split.data.num_rows, *values.shape[1:]), dtype=values.dtype)
        stored[selected] = values
        values = stored
    column = pa.array(values.ravel())
    if labels.are_vectors:
        column = pa.FixedSizeListArray.from_arrays(column, values.shape[1])
    return InMemoryTable(pa.table({"label": column}))


def _group_table(split: Dataset, column: str, name: str) -> Table:
    groups = split.select_columns([column]).with_format("arrow")[:].column(column)
    if groups.null_count:
        row = groups.is_null().to_pylist().index(True)
        raise DataError(f"split '{name}', row {row}: group column '{column}' is empty; give every row a group")
    return split.data.select([column]).rename_columns(["group"])


def _assemble(split: Dataset, tables: list[Table], columns: dict[str, Any]) -> Dataset:
    """Lay columns side by side under the split's own selection of rows; `map` would write into the user's folder."""
    return Dataset(
        concat_tables(tables, axis=1),
        info=DatasetInfo(features=Features(columns)),
        split=split.split,
        indices_table=split._indices,
        fingerprint=Hasher.hash([split._fingerprint, columns]),
    )

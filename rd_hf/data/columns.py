"""Which columns hold the images and the labels, and the images as one undecoded column."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from datasets.table import InMemoryTable, Table

from ..arguments.values import nearest_name

IMAGE_NAMES = (
    "image", "img", "images", "file_name", "filename", "image_path", "file_path", "filepath", "path", "pixel_values",
)  # fmt: skip
LABEL_NAMES = ("label", "labels", "target", "targets", "finding", "findings", "diagnosis", "class", "category")


class DataError(ValueError):
    """A data set that cannot be used as it is. The message names the file, column or row, and the way out."""


def find_image_column(features: Features, wanted: str | None = None) -> str:
    """Find the column that holds the images: the one `Image` column, or else a usual name.

    :param features: the features of a split.
    :param wanted: the column that the user named, if any.
    :return: the column's name.
    :raises DataError: if the column is not there, or if several could be meant; lists the columns found.
    """
    if wanted is not None:
        return _named(features, wanted, "image_column")
    typed = [name for name, feature in features.items() if isinstance(feature, Image)]
    usual = [name for name in IMAGE_NAMES if name in features]
    return _choose(features, typed, usual, "image")


def find_label_column(features: Features, wanted: str | Sequence[str] | None = None) -> str | list[str]:
    """Find the column(s) that hold the labels: the one `ClassLabel` column, or else a usual name.

    :param features: the features of a split.
    :param wanted: the column that the user named, or a list of columns of 0 and 1, one per label.
    :return: the column's name, or the list of names.
    :raises DataError: if a column is not there, or if several could be meant; lists the columns found.
    """
    if isinstance(wanted, str):
        return _named(features, wanted, "label_column")
    if wanted is not None:
        if not wanted or len(set(wanted)) < len(wanted):
            raise DataError(f"label_column is {list(wanted)}; give one column, or a list of distinct columns")
        return [_named(features, name, "label_column") for name in wanted]
    typed = [name for name, feature in features.items() if _is_class_label(feature)]
    usual = [name for name in LABEL_NAMES if name in features]
    return _choose(features, typed, usual, "label")


def columns_found(features: Features) -> str:
    """Describe a split's columns for an error message.

    :param features: the features of a split.
    :return: names with their types, for example ``image (Image), finding (string)``.
    """
    return ", ".join(f"{name} ({_type_name(feature)})" for name, feature in features.items()) or "none"


def image_table(split: Dataset, column: str, folder: Path | None, name: str) -> Table:
    """Give a split's images as a one-column table ``image`` of undecoded `datasets` images.

    Embedded images are passed on without a copy, so a memory-mapped split stays on disk.

    :param split: a split, whose column holds `Image`s, file contents or paths.
    :param column: the image column.
    :param folder: where relative paths start; None takes them as they are.
    :param name: what to call the split in an error.
    :return: a table with the rows of ``split.data`` (without the split's selection of rows).
    :raises DataError: if the column holds no images, or a file that a path names is missing.
    """
    stored = split.data.column(column)
    if stored.type == Image.pa_type:
        table = split.data.select([column]).rename_columns(["image"])
    else:
        chunks = [_as_image_storage(chunk, column, name) for chunk in stored.chunks]
        table = InMemoryTable(pa.table({"image": pa.chunked_array(chunks, type=Image.pa_type)}))
    if all(chunk.null_count == 0 and chunk.field("bytes").null_count == 0 for chunk in table.column("image").chunks):
        return table
    rows = table.column("image").to_pylist()
    if folder is not None:
        rows = [_resolve(row, folder) for row in rows]
        table = InMemoryTable(pa.table({"image": pa.array(rows, type=Image.pa_type)}))
    selected = selected_rows(split)
    _check_files(rows if selected is None else [rows[index] for index in selected], column, name)
    return table


def selected_rows(split: Dataset) -> np.ndarray | None:
    """Give the rows of ``split.data`` that a split shows, in its order.

    `datasets` has no public name for this; asking for it here keeps a selection of a large memory-mapped data set
    from being copied (`flatten_indices`), or from being written into the user's folder (`map`).

    :param split: a split.
    :return: (N,) row numbers; None if the split shows all rows in order.
    """
    return None if split._indices is None else split._indices.column(0).to_numpy().astype(np.int64)


def _named(features: Features, wanted: str, argument: str) -> str:
    if wanted not in features:
        raise DataError(
            f"{argument} is '{wanted}', but there is no such column; columns found: {columns_found(features)}"
        )
    return wanted


def _choose(features: Features, typed: list[str], usual: list[str], kind: str) -> str:
    candidates = typed or usual
    if not candidates:
        raise DataError(f"no {kind} column found; name it with {kind}_column. Columns found: {columns_found(features)}")
    if len(typed) > 1:
        candidates = [name for name in usual if name in typed]
        if not candidates:
            raise DataError(f"the {kind} column could be any of {', '.join(typed)}; name one with {kind}_column")
    return candidates[0]


def _is_class_label(feature: object) -> bool:
    return isinstance(feature.feature if isinstance(feature, List) else feature, ClassLabel)


def _type_name(feature: object) -> str:
    if isinstance(feature, Value):
        return feature.dtype
    if isinstance(feature, List):
        return f"List of {_type_name(feature.feature)}"
    return type(feature).__name__


def _as_image_storage(chunk: pa.Array, column: str, name: str) -> pa.StructArray:
    kind = chunk.type
    is_struct = pa.types.is_struct(kind) and {field.name for field in kind} & {"bytes", "path"}
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if not (is_struct or is_text or is_binary):
        raise DataError(f"column '{column}' of split '{name}' contains {kind}; expected images, image bytes or paths")
    return Image().cast_storage(chunk)


def _resolve(row: dict | None, folder: Path) -> dict | None:
    if row is None or row["bytes"] is not None or not row["path"] or "://" in row["path"]:
        return row
    return {"bytes": None, "path": os.path.join(folder, row["path"])}


def _check_files(rows: list[dict | None], column: str, name: str) -> None:
    missing = [index for index, row in enumerate(rows) if _is_missing(row)]
    if not missing:
        return
    first = rows[missing[0]]
    where = f"{len(missing)} of {len(rows)} images of split '{name}' are missing; the first is row {missing[0]}, "
    if first is None or not first["path"]:
        raise DataError(f"{where}whose column '{column}' is empty")
    raise DataError(f"{where}'{first['path']}' ({nearest_name(Path(first['path']).absolute())})")


def _is_missing(row: dict | None) -> bool:
    if row is None or (row["bytes"] is None and not row["path"]):
        return True
    return row["bytes"] is None and "://" not in row["path"] and not os.path.isfile(row["path"])

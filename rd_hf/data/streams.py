"""Streams of unlabelled images: `datasets.IterableDataset`s, in hand or by the names that `datasets` can stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, IterableDatasetDict, Value, load_dataset

from .columns import DataError, columns_found, find_image_column
from .scanner import TABLE_LOADERS, printable
from .shards import SUFFIX
from .table_files import LOADING_ERRORS, loading

LOADERS = TABLE_LOADERS | {SUFFIX: "webdataset"}
BYTES = ("binary", "large_binary")
NO_COLUMNS = (
    "the stream does not say which columns it has: give `features=datasets.Features({'image': datasets.Image()})` "
    "where it is made, to `from_generator` or to `map`"
)


class ImageStream(NamedTuple):
    """Images that are read one after the other.

    :ivar dataset: with one column, undecoded.
    :ivar column: its name.
    """

    dataset: IterableDataset
    column: str

    def images(self) -> Iterator[Any]:
        """The images, undecoded; see `rd_hf.data.decoding.images.read_image`.

        :raises DataError: where the stream breaks off.
        """
        try:
            for row in self.dataset:
                yield row[self.column]
        except LOADING_ERRORS as error:
            raise DataError(
                f"the stream of unlabelled images breaks off ({type(error).__name__}: {error}); put that right, and "
                "continue with --resume"
            ) from error

    def fingerprint(self) -> str:
        """What is known of the stream before it is read: the kind of its column and the number of its files."""
        return f"stream of {self.dataset.num_shards} parts, {self.dataset.features[self.column]}"


def is_stream(dataset: Any) -> bool:
    """Whether a data set in hand can be read from its start only."""
    return isinstance(dataset, (IterableDataset, IterableDatasetDict))


def open_stream(dataset: Any, image_column: str | None = None) -> ImageStream:
    """Open a stream; no image is read for it.

    :param dataset: an `IterableDataset`, or several by split; a Hub id; a .tar, .parquet or .jsonl file, or a folder of
        such files or of images.
    :param image_column: column of images; found by its type or a usual name if None.
    :raises DataError: if there is no such data set, or its columns hold no images.
    """
    if isinstance(dataset, (Dataset, DatasetDict)):
        raise DataError(
            f"a {type(dataset).__name__} in memory is not a stream: leave `unlabeled_streaming` out, or give its "
            "`to_iterable_dataset()`"
        )
    rows = _one_split(dataset if is_stream(dataset) else _named(os.fspath(dataset)))
    if rows.features is None:
        raise DataError(NO_COLUMNS)
    column = image_column or find_image_column(rows.features)
    if column not in rows.features:
        raise DataError(
            f"image_column is '{column}', but the stream has no such column; columns found: "
            f"{columns_found(rows.features)}"
        )
    rows = rows.with_format(None).select_columns([column])
    return ImageStream(_undecoded(rows, column, rows.features), column)


def _named(name: str) -> IterableDataset | IterableDatasetDict:
    path = Path(name).expanduser()
    kind = LOADERS.get(path.suffix.lower()) if path.is_file() else None
    if kind is not None:
        return loading(path, lambda: load_dataset(kind, data_files=str(path), streaming=True))
    where = str(path.absolute()) if path.exists() else name
    return loading(printable(where), lambda: load_dataset(where, streaming=True))


def _one_split(found: IterableDataset | IterableDatasetDict) -> IterableDataset:
    if isinstance(found, IterableDataset):
        return found
    if len(found) > 1 and "train" not in found:
        raise DataError(
            f"the stream has the splits {', '.join(found)}, and none is train: give one of them in Python, as "
            "`datasets.load_dataset(..., split=..., streaming=True)`"
        )
    return found["train"] if "train" in found else next(iter(found.values()))


def _undecoded(rows: IterableDataset, column: str, features: Features) -> IterableDataset:
    feature = features[column]
    if isinstance(feature, Image):
        return rows.cast_column(column, Image(decode=False))
    if isinstance(feature, Value) and feature.dtype in BYTES:
        return rows
    raise DataError(
        f"column '{column}' of the stream has {columns_found(Features({column: feature}))}, but a stream needs images "
        "or their bytes: cast it with `cast_column(..., datasets.Image())`, or leave `unlabeled_streaming` out"
    )

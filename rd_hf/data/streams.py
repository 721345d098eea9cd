"""Streams of unlabelled images: `datasets.IterableDataset`s, in hand or by the names that `datasets` can stream."""

from __future__ import annotations

import glob
import logging
import os
import tarfile
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path
from typing import Any, NamedTuple

from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    IterableDatasetDict,
    Value,
    concatenate_datasets,
    load_dataset,
)

from .columns import DataError, columns_found, find_image_column
from .scanner import TABLE_LOADERS, FoundFiles, printable, scan
from .shards import SUFFIX
from .table_files import LOADING_ERRORS, loading

logger = logging.getLogger(__name__)

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
                "continue with `resume`"
            ) from error

    def fingerprint(self) -> str:
        """What is known of the stream before it is read: the kind of its column and the number of its files."""
        return f"stream of {self.dataset.num_shards} parts, {self.dataset.features[self.column]}"


def is_stream(dataset: Any) -> bool:
    """Whether a data set in hand can be read from its start only."""
    return isinstance(dataset, (IterableDataset, IterableDatasetDict))


def open_stream(dataset: Any, image_column: str | None = None) -> ImageStream:
    """Open a stream; no image is read for it.

    :param dataset: an `IterableDataset`, or several by split, which are read together; a Hub id; a .tar, .parquet or
        .jsonl file, or a folder of such files or of images.
    :param image_column: column of images; found by its type or a usual name if it is None or not there.
    :raises DataError: if there is no such data set, or its columns hold no images.
    """
    if isinstance(dataset, (Dataset, DatasetDict)):
        raise DataError(
            f"a {type(dataset).__name__} in memory is not a stream: leave `unlabeled_streaming` out, or give its "
            "`to_iterable_dataset()`"
        )
    found = dataset if is_stream(dataset) else _named(os.fspath(dataset))
    splits = {"": found} if isinstance(found, IterableDataset) else dict(found)
    first = splits["train" if "train" in splits else next(iter(splits))]
    if first.features is None:
        raise DataError(NO_COLUMNS)
    column = find_image_column(first.features, image_column if image_column in first.features else None)
    alike = {name: rows for name, rows in splits.items() if (rows.features or {}).get(column) == first.features[column]}
    if len(alike) < len(splits):
        words = "Splits of the stream are left out, because they have not the same column '%s' as the others: %s."
        logger.warning(words, column, ", ".join(name for name in splits if name not in alike))
    if len(alike) > 1:
        logger.warning("The images of all these splits are used without labels: %s.", ", ".join(alike))
    parts = [_undecoded(rows.with_format(None).select_columns([column]), column) for rows in alike.values()]
    return ImageStream(parts[0] if len(parts) == 1 else concatenate_datasets(parts), column)


def _named(name: str) -> IterableDataset | IterableDatasetDict:
    path = Path(os.path.expanduser(name))
    if not os.path.exists(path):
        return loading(printable(name), lambda: load_dataset(name, streaming=True))
    kind, files = _kind_and_files(path.absolute())
    patterns = {"train": [glob.escape(str(file)) for file in files] or [f"{glob.escape(str(path.absolute()))}/**"]}
    return loading(printable(path), lambda: load_dataset(kind, data_files=patterns, streaming=True))


def _kind_and_files(path: Path) -> tuple[str, list[Path]]:
    """The loader of a file or folder, and the files of it that are read; none are all of the folder."""
    files = [path] if path.is_file() else _archives_or_tables(scan(path))
    kinds = {LOADERS.get(file.suffix.lower()) for file in files}
    if len(kinds) == 1 and None not in kinds:
        return kinds.pop(), files
    return str(path), []


def _archives_or_tables(found: FoundFiles) -> list[Path]:
    """The tar files of a folder without images, or else its tables, which only list what they lie beside."""
    if found.images:
        return []
    archives = [found.root / file for file in found.others if file.suffix.lower() == SUFFIX]
    if archives:  # the loader finds the columns from the first file
        return list(dropwhile(_is_empty, archives)) or archives
    return [found.root / file for file in found.tables]


def _is_empty(archive: Path) -> bool:
    """Whether a tar file is sound and has no member."""
    try:
        with tarfile.open(archive) as file:
            return file.next() is None
    except (OSError, EOFError, tarfile.TarError):
        return False


def _undecoded(rows: IterableDataset, column: str) -> IterableDataset:
    feature = rows.features[column]
    if isinstance(feature, Image):
        return rows.cast_column(column, Image(decode=False))
    if isinstance(feature, Value) and feature.dtype in BYTES:
        return rows
    raise DataError(
        f"column '{column}' of the stream has {columns_found(Features({column: feature}))}, but a stream needs images "
        "or their bytes: cast it with `cast_column(..., datasets.Image())`, or leave `unlabeled_streaming` out"
    )

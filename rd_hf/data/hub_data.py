"""Reads data sets of the Hub."""

from __future__ import annotations

import re
from pathlib import Path

from datasets import DatasetBuilder, config, load_dataset_builder
from datasets.packaged_modules.cache.cache import Cache

from ..arguments.values import nearest_name
from .columns import DataError
from .raw_data import RawData, in_order, standard_splits
from .scanner import IMAGE_SUFFIXES, TABLE_LOADERS
from .split_division import divide_loaded
from .table_files import LOADING_ERRORS

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def read_hub(name: str, path: Path, config_name: str | None, revision: str | None) -> RawData:
    """Download a data set of the Hub, or take it from the cache.

    :param name: its id.
    :param path: the file or folder that the name could have meant, for messages.
    :raises DataError: if there is no such data set, or it cannot be read.
    """
    if not HUB_ID.fullmatch(name) or path.suffix.lower() in {*TABLE_LOADERS, *IMAGE_SUFFIXES, ".npz", ".zip"}:
        raise DataError(f"there is no file or folder '{path}': {nearest_name(path.absolute())}")
    try:
        builder = load_dataset_builder(name, config_name, revision=revision)
        _check_revision(builder, name, revision)
        builder.download_and_prepare()
        splits = in_order(divide_loaded(standard_splits(builder.as_dataset())))
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

"""The images of a run that serve without a label: rows of train, a data set beside it, shards, or a stream."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from datasets import Dataset, concatenate_datasets

from ..arguments.distillation import DistillationArguments
from ..arguments.values import ArgumentError
from ..data.columns import OtherKindError
from ..data.image_data import ImageData
from ..data.shards import ImageShards, find_shards
from ..data.sources import load_images_only
from ..data.streams import ImageStream, is_stream, open_stream
from ..data.unlabelled import outside_scored

logger = logging.getLogger(__name__)


class Unlabelled(NamedTuple):
    """What a run shows with and without labels.

    :ivar images: those of train, then those without label that are kept.
    :ivar rows: that serve without a label; those from len(images) on are images of `shards`.
    :ivar shards: None where there are none.
    :ivar stream: None where there is none; its images have no rows.
    """

    images: Dataset
    rows: np.ndarray
    shards: ImageShards | None
    stream: ImageStream | None = None


def with_unlabelled(
    arguments: DistillationArguments, data: ImageData, withheld: np.ndarray, are_used: bool
) -> Unlabelled:
    """The images of train, then those without label, and the rows among them that serve without a label.

    :param withheld: labelled rows of train whose label is not used.
    :param are_used: whether anything is shown without a label; if not, no stream is opened.
    :raises ArgumentError: when there are none, although they are asked for.
    """
    columns = ["image"] if data.masks is None else ["image", "mask"]  # images without a mask have None there
    parts, rows = [data.splits["train"].select_columns(columns)], []
    streams = arguments.unlabeled_streaming or is_stream(arguments.unlabeled_dataset)
    _check_stream(arguments, data, streams)
    if arguments.use_unlabeled:
        rows.append(withheld)
    if data.unlabelled is not None:
        if arguments.use_unlabeled:
            bare = outside_scored(data.unlabelled, data.splits, ("validation", "test"))
            rows.append(np.arange(len(bare)) + len(parts[0]))
            parts.append(bare.select_columns(["image"]))
        else:
            words = "%d rows of train have no label and are passed over. `use_unlabeled` trains on them too."
            logger.info(words, len(data.unlabelled))
    if arguments.use_unlabeled and not sum(map(len, rows)):
        if arguments.shots is None and arguments.label_fraction is None and arguments.unlabeled_dataset is None:
            raise ArgumentError(
                "`use_unlabeled` has no unlabelled rows to use, because every row of train has and keeps its label. "
                "Name an `unlabeled_dataset`, or withhold labels with `shots` or `label_fraction`."
            )
        logger.warning("`use_unlabeled` has no effect, because every row of train keeps its label.")
    if streams:
        if not are_used:
            logger.info("Method ce learns from labels only, so the stream of unlabelled images is not opened.")
        stream = _open_stream(arguments) if are_used else None
        return Unlabelled(parts[0], np.empty(0, dtype=np.int64), None, stream)
    files = find_shards(arguments.unlabeled_dataset)
    if arguments.unlabeled_dataset is not None and not files:
        further = _load_further(arguments, data)
        rows.append(np.arange(len(further)) + sum(map(len, parts)))
        parts.append(further)
    images = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    shards = _open_shards(arguments, data, files) if files else None
    if shards is not None:
        rows.append(np.arange(len(shards)) + len(images))
    return Unlabelled(images, np.concatenate([np.empty(0, dtype=np.int64), *rows]), shards)


def _load_further(arguments: DistillationArguments, data: ImageData) -> Dataset:
    """:raises ArgumentError: where it holds images beside volumes, or the reverse."""
    try:
        return load_images_only(
            arguments.unlabeled_dataset,
            image_column=arguments.image_column,
            dimensions=2 if data.volumes is None else 3,
            volumes=data.volumes,
        )
    except OtherKindError as error:  # its way out is one of `dataset`
        kind = "images" if data.volumes is None else "volumes"
        raise ArgumentError(
            f"`unlabeled_dataset` does not fit the labelled {kind}: {error.found}. Name a data set of {kind}."
        ) from error


def _open_shards(arguments: DistillationArguments, data: ImageData, files: list) -> ImageShards:
    if data.volumes is not None:
        raise ArgumentError(
            "`unlabeled_dataset` names tar files, which hold images, but the data are volumes: unpack the files."
        )
    shards = ImageShards(files, arguments.on_bad_image == "skip")
    logger.info(
        "%d unlabelled images in %d tar files. Each is decoded when a step visits it. Their teacher features are not "
        "cached, and they are not compared with validation and test.",
        len(shards), len(files),
    )  # fmt: skip
    return shards


def _check_stream(arguments: DistillationArguments, data: ImageData, streams: bool) -> None:
    """:raises ArgumentError: for a stream beside what it does not go with."""
    if not streams:
        words = "is only for a stream: add `unlabeled_streaming`, or leave it out."
        arguments.refuse_changed(["stream_buffer_size"], words)
        return
    if data.volumes is not None:
        raise ArgumentError(
            "`unlabeled_dataset` is a stream, which gives images, but the data are volumes: leave "
            "`unlabeled_streaming` out, and name a folder of volumes."
        )
    if arguments.use_unlabeled:
        raise ArgumentError(
            "`use_unlabeled` mixes rows of train with `unlabeled_dataset`, which a stream of unknown length does not "
            "allow: leave it out, or leave `unlabeled_streaming` out."
        )


def _open_stream(arguments: DistillationArguments) -> ImageStream:
    stream = open_stream(arguments.unlabeled_dataset, arguments.image_column)
    logger.info(
        "Unlabelled images are read from a stream of %d shards and mixed in a buffer of %d. Each is decoded when a "
        "step shows it. Their teacher features are not cached, and they are not compared with validation and test.",
        stream.dataset.num_shards, arguments.stream_buffer_size,
    )  # fmt: skip
    return stream

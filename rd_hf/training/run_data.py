"""The data of a run: its splits, the train rows that keep their label, and the images used without a label."""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ..arguments.distillation import OF_VOLUMES, DistillationArguments, defaults_of
from ..arguments.effect_rules import Known
from ..arguments.values import ArgumentError, columns_of, listed
from ..data.decoding.image_notes import count_notes
from ..data.decoding.images import AS_IT_IS, path_of
from ..data.decoding.reading import Reading
from ..data.image_data import mark_of_rows
from ..data.leaks import conflicting_labels, report_conflicts, report_leaks, shared_files, shared_images
from ..data.masks.digest import describe_mask
from ..data.masks.reading import MaskReading
from ..data.open_split import OpenSplit, Split, open_store
from ..data.pixel_store import PixelStore, check_images
from ..data.pixels import Transforms
from ..data.shards import ImageShards
from ..data.sources import ImageData, load_data
from ..data.split_tables import without_masks
from ..data.splits import choose_labelled, complete_splits
from ..data.streams import ImageStream
from ..data.subgroups import check_subgroups
from ..data.volumes.shelf import room_on_disk
from ..data.volumes.store import VolumeStore, tell_padded
from ..data.volumes.transform import VolumeTransform
from ..data.volumes.volume import VolumeReading
from ..models.image_processing_rd_volume import RDVolumeProcessor
from ..runtime.processes import processes_of_machine
from ..students.volumes import VolumeStudent
from ..tasks.make import make_task
from ..tasks.task import Task
from .unlabelled import with_unlabelled
from .volume_processor import volume_processor

logger = logging.getLogger(__name__)


@dataclass
class RunData:
    """The task of a run, and the images to learn it from.

    :param task: knows the classes.
    :param train: every labelled train image, then those without label if they are used, then those of
        `unlabeled_dataset` unless they lie in shards.
    :param labels: of `train` and `shards`: (N,) int64, or (N, K) float32, or of masks the pixels of each class, (N, K)
        int64; rows outside `labelled_rows` are not read.
    :param labelled_rows: rows of `train` whose label is used.
    :param unlabelled_rows: rows of `train` that serve without a label, and from len(train) on those of `shards`; empty
        unless asked for.
    :param validation: decoded by `open_images`, as `test` is.
    :param source: where the data is from, without any path, and what `open_images` found remarkable.
    :param reading: which page of a file, and which window.
    :param masks: how masks are read; None where labels are classes.
    :param volumes: how volumes are read; None for images.
    :param volume_processor: the grid and the intensities that the student sees of volumes; None for images.
    :param shards: unlabelled images that are decoded at each visit and not kept; None where there are none.
    :param stream: unlabelled images that are read in their order, with row numbers from len(train) on; None where none.
    :param passed_over: number of rows of train that have no label and are not used.
    """

    task: Task
    train: Dataset
    labels: Tensor
    labelled_rows: np.ndarray
    unlabelled_rows: np.ndarray
    validation: Split | OpenSplit
    test: Split | OpenSplit
    source: dict[str, Any]
    reading: Reading = AS_IT_IS
    masks: MaskReading | None = None
    volumes: VolumeReading | None = None
    volume_processor: RDVolumeProcessor | None = None
    shards: ImageShards | None = None
    stream: ImageStream | None = None
    store: PixelStore | VolumeStore | None = None
    skipped: dict[str, dict[int, str]] = field(default_factory=dict)
    passed_over: int = 0

    def open_images(
        self, transforms: Transforms, on_bad_image: str, on_leak: str = "warn", limit: int | None = None
    ) -> None:
        """Decode every image that the run will look at, for each model, before any training.

        :param limit: bytes of disk for volumes on the student's grid; no more than half of what is free.
        :raises BadImageError: naming the row, unless `on_bad_image` is "skip"; skipped ones are left out and listed.
        :raises LeakError: when splits share images and `on_leak` is "error".
        """
        if self.volumes is None:
            self._check_space(transforms)
        room = self.open_train(transforms, limit)
        bad = self.skipped["train"] = check_images(self.store, self.kept_rows.tolist(), on_bad_image)
        self.labelled_rows = _without(self.labelled_rows, bad)
        self.unlabelled_rows = _without(self.unlabelled_rows, bad)
        self._check_classes()
        self.validation = self.validation.opened(transforms, on_bad_image, self.reading, room.get("validation"))
        self.test = self.test.opened(transforms, on_bad_image, self.reading, room.get("test"))
        self.skipped |= {split.name: split.skipped for split in (self.validation, self.test)}
        if self.volumes is not None:
            tell_padded([self.store, self.validation.store, self.test.store])
        self._count_notes()
        self._check_leaks(on_leak)

    def open_train(self, transforms: Transforms, limit: int | None) -> dict[str, int]:
        """Make the store of train, without decoding any image.

        :param limit: see `open_images`.
        :return: bytes of disk for the volumes of each split; empty for images.
        """
        room = self._room_for_volumes(limit)
        self.store = open_store(
            self.train, transforms, "train", self.reading, self.masks, self.volumes, room.get("train"), self.shards
        )
        return room

    @property
    def kept_rows(self) -> np.ndarray:
        """The rows that are used and decoded once, at the start: all but those of shards."""
        rows = np.concatenate([self.labelled_rows, self.unlabelled_rows])
        return rows[rows < len(self.train)]

    def views(self, arguments: DistillationArguments) -> int | None:
        """Number of different views per image; None is a new one in every epoch. Crops differ without augmentation."""
        shows_crops = self.volume_processor is not None and self.volume_processor.crop_size is not None
        return arguments.num_views if shows_crops else arguments.views

    def with_defaults(self, arguments: DistillationArguments) -> DistillationArguments:
        """The arguments with this data's defaults in place of those that are not given."""
        return arguments.with_defaults(of_volumes=self.volumes is not None, of_masks=self.masks is not None)

    def defaults(self, method: str) -> dict[str, Any]:
        """The defaults of arguments that depend on this data."""
        return defaults_of(method, of_volumes=self.volumes is not None, of_masks=self.masks is not None)

    def known(self, student: nn.Module | None = None) -> Known:
        """What this data, and a student for it, leave without effect of the arguments."""
        of_data = {"of_volumes": self.volumes is not None, "of_masks": self.masks is not None}
        made = self.source.get("made_splits", {"names": ()})["names"]
        norms = () if student is None else (module for module in student.modules() if isinstance(module, _NormBase))
        has_norms = any(norm.track_running_stats or isinstance(norm, _BatchNorm) for norm in norms)
        has_norms = None if student is None else has_norms
        return Known(**of_data, made_splits=tuple(made), has_norms=has_norms)

    @property
    def unit(self) -> str:
        """What a row is to the reader of a message."""
        return "image" if self.volumes is None else "volume"

    @property
    def volume_student(self) -> VolumeStudent | None:
        """What the student reads of volumes; None for images."""
        if self.volumes is None:
            return None
        return VolumeStudent(self.volumes.channels, VolumeTransform(self.volume_processor).size)

    def _room_for_volumes(self, limit: int | None) -> dict[str, int]:
        """Bytes of disk for the volumes of each split on the student's grid, by the number of its volumes."""
        if self.volumes is None:
            return {}
        rows = {split.name: len(split.images) for split in (self.validation, self.test)}
        rows["train"] = len(self.labelled_rows) + len(self.unlabelled_rows)
        room = room_on_disk(limit)
        return {name: room * count // sum(rows.values()) for name, count in rows.items()}

    def _count_notes(self) -> None:
        notes = list(self.store.notes(self.kept_rows).values())
        for split in (self.validation, self.test):
            notes += split.store.notes(split.rows).values()
        counts = count_notes(notes)
        if counts:
            self.source["images"] = counts

    def _check_leaks(self, on_leak: str) -> None:
        rows = {"train": self.kept_rows.tolist()}
        rows |= {split.name: split.rows for split in (self.validation, self.test)}
        stores = {"train": self.store, "validation": self.validation.store, "test": self.test.store}
        images = {name: store.digests(rows[name]) for name, store in stores.items()}
        labels = {"train": self._labels_in_words(self.store, self.labels.numpy(), self.labelled_rows.tolist())}
        for split in (self.validation, self.test):
            labels[split.name] = self._labels_in_words(split.store, split.labels, split.rows)
        report_conflicts(conflicting_labels(images, labels, self._file))
        report_leaks(shared_images(images), on_leak, self.source, shared_files(images, self._file))

    def _file(self, split: str, row: int) -> str | None:
        return path_of((self.train if split == "train" else getattr(self, split).images)[row]["image"])

    def _labels_in_words(self, store: PixelStore, labels: np.ndarray, rows: list[int]) -> dict[int, str]:
        """Labels that are equal in words are equal; the words of a mask have its digest."""
        if self.masks is None:
            return {row: self.task.describe_label(labels[row]) for row in rows}
        return {row: describe_mask(store.source_mask(row), self.task.names) for row in rows}

    def _check_space(self, transforms: Transforms) -> None:
        images = len(self.kept_rows) + len(self.validation.images) + len(self.test.images)
        needed = images * sum(3 * math.prod(transform.size) for transform in transforms.each())
        needed += 0 if self.masks is None else images * math.prod(transforms.student.size)
        processes = processes_of_machine()
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if needed * processes > free:
            of_each = "" if processes == 1 else f" for each of {processes} processes"
            raise ArgumentError(
                f"The decoded images need {needed / 2**30:.1f} GiB{of_each} in {tempfile.gettempdir()}, but only "
                f"{free / 2**30:.1f} GiB are free: set TMPDIR to a folder on a larger disk."
            )

    def _check_classes(self) -> None:
        """:raises ArgumentError: when no labelled image of a class was drawn, or all were skipped."""
        counts = self.task.marks(self.labels[self.labelled_rows].numpy()).sum(axis=0)
        for name, count in zip(self.task.names, counts, strict=True):
            if not count and not self.skipped["train"]:
                raise ArgumentError(
                    f"None of the {len(self.labelled_rows)} labelled {self.unit}s of train shows the class {name!r}: "
                    "raise `shots` or `label_fraction`, or remove the class."
                )
            if not count:
                raise ArgumentError(
                    f"Class {name!r} has no readable labelled {self.unit} in train: add some, or remove the class."
                )


def load_run_data(arguments: DistillationArguments, keep_unlabelled: bool = False) -> RunData:
    """Load the data that `arguments` name, complete its splits and choose the rows that keep their label.

    :param keep_unlabelled: keep the rows that serve without a label also where the method has no use for them.
    :raises DataError: when the data cannot be used as it is; the message names the file, column or row.
    """
    data = _load_named(arguments)
    task = make_task(data.problem_type, data.label_names, of_volumes=data.volumes is not None)
    source, reading = data.source, Reading.of(arguments)
    kept = {"group_column": arguments.group_column, "reading": reading.chosen()}
    source |= {name: value for name, value in kept.items() if value}  # with the student, for data that it is scored on
    data = _with_made_splits(arguments, data, task)
    check_subgroups(data.splits["test"], columns_of(arguments.subgroup_column), "test")
    chosen = choose_labelled(data, task.marks, arguments.shots, arguments.label_fraction, arguments.seed)
    are_used = arguments.uses_unlabeled or keep_unlabelled
    images, unlabelled, shards, stream = with_unlabelled(arguments, data, chosen.unlabelled_rows, are_used)
    if not are_used and len(unlabelled):
        logger.info("Method ce learns from labels only, so %d rows without label are not used.", len(unlabelled))
        unlabelled = np.empty(0, dtype=np.int64)
    labels = torch.from_numpy(data.labels("train"))
    count = len(images) + (0 if shards is None else len(shards))
    padding = labels.new_zeros(count - len(labels), *labels.shape[1:])
    logger.info(
        "%d labelled and %d unlabelled training %s, %d classes: %s",
        len(chosen.rows), len(unlabelled), "images" if data.volumes is None else "volumes", len(data.label_names),
        listed(data.label_names),
    )  # fmt: skip
    processor = None
    if data.volumes is not None:
        processor = volume_processor(arguments, task, data)
        if data.masks is not None:
            images = without_masks(images, chosen.rows)
    return RunData(
        task=task,
        train=images,
        labels=torch.cat([labels, padding]),
        labelled_rows=chosen.rows,
        unlabelled_rows=unlabelled,
        validation=Split.of(data, "validation"),
        test=Split.of(data, "test"),
        source=source,
        reading=reading,
        masks=data.masks,
        volumes=data.volumes,
        volume_processor=processor,
        shards=shards,
        stream=stream,
        passed_over=0 if data.unlabelled is None or arguments.use_unlabeled else len(data.unlabelled),
    )


def _with_made_splits(arguments: DistillationArguments, data: ImageData, task: Task) -> ImageData:
    """The data with the splits that it lacks; its source says how these are made."""
    made = [name for name in ("validation", "test") if name not in data.splits]
    if made:
        data.source["made_splits"] = {  # kept with the student, so that the splits can be made again
            "names": made,
            "validation_fraction": arguments.validation_fraction,
            "test_fraction": arguments.test_fraction,
            "seed": arguments.seed_of_splits,
            "group_column": arguments.group_column,
        }
    fractions = arguments.validation_fraction, arguments.test_fraction
    data = complete_splits(data, task.marks, *fractions, arguments.seed_of_splits, arguments.on_leak)
    if made:
        data.source["made_splits"]["rows"] = {name: mark_of_rows(data.splits[name]) for name in made}
    return data


def _load_named(arguments: DistillationArguments) -> ImageData:
    """The data that `arguments` name, as it comes.

    :raises ArgumentError: for an argument of masks where it has classes, or of volumes where it has images.
    """
    data = load_data(
        arguments.dataset,
        config_name=arguments.dataset_config_name,
        revision=arguments.dataset_revision,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
        group_column=arguments.group_column,
        subgroup_columns=columns_of(arguments.subgroup_column),
        label_kind=arguments.label_kind,
        uncertain=arguments.uncertain,
        task=arguments.task,
        mask_column=arguments.mask_column,
        mask_colors=arguments.mask_colors,
        label_names=_names_of_values(arguments.label_names),
        dimensions=arguments.dimensions if arguments.dimensions == "auto" else int(arguments.dimensions),
        volume_channels=arguments.volume_channels,
    )
    kind = "images" if data.volumes is None else "volumes"
    if data.masks is None:
        arguments.refuse_changed(
            ("mask_colors", "skips", "hybrid_norms", "card_images"),
            f"is only for masks, but the data is read as {kind} with classes: leave it out, or ask for masks with "
            "`task` segmentation.",
        )
    if data.volumes is None:
        arguments.refuse_changed(
            OF_VOLUMES,
            "is only for volumes, but the data is read as images: leave it out, or ask for volumes with `dimensions` "
            "3.",
        )
    else:
        arguments.refuse_image_arguments()
    return data


def _names_of_values(names: Sequence[str] | Mapping[int, str] | None) -> Mapping[int, str] | None:
    """The names of mask values, which `load_data` tells from the names of a model's classes by being a mapping."""
    return names if names is None or isinstance(names, Mapping) else dict(enumerate(names))


def _without(rows: np.ndarray, bad: dict[int, str]) -> np.ndarray:
    return rows[~np.isin(rows, list(bad))]

"""What the runs of a comparison share: a decoded data set with its drawn labels, and a loaded teacher."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn

from ..arguments.distillation import DistillationArguments
from ..arguments.values import ArgumentError
from ..data.open_split import OpenSplit
from ..data.order import Visit
from ..data.pixel_store import PixelStore
from ..data.pixels import Transforms
from ..tasks.classification import SingleLabel
from ..tasks.segmentation import Segmentation
from ..training.assembly import build_models, load_teacher
from ..training.linear_probe import scored_features
from ..training.run_data import RunData, load_run_data
from ..training.run_models import LoadedTeacher, Models

# what a loaded teacher depends on
LOADED_BY = (
    "teacher", "teacher_revision", "teacher_dtype", "teacher_image_size", "teacher_batch_size", "teacher_device_map",
    "trust_remote_code",
)  # fmt: skip


class TeachersView:
    """A store whose student is the teacher; masks keep the size that they have for the student."""

    def __init__(self, store: PixelStore):
        self.student, self.teacher, self.masks = store.teacher, None, store.masks
        self.mask, self.source_mask = store.mask, store.source_mask

    def fetch(self, visit: Visit, needs_teacher: bool) -> tuple[Tensor, None, Tensor | None]:
        """As `PixelStore.fetch`; there is no teacher."""
        return self.student[visit.row], None, None if self.masks is None else self.mask(visit.row)


class Bench:
    """Data and teacher of runs that differ in method only.

    :param arguments: of one of these runs, with the unlabelled rows that any of them uses.
    """

    def __init__(self, arguments: DistillationArguments, accelerator: Accelerator):
        self.accelerator = accelerator
        self.run_data = load_run_data(arguments, keep_unlabelled=True)
        if not isinstance(self.run_data.task, SingleLabel | Segmentation):
            raise ArgumentError(
                "`compare` supports masks and single-label tasks only, because logit methods need a softmax."
            )
        if self.run_data.shards is not None or self.run_data.stream is not None:
            kind, way_out = (
                ("tar files", "unpack them") if self.run_data.stream is None else ("a stream", "download it")
            )
            raise ArgumentError(
                f"`compare` shows every method the same decoded images, so `unlabeled_dataset` cannot be {kind}: "
                f"{way_out}."
            )
        self._teachers: dict[tuple, LoadedTeacher] = {}
        self._opened: list[tuple[list[str], RunData]] = []
        self._pooled: dict[str, np.ndarray] = {}
        self.adapted: dict[str, nn.Module] = {}  # the teacher that LoRA trained last, by the settings of that run

    @property
    def has_masks(self) -> bool:
        """Whether the labels are masks."""
        return isinstance(self.run_data.task, Segmentation)

    def teacher(self, arguments: DistillationArguments) -> LoadedTeacher:
        """The teacher that the arguments name, loaded once."""
        key = tuple(str(getattr(arguments, name)) for name in LOADED_BY)
        if key not in self._teachers:
            self._teachers[key] = load_teacher(arguments, self.accelerator)
        return self._teachers[key]

    def models(self, arguments: DistillationArguments, teacher: LoadedTeacher | None = None) -> Models:
        """A new student, from the seed, with projectors if the method has a teacher or one is given."""
        if arguments.method != "ce":
            teacher = teacher or self.teacher(arguments)
        return build_models(arguments, self.run_data, self.accelerator, teacher)

    def open(self, arguments: DistillationArguments, transforms: Transforms) -> RunData:
        """The task with its images as these models see them, and without unlabelled rows if they are not used."""
        # what a teacher reads of volumes is made of what the student does
        each = transforms.each() if self.run_data.volumes is None else [transforms.student]
        shown = [f"{one.channels} {one.processor.to_json_string()}" for one in each]
        run_data = next((run_data for seen, run_data in self._opened if seen[: len(shown)] == shown), None)
        if run_data is None:
            run_data = replace(self.run_data, skipped={})
            run_data.open_images(transforms, arguments.on_bad_image, arguments.on_leak, arguments.bytes_for_volumes())
            self._opened.append((shown, run_data))
        nothing = np.empty(0, dtype=np.int64)
        return run_data if arguments.uses_unlabeled else replace(run_data, unlabelled_rows=nothing)

    def pooled_features(self, arguments: DistillationArguments, models: Models, split: OpenSplit) -> np.ndarray:
        """The frozen teacher's pooled last features (N, C) of a split's rows, un-augmented, computed once."""
        teacher, backbone = models.teacher, models.backbone
        stage, grid = teacher.teacher_stages[-1], teacher.projectors[-1].input_grid
        size = teacher.config.teacher_image_size
        shown = None if models.teacher_processor is None else models.teacher_processor.to_json_string()
        read = (backbone.source["sha256"], backbone.dtype, backbone.slices, shown)
        key = repr((*read, size, stage, grid, split.name))
        if key not in self._pooled:
            self._pooled[key] = scored_features(arguments, models, split, self.accelerator)
        return self._pooled[key]


def as_teacher_task(run_data: RunData) -> RunData:
    """The task with the teacher's pixels in place of the student's."""

    def turned(split: OpenSplit) -> OpenSplit:
        return replace(split, store=TeachersView(split.store))

    return replace(
        run_data, store=TeachersView(run_data.store), validation=turned(run_data.validation), test=turned(run_data.test)
    )

"""The arguments of a distillation: one dataclass serves the command line, YAML files and Python.

Names are those of transformers' TrainingArguments wherever they mean the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any

from .objective_fields import USUAL_TEMPERATURE, ObjectiveFields
from .options import annotations, check_choice, check_values, defaults_under, names
from .plain_values import plain, plain_value
from .task_fields import TaskFields
from .training_fields import TrainingFields
from .values import (
    ArgumentError,
    bytes_of,
    class_names,
    color_names,
    colours_text,
    number_of_views,
    parse_yaml_texts,
    parse_yaml_value,
    rule_of,
    seconds_of,
    window_of,
)
from .volume_values import intensities_of, sides_of, sides_text, spacing_in_mm, spacing_text, window_text

BATCH_SIZES = {  # by default, of images and of volumes
    "per_device_train_batch_size": (32, 4),
    "per_device_unlabeled_batch_size": (64, 4),
}
OF_MASKS = {
    "rd_plus": {
        "teacher_features": "stage", "target_views": "one", "divergence": "kl",
        "temperature": USUAL_TEMPERATURE["kl"], "ensemble_share": 0.0,
    },
}  # fmt: skip
LICENSE = re.compile(r"[a-z0-9][a-z0-9.\-]*")
IN_MEMORY = "(a data set in memory)"
MODEL_IN_MEMORY = "(a model in memory)"
OF_THE_PROCESSOR = ("spacing", "intensity_window", "volume_size", "crop_size")  # of volumes
OF_VOLUMES = (*OF_THE_PROCESSOR, "slice_axis", "volume_channels")
OF_IMAGES = {  # and what to do where the data are volumes
    "student_image_size": "give `crop_size` for masks, or `volume_size` for classes",
    "student_mean": "volumes have windows of intensity, so leave it out",
    "student_std": "volumes have windows of intensity, so leave it out",
    "page": "leave it out, because all frames of a file are one volume",
    "dicom_window": "give `intensity_window`",
}


def defaults_of(method: str, of_volumes: bool, of_masks: bool) -> dict[str, Any]:
    """The defaults that depend on the data.

    CKA compares positions where a step has few rows and its model answers with a map: masks of volumes. RD+ leaves out
    of masks what it reads of several views, and compares each pixel.
    """
    found = {name: of_kind[of_volumes] for name, of_kind in BATCH_SIZES.items()}
    found["cka_features"] = "positions" if of_volumes and of_masks else "pooled"
    return found | (OF_MASKS.get(method, {}) if of_masks else {})


@dataclass
class DistillationArguments(TrainingFields, ObjectiveFields, TaskFields):
    """Everything a run depends on. The fields stand in the order of the bases from last to first.

    :ivar not_given: the arguments whose value is the method's default, which gives way to that of the data.
    :ivar origin: which values are from a file, as an `effects.Origin`; None where all were given for this run.
    :raises ArgumentError: when a value is out of range or two arguments contradict each other.
    """

    origin = None

    def __post_init__(self):
        self.num_views = number_of_views(plain(self.num_views))
        self.dimensions = str(plain(self.dimensions))
        for name, annotation in annotations(type(self)).items():
            setattr(self, name, plain_value(name, getattr(self, name), annotation))
        self.student = parse_yaml_value(self.student)
        if isinstance(self.student, list):
            raise ArgumentError(f"`student` is {self.student}; it must be one text, or a mapping with a model_type.")
        self.label_column = parse_yaml_texts(self.label_column)
        self.subgroup_column = parse_yaml_texts(self.subgroup_column)
        self.operating_point = rule_of(self.operating_point)
        self.label_names = class_names(parse_yaml_texts(self.label_names, mappings=True))
        self.mask_colors = color_names(parse_yaml_texts(self.mask_colors, mappings=True))
        self.teacher_device_map = parse_yaml_value(self.teacher_device_map)
        for name in ("teacher_stages", "student_stages"):
            stages = parse_yaml_texts(getattr(self, name))
            setattr(self, name, [stages] if isinstance(stages, str) else stages)  # one path
        self.student_mean = colours_text("student_mean", self.student_mean, above_zero=False)
        self.student_std = colours_text("student_std", self.student_std, above_zero=True)
        self.spacing, self.intensity_window = spacing_text(self.spacing), window_text(self.intensity_window)
        self.volume_size = sides_text("volume_size", self.volume_size)
        self.crop_size = sides_text("crop_size", self.crop_size)
        self.report_to = None if self.report_to == "none" else parse_yaml_texts(self.report_to)
        check_choice(self, "method")
        defaults = defaults_under(type(self), self.method)
        of_methods = names(type(self), lambda fact: fact.by_method is not None)
        self.not_given = frozenset(name for name in of_methods if getattr(self, name) is None)
        for name in self.not_given:
            setattr(self, name, defaults[name])
        if "kl_weight_end" in self.not_given:
            self.kl_weight_end = self.kl_weight
        if "temperature" in self.not_given:
            self.temperature = USUAL_TEMPERATURE["dist" if self.divergence == "dist" else "kl"]
        for name in ("teacher", "student"):
            model = getattr(self, name)
            if not isinstance(model, (str, dict, NoneType)):
                raise ArgumentError(
                    f"`{name}` is a {type(model).__name__}: give a Hub id or a folder. In Python, "
                    "`rd_hf.distill_from_models` takes models in hand."
                )
        check_values(self)
        if self.method != "ce" and self.teacher is None:
            raise ArgumentError(
                f"`teacher` is missing: method {self.method} needs one. Only method ce trains without a teacher."
            )
        self._check_together()
        self.seconds_to_run()
        self.bytes_to_cache()
        window_of(self.dicom_window)

    def _check_together(self):
        if self.max_steps == 0:
            raise ArgumentError("`max_steps` is 0: give a number above 0, or -1 for as many steps as the epochs have.")
        if self.shots is not None and self.label_fraction is not None:
            raise ArgumentError("`shots` and `label_fraction` both set how many labels are kept. Give one of them.")
        of_masks = ("mask_column", "mask_colors", "label_names")
        if self.task == "classification" and any(getattr(self, name) is not None for name in of_masks):
            raise ArgumentError(
                f"{', '.join(f'`{name}`' for name in of_masks)} are of masks, but `task` is classification."
            )
        if self.label_column is not None and (self.task == "segmentation" or self.mask_column is not None):
            raise ArgumentError(
                "`label_column` is of classes, and masks are asked for. Give `mask_column` in its place."
            )
        if self.operating_point is not None and (self.task == "segmentation" or self.mask_column is not None):
            raise ArgumentError("`operating_point` is of classes, and masks are asked for: leave it out.")
        if self.positive_label is not None and self.operating_point is None:
            raise ArgumentError(
                "`positive_label` needs `operating_point`, whose class it names: give both, or neither."
            )
        if self.mask_colors is not None and self.label_names is not None:
            raise ArgumentError("`mask_colors` and `label_names` both name the classes. Give only one of them.")
        if self.dimensions == "2":
            self.refuse_changed(OF_VOLUMES, "is only for volumes, but `dimensions` is 2: leave it out.")
        if self.dimensions == "3":
            self.refuse_image_arguments()
        if self.unlabeled_streaming and self.unlabeled_dataset is None:
            raise ArgumentError(
                "`unlabeled_streaming` needs `unlabeled_dataset`, which it reads: give both, or neither."
            )
        if self.bf16 and self.fp16:
            raise ArgumentError("`bf16` and `fp16` exclude each other. Give only one of them.")
        if self.verify_cache and not (self.uses_cache and self.num_views):
            raise ArgumentError(
                "`verify_cache` needs a cache. Give a teacher and a number of views, and leave `cache` true."
            )
        if self.push_to_hub and self.hub_model_id is None:
            raise ArgumentError("`push_to_hub` needs `hub_model_id`, the name of the repo, such as me/xray-student.")
        if self.hub_teacher_id is not None and (not self.push_to_hub or self.method == "ce"):
            raise ArgumentError("`hub_teacher_id` needs `push_to_hub` and a method that has a teacher.")
        if self.license is not None and not LICENSE.fullmatch(self.license):
            raise ArgumentError(f"`license` is {self.license!r}; it must be spelled as on the Hub, such as apache-2.0.")
        if self.resume and self.overwrite_output_dir:
            raise ArgumentError("`resume` and `overwrite_output_dir` exclude each other. Give only one of them.")

    def seconds_to_run(self) -> float | None:
        """`max_run_time` in seconds.

        :raises ArgumentError: when it is neither hours nor HH:MM:SS.
        """
        return None if self.max_run_time is None else seconds_of(self.max_run_time)

    def bytes_to_cache(self) -> int | None:
        """`cache_limit` in bytes.

        :raises ArgumentError: when it is not a number with a unit.
        """
        return None if self.cache_limit is None else bytes_of(self.cache_limit)

    def bytes_for_volumes(self) -> int | None:
        """Half of `cache_limit`: what resampled volumes may take, and their features."""
        limit = self.bytes_to_cache()
        return None if limit is None else limit // 2

    def with_defaults(self, of_volumes: bool, of_masks: bool) -> DistillationArguments:
        """These arguments with the data's default in place of each that depends on the data and is not given."""
        found = defaults_of(self.method, of_volumes, of_masks).items()
        chosen = {name: value for name, value in found if name in self.not_given or getattr(self, name) is None}
        if chosen.get("divergence", self.divergence) == "dist":
            chosen.pop("temperature", None)
        return self.with_values(**chosen)

    def with_values(self, **changes: Any) -> DistillationArguments:
        """These arguments with other values; unlike `dataclasses.replace` it remembers which are not given."""
        kept = {field.name: getattr(self, field.name) for field in fields(self)} | dict.fromkeys(self.not_given)
        made = type(self)(**(kept | changes))
        made.origin = self.origin
        return made

    def refuse_changed(self, names: Sequence[str], why: str) -> None:
        """:raises ArgumentError: for the first of these arguments that has not its default; `why` follows its name."""
        defaults = defaults_under(type(self), self.method)
        for name in names:
            if getattr(self, name) != defaults[name]:
                raise ArgumentError(f"`{name}` {why}")

    def refuse_image_arguments(self) -> None:
        """:raises ArgumentError: for an argument that only images have, where the data are volumes."""
        for name, instead in OF_IMAGES.items():
            self.refuse_changed([name], f"is only for images, but the data are read as volumes: {instead}.")

    @property
    def grid_spacing(self) -> tuple[float, float, float] | None:
        """`spacing` in millimetres."""
        return spacing_in_mm(self.spacing)

    @property
    def intensities(self) -> tuple[float, float] | None:
        """The lowest and highest value of `intensity_window`."""
        return intensities_of(self.intensity_window)

    @property
    def sides_of_volume(self) -> tuple[int, int, int] | None:
        """`volume_size` in voxels."""
        return sides_of(self.volume_size)

    @property
    def sides_of_crop(self) -> tuple[int, int, int] | None:
        """`crop_size` in voxels."""
        return sides_of(self.crop_size)

    @property
    def student_colours(self) -> dict[str, list[float]]:
        """Those of `student_mean` and `student_std` that are given, under the names of an image processor."""
        given = {"image_mean": self.student_mean, "image_std": self.student_std}
        return {name: [float(part) for part in text.split(",")] for name, text in given.items() if text is not None}

    @property
    def seed_of_views(self) -> int:
        """The seed from which the augmentation of each (row, view) is drawn."""
        return self.seed if self.view_seed is None else self.view_seed

    @property
    def seed_of_splits(self) -> int:
        """The seed with which missing splits are drawn."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def views(self) -> int | None:
        """Number of different views per image; None means a new view in every epoch."""
        return self.num_views if self.augment else 1

    @property
    def uses_cache(self) -> bool:
        """Whether the teacher's features are cached. This needs a teacher, a limited number of views and `cache`."""
        return self.cache and self.views is not None and self.method != "ce"

    @property
    def uses_unlabeled(self) -> bool:
        """Whether rows without a label take part in training. Method ce has no term for them."""
        return self.method != "ce" and (self.use_unlabeled or self.unlabeled_dataset is not None)

    def to_dict(self) -> dict[str, Any]:
        """All arguments as plain values, in their order above; a data set in memory is only named as such."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in names(type(self), lambda fact: fact.text == "data"):
            if values[name] is not None and not isinstance(values[name], str):
                values[name] = IN_MEMORY
        return values

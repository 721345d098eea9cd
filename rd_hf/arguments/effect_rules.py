"""The table of `effects`: which arguments nothing reads, when, and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from .distillation import DistillationArguments
from .options import names


@dataclass(frozen=True)
class Uses:
    """What a method makes use of.

    :ivar teacher: a foundation model.
    :ivar reprogramming: projectors and hybrid logits.
    :ivar logits: the student learns logits of the teacher.
    :ivar temperature: it divides logits by the argument of that name.
    :ivar vectors: the teacher may be read as one vector.
    :ivar unlabelled: a part of its loss needs no labels.
    :ivar steps: it is trained in optimiser steps.
    :ivar cache: the teacher's features are cached.
    :ivar processes: a step may be divided among processes and accumulated batches.
    """

    teacher: bool = True
    reprogramming: bool = True
    logits: bool = True
    temperature: bool = True
    vectors: bool = True
    unlabelled: bool = True
    steps: bool = True
    cache: bool = True
    processes: bool = True

    @classmethod
    def of(cls, method: str) -> Uses:
        """Those of a method of rd-hf distill."""
        return cls() if method != "ce" else cls(False, False, False, False, False, unlabelled=False, cache=False)


@dataclass(frozen=True)
class Known:
    """What is known of a run beside its arguments; None is not known, or not yet.

    :ivar of_volumes: whether the data are volumes.
    :ivar of_masks: whether the labels are masks.
    :ivar made_splits: the splits that the data lacks, so that they are made of train.
    :ivar has_norms: whether the student has batch norms.
    """

    of_volumes: bool | None = None
    of_masks: bool | None = None
    made_splits: Collection[str] | None = None
    has_norms: bool | None = None

    def stated_by(self, arguments: DistillationArguments) -> Known:
        """With what the arguments say of the data, where it is not known."""
        volumes = {"2": False, "3": True}.get(arguments.dimensions)
        masks = {"classification": False, "segmentation": True}.get(arguments.task)
        return replace(
            self,
            of_volumes=volumes if self.of_volumes is None else self.of_volumes,
            of_masks=masks if self.of_masks is None else self.of_masks,
        )


class Situation(NamedTuple):
    """What a rule is asked about."""

    arguments: DistillationArguments
    uses: Uses
    known: Known

    @property
    def shows_crops(self) -> bool | None:
        """Whether views are crops, which are drawn without augmentation too; None is not known."""
        both = (self.known.of_volumes, self.known.of_masks)
        return False if False in both else None if None in both else True

    @property
    def has_one_view(self) -> bool:
        """Whether each image is known to be shown in one view only."""
        unaugmented = not self.arguments.augment and self.shows_crops is False
        return unaugmented or self.arguments.num_views == 1

    @property
    def has_kl(self) -> bool:
        """Whether the student learns from logits at some step."""
        return bool(self.arguments.kl_weight or self.arguments.kl_weight_end)

    @property
    def has_dist(self) -> bool:
        """Whether it does so by DIST."""
        return self.has_kl and self.arguments.divergence == "dist"


@dataclass(frozen=True)
class Rule:
    """Arguments that nothing reads in some situation.

    :ivar names: of the arguments.
    :ivar holds: whether nothing reads them; False where it is not known.
    :ivar because: why, with the method as `{it}` and any argument by its name.
    :ivar causes: the arguments whose values make it so.
    :ivar instead: the way out.
    """

    names: tuple[str, ...]
    holds: Callable[[Situation], bool]
    because: str
    causes: tuple[str, ...]
    instead: str = "leave it out"


def _is_folder(name: Any) -> bool:
    return isinstance(name, str) and Path(os.path.expanduser(name)).is_dir()


REPROGRAMMING = tuple(names(DistillationArguments, lambda fact: fact.compare == "reprogramming"))
OF_TEACHER = (
    "teacher", "teacher_revision", "teacher_dtype", "teacher_batch_size", "teacher_device_map", "teacher_stages",
    "teacher_features", "teacher_image_size", "slice_axis", "student_stages", "target_views", "cka_batch",
    "temperature",
)  # fmt: skip
OF_CACHE = ("cache_dir", "cache_dtype")
UNLABELLED = (
    "use_unlabeled", "unlabeled_dataset", "unlabeled_streaming", "stream_buffer_size",
    "per_device_unlabeled_batch_size",
)  # fmt: skip
AUGMENTATION = (
    "rotation_degrees", "scale", "shift", "horizontal_flip", "vertical_flip", "brightness", "contrast", "gamma",
)  # fmt: skip
OF_STEPS = (
    "num_train_epochs", "max_steps", "per_device_train_batch_size", "learning_rate", "weight_decay", "warmup_ratio",
    "lr_scheduler_type", "max_grad_norm", "label_smoothing", "eval_steps", "logging_steps", "early_stopping_patience",
    "gradient_checkpointing", "dataloader_num_workers",
)  # fmt: skip
DATA = ("dataset", "dataset_config_name", "dataset_revision", "task", "mask_column", "dimensions")
KL = ("kl_weight", "kl_weight_end")
NO_KL = "`kl_weight` and `kl_weight_end` are 0"

# fmt: off
RULES = (
    # the method
    Rule((*OF_TEACHER, *REPROGRAMMING), lambda s: not s.uses.teacher, "{it} has no teacher", ("method",)),
    Rule(REPROGRAMMING, lambda s: not s.uses.reprogramming, "{it} does not reprogram the teacher", ("method",)),
    Rule(("temperature",), lambda s: not s.uses.temperature, "{it} divides no logits by it", ("method",)),
    Rule(
        ("target_views",), lambda s: not s.uses.logits, "its student does not learn logits of the teacher", ("method",),
    ),
    Rule(
        ("teacher_features",), lambda s: not s.uses.vectors, "{it} reads the maps of the teacher's stages",
        ("method",),
    ),
    Rule(OF_CACHE, lambda s: not s.uses.cache, "{it} caches no features of a teacher", ("method",)),
    Rule(UNLABELLED, lambda s: not s.uses.unlabelled, "{it} learns from labels only", ("method",)),
    Rule(OF_STEPS, lambda s: not s.uses.steps, "{it} is not trained in steps", ("method",)),
    Rule(
        ("cka_batch", "sync_batch_norm", "process_timeout"), lambda s: not s.uses.processes,
        "each run of a comparison has one process, and accumulates no batches", (),
    ),
    Rule(
        ("stage_schedule",), lambda s: s.arguments.method != "drd",
        "{it} has one hybrid pass at most, and only drd has several", ("method",),
    ),

    # the loss
    Rule(
        ("cka_estimator", "cka_features", "cka_positions", "detach_reprogrammed_in_cka"),
        lambda s: not s.arguments.cka_weight, "`cka_weight` is 0", ("cka_weight",),
    ),
    Rule(
        ("cka_positions",), lambda s: s.arguments.cka_features not in (None, "positions"),
        "CKA compares {cka_features} features", ("cka_features", *DATA),
        "set `cka_features` to positions, or leave it out",
    ),
    Rule(("divergence", "detach_hybrid_in_kl"), lambda s: not s.has_kl, NO_KL, KL),
    Rule(("temperature",), lambda s: s.uses.reprogramming and not s.has_kl, NO_KL, KL),
    Rule(
        ("probe_share",), lambda s: not (s.has_kl or s.arguments.ensemble_share),
        f"{NO_KL}, and so is `ensemble_share`", (*KL, "ensemble_share"),
    ),
    Rule(
        ("target_views",),
        lambda s: s.uses.reprogramming and not (
            s.has_kl or s.arguments.ensemble_share or s.arguments.probe_weight
        ),
        f"{NO_KL}, and so are `ensemble_share` and `probe_weight`", (*KL, "ensemble_share", "probe_weight"),
    ),
    Rule(
        ("ensemble_share",), lambda s: not (s.has_kl or s.arguments.uses_unlabeled),
        f"{NO_KL}, and no images without a label are used", (*KL, "use_unlabeled", "unlabeled_dataset"),
    ),
    Rule(
        ("cka_batch",), lambda s: not (s.arguments.cka_weight or s.has_dist), "the loss has neither CKA nor DIST",
        ("cka_weight", "divergence", *KL),
    ),
    Rule(
        ("target_views",), lambda s: s.has_one_view and s.arguments.target_views == "mean",
        "each image has one view only", ("num_views", "augment", *DATA), "give more `num_views`, or leave it out",
    ),
    Rule(
        ("projector_channels",), lambda s: s.arguments.projector_layers == 1,
        "a projector of one layer has no bottleneck", ("projector_layers",),
        "set `projector_layers` to 2 or more, or leave it out",
    ),
    Rule(
        ("hybrid_norms", "sync_batch_norm"), lambda s: s.known.has_norms is False, "the student has no batch norms",
        ("student",),
    ),

    # views and cache
    Rule(
        AUGMENTATION, lambda s: not s.arguments.augment, "`augment` is false", ("augment",),
        "leave it out, or `augment` true",
    ),
    Rule(
        ("num_views",),
        lambda s: not s.arguments.augment and s.shows_crops is False and s.arguments.num_views != 1,
        "`augment` is false, so that each image has one view", ("augment", *DATA), "leave it out, or `augment` true",
    ),
    Rule(
        ("view_seed",), lambda s: not s.arguments.augment and s.shows_crops is False,
        "`augment` is false, so that nothing is drawn", ("augment", *DATA), "leave it out, or `augment` true",
    ),
    Rule(("shift",), lambda s: s.shows_crops is True, "crops of volumes lie anywhere", DATA),
    Rule(OF_CACHE, lambda s: not s.arguments.cache, "`cache` is false", ("cache",), "leave it out, or `cache` true"),
    Rule(
        ("cache_limit",), lambda s: s.known.of_volumes is False and not (s.uses.cache and s.arguments.cache),
        "no features of a teacher are cached", ("method", "cache", *DATA),
    ),
    Rule(
        ("cache_dtype",), lambda s: s.arguments.num_views is None and (s.arguments.augment or s.shows_crops is True),
        "`num_views` is endless, and views that are shown once are not cached", ("num_views",),
        "give `num_views` a number, or leave it out",
    ),

    # training and data
    Rule(
        ("num_train_epochs",), lambda s: s.arguments.max_steps > 0, "`max_steps` is given and says how long to train",
        ("max_steps",), "give only one of them, or `max_steps` -1",
    ),
    Rule(
        ("per_device_unlabeled_batch_size",), lambda s: not s.arguments.uses_unlabeled,
        "no images without a label are used", ("use_unlabeled", "unlabeled_dataset"),
        "add `use_unlabeled` or `unlabeled_dataset`, or leave it out",
    ),
    Rule(
        ("label_kind", "uncertain"), lambda s: s.known.of_masks is True,
        "it says how labels of classes are read, and the data has masks", DATA,
    ),
    Rule(
        ("validation_fraction",), lambda s: s.known.made_splits is not None and "validation" not in s.known.made_splits,
        "the data has a validation split", DATA,
    ),
    Rule(
        ("test_fraction",), lambda s: s.known.made_splits is not None and "test" not in s.known.made_splits,
        "the data has a test split", DATA,
    ),
    Rule(
        ("split_seed",), lambda s: s.known.made_splits is not None and not s.known.made_splits,
        "the data has a validation and a test split, so that none is drawn", DATA,
    ),

    # models and publishing
    Rule(
        ("student_revision",), lambda s: isinstance(s.arguments.student, dict), "the student is a new model",
        ("student",),
    ),
    Rule(
        ("student_revision",), lambda s: _is_folder(s.arguments.student), "the student is a folder", ("student",),
    ),
    Rule(
        ("teacher_revision",), lambda s: _is_folder(s.arguments.teacher), "the teacher is a folder", ("teacher",),
    ),
    Rule(
        ("hub_private_repo",), lambda s: not s.arguments.push_to_hub, "nothing is pushed", ("push_to_hub",),
        "add `push_to_hub`, or leave it out",
    ),
)
# fmt: on
CHECKED = frozenset(name for rule in RULES for name in rule.names)

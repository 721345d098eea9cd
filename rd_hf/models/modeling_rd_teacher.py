"""The reprogrammed teacher: a frozen backbone whose features go through projectors into the student and its head.

RD (arXiv 2407.06504) injects after the student's last stage only, DRD (arXiv 2605.04447) after every one. Checkpoints
hold the projectors and the student; the backbone is fetched from where it came from.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from .backbone import Backbone, BackboneError, fetch_backbone
from .configuration_rd import RDTeacherConfig
from .features import Stage, StageError, StageFeature
from .grids import Grid
from .modeling_rd_student import RDStudentForImageClassification
from .probe import random_pixels
from .reprogramming import Projector
from .stages import find_stages, image_tower, pair_stages
from .tape import StagedModel, input_channels


@dataclass
class RDTeacherOutput(ModelOutput):
    """What a pass of the reprogrammed teacher gives.

    :ivar loss: of `logits`, where there are labels.
    :ivar logits: (B, num_labels), the hybrid logits of the last stage.
    :ivar hybrid_logits: (B, num_labels) for each stage that was run, shallow to deep.
    :ivar student_logits: (B, num_labels), the student's own; None without the student's images.
    :ivar student_features: the student's own feature after each stage; None without the student's images.
    :ivar reprogrammed_features: the projected teacher feature for each stage that was run.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hybrid_logits: tuple[Tensor, ...] | None = None
    student_logits: Tensor | None = None
    student_features: tuple[StageFeature, ...] | None = None
    reprogrammed_features: tuple[StageFeature, ...] | None = None


class RDTeacherForImageClassification(PreTrainedModel):
    """Frozen backbone, projectors, and the student whose remaining stages and head classify the projected features.

    `backbone` is None until one is attached: training keeps it apart, so that only what is trained is in the module.

    :param config: the teacher's configuration.
    """

    config_class = RDTeacherConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # the wrapped models decide, and refuse what they do not support
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: RDTeacherConfig) -> None:
        super().__init__(config)
        dtype = torch.get_default_dtype()
        self.student = RDStudentForImageClassification._from_config(config.student_config, dtype=dtype)
        self.teacher_stages = [Stage.from_dict(stage) for stage in config.teacher_stages]
        self.student_stages = [Stage.from_dict(stage) for stage in config.student_stages]
        self.projectors = nn.ModuleList(
            Projector(teacher, student, config.hidden_channels, config.projector_layers)
            for teacher, student in zip(self.teacher_stages, self.student_stages, strict=True)
        )
        self.backbone: nn.Module | None = None
        if config.backbone_included:
            self.backbone = image_tower(AutoModel.from_config(config.backbone_config, dtype=dtype))
        self._extractor: Backbone | None = None
        self._staged_student: StagedModel | None = None
        self._independent_student: StagedModel | None = None  # that of which it is known to need no image
        self.supports_gradient_checkpointing = self.student.supports_gradient_checkpointing
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Projectors initialise themselves when they are built, the student does so as the model that it is."""

    @classmethod
    def from_parts(
        cls,
        student: RDStudentForImageClassification,
        backbone: Backbone,
        teacher_image_size: int | Sequence[int],
        stages: Literal["last", "all"] = "last",
        hidden_channels: int = 256,
        projector_layers: int = 3,
        teacher_stages: Sequence[str] | None = None,
        student_stages: Sequence[str] | None = None,
    ) -> RDTeacherForImageClassification:
        """New projectors between a frozen backbone and a student. The student is shared, not copied.

        The backbone is tapped at the right stages, so that `backbone.extract` gives this model's `teacher_features`; it
        is not attached.

        :param teacher_image_size: rows and columns, or one side, in pixels, of the backbone's input.
        :param stages: "last" is RD, "all" the student's stages is DRD.
        :param hidden_channels: width of the projectors' bottleneck.
        :param projector_layers: convolutions of a projector.
        :param teacher_stages: module paths of the backbone's stages' last blocks, where they cannot be found.
        :param student_stages: the same for the student's classifier.
        :raises StageError: when stages cannot be found, or a name is wrong.
        """
        if stages not in ("last", "all"):
            raise ValueError(f"`stages` is {stages!r}; it must be 'last' (RD) or 'all' (DRD).")
        sides = (teacher_image_size,) * 2 if isinstance(teacher_image_size, int) else tuple(teacher_image_size)
        from_teacher = backbone.find_stages(sides, teacher_stages)
        of_student = find_stages(student.model, tuple(student.config.image_size), student_stages).stages
        pairs = list(zip(pair_stages(len(from_teacher), len(of_student)), of_student, strict=True))
        if stages == "last":
            pairs = pairs[-1:]
        # custom code has no config that transformers could build again
        is_known = not type(backbone.config).is_custom_code()
        config = RDTeacherConfig(
            student_config=student.config,
            backbone_config=copy.deepcopy(backbone.config) if is_known else None,
            backbone_source=backbone.source,
            teacher_stages=[from_teacher[index].to_dict() for index, _ in pairs],
            student_stages=[stage.to_dict() for _, stage in pairs],
            hidden_channels=hidden_channels,
            projector_layers=projector_layers,
            teacher_image_size=sides,
        )
        model = cls._around(config, student)
        model.tap(backbone)
        return model

    @classmethod
    def _around(cls, config: RDTeacherConfig, student: RDStudentForImageClassification) -> Any:
        """A new model around a student that exists: only the projectors are built."""
        with torch.device("meta"):
            model = cls(config)
        config.dtype = student.dtype
        model.student = student
        model.projectors.to_empty(device=student.device)
        for projector in model.projectors:
            projector.reset_parameters()
        model.projectors.to(student.dtype)
        return model.train(student.training)

    def tap(self, backbone: Backbone) -> None:
        """Has `backbone.extract` return this model's `teacher_features`, one for each projector."""
        grids = [projector.input_grid for projector in self.projectors]
        backbone.tap(self.teacher_stages, grids, tuple(self.config.teacher_image_size))

    def attach(self, backbone: Backbone) -> None:
        """Makes the backbone part of this model, which then classifies images.

        :raises BackboneError: when it is not the backbone that the projectors were trained with.
        """
        expected, given = self.config.backbone_source["sha256"], backbone.source["sha256"]
        if given != expected:
            raise BackboneError(
                f"The projectors were trained with the backbone {self.config.backbone_source['id']!r}, whose weights "
                f"have the hash {expected}, but those of {backbone.source['id']!r} have {given}. Give the same "
                "checkpoint."
            )
        backbone.to(self.device)
        self.tap(backbone)
        self.backbone, self._extractor = backbone.tower, backbone

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *args: Any,
        backbone: str | os.PathLike[str] | Backbone | PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers; then the backbone is fetched, checked and attached, if the checkpoint does not hold it.

        :param backbone: the backbone, or its Hub id or folder; by default where the config says it came from.
        :raises BackboneError: when the backbone was local and is not given, or is another one.
        :raises ValueError: when the checkpoint lacks weights.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        trust_remote_code = bool(kwargs.get("trust_remote_code", False))
        model, loading = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
        )
        if loading["missing_keys"]:
            missing = ", ".join(sorted(loading["missing_keys"])[:8])
            raise ValueError(f"{pretrained_model_name_or_path} lacks weights of the reprogrammed teacher: {missing}.")
        if not model.config.backbone_included:
            model.attach(fetch_backbone(backbone, model.config.backbone_source, model.dtype, trust_remote_code))
        return (model, loading) if wants_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        save_backbone: bool = False,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """As in transformers, without the backbone's weights.

        :param save_backbone: save these too, so that loading needs nothing else.
        :raises BackboneError: when there is no backbone to save, or none that transformers could build again.
        """
        if save_backbone and (self.backbone is None or self.config.backbone_config is None):
            reason = "none is attached" if self.backbone is None else "its code is not part of transformers"
            raise BackboneError(f"The backbone cannot be saved with the teacher: {reason}.")
        tensors = self.state_dict() if state_dict is None else state_dict
        if not save_backbone:
            tensors = {name: value for name, value in tensors.items() if not name.startswith("backbone.")}
        included, self.config.backbone_included = self.config.backbone_included, save_backbone
        try:
            super().save_pretrained(save_directory, state_dict=tensors, **kwargs)
        finally:
            self.config.backbone_included = included

    def train(self, mode: bool = True) -> RDTeacherForImageClassification:
        """Train or eval mode of the student and the projectors; the backbone stays in eval mode."""
        super().train(mode)
        if self.backbone is not None:
            self.backbone.eval()
        return self

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        student_pixel_values: Tensor | None = None,
        teacher_features: Sequence[StageFeature] | None = None,
    ) -> RDTeacherOutput:
        """The student's own pass and one hybrid pass for each stage, or, without the student's images, the last one.

        Training: `student_pixel_values` with `teacher_features` (or `pixel_values`, if a backbone is attached).
        Inference: `pixel_values` alone, or `teacher_features` alone.

        :param pixel_values: (B, 3, H, W), normalised by the teacher's image processor.
        :param labels: (B,) class indices, or (B, num_labels) zeros and ones, for the loss of the last hybrid logits.
        :param student_pixel_values: (B, 3, h, w), the same images, normalised by the student's image processor.
        :param teacher_features: what `Backbone.extract` gives for the stages tapped by :meth:`tap`.
        :raises BackboneError: when there are neither teacher features nor an attached backbone.
        """
        if teacher_features is None:
            teacher_features = self._extract(pixel_values)
        if len(teacher_features) != len(self.projectors):
            raise ValueError(
                f"There are {len(self.projectors)} projectors, but {len(teacher_features)} teacher features."
            )
        if student_pixel_values is None:
            output = self._classify(teacher_features)
        else:
            output = self._co_train(student_pixel_values, teacher_features)
        if labels is not None:
            output.loss = self.loss_function(labels, output.logits, self.config)
        return output

    def _co_train(self, student_pixel_values: Tensor, teacher_features: Sequence[StageFeature]) -> RDTeacherOutput:
        staged = self.staged_student
        student, tape = staged.forward(student_pixel_values)
        reprogrammed = self._reprogram(teacher_features)
        hybrid = tuple(staged.resume(tape, index, feature).logits for index, feature in enumerate(reprogrammed))
        return RDTeacherOutput(
            logits=hybrid[-1],
            hybrid_logits=hybrid,
            student_logits=student.logits,
            student_features=tuple(tape.features),
            reprogrammed_features=tuple(reprogrammed),
        )

    def compared_features(
        self, student_pixel_values: Tensor, teacher_features: Sequence[StageFeature]
    ) -> RDTeacherOutput:
        """The student's and the reprogrammed features as in `forward`, without any hybrid pass."""
        _, tape = self.staged_student.forward(student_pixel_values)
        return RDTeacherOutput(
            student_features=tuple(tape.features), reprogrammed_features=tuple(self._reprogram(teacher_features))
        )

    def _reprogram(self, teacher_features: Sequence[StageFeature]) -> list[StageFeature]:
        return [project(feature) for project, feature in zip(self.projectors, teacher_features, strict=True)]

    def _classify(self, teacher_features: Sequence[StageFeature]) -> RDTeacherOutput:
        """The last stage's hybrid logits; the student's pass on blank images only shows the way from that stage on.

        :raises StageError: when these logits depend on the student's image as well.
        """
        if self.student.training:
            raise ValueError("Train mode needs the student's images: pass student_pixel_values, or call eval().")
        feature = self.projectors[-1](teacher_features[-1])
        channels = input_channels(self.student.model)
        blank = feature.map.new_zeros(len(feature.map), channels, *self.config.student_config.image_size)
        if self._independent_student is not self.staged_student:
            self._check_independence(blank[:1], StageFeature(*(None if part is None else part[:1] for part in feature)))
        logits = self._resumed_logits(blank, feature)
        return RDTeacherOutput(logits=logits, hybrid_logits=(logits,), reprogrammed_features=(feature,))

    def _resumed_logits(self, student_pixel_values: Tensor, feature: StageFeature) -> Tensor:
        """The hybrid logits of the last stage; whatever passes around it is that of these images."""
        with torch.no_grad():
            _, tape = self.staged_student.forward(student_pixel_values)
        return self.staged_student.resume(tape, len(self.projectors) - 1, feature).logits

    @torch.no_grad()
    def _check_independence(self, blank: Tensor, feature: StageFeature) -> None:
        """Refuse a student that reads skip connections, or the image again, after its last stage.

        :param blank: one image.
        :param feature: to inject, for one image.
        """
        other = random_pixels(self.student.model, *blank.shape[1:2], tuple(blank.shape[2:]))[:1].to(blank)
        logits = [self._resumed_logits(image, feature) for image in (blank, other)]
        if not torch.allclose(*logits, equal_nan=True):
            raise StageError(
                f"{type(self.student.model).__name__} cannot classify the teacher's features alone: behind "
                f"{self.student_stages[-1].name!r} it also reads other features of the image, or the image itself "
                "(skip connections). Pass student_pixel_values as well, the same images prepared for the student."
            )
        self._independent_student = self.staged_student

    @property
    def staged_student(self) -> StagedModel:
        """The student's classifier as a chain of stages; a view that is made when first needed, not a submodule."""
        if self._staged_student is None or self._staged_student.model is not self.student.model:
            image_size: Grid = tuple(self.config.student_config.image_size)
            names = [stage.name for stage in self.student_stages]
            # trained since they were chosen, and maybe silent somewhere by now: no reason to refuse a checkpoint
            self._staged_student = find_stages(self.student.model, image_size, names, must_reach_output=False)
        return self._staged_student

    def _extract(self, pixel_values: Tensor | None) -> list[StageFeature]:
        if self.backbone is None:
            raise BackboneError(
                "No backbone is attached: pass teacher_features, or attach a backbone with model.attach(...)."
            )
        if pixel_values is None:
            raise ValueError("Pass pixel_values for the backbone, or teacher_features.")
        if self._extractor is None or self._extractor.tower is not self.backbone:
            self._extractor = Backbone(self.backbone, self.config.backbone_source)
            self.tap(self._extractor)
        return self._extractor.extract(pixel_values)


# `save_pretrained` then puts this file and those that it imports beside the weights
RDTeacherForImageClassification.register_for_auto_class("AutoModelForImageClassification")

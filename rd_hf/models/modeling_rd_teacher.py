"""The reprogrammed teacher: a frozen backbone whose features go through projectors into the student and its head.

RD (arXiv 2407.06504) injects after the student's last stage only, DRD (arXiv 2605.04447) after every one. Checkpoints
hold the projectors and the student; the backbone is fetched from where it came from.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers.modeling_outputs import ModelOutput

from .backbone import Backbone
from .configuration_rd import RDTeacherConfig
from .features import Stage, StageError, StageFeature
from .grids import Grid
from .hybrid_norms import PassStatistics
from .modeling_rd_student import RDStudent, RDStudentForImageClassification
from .probe import random_pixels, read_together, undisturbed
from .reprogramming import Projector
from .stages import find_stages, image_tower, pair_stages
from .tape import StagedModel, Tape, input_channels
from .with_backbone import WithBackbone


@dataclass
class RDTeacherOutput(ModelOutput):
    """What a pass of the reprogrammed teacher gives.

    :ivar loss: of `logits`, where there are labels.
    :ivar logits: the hybrid logits of the last hybrid pass that was run: (B, num_labels), of a segmenter (B,
        num_labels, h, w); None where none was.
    :ivar hybrid_logits: those of each hybrid pass that was run, shallow to deep.
    :ivar student_logits: the student's own; None without the student's images.
    :ivar student_features: the student's own feature after each stage that has a projector, or is one of the `stages`
        asked for; None without the student's images.
    :ivar reprogrammed_features: the projected teacher feature for each of these, or without the student's images for
        each injected stage.
    :ivar target_logits: those of the last hybrid pass for `target_features`, without a gradient.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hybrid_logits: tuple[Tensor, ...] | None = None
    student_logits: Tensor | None = None
    student_features: tuple[StageFeature, ...] | None = None
    reprogrammed_features: tuple[StageFeature, ...] | None = None
    target_logits: Tensor | None = None


class RDTeacher(WithBackbone):
    """Frozen backbone, projectors, and the student whose remaining stages and head read the projected features.

    :cvar student_class: that of the student.
    :cvar default_hybrid_norms: `hybrid_norms` of new teachers; see :class:`RDTeacherConfig`.
    :param config: the teacher's configuration.
    """

    student_class: ClassVar[type[RDStudent]]
    default_hybrid_norms: ClassVar[str]

    def __init__(self, config: RDTeacherConfig) -> None:
        super().__init__(config)
        dtype = torch.get_default_dtype()
        self.student = self.student_class._from_config(config.student_config, dtype=dtype)
        self.teacher_stages = [Stage.from_dict(stage) for stage in config.teacher_stages]
        self.student_stages = [Stage.from_dict(stage) for stage in config.student_stages]
        self.projectors = nn.ModuleList(
            Projector(teacher, student, config.hidden_channels, config.projector_layers)
            for teacher, student in zip(self.teacher_stages, self.student_stages, strict=True)
        )
        passes = config.hybrid_stages if config.hybrid_norms == "own" else []
        self.hybrid_statistics = nn.ModuleList(PassStatistics(self.student.model) for _ in passes)
        if config.backbone_included:
            self.backbone = image_tower(AutoModel.from_config(config.backbone_config, dtype=dtype))
        self._staged_student: StagedModel | None = None
        self._needs: tuple[StagedModel, bool] | None = None  # a student, and whether its hybrid logits need its image
        self.supports_gradient_checkpointing = self.student.supports_gradient_checkpointing
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Projectors initialise themselves when they are built, the student does so as the model that it is."""

    @classmethod
    def from_parts(
        cls,
        student: RDStudent,
        backbone: Backbone,
        teacher_image_size: int | Sequence[int],
        stages: Literal["last", "all"] = "last",
        hidden_channels: int = 256,
        projector_layers: int = 3,
        teacher_stages: Sequence[str] | None = None,
        student_stages: Sequence[str] | None = None,
        skips: Literal["own", "reprogrammed"] = "own",
        hybrid_norms: Literal["student", "own"] | None = None,
        teacher_features: Literal["stage", "last", "all"] = "stage",
    ) -> Any:
        """New projectors between a frozen backbone and a student. The student is shared, not copied.

        The backbone is tapped at the right stages, so that `backbone.extract` gives this model's `teacher_features`; it
        is not attached.

        :param teacher_image_size: rows and columns, or one side, in pixels, of the backbone's input; of volumes three
            sides, also where the backbone reads them slice by slice (`backbone.slices`).
        :param stages: "last" is RD, "all" the student's stages is DRD.
        :param hidden_channels: width of the projectors' bottleneck.
        :param projector_layers: convolutions of a projector.
        :param teacher_stages: module paths of the backbone's stages' last blocks, where they cannot be found.
        :param student_stages: the same for the student's model.
        :param skips: "own": a hybrid pass injects its own stage, and the rest of the student reads its own shallower
            features. "reprogrammed": it injects all shallower stages as well; "last" then has projectors for all stages
            that the student's decoder reads, and one hybrid pass.
        :param hybrid_norms: running statistics of batch norms in hybrid passes: the student's, or each pass's own; by
            default the student's in classifiers, and the pass's own in segmenters.
        :param teacher_features: what the last projector reads of the backbone: its last stage, or one vector of what is
            behind that ("last"), or of all stages and what is behind them ("all"); see `rd_hf.models.pooled`.
        :raises StageError: when stages cannot be found, or a name is wrong.
        """
        if stages not in ("last", "all"):
            raise ValueError(f"`stages` is {stages!r}; it must be 'last' (RD) or 'all' (DRD).")
        sides = (teacher_image_size,) * 2 if isinstance(teacher_image_size, int) else tuple(teacher_image_size)
        from_teacher = backbone.find_stages(sides, teacher_stages)
        staged = find_stages(student.model, tuple(student.config.image_size), student_stages)
        pairs = list(zip(pair_stages(len(from_teacher), len(staged.stages)), staged.stages, strict=True))
        if stages == "last" and skips == "reprogrammed":
            pairs = [pairs[index] for index in read_together(staged, tuple(student.config.image_size))]
        elif stages == "last":
            pairs = pairs[-1:]
        read = [from_teacher[index] for index, _ in pairs]
        if teacher_features != "stage":
            read[-1] = backbone.find_pooled(sides, teacher_features, [stage.name for stage in from_teacher])
        is_known = not type(backbone.config).is_custom_code()  # else transformers could not build the config again
        config = RDTeacherConfig(
            student_config=student.config,
            backbone_config=copy.deepcopy(backbone.config) if is_known else None,
            backbone_source=backbone.source,
            teacher_stages=[stage.to_dict() for stage in read],
            student_stages=[stage.to_dict() for _, stage in pairs],
            hidden_channels=hidden_channels,
            projector_layers=projector_layers,
            teacher_image_size=sides,
            skips=skips,
            hybrid_stages=[len(pairs) - 1] if stages == "last" else None,
            hybrid_norms=hybrid_norms or cls.default_hybrid_norms,
            slices=None if backbone.slices is None else backbone.slices.to_dict(),
        )
        model = cls._around(config, student)
        model.tap(backbone)
        return model

    @classmethod
    def _around(cls, config: RDTeacherConfig, student: RDStudent) -> Any:
        """A new model around a student that exists: only the projectors are built."""
        with torch.device("meta"):
            model = cls(config)
        config.dtype = student.dtype
        model.student = student
        model.projectors.to_empty(device=student.device)
        for projector in model.projectors:
            projector.reset_parameters()
        model.projectors.to(student.dtype)
        model.hybrid_statistics.to_empty(device=student.device)
        for statistics in model.hybrid_statistics.to(student.dtype):
            statistics.copy_from(student.model)
        return model.train(student.training)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        student_pixel_values: Tensor | None = None,
        teacher_features: Sequence[StageFeature] | None = None,
        stages: Sequence[int] | None = None,
        hybrids: bool = True,
        target_features: Sequence[StageFeature] | None = None,
    ) -> RDTeacherOutput:
        """The student's own pass and the hybrid passes, or, without the student's images, the last hybrid pass.

        Training, and inference where `needs_student_pixels`: `student_pixel_values` with `teacher_features` (or
        `pixel_values`, if a backbone is attached). Inference elsewhere: `pixel_values` alone, or `teacher_features`
        alone.

        :param pixel_values: (B, 3, H, W), normalised by the teacher's image processor; of volumes (B, C, X, Y, Z) in
            0..1.
        :param labels: for the loss of the last hybrid logits, in the form that the student takes.
        :param student_pixel_values: (B, 3, h, w), the same images, normalised by the student's image processor; of
            volumes (B, C, x, y, z).
        :param teacher_features: what `Backbone.extract` gives for the stages tapped by :meth:`tap`.
        :param stages: in training, the hybrid passes that are on, by their numbers from 0, shallow to deep; by default
            all. Others are not run, and neither are projectors whose feature no pass that is on reads or compares.
        :param hybrids: in training, whether hybrid passes are run; else features alone are projected.
        :param target_features: in training, the last stage's of the same images by which they are to be known, such as
            the mean over their views.
        :raises BackboneError: when there are neither teacher features nor an attached backbone.
        :raises StageError: when there are no student's images, but the logits depend on them.
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
            output = self._co_train(student_pixel_values, teacher_features, stages, hybrids, target_features)
        if labels is not None:
            output.loss = self._loss(labels, output.logits)
        return output

    def _loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        raise NotImplementedError

    def _co_train(
        self,
        student_pixel_values: Tensor,
        teacher_features: Sequence[StageFeature],
        stages: Sequence[int] | None,
        hybrids: bool,
        target_features: Sequence[StageFeature] | None,
    ) -> RDTeacherOutput:
        own = self.config.hybrid_stages
        compared = range(len(self.projectors)) if stages is None else [own[number] for number in stages]
        numbers = (range(len(own)) if stages is None else stages) if hybrids else ()
        injected = {number: self._injected(number) for number in numbers}
        student, tape = self.staged_student.forward(student_pixel_values)
        projected = {
            index: self.projectors[index](teacher_features[index])
            for index in sorted({*compared, *(index for indices in injected.values() for index in indices)})
        }
        logits, target = self.hybrid_passes(tape, projected, numbers), None
        if target_features is not None:
            last = self.config.hybrid_stages[-1]
            with torch.no_grad():
                target = self._hybrid_logits(tape, -1, {last: self.projectors[last](target_features[-1])})
        return RDTeacherOutput(
            logits=logits[-1] if logits else None,
            hybrid_logits=logits,
            student_logits=student.logits,
            student_features=tuple(tape.features[index] for index in compared),
            reprogrammed_features=tuple(projected[index] for index in compared),
            target_logits=target,
        )

    def hybrid_passes(
        self, tape: Tape, projected: Mapping[int, StageFeature], numbers: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """The logits of hybrid passes, by their numbers from 0.

        :param tape: of the student's own pass over as many images.
        :param projected: the features of the stages that they inject.
        """
        injected = ((number, {index: projected[index] for index in self._injected(number)}) for number in numbers)
        return tuple(self._hybrid_logits(tape, number, features) for number, features in injected)

    def _injected(self, number: int) -> range:
        """The stages that a hybrid pass injects, shallow to deep.

        :param number: of the pass, which may be negative.
        """
        last = self.config.hybrid_stages[number]
        return range(last if self.config.skips == "own" else 0, last + 1)

    def _hybrid_logits(self, tape: Tape, number: int, features: Mapping[int, StageFeature]) -> Tensor:
        """:param features: to inject in the hybrid pass of this number, by stage."""
        statistics = self.hybrid_statistics[number] if len(self.hybrid_statistics) else None
        return self.staged_student.resume(tape, features, statistics=statistics).logits

    def _classify(self, teacher_features: Sequence[StageFeature]) -> RDTeacherOutput:
        """The last hybrid pass's logits; the student's pass on blank images only shows the way from a stage on.

        :raises StageError: when these logits depend on the student's image as well.
        """
        if self.student.training:
            raise ValueError("Train mode needs the student's images: pass student_pixel_values, or call eval().")
        if self.needs_student_pixels:
            raise StageError(
                f"{type(self.student.model).__name__} cannot classify the teacher's features alone: behind "
                f"{self.student_stages[-1].name!r} it also reads other features of the image, or the image itself "
                "(skip connections). Pass student_pixel_values as well, the same images prepared for the student."
            )
        features = {index: self.projectors[index](teacher_features[index]) for index in self._injected(-1)}
        first = next(iter(features.values())).map
        channels = input_channels(self.student.model)
        blank = first.new_zeros(len(first), channels, *self.config.student_config.image_size)
        logits = self._resumed_logits(blank, features)
        return RDTeacherOutput(logits=logits, hybrid_logits=(logits,), reprogrammed_features=tuple(features.values()))

    def _resumed_logits(self, student_pixel_values: Tensor, features: Mapping[int, StageFeature]) -> Tensor:
        """The logits of the last hybrid pass; whatever passes around the injected stages is that of these images."""
        with torch.no_grad():
            _, tape = self.staged_student.forward(student_pixel_values)
        return self._hybrid_logits(tape, -1, features)

    @property
    def needs_student_pixels(self) -> bool:
        """Whether the last hybrid logits depend on the student's image, and not on the teacher's features alone.

        So they do where the student reads skip connections around the injected stages, or the image again.
        """
        if self._needs is None or self._needs[0] is not self.staged_student:
            self._needs = self.staged_student, self._depends_on_image()
        return self._needs[1]

    def _depends_on_image(self) -> bool:
        """Inject the same features into the passes of two images, and compare the logits."""
        model = self.student.model
        with undisturbed(model):
            image = random_pixels(model, input_channels(model), tuple(self.config.student_config.image_size))[:1]
            _, tape = self.staged_student.forward(image)
            features = {index: tape.features[index] for index in self._injected(-1)}
            one, other = [self._resumed_logits(pixels, features) for pixels in (torch.zeros_like(image), image)]
        # beside the logits' own size, which may be tiny before training
        return not torch.allclose(one, other, atol=1e-5 * float(one.abs().max()), equal_nan=True)

    @property
    def staged_student(self) -> StagedModel:
        """The student's model as a chain of stages; a view that is made when first needed, not a submodule."""
        if self._staged_student is None or self._staged_student.model is not self.student.model:
            image_size: Grid = tuple(self.config.student_config.image_size)
            names = [stage.name for stage in self.student_stages]
            # trained since they were chosen, and maybe silent somewhere by now: no reason to refuse a checkpoint
            # outside of autocast, in which torch may keep the casts of these passes, which have no gradient
            with torch.autocast(self.device.type, enabled=False):
                self._staged_student = find_stages(self.student.model, image_size, names, must_reach_output=False)
        return self._staged_student


class RDTeacherForImageClassification(RDTeacher):
    """Frozen backbone, projectors, and the student whose remaining stages and head classify the projected features.

    :param config: the teacher's configuration.
    """

    student_class = RDStudentForImageClassification
    default_hybrid_norms = "student"

    def _loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        return self.loss_function(labels, logits, self.config)


# `save_pretrained` then puts this file and those that it imports beside the weights
RDTeacherForImageClassification.register_for_auto_class("AutoModelForImageClassification")

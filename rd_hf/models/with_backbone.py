"""A model with a frozen backbone that its checkpoints leave out: attached after loading, from where it came from."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from .backbone import Backbone, BackboneError, fetch_backbone
from .configuration_rd import RDTeacherConfig
from .features import Stage, StageFeature
from .slices import SliceReading


class WithBackbone(PreTrainedModel):
    """Attaches, taps, saves and loads the backbone of a reprogrammed teacher, which is a subclass.

    `backbone` is None until one is attached: training keeps it apart, so that only what is trained is in the module.

    :ivar teacher_stages: the backbone's stages, one for each projector.
    :ivar projectors: whose grids the backbone's features are averaged to.
    """

    config_class = RDTeacherConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    # the wrapped models decide, and refuse what they do not support
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    teacher_stages: list[Stage]
    projectors: nn.ModuleList

    def __init__(self, config: RDTeacherConfig) -> None:
        super().__init__(config)
        self.backbone: nn.Module | None = None
        self._extractor: Backbone | None = None  # reads `backbone`

    def tap(self, backbone: Backbone) -> None:
        """Has `backbone.extract` return this model's `teacher_features`, one for each projector.

        A backbone that reads volumes slice by slice does so as in this model's training.
        """
        slices = self.config.slices
        backbone.slices = None if slices is None else SliceReading.from_dict(slices)
        grids = [projector.input_grid for projector in self.projectors]
        backbone.tap(self.teacher_stages, grids, tuple(self.config.teacher_image_size))

    def attach(self, backbone: Backbone) -> None:
        """Makes the backbone part of this model, which then reads images.

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

    def train(self, mode: bool = True) -> WithBackbone:
        """Train or eval mode of the student and the projectors; the backbone stays in eval mode."""
        super().train(mode)
        if self.backbone is not None:
            self.backbone.eval()
        return self

    def reader(self) -> Backbone:
        """What reads the attached backbone.

        :raises BackboneError: when none is attached.
        """
        if self.backbone is None:
            raise BackboneError(
                "No backbone is attached: pass teacher_features, or attach a backbone with model.attach(...)."
            )
        if self._extractor is None or self._extractor.tower is not self.backbone:
            self._extractor = Backbone(self.backbone, self.config.backbone_source)
            self.tap(self._extractor)
        return self._extractor

    def _extract(self, pixel_values: Tensor | None) -> list[StageFeature]:
        reader = self.reader()
        if pixel_values is None:
            raise ValueError("Pass pixel_values for the backbone, or teacher_features.")
        return reader.extract(pixel_values)

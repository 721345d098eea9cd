"""Adapts the teacher to the labels by a linear probe, LoRA or full fine-tuning, as a reference and as KD's teacher."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput

from ..arguments.values import ArgumentError
from ..models.features import Stage
from ..models.pooled import VectorReading, modules_of, pooled_feature
from ..models.reprogramming import resample
from ..models.stages import find_stages
from ..training.linear_probe import linear_head
from ..training.objective import comparable

LORA_RANK, LORA_ALPHA = 8, 16


class AdaptedTeacher(nn.Module):
    """A teacher's image tower and a linear head on its pooled features or, for masks, on those of each place.

    Norms keep their statistics and nothing is dropped: as usual where few labels adapt a large model.

    :param tower: trained in place.
    :param image_size: rows and columns that it is shown.
    :param stage: what of it is read, which may be a vector of several stages.
    :param grid: rows and columns that maps are averaged to first, as those of a frozen teacher are; None: as they are.
    :param has_masks: whether it gives a map of logits.
    """

    def __init__(
        self,
        tower: nn.Module,
        image_size: tuple[int, int],
        num_labels: int,
        stage: Stage,
        grid: tuple[int, int] | None = None,
        has_masks: bool = False,
    ):
        super().__init__()
        self.tower, self.grid, self.has_masks = tower, grid, has_masks
        self.staged = find_stages(tower, image_size, modules_of(stage), must_reach_output=False)
        self.pooled, self.reading = stage.pooled, VectorReading(self.staged, image_size) if stage.pooled else None
        self.head = linear_head(stage, num_labels, has_masks)

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput | SemanticSegmenterOutput:
        """Logits (B, K), or (B, K, H, W), of (B, 3, h, w) pixels, normalised by the teacher's processor."""
        if self.reading is not None:
            _, vectors = self.reading.forward(pixel_values)
            vector = pooled_feature(vectors, self.pooled, pixel_values.ndim - 2, pixel_values.dtype)
            return ImageClassifierOutput(logits=self.head(comparable(vector, "pooled")))
        _, tape = self.staged.forward(pixel_values)
        if self.has_masks:
            return SemanticSegmenterOutput(logits=self.head(tape.features[-1].map))
        feature = tape.features[-1] if self.grid is None else resample(tape.features[-1], self.grid)
        return ImageClassifierOutput(logits=self.head(comparable(feature, "pooled")))

    def train(self, mode: bool = True) -> AdaptedTeacher:
        """Train or eval mode of the head; the tower stays in eval mode."""
        super().train(mode)
        self.tower.eval()
        return self


def with_lora(tower: nn.Module) -> Callable[[], nn.Module]:
    """Put LoRA (Hu et al. 2022) beside every linear layer and ungrouped convolution of a tower, in place.

    :return: merges what was trained into the tower's weights, and gives the tower.
    :raises ArgumentError: where peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ArgumentError(
            "LoRA needs peft. Run `pip install peft`, or `pip install .[compare]` in a checkout of rd_hf."
        ) from error
    targets = [
        name
        for name, module in tower.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]
    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=targets)
    adapted = get_peft_model(tower, config)
    for name in targets:  # peft's layers hide what a model reads of a convolution, as MobileNets do for their padding
        layer = tower.get_submodule(name)
        base = layer.get_base_layer()
        for constant in base.__constants__:
            if not hasattr(layer, constant):
                setattr(layer, constant, getattr(base, constant))
    return adapted.merge_and_unload

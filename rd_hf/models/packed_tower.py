"""A vision tower of packed patches (Qwen-VL, SigLIP 2 naflex, Pixtral, ...) as a model of whole images of one size.

Such a tower reads the patches of images of any shape one after the other, with the grid of each. Here all images of a
batch have one grid. Its blocks hand on tokens without an image's axis, some in the order of windows or of cells that
are merged later; here stages hand on maps. The adapter is read only: what is injected behind it would change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .features import StageError, tensors
from .grids import Grid

NUM_STAGES = 4


class PackedTower(nn.Module):
    """Shows a tower of packed patches whole images.

    :param tower: one for which `is_packed` holds.
    :ivar config: the tower's.
    :ivar stages: the maps behind a quarter, a half, three quarters and all of the blocks.
    """

    def __init__(self, tower: PreTrainedModel) -> None:
        """:raises StageError: for a tower without a list of blocks."""
        super().__init__()
        lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
        if not lists:
            raise StageError(f"{type(tower).__name__} has no list of blocks.")
        self.tower, self.config, self._pack = tower, tower.config, PACKINGS[tower.config.model_type]
        self._blocks = [max(lists, key=len)]  # in a list, so that its weights are the tower's alone
        self.stages = nn.ModuleList(nn.Identity() for _ in range(min(NUM_STAGES, len(self._blocks[0]))))
        # as models of timm state theirs; see timm_models.py
        self.feature_info = [
            {"module": f"stages.{n}", "reduction": _side(self.config)} for n in range(len(self.stages))
        ]
        self._places: dict[Grid, Tensor] = {}

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The map of the last stage (B, channels, rows, columns).

        :param pixel_values: (B, 3, rows, columns) of pixels.
        :raises ValueError: for sides that are no multiples of a patch, or of the patches that are merged.
        """
        batch, sides = len(pixel_values), tuple(pixel_values.shape[2:])
        step = _side(self.config) * _merged(self.config)
        if any(side % step for side in sides):
            raise ValueError(f"images of {sides[0]} x {sides[1]} pixels have no whole grid: use multiples of {step}.")
        grid = tuple(side // _side(self.config) for side in sides)
        places = self._placed(pixel_values, grid)
        blocks, found = self._blocks[0], None
        ends = [len(blocks) * (index + 1) // len(self.stages) - 1 for index in range(len(self.stages))]
        outputs = self._read([(blocks[end], False) for end in ends], pixel_values)
        for stage, tokens in zip(self.stages, outputs, strict=True):
            found = _divided(tokens, batch, grid)[:, places].transpose(1, 2)
            found = stage(found.reshape(batch, -1, *grid))
        return found

    def learn_order(self, image_size: Grid) -> None:
        """Find which token is which patch, which takes some passes, before anything is recorded of a pass.

        :param image_size: rows and columns of images; those without a whole grid are left to `forward`.
        """
        step = _side(self.config) * _merged(self.config)
        if not any(side % step for side in image_size):
            weight = next(self.tower.parameters())
            pixels = torch.zeros(1, 3, *image_size, device=weight.device, dtype=weight.dtype)
            self._placed(pixels, tuple(side // _side(self.config) for side in image_size))

    def _read(self, modules: Sequence[tuple[nn.Module, bool]], pixel_values: Tensor) -> list[Tensor]:
        """What modules return in a pass, or where the second is true, what they are given."""
        found: dict[int, Tensor] = {}

        def note(number: int) -> Callable:
            def keep(module: nn.Module, given: Any, output: Any = None) -> None:
                found[number] = next(tensor for _, tensor in tensors(given if output is None else output))

            return keep

        with ExitStack() as stack:
            for number, (module, entering) in enumerate(modules):
                register = module.register_forward_pre_hook if entering else module.register_forward_hook
                stack.enter_context(register(note(number)))
            self.tower(**self._pack(pixel_values, self.config))
        return [found[number] for number in range(len(modules))]

    @torch.no_grad()
    def _placed(self, pixel_values: Tensor, grid: Grid) -> Tensor:
        """(rows * columns,): for each cell of the grid, row by row, the token that is its patch.

        A token that enters the blocks depends on its own patch alone. So the tokens that change when a patch does are
        found, for half of the patches at a time: by the bits of their numbers.

        :raises StageError: where tokens are not one to one with patches.
        """
        if grid not in self._places:
            count, side = math.prod(grid), _side(self.config)
            pattern = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0)).to(pixel_values)
            numbers = torch.arange(count, device=pixel_values.device).view(grid)

            def entering(marked: Tensor) -> Tensor:
                image = torch.kron(marked.to(pixel_values), torch.ones(side, side).to(pixel_values))
                shown = image * pattern.repeat(1, *grid)
                return _divided(self._read([(self._blocks[0][0], True)], shown[None])[0], 1, grid)[0]

            blank, of_token = entering(torch.zeros_like(numbers)), torch.zeros_like(numbers).flatten()
            for bit in range(count.bit_length()):
                changed = (entering(numbers >> bit & 1) != blank).any(dim=1)
                of_token |= changed.long() << bit
            if not torch.equal(of_token.sort().values, numbers.flatten()):
                raise StageError(f"the tokens of {type(self.tower).__name__} are not one to one with its patches.")
            self._places[grid] = of_token.argsort()
        return self._places[grid].to(pixel_values.device)


def is_packed(model: nn.Module) -> bool:
    """Whether a model is a tower of packed patches whose packing is known."""
    return isinstance(model, PreTrainedModel) and model.config.model_type in PACKINGS


def whole_image_tower(tower: nn.Module) -> nn.Module:
    """The tower, or what shows it whole images where it reads packed patches."""
    return PackedTower(tower) if is_packed(tower) else tower


def _side(config: Any) -> int:
    return config.patch_size


def _merged(config: Any) -> int:
    """Patches that are merged along each axis behind the blocks, and lie beside each other before them."""
    return getattr(config, "spatial_merge_size", None) or getattr(config, "merge_kernel_size", [1])[0]


class _Grids(NamedTuple):
    """Packs as Qwen2VLImageProcessor and its kin do: (B * patches, numbers of a patch), and the grid of each image.

    :ivar name: what the tower calls the patches.
    :ivar together: patches that are merged later lie together; else the patches lie row by row.
    :ivar channels_last: the numbers of a patch end with its channels; else they begin with them, frame by frame.
    :ivar flat: a patch is a row of numbers; else an image (channels, side, side).
    :ivar more: what else the tower wants: names, and the number that each image has. A tuple, which can be copied.
    """

    name: str = "pixel_values"
    together: bool = True
    channels_last: bool = False
    flat: bool = True
    more: tuple[tuple[str, int], ...] = ()

    def __call__(self, pixels: Tensor, config: Any) -> dict[str, Tensor]:
        side, frames = _side(config), getattr(config, "temporal_patch_size", 1)
        merged = _merged(config) if self.together else 1
        batch, channels, rows, columns = pixels.shape
        cells = (rows // side // merged, merged, side, columns // side // merged, merged, side)
        patches = pixels.reshape(batch, channels, *cells).permute(0, 2, 5, 3, 6, 1, 4, 7)
        patches = patches.reshape(-1, channels, 1, side, side).expand(-1, -1, frames, -1, -1)
        if self.channels_last:
            patches = patches.permute(0, 3, 4, 1, 2)
        grids = torch.tensor([[1, rows // side, columns // side]] * batch, device=pixels.device)
        more = {name: torch.full((batch,), number, device=pixels.device) for name, number in self.more}
        return {self.name: patches.flatten(1) if self.flat else patches.squeeze(2), "grid_thw": grids} | more


def _naflex(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """As Siglip2ImageProcessor packs images: (B, patches, side * side * channels), row by row."""
    side, (batch, channels, rows, columns) = _side(config), pixels.shape
    cells = pixels.reshape(batch, channels, rows // side, side, columns // side, side).permute(0, 2, 4, 3, 5, 1)
    patches = cells.reshape(batch, -1, side * side * channels)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device),
        "spatial_shapes": torch.tensor([[rows // side, columns // side]] * batch, device=pixels.device),
    }


def _whole(pixels: Tensor, config: Any) -> dict[str, Tensor]:
    """As PixtralVisionModel reads images of one size, whose patches it packs itself."""
    return {"pixel_values": pixels}


# by the model type of the tower's config; another tower with such arguments may want its patches in another order
PACKINGS: dict[str, Callable[[Tensor, Any], dict[str, Tensor]]] = {
    **dict.fromkeys(
        (
            "qwen2_vl_vision", "qwen2_5_vl_vision", "qwen3_vl_vision", "qwen3_vl_moe_vision", "qwen3_5_vision",
            "qwen3_5_moe_vision", "qwen4_exp_vision", "glm4v_vision", "glm4v_moe_vision", "glm_ocr_vision",
            "glm5_next_vision", "exaone4_5_vision", "cohere_compass_vision", "ernie4_5_vl_moe_vision",
            "qwen2_5_omni_vision_encoder", "qwen3_omni_moe_vision_encoder",
        ),
        _Grids("hidden_states"),
    ),
    **dict.fromkeys(("glm_image_vision", "minimax_m3_vl_vision", "lfm3_vl_vision"), _Grids()),
    "cosmos3_edge_vision": _Grids(channels_last=True),
    "hunyuan_vl_vision": _Grids(together=False),
    "kimi_k25_vision": _Grids(together=False, flat=False),
    "video_llama_3_vision": _Grids(together=False, more=(("merge_sizes", 1),)),
    "siglip2_vision_model": _naflex,
    "pixtral": _whole,
}  # fmt: skip


def _divided(tokens: Tensor, batch: int, grid: Grid) -> Tensor:
    """The tokens of each image: (B, patches, channels).

    :raises StageError: where there are more or fewer.
    """
    if tokens.numel() != batch * math.prod(grid) * tokens.shape[-1]:
        raise StageError(f"its blocks hand on tensors of shape {tuple(tokens.shape)} for a grid of {grid}.")
    return tokens.reshape(batch, math.prod(grid), tokens.shape[-1])

"""Stage features, and the forms in which a model's modules carry them.

A stage hands on its feature as a map (B, C, *grid), as a channels-last map (B, *grid, C) or as a token sequence
(B, P + prod(grid), C) or (P + prod(grid), B, C), bare or inside tuples, lists, dictionaries and dataclasses. Tokens lie
in the grid's order, or in that of `rd_hf.models.token_order`. A grid has two or three sides, as many as the image.
`Form` reads the feature out of such an output and puts another one in its place; both ways are exact, so that a stage's
own output survives the round trip to the bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .grids import Grid, channels_first, channels_last, written
from .token_order import apart, row_by_row

Path = tuple[int | str, ...]

# Class, distillation and register tokens in front of a sequence; the models at hand have five at most.
MAX_PREFIX_TOKENS = 16


class StageError(ValueError):
    """A model's stages cannot be found, or a feature does not fit the stage it is handed to."""


class StageFeature(NamedTuple):
    """What a model hands on after a stage.

    :ivar map: the spatial feature (B, C, *grid).
    :ivar prefix: class and register tokens (B, P, C), or None where the model has none.
    """

    map: Tensor
    prefix: Tensor | None = None


@dataclass(frozen=True)
class Stage:
    """Where a stage ends, and the size of its feature.

    :ivar name: module path of the stage's last block, e.g. "resnet.encoder.stages.2".
    :ivar channels: channels of the map and of the prefix tokens.
    :ivar grid: sides of the map at the probed image size.
    :ivar prefix_tokens: class and register tokens; 0 where the model has none.
    :ivar pooled: what is pooled into one vector that stands in place of the map, see `rd_hf.models.pooled`; empty where
        the map is read.
    :ivar unrolled: strides by which its tokens are apart in the model, see `rd_hf.models.token_order`.
    """

    name: str
    channels: int
    grid: Grid
    prefix_tokens: int
    pooled: tuple[str, ...] = ()
    unrolled: tuple[Grid, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The stage in plain JSON types, for a model's config."""
        return {
            "name": self.name,
            "channels": self.channels,
            "grid": list(self.grid),
            "prefix_tokens": self.prefix_tokens,
            **({"pooled": list(self.pooled)} if self.pooled else {}),
            **({"unrolled": [list(stride) for stride in self.unrolled]} if self.unrolled else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Stage:
        """Read back what `to_dict` wrote."""
        size = values["channels"], tuple(values["grid"]), values["prefix_tokens"]
        unrolled = tuple(map(tuple, values.get("unrolled", ())))
        return cls(values["name"], *size, tuple(values.get("pooled", ())), unrolled)


def concatenated(chunks: Sequence[Sequence[StageFeature]]) -> list[StageFeature]:
    """The features of all chunks of a batch, for each stage."""
    return [_concatenate(parts) for parts in zip(*chunks, strict=True)]


def _concatenate(chunks: Sequence[StageFeature]) -> StageFeature:
    if len(chunks) == 1:
        return chunks[0]
    maps, prefixes = zip(*chunks, strict=True)
    return StageFeature(torch.cat(maps), None if prefixes[0] is None else torch.cat(prefixes))


def tensors(output: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor of a module's (nested) output with the path that leads to it, in order."""
    if isinstance(output, Tensor):
        yield path, output
        return
    for key, value in _children(output):
        yield from tensors(value, (*path, key))


def replace_tensors(output: Any, replace: Callable[[Path, Tensor], Tensor], path: Path = ()) -> Any:
    """A copy of a module's (nested) output with every tensor replaced by `replace(path, tensor)`."""
    if isinstance(output, Tensor):
        return replace(path, output)
    values = {key: replace_tensors(value, replace, (*path, key)) for key, value in _children(output)}
    if not values:
        return output
    if dataclasses.is_dataclass(output):
        return dataclasses.replace(output, **values)
    if isinstance(output, Mapping):
        return type(output)(values)
    if isinstance(output, tuple) and type(output) is not tuple:  # a named tuple
        return type(output)(*values.values())
    return type(output)(values.values())


def _children(output: Any) -> list[tuple[int | str, Any]]:
    """Keys and values of a container; nothing for anything else."""
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    if isinstance(output, Mapping):
        return list(output.items())
    if isinstance(output, (tuple, list)):
        return list(enumerate(output))
    return []


def _pick(output: Any, path: Path) -> Tensor:
    for key in path:
        output = getattr(output, key) if dataclasses.is_dataclass(output) else output[key]
    return output


@dataclass(frozen=True)
class Form:
    """How one module's output carries a feature.

    :ivar layout: "map" (B, C, *grid), "channels_last" (B, *grid, C), "tokens" (B, P + prod(grid), C) or "tokens_first"
        (P + prod(grid), B, C).
    :ivar path: keys that lead to the tensor inside the output.
    :ivar channels: channels of the feature.
    :ivar grid: sides at the probed image size.
    :ivar image_size: the probed image size.
    :ivar prefix_tokens: number of prefix tokens P.
    :ivar prefix_path: keys that lead to the prefix (B, P, C) where it is a tensor of its own beside a map.
    :ivar unrolled: strides by which tokens are apart; see `Stage`.
    """

    layout: Literal["map", "channels_last", "tokens", "tokens_first"]
    path: Path
    channels: int
    grid: Grid
    image_size: Grid
    prefix_tokens: int = 0
    prefix_path: Path | None = None
    unrolled: tuple[Grid, ...] = ()

    def read(self, output: Any, image_size: Grid) -> StageFeature:
        """The feature in a module's output; views of it, with its autograd graph.

        :param image_size: of the images of this pass (it decides the grid of a token sequence).
        :raises StageError: if the number of tokens fits no grid of these images.
        """
        tensor = _pick(output, self.path)
        if self.layout == "map":
            return StageFeature(tensor, None if self.prefix_path is None else _pick(output, self.prefix_path))
        if self.layout == "channels_last":
            return StageFeature(channels_first(tensor))
        if self.layout == "tokens_first":
            tensor = tensor.transpose(0, 1)
        grid = self._token_grid(tensor.shape[1] - self.prefix_tokens, image_size)
        prefix = tensor[:, : self.prefix_tokens] if self.prefix_tokens else None
        patches = row_by_row(tensor[:, self.prefix_tokens :], grid, self.unrolled).transpose(1, 2)
        return StageFeature(patches.reshape(*patches.shape[:2], *grid), prefix)

    def write(self, output: Any, feature: StageFeature) -> Any:
        """The module's output with `feature` in place of its own one; every other tensor is kept, detached.

        The feature takes the dtype of what it replaces, as a layer under autocast would give it.
        """
        new: dict[Path, Tensor] = {}
        if self.layout == "map":
            new[self.path] = feature.map
            if self.prefix_path is not None:
                new[self.prefix_path] = feature.prefix
        elif self.layout == "channels_last":
            new[self.path] = channels_last(feature.map)
        else:
            patches = apart(feature.map.flatten(2).transpose(1, 2), tuple(feature.map.shape[2:]), self.unrolled)
            tokens = patches if feature.prefix is None else torch.cat([feature.prefix, patches], dim=1)
            new[self.path] = tokens.transpose(0, 1) if self.layout == "tokens_first" else tokens

        def replace(path: Path, old: Tensor) -> Tensor:
            return new[path].to(old.dtype) if path in new else old.detach()

        return replace_tensors(output, replace)

    def _token_grid(self, count: int, image_size: Grid) -> Grid:
        """The grid of `count` patch tokens of images of `image_size`."""
        if image_size == self.image_size and count == math.prod(self.grid):
            return self.grid
        scaled = [
            grid * size / probed for grid, size, probed in zip(self.grid, image_size, self.image_size, strict=True)
        ]
        choices = [tuple(rounding(side) for side in scaled) for rounding in (round, math.floor, math.ceil)]
        for grid in [*choices, self.grid]:  # models that pool to a fixed grid keep the probed one
            if count == math.prod(grid):
                return grid
        raise StageError(
            f"{count} patch tokens do not fit the grid of {written(image_size)} images: at {written(self.image_size)} "
            f"the grid is {written(self.grid)}. Call find_stages with the image size that you use."
        )


def find_form(output: Any, batch_size: int, seen: Sequence[Grid], image_size: Grid) -> Form | None:
    """The form of the first tensor in a module's output that is a map or a token sequence; None if there is none.

    :param batch_size: images in the batch.
    :param seen: grids met so far in this pass, latest first.
    :param image_size: of the images; its length is the rank of the maps that are looked for.
    """
    candidates = _candidate_grids(seen)
    found = list(tensors(output))
    for path, tensor in found:
        if not tensor.is_floating_point() or tensor.shape[:1] != (batch_size,):
            continue
        if tensor.ndim == 3:
            tokens = token_grid(tensor.shape[1], candidates, image_size)
            if tokens is not None:
                return Form("tokens", path, tensor.shape[2], tokens[0], image_size, tokens[1])
        if tensor.ndim == 2 + len(image_size):
            layout = _map_layout(tensor.shape, candidates, image_size)
            if layout == "channels_last":
                return Form(layout, path, tensor.shape[-1], tuple(tensor.shape[1:-1]), image_size)
            if layout == "map":
                prefix = [
                    (other_path, other.shape[1])
                    for other_path, other in found
                    if other.ndim == 3 and (other.shape[0], other.shape[2]) == tuple(tensor.shape[:2])
                ]
                prefix_path, prefix_tokens = prefix[0] if prefix else (None, 0)
                grid = tuple(tensor.shape[2:])
                return Form(layout, path, tensor.shape[1], grid, image_size, prefix_tokens, prefix_path)
    return None


def find_tokens_first(output: Any, batch_size: int, seen: Sequence[Grid], image_size: Grid) -> Form | None:
    """The form of the first sequence (tokens, B, C) in a block's output, as CLIP's own code has it.

    See `find_form` for the arguments. Of a module that is no block, such a tensor may be anything.
    """
    for path, tensor in tensors(output):
        if tensor.is_floating_point() and tensor.ndim == 3 and tensor.shape[1] == batch_size != tensor.shape[0]:
            tokens = token_grid(tensor.shape[0], _candidate_grids(seen), image_size)
            if tokens is not None:
                return Form("tokens_first", path, tensor.shape[2], tokens[0], image_size, tokens[1])
    return None


def token_grid(count: int, candidates: Sequence[Grid], image_size: Grid) -> tuple[Grid, int] | None:
    """Grid and number of prefix tokens of a sequence of `count` tokens.

    A grid already met (or half of it: patch merging) decides; where none fits, the image size over a whole stride.
    """
    for choices in (candidates, _strided_grids(image_size)):
        fitting = [(count - math.prod(grid), grid) for grid in choices]
        fitting = [(prefix, grid) for prefix, grid in fitting if 0 <= prefix <= MAX_PREFIX_TOKENS]
        if fitting:
            prefix, grid = min(fitting, key=lambda pair: pair[0])  # the first of the smallest
            return grid, prefix
    return None


def _candidate_grids(seen: Sequence[Grid]) -> list[Grid]:
    halves = [half for grid in seen for half in (tuple(-(-side // 2) for side in grid), tuple(s // 2 for s in grid))]
    return [*seen, *[grid for grid in halves if min(grid) > 0]]


def _strided_grids(image_size: Grid) -> list[Grid]:
    strides = range(1, max(image_size) + 1)
    grids = [
        grid
        for stride in strides
        for grid in (tuple(side // stride for side in image_size), tuple(-(-side // stride) for side in image_size))
    ]
    return [grid for grid in grids if min(grid) > 0]


def _map_layout(shape: Sequence[int], candidates: Sequence[Grid], image_size: Grid) -> str | None:
    """Whether a tensor is a (B, C, *grid) or a (B, *grid, C) map, or neither."""
    first, last = tuple(shape[2:]), tuple(shape[1:-1])
    for known in (lambda grid: grid in candidates, lambda grid: _has_aspect(grid, image_size)):
        if known(first):
            return "map"
        if known(last):
            return "channels_last"
    return None


def _has_aspect(grid: Grid, image_size: Grid) -> bool:
    """Whether a grid's sides are in the image's proportion, up to the rounding of each by one."""
    return all(
        (side - 1) * other_length <= (other + 1) * length and (side + 1) * other_length >= (other - 1) * length
        for (side, length), (other, other_length) in combinations(zip(grid, image_size, strict=True), 2)
    )


@contextmanager
def whole_float32() -> Iterator[None]:
    """Without TF32, of which cuDNN makes convolutions of float32 by default, so that features differ from a CPU's.

    Torch refuses a mixture of its older and newer settings, so the newer ones are used where there are any.
    """
    has_newer = hasattr(torch.backends.cudnn, "conv")
    operations = (torch.backends.cudnn.conv, torch.backends.cuda.matmul) if has_newer else ()
    kept = [operation.fp32_precision for operation in operations]
    older = None if has_newer else (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    try:
        for operation in operations:
            operation.fp32_precision = "ieee"
        if older:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        yield
    finally:
        for operation, precision in zip(operations, kept, strict=True):
            operation.fp32_precision = precision
        if older:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = older

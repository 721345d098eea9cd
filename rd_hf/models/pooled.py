"""One vector of each image: the pooled stages of a frozen model, and what its own head reads behind the last of them.

Such a vector stands in the place of the last stage's map, as a map of a single position: a `Stage` with `pooled`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .features import Stage, StageFeature, find_form, tensors
from .grids import Grid, at_least_float32, mean
from .probe import PROBE_BATCH, random_pixels, undisturbed
from .tape import StagedModel, Tape, call_model, input_channels

# what may stand in `Stage.pooled` beside the names of stages
HIDDEN, POOLER, HEAD, OUTPUT = "last_hidden_state", "pooler_output", "input of the head", "output"
BEHIND = (HIDDEN, POOLER, HEAD, OUTPUT)

SAME = 0.01  # the difference of two vectors relative to their size, up to which they are one: room for rounding

Vectors = Mapping[str, Sequence[Tensor]]


class VectorReading:
    """Reads the vectors of stages, and of what is behind them, from the passes of a model.

    A stage gives the mean over its map's grid and its class token. Behind the stages a model of transformers gives its
    last hidden state in the same way, and the vector of its pooler. A network that ends in a linear layer gives what
    this reads, and one that gives a vector otherwise, as an embedding, this vector.

    :param staged: the model with its stages.
    :param image_size: of its images.
    """

    def __init__(self, staged: StagedModel, image_size: Grid) -> None:
        self.staged = staged
        with undisturbed(staged.model):
            pixels = random_pixels(staged.model, input_channels(staged.model), image_size)
            output, self._head = _linear_head(staged.model, pixels)
        self._gives_vector = self._head is None and _first(output).ndim == 2
        self._hidden = None
        if isinstance(output, ModelOutput) and output.get(HIDDEN) is not None:
            grids = [stage.grid for stage in reversed(staged.stages)]
            self._hidden = find_form(output[HIDDEN], PROBE_BATCH, grids, image_size)

    def forward(self, pixel_values: Tensor) -> tuple[Tape, dict[str, list[Tensor]]]:
        """One pass of the model.

        :param pixel_values: images (B, C, *image size).
        :return: the recorded pass, and the vectors (B, C) that make up each part, in float32 or wider.
        """
        read: list[Tensor] = []
        with ExitStack() as stack:
            if self._head is not None:
                head = self.staged.model.get_submodule(self._head)
                stack.enter_context(head.register_forward_pre_hook(lambda module, args: read.append(args[0])))
            output, tape = self.staged.forward(pixel_values)
        vectors = {
            stage.name: _pooled(feature) for stage, feature in zip(self.staged.stages, tape.features, strict=True)
        }
        if self._hidden is not None:
            vectors[HIDDEN] = _pooled(self._hidden.read(output[HIDDEN], tuple(pixel_values.shape[2:])))
        pooler = output.get(POOLER) if isinstance(output, ModelOutput) else None
        if pooler is not None and pooler.flatten(1).shape[1] == pooler.shape[1]:
            vectors[POOLER] = [at_least_float32(pooler.flatten(1))]
        if read:
            vectors[HEAD] = [at_least_float32(read[-1])]
        if self._gives_vector:
            vectors[OUTPUT] = [at_least_float32(_first(output))]
        return tape, vectors

    def probe(self, image_size: Grid) -> dict[str, list[Tensor]]:
        """The vectors of a few random images, on the CPU."""
        model = self.staged.model
        with undisturbed(model):
            _, vectors = self.forward(random_pixels(model, input_channels(model), image_size))
        return {name: [part.cpu() for part in parts] for name, parts in vectors.items()}


def pooled_stage(
    staged: StagedModel, image_size: Grid, features: Literal["last", "all"], missing: Sequence[str] = ()
) -> Stage:
    """The last stage as a vector in place of its map.

    :param staged: the model with all its stages.
    :param image_size: of its images.
    :param features: "last" is what is behind the stages, or where nothing is, the last stage; "all" are the stages and
        what is behind them. A vector that is there already, as a pooler's that is the mean over the grid, is left out.
    :param missing: names of weights that are random; what depends on them behind the stages is left out.
    :return: of the grid (1, 1).
    """
    reading = VectorReading(staged, image_size)
    vectors = reading.probe(image_size)
    random = set()
    if missing:
        with _disturbed(staged.model, missing):
            disturbed = reading.probe(image_size)
        random = {name for name in BEHIND if name in vectors and not _among(vectors[name], disturbed[name])}
    behind = [name for name in BEHIND if name in vectors and name not in random]
    stages = [stage.name for stage in staged.stages]
    names = [*stages, *behind] if features == "all" else behind or stages[-1:]
    return as_pooled(staged.stages[-1], len(image_size), _distinct(names, vectors), vectors)


def modules_of(stage: Stage) -> list[str]:
    """The modules that a stage is read after."""
    return list(dict.fromkeys(name for name in (stage.name, *stage.pooled) if name not in BEHIND))


def as_pooled(stage: Stage, rank: int, names: Sequence[str], vectors: Vectors) -> Stage:
    """A stage with the vectors of these names in place of its map; names that the model does not have are left out.

    :param rank: 2 for images, 3 for volumes.
    """
    names = [name for name in names if name in vectors]
    channels = sum(vector.shape[1] for name in names for vector in vectors[name])
    return replace(stage, channels=channels, grid=(1,) * rank, prefix_tokens=0, pooled=tuple(names))


def pooled_feature(vectors: Vectors, names: Sequence[str], rank: int, dtype: torch.dtype) -> StageFeature:
    """The feature of a pooled stage: a map (B, C, 1, 1), or (B, C, 1, 1, 1) of volumes.

    :param names: `Stage.pooled`.
    """
    parts = [part for name in names for part in vectors[name]]
    vector = torch.cat([part.to(parts[-1].device) for part in parts], dim=1).to(dtype)  # a model may be on several
    return StageFeature(vector.view(*vector.shape, *[1] * rank))


def _pooled(feature: StageFeature) -> list[Tensor]:
    """The mean over the grid (B, C), and the class token (B, C) where there is one."""
    token = [] if feature.prefix is None else [at_least_float32(feature.prefix[:, 0])]
    return [mean(at_least_float32(feature.map)), *token]


def _linear_head(model: nn.Module, pixels: Tensor) -> tuple[Any, str | None]:
    """The model's output, and the name of the linear layer that gives it (B, K); None where there is none.

    An activation may follow, as it keeps the shape.
    """
    called: list[tuple[str, torch.Size]] = []

    def note(name: str) -> Callable:
        return lambda module, args, output: called.append((name, output.shape))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                stack.enter_context(module.register_forward_hook(note(name)))
        result = call_model(model, pixels, {})
    given = _first(result).shape
    return result, next((name for name, shape in reversed(called) if shape == given and len(shape) == 2), None)


def _first(output: Any) -> Tensor:
    """The first tensor of a model's output; without dimensions where there is none."""
    return next((tensor for _, tensor in tensors(output)), torch.empty(()))


@contextmanager
def _disturbed(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Other values in some weights meanwhile."""
    weights = [w for name, w in model.state_dict().items() if name in set(names) and w.is_floating_point()]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before = [weight.clone() for weight in weights]
        for weight in weights:
            weight.add_(torch.randn(weight.shape).to(weight))
        try:
            yield
        finally:
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)


def _distinct(names: Sequence[str], vectors: Vectors) -> list[str]:
    """Those of the names whose vectors are not all among those of the names before."""
    kept: list[str] = []
    for name in names:
        if not _among(vectors[name], [vector for earlier in kept for vector in vectors[earlier]]):
            kept.append(name)
    return kept


def _among(vectors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether each of some vectors is one of the others."""
    return all(any(_same(vector, other) for other in others) for vector in vectors)


def _same(vector: Tensor, other: Tensor) -> bool:
    return vector.shape == other.shape and bool((vector - other).norm() <= SAME * vector.norm())

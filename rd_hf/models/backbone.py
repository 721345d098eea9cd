"""The frozen foundation model: loaded, identified by its weights, and read out after some of its stages."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME

from .features import Stage, StageFeature, concatenated, of_parts, whole_float32
from .grids import Grid
from .open_clip_tower import CONFIG_FILE
from .packed_tower import PackedTower, whole_image_tower
from .pooled import VectorReading, as_pooled, modules_of, pooled_feature, pooled_stage
from .probe import refuse_other_inputs, used_before
from .reprogramming import resample
from .slices import SliceReading
from .stages import find_stages, image_tower
from .tape import StagedModel
from .tower_loading import HUB_PREFIX, BackboneError, load_tower

logger = logging.getLogger(__name__)

# Larger batches of activations do not stay in the allocator's arenas on a CPU: every step would fault its pages again.
CPU_BATCH_SIZE = 8
SLICES_AT_ONCE = 64  # on an accelerator, where a batch of volumes has hundreds


class Backbone:
    """A frozen vision model in eval mode that returns its features after some stages.

    With `slices` a model of images reads volumes; stages and features are then those of volumes.

    :ivar tower: the model, or its image tower where it has several; without gradients, and never in train mode.
    :ivar source: `id` (a Hub id or "local"), `revision` (a commit or None), `sha256` (see :func:`weights_hash`).
    :ivar batch_size: images (or slices) per forward pass; None is 8 on a CPU, one where these are volumes, and the
        whole batch on an accelerator, or 64 slices.
    :ivar slices: how the model reads volumes; None where it reads what it is given, images or volumes.
    """

    def __init__(
        self,
        tower: nn.Module,
        source: dict[str, str | None],
        missing: Iterable[str] = (),
        batch_size: int | None = None,
        name: str | None = None,
        slices: SliceReading | None = None,
    ) -> None:
        """Freezes the tower.

        :param missing: names of weights of the tower that its checkpoint did not have, so that they are random.
        :param name: what errors call it, which may be a folder; by default `id` of the source.
        :raises StageError: for a model that does not read images alone.
        """
        refuse_other_inputs(tower, name or source["id"])
        self.tower = tower.eval().requires_grad_(False)
        self.source = dict(source)
        self.missing = tuple(sorted(missing))
        self.batch_size = batch_size
        self.name = name or self.source["id"]
        self.slices = slices
        self.memory_format = torch.channels_last if _is_2d_convolutional(tower) else torch.contiguous_format
        self.tower.to(memory_format=self.memory_format)
        self.is_spread = False
        self._features_device: torch.device | None = None
        self._staged: StagedModel | None = None
        self._reading: VectorReading | None = None  # where a tapped stage is pooled
        self._taps: list[tuple[int, Stage, Grid]] = []

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        revision: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        trust_remote_code: bool = False,
        batch_size: int | None = None,
        device_map: str | dict[str, Any] | None = None,
    ) -> Backbone:
        """Loads a checkpoint of transformers, timm or open_clip; its head or text tower, if it has one, is left out.

        :param name_or_path: Hub id or folder; `hf-hub:` before an id changes nothing.
        :param revision: branch, tag or commit of the Hub repo.
        :param dtype: precision to run in; the hash is that of the weights as stored.
        :param trust_remote_code: run model code found in the repo.
        :param batch_size: images per forward pass, see the class.
        :param device_map: spreads the weights over devices, as in transformers; `to` then says where features go.
        :raises BackboneError: when the devices together have no room for the weights.
        """
        name = os.fspath(name_or_path).removeprefix(HUB_PREFIX)
        is_local = os.path.isdir(name)
        tower, missing = load_tower(name, revision, trust_remote_code, device_map)
        source = {
            "id": "local" if is_local else name,
            "revision": None if is_local else cached_commit(name, revision),
            "sha256": weights_hash(tower, missing),
        }
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        backbone = cls(tower.to(dtype), source, missing, batch_size, name)
        backbone.is_spread = device_map is not None
        return backbone

    @classmethod
    def from_model(
        cls, model: PreTrainedModel, batch_size: int | None = None, slices: SliceReading | None = None
    ) -> Backbone:
        """Wraps a model in memory, which is frozen; the hash is that of its weights as they are."""
        tower = whole_image_tower(image_tower(model))
        source = {"id": "local", "revision": None, "sha256": weights_hash(tower)}
        return cls(tower, source, batch_size=batch_size, slices=slices)

    @property
    def config(self) -> PreTrainedConfig:
        """The tower's own config."""
        return self.tower.config

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights, and of the features."""
        return next(self.tower.parameters()).dtype

    @property
    def staged(self) -> StagedModel:
        """The tower as a chain of the tapped stages.

        :raises BackboneError: when none was.
        """
        if self._staged is None:
            raise BackboneError("Call backbone.tap(...) with the stages before extracting features.")
        return self._staged

    @property
    def device(self) -> torch.device:
        """Where the weights are, and the features will be."""
        return next(self.tower.parameters()).device

    @property
    def chunk_size(self) -> int | None:
        """Images per forward pass on this device; None is any number of them."""
        return self.batch_size or (CPU_BATCH_SIZE if self.device.type == "cpu" else None)

    def to(self, device: torch.device | str) -> Backbone:
        """Moves the tower; one that is spread over devices stays, and its features move."""
        if self.is_spread:
            self._features_device = torch.device(device)
        else:
            self.tower.to(device)
        return self

    def find_stages(
        self, image_size: Grid, names: Sequence[str] | None = None, num_stages: int = 4
    ) -> tuple[Stage, ...]:
        """All stages of the tower, shallow to deep; see :func:`rd_hf.models.stages.find_stages`.

        :param image_size: of the images, or with `slices` of the volumes.
        """
        staged = self._staged_at(self._shown_size(image_size), names, num_stages)
        return tuple(self._stage(stage, tuple(image_size)) for stage in staged.stages)

    def find_pooled(
        self, image_size: Grid, features: Literal["last", "all"], names: Sequence[str] | None = None
    ) -> Stage:
        """The last stage with one vector in place of its map; see :func:`rd_hf.models.pooled.pooled_stage`."""
        size = self._shown_size(image_size)
        staged = self._staged_at(size, names)
        return replace(pooled_stage(staged, size, features, self.missing), grid=(1,) * len(image_size))

    def _staged_at(self, size: Grid, names: Sequence[str] | None, num_stages: int = 4) -> StagedModel:
        """The tower as a chain of stages, for images of a size; it is only read."""
        if isinstance(self.tower, PackedTower):
            self.tower.learn_order(size)
        return find_stages(self.tower, size, names, num_stages, must_reach_output=False)

    def _shown_size(self, image_size: Grid) -> Grid:
        """What the tower itself is shown of images or volumes of this size."""
        if self.slices is not None and len(image_size) != 3:
            raise BackboneError(
                f"The backbone {self.name!r} reads volumes slice by slice, but the size {tuple(image_size)} is "
                "not that of volumes: give three sides."
            )
        return tuple(image_size) if self.slices is None else self.slices.size

    def _stage(self, stage: Stage, image_size: Grid) -> Stage:
        return stage if self.slices is None else self.slices.stage(stage, image_size)

    def tap(self, stages: Sequence[Stage], grids: Sequence[Grid], image_size: Grid) -> None:
        """Chooses what `extract` returns.

        :param stages: stages of this tower, a repeated one allowed.
        :param grids: for each, the grid that its feature is resampled to.
        :param image_size: of the images, or with `slices` of the volumes.
        :raises BackboneError: when the tower's stages differ from `stages`, or weights that run before the end of the
            last stage were not in the checkpoint.
        """
        names = list(dict.fromkeys(name for stage in stages for name in modules_of(stage)))
        shown_size = self._shown_size(image_size)
        staged = self._staged_at(shown_size, names)
        reading = VectorReading(staged, shown_size) if any(stage.pooled for stage in stages) else None
        vectors = {} if reading is None else reading.probe(shown_size)
        found = {stage.name: self._stage(stage, tuple(image_size)) for stage in staged.stages}
        for stage in stages:
            own = found[stage.name]
            own = as_pooled(own, len(image_size), stage.pooled, vectors) if stage.pooled else own
            if own != stage:
                raise BackboneError(
                    f"Stage {stage.name!r} of {type(self.tower).__name__} is {own} at the image size "
                    f"{tuple(image_size)}, but {stage} is expected. Give the backbone and the image size that were "
                    "used in training."
                )
        self._refuse_random_weights(staged.stages[-1], shown_size)
        position = {stage.name: index for index, stage in enumerate(staged.stages)}
        self._staged, self._reading = staged, reading
        self._taps = [(position[stage.name], stage, tuple(grid)) for stage, grid in zip(stages, grids, strict=True)]

    @torch.no_grad()
    def extract(self, pixel_values: Tensor) -> list[StageFeature]:
        """Features after the tapped stages, resampled to their grids.

        Runs under `no_grad`, not in inference mode: the features enter a trained projector, which keeps them for its
        backward pass. No other activation is kept.

        :param pixel_values: (B, C, *image size), normalised by the teacher's image processor; with `slices` volumes in
            0..1; on any device.
        :returns: one feature for each stage that was tapped, in that order: map (B, C, *grid), prefix (B, P, C)
            or None; on the tower's device and in its precision.
        :raises BackboneError: when no stage was tapped.
        """
        staged = self.staged
        self.tower.eval()
        if self.slices is not None:
            return concatenated([self._extract_slices(staged, volume) for volume in pixel_values])
        one = 1 if pixel_values.ndim == 5 and self.device.type == "cpu" else None
        size = self.batch_size or one or self.chunk_size or max(len(pixel_values), 1)
        return concatenated([self._extract_chunk(staged, chunk, self._taps) for chunk in pixel_values.split(size)])

    def _extract_slices(self, staged: StagedModel, volume: Tensor) -> list[StageFeature]:
        """The features of one volume (C, X, Y, Z); the maps of its slices are averaged as soon as they are there."""
        taps = [(index, stage, self.slices.plane(grid)) for index, stage, grid in self._taps]
        at_once = self.chunk_size or SLICES_AT_ONCE
        features = self.slices.read(volume.to(self.device), at_once, lambda s: self._extract_chunk(staged, s, taps))
        return [self.slices.assemble(feature, grid) for feature, (*_, grid) in zip(features, self._taps, strict=True)]

    def _extract_chunk(
        self, staged: StagedModel, pixel_values: Tensor, taps: Sequence[tuple[int, Stage, Grid]]
    ) -> list[StageFeature]:
        pixel_values = pixel_values.to(self.device, self.dtype, non_blocking=True)
        pixel_values = pixel_values.contiguous(memory_format=self.memory_format)
        with whole_float32():
            reading = self._reading
            tape, vectors = reading.forward(pixel_values) if reading else (staged.forward(pixel_values)[1], {})
        features = [
            pooled_feature(vectors, stage.pooled, len(grid), self.dtype)
            if stage.pooled
            else resample(tape.features[index], grid)
            for index, stage, grid in taps
        ]
        # a copy, as a feature may be a view of something larger (a sequence and its prefix, a whole output)
        return [of_parts(self._own, feature) for feature in features]

    def _own(self, part: Tensor) -> Tensor:
        return part.clone() if self._features_device is None else part.to(self._features_device, copy=True)

    def _refuse_random_weights(self, last: Stage, image_size: Grid) -> None:
        """A pooler after the last stage may be random. Anything before it would silently spoil the features."""
        if not self.missing:
            return
        random = used_before(self.tower, last.name, image_size, self.missing)
        if random:
            raise BackboneError(
                f"The checkpoint {self.name!r} lacks weights of {type(self.tower).__name__} that run before the end of "
                f"stage {last.name!r}: {', '.join(random[:8])}{' ...' if len(random) > 8 else ''}. These weights would "
                "be random. Give a checkpoint of the whole backbone."
            )
        logger.info("Weights that the checkpoint lacks and the features do not need: %s", ", ".join(self.missing))


def fetch_backbone(
    backbone: str | os.PathLike[str] | Backbone | PreTrainedModel | None,
    source: dict[str, str | None],
    dtype: torch.dtype,
    trust_remote_code: bool,
) -> Backbone:
    """The backbone that was given, or else the one that `source` names.

    :param backbone: its Hub id or folder, or the model itself.
    :param source: as `Backbone.source`.
    :raises BackboneError: when it was a local one and is not given.
    """
    if isinstance(backbone, Backbone):
        return backbone
    if isinstance(backbone, PreTrainedModel):
        return Backbone.from_model(backbone)
    if backbone is not None:
        return Backbone.from_pretrained(backbone, dtype=dtype, trust_remote_code=trust_remote_code)
    if source["id"] == "local":
        raise BackboneError(
            "This teacher was trained with a local backbone, which is not in its checkpoint. Give the folder of the "
            f"backbone whose weights have the hash {source['sha256']}: from_pretrained(..., "
            "backbone='path/to/backbone'), or --backbone on the command line."
        )
    return Backbone.from_pretrained(source["id"], source["revision"], dtype, trust_remote_code)


def cached_commit(repo_id: str, revision: str | None = None) -> str | None:
    """The commit that a branch, tag or commit of a Hub model, just loaded, stands for in the local cache."""
    paths = [try_to_load_from_cache(repo_id, file, revision=revision) for file in (CONFIG_NAME, CONFIG_FILE)]
    return next((Path(path).parent.name for path in paths if isinstance(path, str)), revision)


def weights_hash(module: nn.Module, missing: Iterable[str] = ()) -> str:
    """SHA-256 that identifies a module's weights: over its parameters' and buffers' type, shape and bytes.

    The names do not enter it, as releases of transformers rename modules.

    :param missing: names that are left out, because their values are not from the checkpoint.
    """
    left_out = set(missing)
    digests = []
    for name, tensor in module.state_dict().items():
        if name not in left_out:
            values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)} ".encode())
            digest.update(values)
            digests.append(digest.hexdigest())
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _is_2d_convolutional(module: nn.Module) -> bool:
    """Whether most of the weights are convolutions' of images, so that channels-last memory pays."""
    convolutions = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d))
    return 2 * convolutions > sum(parameter.numel() for parameter in module.parameters())

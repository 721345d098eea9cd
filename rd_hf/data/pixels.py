"""From an RGB image to what a model reads, with the size and normalisation of the model's own image processor.

Teacher and student each have their own transformers image processor, yet both must see the same augmented view. So a
processor is split in two: its *geometry* (resize, crop, channel order), which gives bytes of a fixed size, and its
*normalisation*, an affine map per channel. The view is applied in between, in batch and on the model's device.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .plain_processor import RESIZE, PixelError, processor_without_class, resizing_processor, settings_of
from .timm_processor import timm_processor

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

TOLERANCE = 1e-4  # where bytes are exact; a processor that resizes after rescaling rounds by up to one grey level
PROBE_SHAPES = ((64, 96), (96, 64))  # a wide and a tall image, (height, width)
SIZE_ATTRIBUTES = ("size", "crop_size", "pad_size")


class PixelTransform:
    """A transformers image processor, split into geometry (bytes of a fixed size) and normalisation (affine).

    :ivar processor: the model's own.
    :ivar channels: that the model reads: 3, or 1 for a model of grey images, which gets the mean of the three.
    :raises PixelError: if the output's size follows the image's shape, if the processor's arithmetic is not an affine
        map per channel (padding that is put in after normalising, for one), or if the model reads other channels.
    """

    def __init__(self, processor: BaseImageProcessor, channels: int = 3) -> None:
        """:param processor: an image processor that makes one (3, h, w) array of an image, or has one mean for grey."""
        if channels not in (1, 3):
            raise PixelError(
                f"the model's images have another number of channels ({channels}) than colour (3) or grey ones (1), "
                "which rd_hf shows it: choose a model of such images"
            )
        self.processor, self.channels = processor, channels
        if channels == 1:
            processor = _for_three_channels(processor)
        _refuse_no_deviation(processor)
        self._shown = processor
        self.size = _fixed_size(processor)
        low, high = (self._middle(_constant(value)).double() for value in (0, 255))
        self._scale = ((high - low) / 255).float().view(3, 1, 1)
        self._bias = low.float().view(3, 1, 1)
        self._verify()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str,
        revision: str | None = None,
        image_size: int | None = None,
        trust_remote_code: bool = False,
        channels: int = 3,
    ) -> PixelTransform:
        """Split the processor of a Hub repository or local folder; see `load_processor` for the arguments."""
        return cls(load_processor(name_or_path, revision, image_size, trust_remote_code), channels)

    @property
    def scale(self) -> Tensor:
        """(3,): what a byte of each channel is multiplied by."""
        return self._scale.flatten()

    @property
    def bias(self) -> Tensor:
        """(3,): what is added to each channel after that."""
        return self._bias.flatten()

    def geometry(self, rgb: Image.Image) -> Tensor:
        """Resize, crop and order the channels of one image.

        :param rgb: a PIL image of mode RGB, of any size.
        :return: (3, h, w) uint8, (h, w) being `size`.
        :raises PixelError: if the image is not RGB.
        """
        if rgb.mode != "RGB":
            raise PixelError(f"got an image of mode {rgb.mode!r}, but expected RGB: convert it with to_rgb first")
        return _geometry(self._shown, rgb)

    def normalize(self, batch: Tensor) -> Tensor:
        """Bring bytes to the scale the model was trained on.

        :param batch: (B, 3, h, w) uint8, or float in 0..255, on any device.
        :return: (B, `channels`, h, w) float32 on the same device; `batch` itself is left alone.
        """
        pixels = self._normalize(batch)
        return pixels if self.channels == 3 else pixels.mean(dim=1, keepdim=True)

    def _normalize(self, batch: Tensor) -> Tensor:
        return torch.addcmul(
            self._bias.to(batch.device, non_blocking=True),
            batch.float(),
            self._scale.to(batch.device, non_blocking=True),
        )

    def _middle(self, rgb: Image.Image) -> Tensor:
        """The (3,) values at the centre, which neither padding nor a border reaches."""
        pixels = _pixel_values(self._shown, rgb)
        return pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2]

    def _verify(self) -> None:
        for shape in PROBE_SHAPES:
            rgb = noise(shape)
            expected = _pixel_values(self._shown, rgb).float()
            difference = (self._normalize(self.geometry(rgb)[None])[0] - expected).abs().max().item()
            if not difference <= self.scale.abs().max().item() + TOLERANCE:
                raise PixelError(
                    f"{type(self.processor).__name__} does not normalise by one affine map per channel: on a "
                    f"{shape[0]}x{shape[1]} image the difference is {difference:.2g}, so it may pad after normalising "
                    f"(do_pad). {RESIZE}"
                )


def load_processor(
    name_or_path: str,
    revision: str | None = None,
    image_size: int | None = None,
    trust_remote_code: bool = False,
) -> BaseImageProcessor:
    """Load a model's own image processor.

    The PIL backend is asked for even where torchvision is installed: the two resize slightly differently, and
    features and scores should not depend on what else is installed. (transformers takes `backend="pil"` for this; its
    older `use_fast=False` is deprecated.) Of classes that exist for torchvision only, a processor of PIL with the same
    size, mean and standard deviation is made; of a model of timm one from its config.

    :param name_or_path: a Hub id or a local folder.
    :param revision: branch, tag or commit on the Hub.
    :param image_size: side in pixels of a square output, in place of the processor's own. Resize, crop and padding
        shrink or grow together, so the same part of the image is seen; in place of a processor that has no fixed
        output size, or does more than resize, crop and normalise, one is made that squashes the image to the square.
    :param trust_remote_code: whether to run a processor class that the repository itself ships.
    :raises PixelError: if there is no processor, or none that can give `image_size`.
    """
    from transformers import AutoImageProcessor
    from transformers.image_processing_backends import TorchvisionBackend
    from transformers.utils import IMAGE_PROCESSOR_NAME

    try:
        processor = timm_processor(name_or_path, revision) or AutoImageProcessor.from_pretrained(
            name_or_path,
            revision=revision,
            backend="pil",
            trust_remote_code=trust_remote_code,
            image_processor_filename=IMAGE_PROCESSOR_NAME,  # also beside a config of timm
        )
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ImportError) as error:
        return processor_without_class(name_or_path, revision, image_size, error)
    settings = settings_of(processor)
    if isinstance(processor, TorchvisionBackend):
        return resizing_processor(name_or_path, settings, image_size)
    if image_size is None or _take_image_size(processor, image_size):
        return processor
    return resizing_processor(name_or_path, settings, image_size)


def default_processor(image_size: int) -> BaseImageProcessor:
    """The processor of a student trained from scratch: squash to a square, bilinear, 0..255 to -1..1.

    :param image_size: side of the square in pixels.
    """
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(
        size={"height": image_size, "width": image_size},
        resample=Image.Resampling.BILINEAR,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def whole_image_processor(processor: BaseImageProcessor, channels: int = 3) -> BaseImageProcessor:
    """A processor of the same output size, interpolation and normalisation that squashes the whole image.

    What a segmenter says of a pixel then lies at the same relative place (x / width, y / height) in the image, in its
    mask, and in what another model sees. The processor brings logits back to masks of the image's size as well.

    :param processor: one that makes images of a fixed size; whether it crops or pads does not matter.
    :param channels: that the model reads: 3, or 1.
    :return: Segformer's processor; MobileViT's for models that read blue, green and red in this order.
    :raises PixelError: if the processor cannot be split into geometry and normalisation.
    """
    from transformers import MobileViTImageProcessorPil, SegformerImageProcessorPil

    transform = PixelTransform(processor, channels)
    height, width = transform.size
    settings = {
        "size": {"height": height, "width": width},
        "resample": getattr(processor, "resample", None) or Image.Resampling.BILINEAR,
        "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_reduce_labels": False,
    }  # fmt: skip
    # pixel = byte * scale + bias = (byte / 255 - mean) / std
    deviations = [round(1 / (255 * scale), 7) for scale in transform.scale.double().tolist()]
    pairs = zip(transform.bias.double().tolist(), deviations, strict=True)
    means = [round(-bias * deviation, 7) + 0.0 for bias, deviation in pairs]
    if not getattr(processor, "do_flip_channel_order", False):
        return SegformerImageProcessorPil(**settings, do_normalize=True, image_mean=means, image_std=deviations)
    if not np.allclose([*means, *deviations], [0] * 3 + [1] * 3, atol=1e-6):
        raise PixelError(
            f"{type(processor).__name__} both normalises and reverses the colours, which no processor for masks does: "
            "choose another model"
        )
    return MobileViTImageProcessorPil(**settings, do_center_crop=False, do_flip_channel_order=True)


def _pixel_values(processor: BaseImageProcessor, rgb: Image.Image, **switches: bool) -> Tensor:
    """(3, h, w): what the processor makes of one image."""
    name = type(processor).__name__
    try:
        output = processor(rgb, return_tensors="pt", **switches)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError) as error:
        means = getattr(processor, "image_mean", None)
        grey = isinstance(means, list | tuple) and len(means) != 3
        reason = f"its image_mean has {len(means)} value(s), not 3" if grey else str(error).strip().split("\n")[0]
        raise PixelError(
            f"{name} cannot prepare a colour image ({reason}): correct the model's preprocessor_config.json in a local "
            "folder, or choose another model"
        ) from error
    if isinstance(output, Tensor):  # of Idefics
        output = {"pixel_values": output}
    if "pixel_values" not in output:
        raise PixelError(f"{name} returns {sorted(output)} but no pixel_values: a processor for still images is needed")
    pixels = output["pixel_values"]
    if pixels.ndim != 4 or tuple(pixels.shape[:2]) != (1, 3):
        raise PixelError(
            f"{name} makes pixel_values of shape {tuple(pixels.shape)} from one image, not (1, 3, h, w): patches, "
            f"tiles, frames or one channel. {RESIZE}"
        )
    return pixels[0]


def _refuse_no_deviation(processor: BaseImageProcessor) -> None:
    """:raises PixelError: for an image_std of 0, by which nothing can be divided."""
    deviations = getattr(processor, "image_std", None)
    if 0 in (deviations if isinstance(deviations, list | tuple) else [deviations]):
        raise PixelError(
            f"{type(processor).__name__} divides by an image_std of 0: correct the model's preprocessor_config.json in "
            "a local folder"
        )


def _for_three_channels(processor: BaseImageProcessor) -> BaseImageProcessor:
    """A processor of grey images with its only mean and deviation for each of three channels, which are equal."""
    shown = copy.deepcopy(processor)
    for name in ("image_mean", "image_std"):
        value = getattr(shown, name, None)
        if isinstance(value, list | tuple) and len(value) == 1:
            setattr(shown, name, list(value) * 3)
    return shown


def _geometry(processor: BaseImageProcessor, rgb: Image.Image) -> Tensor:
    """(3, h, w) uint8: the processor with its arithmetic switched off."""
    switches = {"do_rescale": False, "do_normalize": False}
    if "include_top" in type(processor).valid_kwargs.__annotations__:
        switches["include_top"] = False  # EfficientNet divides by image_std a second time under this name
    pixels = _pixel_values(processor, rgb, **switches)
    if pixels.dtype != torch.uint8:
        raise PixelError(
            f"{type(processor).__name__} returns {pixels.dtype} instead of bytes when do_rescale and do_normalize are "
            "off, so it does more than resize, crop, rescale and normalise: choose a model with an ordinary processor"
        )
    return pixels


class Transforms(NamedTuple):
    """The transform of each model of a run; the teacher's is None if there is no teacher."""

    student: PixelTransform
    teacher: PixelTransform | None = None

    def each(self) -> list[PixelTransform]:
        """The transforms that exist, the student's first."""
        return [self.student] if self.teacher is None else [self.student, self.teacher]


def _fixed_size(processor: BaseImageProcessor) -> tuple[int, int]:
    """(h, w) of the output, measured on a wide and on a tall image."""
    wide, tall = (tuple(_geometry(processor, noise(shape)).shape[1:]) for shape in PROBE_SHAPES)
    if wide != tall:
        raise PixelError(
            f"{type(processor).__name__} keeps the image's shape (a 64x96 image becomes {wide[0]}x{wide[1]}, a 96x64 "
            f"one {tall[0]}x{tall[1]}), but a batch needs one size. {RESIZE}"
        )
    return wide


def _take_image_size(processor: BaseImageProcessor, image_size: int) -> bool:
    """Change the sizes in `processor` such that it gives (image_size, image_size); tell whether it then can be used."""
    from transformers.image_utils import SizeDict

    shown = _for_three_channels(processor)
    try:
        height, width = _fixed_size(shown)
    except PixelError:
        processor.size = SizeDict(height=image_size, width=image_size)
    else:
        factors = {"height": image_size / height, "width": image_size / width}
        for attribute in SIZE_ATTRIBUTES:
            sizes = dict(getattr(processor, attribute, None) or {})
            edge = image_size / min(height, width)
            resized = {key: round(value * factors.get(key, edge)) for key, value in sizes.items()}
            if resized:
                setattr(processor, attribute, SizeDict(**resized))
    try:
        return PixelTransform(_for_three_channels(processor)).size == (image_size, image_size)
    except (PixelError, ValueError):
        return False


def _constant(value: int) -> Image.Image:
    return Image.new("RGB", PROBE_SHAPES[0][::-1], (value, value, value))


def noise(shape: tuple[int, int]) -> Image.Image:
    """An image of these rows and columns in which no two places are alike."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))

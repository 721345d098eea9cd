"""The volumes that a user hands to the processor: NIfTI files, nibabel images and arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

# A path of NIfTI, several such paths (one channel each), a nibabel image, or an array (C, X, Y, Z) or (X, Y, Z).
VolumeLike: TypeAlias = Any
Affines: TypeAlias = np.ndarray | Sequence[np.ndarray] | None

_MILLIMETRES = {1: 1000.0, 3: 0.001}  # of a NIfTI header's metres and micrometres; others are millimetres, or not said


def volumes_of(images: VolumeLike | Sequence[VolumeLike], affines: Affines = None) -> list[tuple[Any, np.ndarray]]:
    """Volumes one by one, without their voxels where these are in files.

    :param affines: of arrays, (4, 4) each; the identity by default.
    :return: of each an array (C, X, Y, Z), or the nibabel images of its channels; and its affine.
    :raises ValueError: when the number of affines is not that of the volumes.
    """
    several = isinstance(images, list | tuple) or (_is_array(images) and images.ndim == 5)
    images = list(images) if several else [images]
    if affines is None:
        affines = [None] * len(images)
    elif not several and np.ndim(affines) == 2:
        affines = [affines]
    if len(affines) != len(images):
        raise ValueError(f"There are {len(images)} volumes and {len(affines)} affines: give one of each.")
    return [_opened(image, affine) for image, affine in zip(images, affines, strict=True)]


def shape_of(source: Any) -> tuple[int, int, int]:
    """(X, Y, Z) of what `volumes_of` gives."""
    return tuple(int(side) for side in (source.shape[1:] if _is_array(source) else source[0].shape[:3]))


def voxels_of(source: Any, channels: int) -> np.ndarray:
    """The voxels (C, X, Y, Z) of what `volumes_of` gives, float32.

    :param channels: that are wanted.
    :raises ValueError: when there are others, or a voxel is not finite.
    """
    name = "an array" if _is_array(source) else str(source[0].get_filename() or "a nibabel image")
    values = (
        np.ascontiguousarray(source, dtype=np.float32) if _is_array(source) else np.concatenate(list(_channels(source)))
    )
    if len(values) != channels:
        raise ValueError(
            f"The model reads volumes of {channels} channel(s), but {name} has {len(values)}. Arrays are (channels, X, "
            "Y, Z); the last axis of a NIfTI file with four is its channels; files of one channel each come as a list "
            "in the list of volumes."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} has voxels that are NaN or infinite: replace them, for example by the lowest value.")
    return values


def _opened(image: VolumeLike, affine: np.ndarray | None) -> tuple[Any, np.ndarray]:
    if _is_array(image):
        values = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image
        if values.ndim not in (3, 4):
            raise ValueError(f"A volume is (channels, X, Y, Z) or (X, Y, Z), but this one has shape {values.shape}.")
        return values[None] if values.ndim == 3 else values, np.eye(4) if affine is None else np.asarray(affine)
    if affine is not None:
        raise ValueError("Files bring their own affines: leave `affines` out, or give None for them.")
    try:
        import nibabel
    except ImportError as error:
        raise ImportError("Reading NIfTI files needs nibabel: pip install nibabel") from error
    parts = [
        nibabel.load(part) if isinstance(part, str | os.PathLike) else part
        for part in (image if isinstance(image, list | tuple) else [image])
    ]
    for part in parts:
        if len(part.shape) not in (3, 4):
            raise ValueError(
                f"{part.get_filename()} has shape {part.shape}; a volume has three axes, or a fourth one of channels."
            )
        if part.shape[:3] != parts[0].shape[:3] or not np.allclose(
            _in_millimetres(part), _in_millimetres(parts[0]), atol=1e-3
        ):
            raise ValueError(
                f"{part.get_filename()} and {parts[0].get_filename()} are channels of one volume, but their shape or "
                "affine differs: resample one to the other."
            )
    return parts, _in_millimetres(parts[0])


def _in_millimetres(image: Any) -> np.ndarray:
    from nibabel import Nifti1Header

    affine = np.array(image.affine, dtype=np.float64)
    if isinstance(image.header, Nifti1Header):
        affine[:3] *= _MILLIMETRES.get(int(image.header["xyzt_units"]) & 7, 1.0)
    return affine


def _channels(images: Sequence[Any]) -> Iterator[np.ndarray]:
    for image in images:
        values = image.get_fdata(dtype=np.float32, caching="unchanged")
        yield values[None] if values.ndim == 3 else np.moveaxis(values, 3, 0)


def _is_array(image: Any) -> bool:
    return isinstance(image, np.ndarray | torch.Tensor)

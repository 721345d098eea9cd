"""Files in MedMNIST's layout: one `.npz` with the images and labels of every split."""

from __future__ import annotations

import logging
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, DatasetInfo, Features, Image, List, Value
from datasets.fingerprint import Hasher
from datasets.table import InMemoryTable

from ..runtime.stand_ins import HEAD_BYTES, stand_in
from .byte_rows import byte_rows
from .columns import DataError, OtherKindError
from .labels.values import clean
from .scanner import printable
from .volumes.arrays import are_volumes, label_column, volume_column
from .volumes.choice import VolumeChoice
from .volumes.npy import array_header
from .volumes.source import VolumeError
from .volumes.volume import VolumeReading

logger = logging.getLogger(__name__)

ZIP_MAGIC, NPY_MAGIC = b"PK", b"\x93NUMPY"
_OF_SPLITS = ("_images", "_labels", "_masks")
DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile)


AS_IT_IS = VolumeChoice()


@dataclass(frozen=True)
class ArrayData:
    """What an .npz file holds.

    :param splits: by the file's own names.
    :param names: the class names or None; they are those of the labels where the file has labels and masks.
    :param volumes: how its volumes are read; None for images.
    """

    splits: DatasetDict
    names: list[str] | None
    volumes: VolumeReading | None


def read_medmnist(path: Path, choice: VolumeChoice = AS_IT_IS) -> ArrayData:
    """Read a MedMNIST-layout file (Yang et al. 2023) as columns ``image``, and ``label`` and ``mask`` if it has any.

    Its keys are ``{split}_images``, uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), or with the channels first,
    ``{split}_labels``, numbers or names of shape (N,) or (N, 1), or (N, K) with 0 and 1 (or -1 and NaN, see
    `rd_hf.data.labels.vectors`) for K labels, ``{split}_masks``, whole numbers of shape (N, H, W), and ``classes``, the
    names, if it has them. Any split may be missing. Volumes are numbers of any type of shape (N, D, H, W), or
    (N, D, H, W, C) with channels, see `rd_hf.data.volumes.arrays.are_volumes`; their masks are (N, D, H, W).

    Images become binary PGM/PPM bytes: a header and the pixels as they are. That costs no encoding, reads in
    microseconds, and is the same on every platform, as the bytes of a PNG are not. Volumes become bytes of NumPy's own
    format.

    :param path: the file.
    :param choice: whether images or volumes are asked for.
    :raises DataError: if the file cannot be read or is laid out otherwise; names the file and the key.
    """
    arrays = _read_arrays(path)
    splits = [key.removesuffix("_images") for key in arrays if key.endswith("_images")]
    fingerprint = [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
    found = {split: _split(arrays, split, path, choice, Hasher.hash([*fingerprint, split])) for split in splits}
    readings = {split: reading for split, (_, reading) in found.items()}
    if len({*readings.values()}) > 1:
        shapes = ", ".join(f"{split}_images {arrays[f'{split}_images'].shape}" for split in splits)
        raise DataError(f"'{path}': the splits are images and volumes, or have different channels: {shapes}")
    names = [clean(_as_text(name)) for name in arrays["classes"].ravel()] if "classes" in arrays else None
    if names is not None and len(set(names)) < len(names):
        raise DataError(f"'{path}', classes: a name occurs twice in {names}")
    return ArrayData(DatasetDict({split: rows for split, (rows, _) in found.items()}), names, readings[splits[0]])


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head.startswith(ZIP_MAGIC):
        advice = "it does not begin like one. Download it again, or save it with numpy.savez"
        if head.startswith(NPY_MAGIC):
            advice = "it is a single array (.npy). Save images and labels of all splits together with numpy.savez"
        raise DataError(f"'{printable(path)}' is no .npz file: {stand_in(head) or advice}")
    try:
        file = np.load(path, allow_pickle=False)
    except (*DAMAGE, ValueError):
        raise DataError(_damaged(path)) from None
    with file:
        needed = [key for key in file.files if key.endswith(_OF_SPLITS) or key == "classes"]
        if not any(key.endswith(_OF_SPLITS[0]) for key in needed):
            raise DataError(
                f"'{path}' has no array named train_images, val_images or test_images; its arrays are {file.files}"
            )
        arrays = {key: _array(file, key, path) for key in needed}
    return {key: array for key, array in arrays.items() if isinstance(array, np.ndarray)}


def _array(file: np.lib.npyio.NpzFile, key: str, path: Path) -> np.ndarray | bytes:
    _check_header(file, key, path)
    try:
        return file[key]
    except DAMAGE:
        raise DataError(_damaged(path)) from None
    except MemoryError as error:
        raise DataError(f"'{path}', {key}: needs more memory than there is ({error}). Save fewer images") from None
    except ValueError:  # what numpy says of it advises to run code that the file holds
        raise DataError(
            f"'{path}', {key}: not a plain array of numbers or texts. It holds Python objects, perhaps because images "
            "differ in size or labels in length. Save images of one size as uint8, and labels as numbers or texts"
        ) from None


def _check_header(file: np.lib.npyio.NpzFile, key: str, path: Path) -> None:
    """:raises DataError: where an array would take more bytes than are stored; nothing is unpacked for that."""
    name = f"{key}.npy"
    if name not in file.zip.namelist():
        return
    try:
        with file.zip.open(name) as member:
            shape, dtype = array_header(member)
            needed = member.tell() + math.prod(shape) * dtype.itemsize
    except VolumeError:  # which is told when it is read
        return
    except DAMAGE:
        raise DataError(_damaged(path)) from None
    if not dtype.hasobject and file.zip.getinfo(name).file_size < needed:
        raise DataError(f"{_damaged(path)} ({key} promises {needed} bytes)")


def _damaged(path: Path) -> str:
    return f"'{path}' cannot be read: it is damaged, or was not downloaded completely. Download or copy it again"


def _split(
    arrays: dict[str, np.ndarray], split: str, path: Path, choice: VolumeChoice, fingerprint: str
) -> tuple[Dataset, VolumeReading | None]:
    """The rows of a split, and how its volumes are read."""
    images, labels = arrays[f"{split}_images"], arrays.get(f"{split}_labels")
    where, reading = f"'{path}', {split}_images", None
    if are_volumes(images, choice):
        column, reading = volume_column(images, where, choice)
    elif choice.dimensions == 3:
        raise OtherKindError(
            f"{where}: got {images.dtype} of shape {images.shape}; expected volumes (N, D, H, W)",
            "leave `dimensions` out to read images",
        )
    else:
        column = _image_column(_channels_last(images, where))
    columns, features = {"image": column}, {"image": Image(decode=False)}
    if labels is not None:
        if len(labels) != len(images):
            raise DataError(
                f"'{path}', {split}_images: {len(images)} images, but {len(labels)} labels in {split}_labels"
            )
        columns["label"], features["label"] = _label_column(labels, f"'{path}', {split}_labels")
    if f"{split}_masks" in arrays:
        masks, where = arrays[f"{split}_masks"], f"'{path}', {split}_masks"
        of_volumes = reading is not None
        columns["mask"] = (
            label_column(masks, images.shape, where) if of_volumes else _mask_column(masks, len(images), where)
        )
        features["mask"] = Image(decode=False)
    info = DatasetInfo(features=Features(features))
    return Dataset(InMemoryTable(pa.table(columns)), info=info, fingerprint=fingerprint), reading


def _channels_last(images: np.ndarray, where: str) -> np.ndarray:
    """Give images as (N, H, W) or (N, H, W, channels).

    :raises DataError: if they are not of type uint8, or of another shape.
    """
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3) and min(images.shape[2:]) > 4:
        logger.info("%s: %s is read as channels first, (N, C, H, W).", where, images.shape)
        images = images.transpose(0, 2, 3, 1)
    is_image = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if is_image and images.dtype == np.uint8 and 0 not in images.shape[1:]:
        return images
    found = f"{where}: got {images.dtype} of shape {images.shape}; expected uint8 (N, H, W) or (N, H, W, 3)"
    hint = ""
    if images.ndim == 4 and images.shape[3] == 4 and min(images.shape[1:3]) > 4:
        hint = "; leave out the fourth channel"
    elif images.ndim >= 4 and not is_image:
        raise OtherKindError(found, "`dimensions` 3 reads it as volumes")
    elif is_image and images.dtype.kind == "f" and images.size and images.min() >= 0 and images.max() <= 1:
        hint = ". Values from 0 to 1 become uint8 by (255 * images).round().astype(numpy.uint8)"
    elif is_image and images.dtype != np.uint8:
        hint = ". Scale the values to 0..255 by a rule that is the same for all images, and save them as uint8"
    raise DataError(found + hint)


def _mask_column(masks: np.ndarray, count: int, where: str) -> pa.ChunkedArray:
    if masks.ndim == 4 and 1 in (masks.shape[1], masks.shape[3]):
        masks = masks[:, 0] if masks.shape[1] == 1 else masks[..., 0]
    is_color = masks.ndim == 4 and masks.shape[3] == 3 and masks.dtype == np.uint8
    if not (masks.ndim == 3 or is_color) or masks.dtype.kind not in "biuf" or 0 in masks.shape[1:]:
        raise DataError(
            f"{where}: got {masks.dtype} of shape {masks.shape}; expected whole numbers (N, H, W), the class of every "
            "pixel"
        )
    if len(masks) != count:
        raise DataError(f"{where}: {len(masks)} masks, but {count} images")
    whole = np.isfinite(masks) & (masks == np.round(masks)) & (masks >= 0) & (masks < 2**16)
    if not whole.all():
        row = int(np.flatnonzero(~whole.reshape(len(masks), -1).all(axis=1))[0])
        raise DataError(
            f"{where}: row {row} holds {masks[row][~whole[row]].flat[0]}; expected whole numbers from 0 to 65535, the "
            "class of every pixel"
        )
    is_deep = masks.size and masks.max() > 255
    return _image_column(masks.astype(">u2" if is_deep else np.uint8))


def _image_column(images: np.ndarray) -> pa.ChunkedArray:
    """Images as binary PGM or PPM files; values of two bytes are big-endian there."""
    height, width = images.shape[1:3]
    is_colour = images.ndim == 4 and images.shape[3] == 3
    largest = 255 if images.dtype == np.uint8 else 65535
    header = f"P{6 if is_colour else 5}\n{width} {height}\n{largest}\n".encode()
    return byte_rows(header, images)


def _label_column(labels: np.ndarray, where: str) -> tuple[pa.Array, List | Value]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind in "US" and labels.ndim == 1:
        return pa.array([_as_text(label) for label in labels], type=pa.string()), Value("string")
    if labels.dtype.kind not in "biuf" or labels.ndim not in (1, 2) or not _are_whole(labels):
        raise DataError(
            f"{where}: got {labels.dtype} of shape {labels.shape}; expected whole numbers (N,), (N, 1) or (N, K), or "
            "names (N,)"
        )
    kind = "float64" if labels.dtype.kind == "f" else "int64"
    labels = labels.astype(kind)
    if labels.ndim == 1:
        return pa.array(labels), Value(kind)
    is_entry = np.isin(labels, (-1, 0, 1)) | np.isnan(labels)
    if not is_entry.all():
        row = int(np.flatnonzero(~is_entry.all(axis=1))[0])
        raise DataError(
            f"{where}: row {row} is {labels[row].tolist()}; with several labels per row, each must be 0 or 1 (or -1 "
            "for uncertain, or NaN)"
        )
    storage = pa.FixedSizeListArray.from_arrays(pa.array(labels.ravel()), labels.shape[1])
    return storage, List(Value(kind), length=labels.shape[1])


def _are_whole(labels: np.ndarray) -> bool:
    return labels.dtype.kind != "f" or bool((np.isnan(labels) | (labels == np.round(labels))).all())


def _as_text(name: str | bytes) -> str:
    return name.decode("utf-8", errors="replace") if isinstance(name, bytes) else str(name)

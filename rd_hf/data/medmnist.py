"""Files in MedMNIST's layout: one `.npz` with the images and labels of every split."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, DatasetInfo, Features, Image, List, Value
from datasets.fingerprint import Hasher
from datasets.table import InMemoryTable

from .columns import DataError

CHUNK_ROWS = 1024
CHUNK_BYTES = 2**28  # far below the 2 GiB that an Arrow binary array can address


def read_medmnist(path: Path) -> tuple[DatasetDict, list[str] | None]:
    """Read a MedMNIST-layout file (Yang et al. 2023) with columns ``image`` and, where it has labels, ``label``.

    Its keys are ``{split}_images``, (N, H, W), (N, H, W, 1) or (N, H, W, 3) uint8, ``{split}_labels``, (N,), (N, 1),
    or (N, K) with 0 and 1 for K labels, and ``classes``, the names, if it has them. Any split may be missing.

    Images become binary PGM/PPM bytes: a header and the pixels as they are. That costs no encoding, reads in
    microseconds, and is the same on every platform, as the bytes of a PNG are not.

    :param path: the file.
    :return: the splits by the file's own names, and the class names or None.
    :raises DataError: if the file cannot be read or is laid out otherwise; names the file and the key.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"'{path}' cannot be read as an .npz file of plain arrays: {error}") from error
    splits = [key.removesuffix("_images") for key in arrays if key.endswith("_images")]
    if not splits:
        raise DataError(
            f"'{path}' has no array named train_images, val_images or test_images; its arrays are {list(arrays)}"
        )
    fingerprint = [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
    datasets = {split: _split(arrays, split, path, fingerprint=Hasher.hash([*fingerprint, split])) for split in splits}
    names = [str(name) for name in arrays["classes"].ravel()] if "classes" in arrays else None
    if names is not None and len(set(names)) < len(names):
        raise DataError(f"'{path}', classes: a name occurs twice in {names}")
    return DatasetDict(datasets), names


def _split(arrays: dict[str, np.ndarray], split: str, path: Path, fingerprint: str) -> Dataset:
    images, labels = arrays[f"{split}_images"], arrays.get(f"{split}_labels")
    where = f"'{path}', {split}_images"
    is_image = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if not is_image or images.dtype != np.uint8:
        hint = "; of volumes, only slices are supported" if images.ndim >= 4 and not is_image else ""
        raise DataError(
            f"{where}: got {images.dtype} of shape {images.shape}; expected uint8 (N, H, W) or (N, H, W, 3){hint}"
        )
    columns, features = {"image": _image_column(images)}, {"image": Image(decode=False)}
    if labels is not None:
        if len(labels) != len(images):
            raise DataError(f"{where}: {len(images)} images, but {len(labels)} labels in {split}_labels")
        columns["label"], features["label"] = _label_column(labels, f"'{path}', {split}_labels")
    info = DatasetInfo(features=Features(features))
    return Dataset(InMemoryTable(pa.table(columns)), info=info, fingerprint=fingerprint)


def _image_column(images: np.ndarray) -> pa.ChunkedArray:
    height, width = images.shape[1:3]
    is_colour = images.ndim == 4 and images.shape[3] == 3
    header = np.frombuffer(f"P{6 if is_colour else 5}\n{width} {height}\n255\n".encode(), dtype=np.uint8)
    row_bytes = header.size + int(np.prod(images.shape[1:]))
    chunk_rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES // row_bytes))
    chunks = []
    for start in range(0, len(images), chunk_rows):
        pixels = images[start : start + chunk_rows]
        rows = np.empty((len(pixels), row_bytes), dtype=np.uint8)
        rows[:, : header.size] = header
        rows[:, header.size :] = pixels.reshape(len(pixels), -1)
        offsets = np.arange(len(pixels) + 1, dtype=np.int32) * row_bytes
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(rows)]
        chunks.append(Image().cast_storage(pa.Array.from_buffers(pa.binary(), len(pixels), buffers)))
    return pa.chunked_array(chunks, type=Image.pa_type)


def _label_column(labels: np.ndarray, where: str) -> tuple[pa.Array, List | Value]:
    if labels.dtype.kind not in "biu" or labels.ndim not in (1, 2):
        raise DataError(
            f"{where}: got {labels.dtype} of shape {labels.shape}; expected integers (N,), (N, 1) or (N, K)"
        )
    labels = labels.astype(np.int64)
    if labels.ndim == 1 or labels.shape[1] == 1:
        return pa.array(labels.ravel()), Value("int64")
    if not np.isin(labels, (0, 1)).all():
        row = int(np.flatnonzero(~np.isin(labels, (0, 1)).all(axis=1))[0])
        raise DataError(
            f"{where}: row {row} is {labels[row].tolist()}; with several labels per row, each must be 0 or 1"
        )
    storage = pa.FixedSizeListArray.from_arrays(pa.array(labels.ravel()), labels.shape[1])
    return storage, List(Value("int64"), length=labels.shape[1])

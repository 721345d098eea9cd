"""The images of a split as one undecoded column."""

from __future__ import annotations

import base64
import binascii
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image
from datasets.table import InMemoryTable, Table

from ..arguments.values import nearest_name
from .columns import DataError
from .decoding.images import DOWNLOAD, is_fetched
from .image_paths import ImagePaths, is_there, shown
from .labels.values import is_text
from .scanner import IMAGE_SUFFIXES, printable
from .volumes.names import is_nifti
from .volumes.series_rows import files_of_series

_BASE64 = re.compile(r"(?:data:image/[\w.+-]+;base64,)?(?P<content>[A-Za-z0-9+/\s]{40,}={0,2}\s*)")
_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM")


def image_table(
    split: Dataset,
    column: str,
    paths: ImagePaths | None,
    name: str,
    called: str = "image",
    may_be_empty: bool = False,
    of_volumes: bool = False,
) -> Table:
    """Give a split's images as a table of one column, ``image``, of undecoded `datasets` images.

    Embedded images are passed on without a copy, so a memory-mapped split stays on disk.

    :param split: a split, whose column holds `Image`s, file contents (as bytes or base64 text), paths or ids.
    :param column: the image column.
    :param paths: finds the files of a table; None takes paths as they are.
    :param name: what to call the split in an error.
    :param called: the name of the new column.
    :param may_be_empty: whether a row may have none; such a row is null.
    :param of_volumes: whether paths may be folders of DICOM slices; the first slice stands for its series.
    :return: a table with the rows of ``split.data`` (without the split's selection of rows).
    :raises DataError: if the column holds no images, or a file that a path names is missing.
    """
    stored = split.data.column(column)
    if stored.type == Image.pa_type:
        table = split.data.select([column]).rename_columns([called])
    else:
        chunks = [_as_image_storage(chunk, column, name, paths is not None) for chunk in stored.chunks]
        table = InMemoryTable(pa.table({called: pa.chunked_array(chunks, type=Image.pa_type)}))
    column_of_images, used = table.column(called), selected_rows(split)
    used = np.arange(len(column_of_images)) if used is None else used
    # only these become Python objects: the others may be a data set of any size, on disk
    numbers = np.flatnonzero(_lack_bytes(column_of_images)[used])
    rows = [_unpacked(row) for row in column_of_images.take(pa.array(used[numbers])).to_pylist()]
    if not may_be_empty:
        _check_empty(rows, numbers, len(used), column, name)
    elif all(row is None for row in rows):
        return table
    rows = [None if _is_empty(row) else row for row in rows]
    _find_files(rows, numbers, len(used) - rows.count(None), paths, name, column, of_volumes)
    changed = dict(zip(used[numbers].tolist(), rows, strict=True))
    return InMemoryTable(pa.table({called: _with_rows(column_of_images, changed)})) if changed else table


def image_row(file: str) -> dict:
    """A file as an undecoded image: by its path, or by its content if the path is not UTF-8, which Arrow cannot hold.

    :param file: an absolute path.
    :raises DataError: for a folder of such a path, whose files could not be named.
    """
    if can_be_named(file):
        return {"bytes": None, "path": file}
    if os.path.isdir(file):
        raise DataError(f"the path '{printable(file)}' is not UTF-8; rename the folder")
    return {"bytes": Path(file).read_bytes(), "path": printable(file)}


def can_be_named(file: str) -> bool:
    """Tell whether a path is UTF-8, as Arrow needs it."""
    try:
        file.encode()
    except UnicodeEncodeError:
        return False
    return True


def written_paths(split: Dataset, of_volumes: bool = False) -> list[str]:
    """Give the columns of text whose first cell that is not empty is written like the path of an image or a volume.

    :param of_volumes: only of a NIfTI file.
    """
    found = []
    for name in split.column_names:
        if is_text(split.features[name]):
            cells = split.select_columns([name]).with_format("arrow")[:].column(name).drop_null()
            first = cells[0].as_py() if len(cells) else ""
            is_image = not of_volumes and Path(first).suffix.lower() in IMAGE_SUFFIXES
            if is_image or is_nifti(first.rstrip()):
                found.append(name)
    return found


def files_of_rows(split: Dataset) -> list[str | None]:
    """The file of each row's image, of which one path remains (`a/../1.png` is `1.png`); None where a row has content.

    No content is read.

    :param split: with a column ``image`` as `image_table` gives it.
    """
    stored, shown_rows = split.data.column("image"), selected_rows(split)
    has_content, paths = pc.struct_field(stored, "bytes").is_valid(), pc.struct_field(stored, "path").to_pylist()
    pairs = zip(has_content.to_pylist(), paths, strict=True)
    files = [None if inside or path is None else os.path.normpath(path) for inside, path in pairs]
    return files if shown_rows is None else [files[row] for row in shown_rows]


def selected_rows(split: Dataset) -> np.ndarray | None:
    """Give the rows of ``split.data`` that a split shows, in its order.

    `datasets` has no public name for this; asking for it here keeps a selection of a large memory-mapped data set
    from being copied (`flatten_indices`), or from being written into the user's folder (`map`).

    :param split: a split.
    :return: (N,) row numbers; None if the split shows all rows in order.
    """
    return None if split._indices is None else split._indices.column(0).to_numpy().astype(np.int64)


def _as_image_storage(chunk: pa.Array, column: str, name: str, may_be_ids: bool) -> pa.StructArray:
    kind = chunk.type
    is_struct = pa.types.is_struct(kind) and {field.name for field in kind} & {"bytes", "path"}
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if pa.types.is_string_view(kind):
        chunk, is_text = chunk.cast(pa.string()), True
    if may_be_ids and pa.types.is_floating(kind) and all(x is None or x.is_integer() for x in chunk.to_pylist()):
        kind, chunk = pa.int64(), chunk.cast(pa.int64())  # whole numbers, which readers of tables write as 13.0
    if may_be_ids and pa.types.is_integer(kind):
        chunk, is_text = chunk.cast(pa.string()), True
    if not (is_struct or is_text or is_binary):
        raise DataError(f"column '{column}' of split '{name}' contains {kind}; expected images, image bytes or paths")
    return Image().cast_storage(chunk)


def _lack_bytes(column: pa.ChunkedArray) -> np.ndarray:
    """(N,) bool, which rows have no content of a file."""
    found = [pc.is_null(pc.struct_field(chunk, "bytes")).to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(found) if found else np.zeros(0, dtype=bool)


def _find_files(
    rows: list[dict | None],
    numbers: np.ndarray,
    count: int,
    paths: ImagePaths | None,
    name: str,
    column: str,
    of_volumes: bool,
) -> None:
    """Put the absolute paths of files in the place of the rows' paths.

    :param numbers: of the rows in the split.
    :param count: how many images the split has.
    :raises DataError: if a file is missing, or lies on a server.
    """
    named = [place for place, row in enumerate(rows) if row and row["bytes"] is None]
    for place in named:
        path = rows[place]["path"]
        if is_fetched(path) or (paths is not None and path.lstrip().startswith("hf://")):
            raise DataError(
                f"row {numbers[place]} of split '{name}' has the address '{shown(path)}' in column '{column}', and "
                f"rd_hf fetches no addresses, because servers would learn of the data: {DOWNLOAD}"
            )
    local = [place for place in named if "://" not in rows[place]["path"]]
    if paths is None:
        _check_files([rows[place]["path"] for place in local], numbers[local], count, name, of_volumes)
    else:
        for place, file in zip(local, paths.find([rows[at]["path"] for at in local], name, column), strict=True):
            rows[place] = image_row(file)
        local = [place for place in local if rows[place]["bytes"] is None]
    if of_volumes:
        first = files_of_series([rows[place]["path"] for place in local], name, column)
        for place, file in zip(local, first, strict=True):
            rows[place] = {"bytes": None, "path": file}


def _with_rows(column: pa.ChunkedArray, changed: dict[int, dict | None]) -> pa.ChunkedArray:
    """A column of images with other rows in some places; chunks without any of these are not copied."""
    places, chunks, start = np.array(sorted(changed)), [], 0
    for chunk in column.chunks:
        inside = places[np.searchsorted(places, start) : np.searchsorted(places, start + len(chunk))]
        chunks.append(_of_chunk(chunk, inside - start, [changed[place] for place in inside]) if len(inside) else chunk)
        start += len(chunk)
    return pa.chunked_array(chunks, type=Image.pa_type)


def _of_chunk(chunk: pa.StructArray, places: np.ndarray, rows: list[dict | None]) -> pa.StructArray:
    is_changed, is_null = np.zeros(len(chunk), dtype=bool), chunk.is_null().to_numpy(zero_copy_only=False).copy()
    is_changed[places], is_null[places] = True, [row is None for row in rows]
    parts = []
    for field in Image.pa_type:
        values = pa.array([None if row is None else row[field.name] for row in rows], field.type)
        parts.append(pc.replace_with_mask(pc.struct_field(chunk, field.name), pa.array(is_changed), values))
    return pa.StructArray.from_arrays(parts, fields=list(Image.pa_type), mask=pa.array(is_null))


def _unpacked(row: dict | None) -> dict | None:
    """A row whose text is an image in base64, with the image's bytes."""
    if row is None or row["bytes"] is not None or not row["path"]:
        return row
    match = _BASE64.fullmatch(row["path"])
    try:
        content = b"" if match is None else base64.b64decode(match["content"])
    except binascii.Error:
        return row
    return {"bytes": content, "path": None} if content.startswith(_IMAGE_STARTS) else row


def _is_empty(row: dict | None) -> bool:
    return row is None or (row["bytes"] is None and not row["path"])


def _check_empty(rows: list[dict | None], numbers: np.ndarray, count: int, column: str, name: str) -> None:
    empty = [number for row, number in zip(rows, numbers, strict=True) if _is_empty(row)]
    if empty:
        raise DataError(
            f"{len(empty)} of {count} rows of split '{name}' are incomplete; the first is row {empty[0]}, whose "
            f"column '{column}' is empty"
        )


def _check_files(paths: list[str], numbers: np.ndarray, count: int, name: str, folders: bool) -> None:
    missing = [place for place, path in enumerate(paths) if not is_there(path, folders)]
    if missing:
        path = paths[missing[0]]
        raise DataError(
            f"{len(missing)} of {count} files of split '{name}' are missing; the first is row {numbers[missing[0]]}, "
            f"'{shown(path)}' ({nearest_name(Path(path).absolute())})"
        )

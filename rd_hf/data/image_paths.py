"""Which file each image path or id of a table means."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePath

from ..arguments.values import nearest_name
from ..runtime.quiet import escaped
from .columns import DataError
from .mask_names import masks_among
from .scanner import IMAGE_SUFFIXES, is_hidden, is_image, printable, scan
from .split_names import split_of_folder, standard_split_name
from .volumes.names import channel_of, file_of_channel, is_nifti, stem_of

logger = logging.getLogger(__name__)

LONGEST_SHOWN = 60
_DRIVE = re.compile(r"^[A-Za-z]:(?=[/\\])")


class ImagePaths:
    r"""The files that a table's paths can mean.

    A path is relative to the table's folder. One that names no file there may have been written on another machine, or
    be an id. It then means the one image below the folder that has

    - the same path after the first few folders are left out (`C:\scans\train\1.png` for `train/1.png`),
    - or else the same name in any folder,
    - or, for an id, the same name without its suffix, or the same number (`13` for `00013.png`).

    Capitals and the Unicode form of a name do not matter. A file is missing, and no other is meant by its path, where
    other paths of its folder name files there, or where its folder and that of the other file are of two splits.

    :param folder: the table's folder.
    :param of_masks: whether the paths are those of masks; then images that look like masks are meant, if there are any.
    :param of_volumes: whether the paths are those of volumes: NIfTI files, DICOM slices or their folders.
    """

    def __init__(self, folder: Path, of_masks: bool = False, of_volumes: bool = False):
        self.folder, self.of_masks, self.of_volumes = folder, of_masks, of_volumes
        self.listed: dict[str, str] = {}  # each file that was asked for, with the name that means it
        self._right_folders: set[str] = set()  # in which names have found their files

    def find(self, names: Sequence[str], split: str, column: str) -> list[str]:
        """Give the file of each name.

        :param names: paths or ids, as the table has them.
        :param split: what an error calls the split.
        :param column: the column that holds them.
        :return: absolute paths.
        :raises DataError: if a name means no file or several, or a file was also asked for under another name.
        """
        files = [os.path.join(self.folder, name) for name in names]
        missing = [row for row, file in enumerate(files) if not is_there(file, self.of_volumes)]
        self._right_folders |= {_folder(names[row]) for row in {*range(len(names))} - {*missing}} - {""}
        for row in missing:
            candidates = self._candidates(names[row])
            if len(candidates) != 1:
                raise DataError(self._not_found(names, missing, row, candidates, split, column))
            files[row] = str(self.folder / candidates[0])
        for row in {*range(len(names))} - {*missing}:
            self.listed.setdefault(os.path.normpath(files[row]), names[row])
        for row in missing:
            other = self.listed.setdefault(os.path.normpath(files[row]), names[row])
            if other != names[row]:
                raise DataError(
                    f"'{shown(other)}' and '{shown(names[row])}' in column '{column}' would both mean the file "
                    f"'{printable(files[row])}'; correct the paths"
                )
        if missing:
            fits = printable(os.path.relpath(files[missing[0]], self.folder))
            logger.info(
                "%d of %d paths in column '%s' of split '%s' name no file, but each fits one image, as '%s' fits '%s'.",
                len(missing), len(names), column, split, shown(names[missing[0]]), fits,
            )  # fmt: skip
        return files

    def _candidates(self, name: str) -> list[PurePath]:
        folders = _parts(name)[:-1]
        return [file for file in self._alike(name) if not _is_of_another_split(folders, file)]

    def _alike(self, name: str) -> list[PurePath]:
        parts = _parts(name)
        if not parts:
            return []
        is_right = _folder(name) in self._right_folders
        starts = range(1 if is_right else len(parts))
        for start in starts:
            if files := self._by_path.get("/".join(parts[start:])):
                return files
        if is_right:
            return self._by_path_without_suffix.get("/".join(parts), [])
        if files := self._by_name.get(parts[-1]):
            return files
        if PurePath(parts[-1]).suffix in IMAGE_SUFFIXES or is_nifti(parts[-1]):
            return []
        for start in starts:
            if files := self._by_path_without_suffix.get("/".join(parts[start:])):
                return files
        if files := self._by_stem.get(parts[-1]):
            return files
        number = parts[-1].removesuffix(".0")  # readers of tables write ids as 13.0 where some are missing
        return self._by_number.get(str(int(number)), []) if number.isdecimal() else []

    @cached_property
    def _images(self) -> tuple[PurePath, ...]:
        found = scan(self.folder)
        if self.of_volumes:
            volumes = [file for file in found.others if is_nifti(file)]
            masks = masks_among(volumes)
            return tuple(file for file in volumes if (file in masks) == self.of_masks) or tuple(volumes)
        return found.masks if self.of_masks and found.masks else found.images

    @cached_property
    def _by_path(self) -> dict[str, list[PurePath]]:
        return self._index(lambda file: _key(file.as_posix()))

    @cached_property
    def _by_path_without_suffix(self) -> dict[str, list[PurePath]]:
        return self._index(lambda file: _key(file.with_name(stem_of(file)).as_posix()))

    @cached_property
    def _by_name(self) -> dict[str, list[PurePath]]:
        return self._index(lambda file: _key(file.name))

    @cached_property
    def _by_stem(self) -> dict[str, list[PurePath]]:
        return self._index(lambda file: _key(stem_of(file)))

    @cached_property
    def _by_number(self) -> dict[str, list[PurePath]]:
        return self._index(lambda file: str(int(stem_of(file))) if stem_of(file).isdecimal() else None)

    def _index(self, key: Callable[[PurePath], str | None]) -> dict[str, list[PurePath]]:
        index: dict[str, list[PurePath]] = {}
        for file in self._images:
            if (name := key(file)) is not None:
                index.setdefault(name, []).append(file)
        return index

    def _not_found(
        self, names: Sequence[str], missing: Sequence[int], row: int, files: Sequence[PurePath], split: str, column: str
    ) -> str:
        if files:
            return (
                f"'{shown(names[row])}', row {row} of split '{split}', fits several files, such as '{files[0]}' and "
                f"'{files[1]}'; write paths relative to '{self.folder}' into column '{column}'"
            )
        path = Path(os.path.join(self.folder, names[row].strip()))
        nearest = f" ({nearest_name(path.absolute())})" if len(names[row]) <= LONGEST_SHOWN else ""
        nearest = " (a folder)" if os.path.isdir(path) else nearest
        example = f"A file there is '{printable(self._images[0])}'" if self._images else "There is none at all"
        wrong = sum(not self._candidates(names[number]) for number in missing)
        return (
            f"{wrong} of {len(names)} files of split '{split}' are missing; the first is row {row}, "
            f"'{shown(names[row])}'{nearest}. Column '{column}' must hold paths relative to '{self.folder}', or file "
            f"names that occur once below it. {example}"
        )


def tell_unlisted(tables: Sequence[ImagePaths], found: Iterable[str] | None, masks: Iterable[str] = ()) -> None:
    """Log how many images lie beside the listed ones without being listed.

    :param tables: what found the files of each table.
    :param found: the images of the folder that the user gave; if they gave only a table, None, and the folders of the
        listed images are looked through.
    :param masks: files that the tables list as masks.
    """
    names = {file for table in tables for file in table.listed}
    masks, of_volumes = set(masks), any(table.of_volumes for table in tables)
    written = {os.path.normpath(file) for file in names | masks}
    beside = _beside(names, written, of_volumes) if found is None else found
    beside = [file for file in beside if os.path.normpath(file) not in written]
    if of_volumes:
        beside = [file for file in beside if is_nifti(file) and _first_channel(file) not in names]
    if not beside:  # as usual, and what follows looks at each file
        return
    listed = {os.path.realpath(file) for file in names}
    used = listed | {os.path.realpath(file) for file in masks}
    unlisted = sorted(file for file in beside if os.path.realpath(file) not in used)
    if unlisted and listed:
        what = "The table lists" if len(tables) == 1 else "The tables list"
        above = os.path.commonpath([table.folder for table in tables])
        logger.warning(
            "%s %d %s, but not %d others beside them, which are not used; the first is '%s'.",
            what, len(listed), "volumes" if of_volumes else "images", len(unlisted),
            printable(os.path.relpath(unlisted[0], above)),
        )  # fmt: skip


def _first_channel(file: str) -> str:
    """The file that stands for all channels of a case, if this is one of them."""
    path = PurePath(file)
    return str(file_of_channel(path, 0)) if channel_of(path) is not None else file


def _beside(listed: Iterable[str], written: set[str], of_volumes: bool) -> list[str]:
    """The images in the folders of the listed ones that are not masks.

    :param written: the listed ones and their masks; folders that hold nothing else are not looked at further.
    """
    is_read = is_nifti if of_volumes else is_image
    images: list[Path] = []
    for place in {os.path.dirname(file) for file in listed}:
        names = [name for name in os.listdir(place) if not is_hidden(name)]
        if not all(os.path.normpath(os.path.join(place, name)) in written for name in names):
            images += [file for file in (Path(place, name) for name in names) if file.is_file() and is_read(file)]
    return [str(file) for file in {*images} - masks_among(images)]


def is_there(file: str, may_be_folder: bool = False) -> bool:
    """Tell whether a path names a file, or a link that leads nowhere, which is an unreadable image."""
    if may_be_folder and os.path.isdir(file):
        return True
    return os.path.isfile(file) or (os.path.islink(file) and not os.path.exists(file))


def shown(text: str) -> str:
    """A cell as it can stand in a message: long ones, such as an image in base64, are cut."""
    return escaped(text if len(text) <= 4 * LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}...")


def _parts(name: str) -> list[str]:
    written = _DRIVE.sub("", name.strip().replace("\\", "/"))
    return [part for part in _key(written).split("/") if part not in ("", ".")]


def _is_of_another_split(folders: Sequence[str], file: PurePath) -> bool:
    """Whether the folders of a path and of a file name two splits where, from the end, they first differ."""
    for written, own in zip(reversed(folders), reversed([_key(part) for part in file.parts[:-1]]), strict=False):
        if written != own:
            splits = standard_split_name(split_of_folder(written)), standard_split_name(split_of_folder(own))
            return None not in splits and splits[0] != splits[1]
    return False


def _folder(name: str) -> str:
    return "/".join(_parts(name)[:-1])


def _key(name: str) -> str:
    """What a name must have in common with a file's; a file's name that is not UTF-8 was written by old Windows."""
    try:
        name.encode()
    except UnicodeEncodeError:
        name = os.fsencode(name).decode("cp1252", errors="replace")
    return unicodedata.normalize("NFC", name).casefold()

"""Which folders of a folder of images are splits, and which are classes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath

from .columns import DataError
from .scanner import FoundFiles, counted_suffixes, printable
from .split_names import split_of_folder, standard_split_name
from .volumes.layouts import FEW_SLICES, is_dicom_name

logger = logging.getLogger(__name__)

METADATA_STEM = "metadata"


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images in splits and classes.

    :param found: its files.
    """

    found: FoundFiles

    @property
    def root(self) -> Path:
        """The folder."""
        return self.found.root

    @property
    def images(self) -> tuple[PurePath, ...]:
        """The images, relative to the root, in the order of their paths."""
        return self.found.images

    def split_folders(self) -> dict[str, PurePath]:
        """Give the folder of each split, relative to the root, or else the whole as `train`.

        Folders named like splits count if there is one for training or nothing else: "test" may be a class.

        :raises DataError: if two folders mean one split, or an image lies outside the split folders.
        """
        tops = sorted({file.parts[0] for file in self.images if len(file.parts) > 1})
        found: dict[str, PurePath] = {}
        for top in tops:
            split = standard_split_name(split_of_folder(top))
            if split in found:
                raise DataError(
                    f"folders '{found[split]}' and '{top}' of '{self.root}' both stand for {split}; keep only one of "
                    "them"
                )
            if split is not None:
                found[split] = PurePath(top)
        if not found or ("train" not in found and len(found) < len(tops)):
            for folder in found.values():
                _warn_of_class(str(folder), printable(self.root))
            return {"train": PurePath()}
        outside = [file for file in self.images if PurePath(file.parts[0]) not in found.values()]
        if outside:
            raise DataError(
                f"'{self.root}' has split folders ({', '.join(map(str, found.values()))}), but '{outside[0]}' is "
                "outside them; move it into one of them, or out of the data set"
            )
        return found

    def metadata_files(self) -> dict[str, list[Path]]:
        """Give each split's metadata file: the folder's own one (as `train`), or else that of each split folder.

        :return: empty if there is none.
        :raises DataError: if only some of the splits have one.
        """
        files = [file for file in self.found.tables if file.stem == METADATA_STEM]
        if any(len(file.parts) == 1 for file in files):
            return {"train": [self.root / file for file in files if len(file.parts) == 1]}
        if not any(len(file.parts) == 2 and _is_split(file.parts[0]) for file in files):
            return {}
        splits = self.split_folders()
        found = {split: [file for file in files if file.parent == folder] for split, folder in splits.items()}
        for split, folder in splits.items():
            if not found[split]:
                raise DataError(
                    f"'{self.root / folder}' has no metadata file, but other split folders have one; add one, or, "
                    "if its images have no labels, leave it out: move the folder elsewhere"
                )
        return {split: [self.root / file for file in paths] for split, paths in found.items()}

    def has_class_folders(self) -> bool:
        """Tell whether images lie in at least two folders where class folders would be."""
        return len(self.class_folders()) > 1

    def class_folders(self) -> set[str]:
        """The names of the folders with images where class folders would be."""
        classes = set()
        for file in self.images:
            folders = file.parts[:-1]
            inner = folders[1:] if folders and _is_split(folders[0]) else folders
            if len(inner) == 1:
                classes.add(inner[0])
        return classes

    def classes(self) -> dict[str, list[tuple[PurePath, str | None]]]:
        """Give the images of each split with their class, which is the folder that they lie in.

        A split besides train whose images all lie directly in its folder has no labels: they have no class.

        :raises DataError: if an image of another split does not lie directly in a class folder (its class might be a
            patient), or if there are fewer than two class folders.
        """
        found = {}
        for split, folder in self.split_folders().items():
            inner = {file: file.relative_to(folder) for file in self.images if file.is_relative_to(folder)}
            if split != "train" and all(len(file.parts) == 1 for file in inner.values()):
                found[split] = [(file, None) for file in inner]
                continue
            for file, below in inner.items():
                if len(below.parts) != 2:
                    raise DataError(self._not_in_a_class(file, len(below.parts)))
            found[split] = [(file, below.parts[0]) for file, below in inner.items()]
        classes = {name for rows in found.values() for _, name in rows} - {None}
        if len(classes) < 2:
            raise DataError(
                f"'{printable(self.root)}' has only one class folder with files to read, '{printable(classes.pop())}'; "
                f"add a second one, or a metadata.csv that lists files and labels{self._unread_hint()}"
            )
        return found

    def tell_empty_folders(self) -> None:
        """Warn of folders where splits or classes would be that hold no image."""
        tops = {PurePath(folder.parts[0]) for folder in self.found.folders}
        splits = {folder for folder in self.split_folders().values() if folder.parts}
        places = {folder for folder in self.found.folders if folder.parent in (splits or {PurePath()})}
        with_images = {folder for file in self.images for folder in file.parents}
        for folder in sorted((tops | places) - with_images):
            inside = [file for file in (*self.found.others, *self.found.tables) if file.is_relative_to(folder)]
            masks = sum(file.is_relative_to(folder) for file in self.found.masks)
            what = [f"files that are not read ({counted_suffixes(inside)})"] if inside else []
            what += [f"masks ({masks})"] if masks else []
            left_out = sum(file.is_relative_to(folder) for file in self.found.left_out)
            what += [f"DICOM objects that are no volume ({left_out})"] if left_out else []
            logger.warning(
                "The folder '%s' has nothing to read and counts neither as a split nor as a class; it holds %s.",
                printable(self.root / folder), " and ".join(what) or "no file",
            )  # fmt: skip

    def _not_in_a_class(self, file: PurePath, depth: int) -> str:
        if depth == 1 and self.found.first_of.get(file, file) != file:
            return (
                f"the slices of a series lie directly in '{printable(self.root / file)}'; if that is a class folder, "
                "put each series in a folder of its own within it. For any other layout, list the folders of the "
                "series and their labels in a metadata.csv"
            )
        where = "not in a class folder" if depth == 1 else "in a folder within a class folder"
        return (
            f"'{printable(self.root / file)}' is {where}; labels are read from class folders that contain the files "
            f"directly. {self._series_hint(file)}For any other layout, list files and labels in a metadata.csv"
        )

    def _series_hint(self, file: PurePath) -> str:
        """The way out where a folder may hold the slices of a series, which are read as images unless asked for."""
        beside = sum(other.parent == file.parent and is_dicom_name(other) for other in self.images)
        if self.found.first_of or beside < FEW_SLICES:
            return ""
        return "To read the DICOM slices of each folder as one volume, give `dimensions` 3. "

    def _unread_hint(self) -> str:
        return f". Not read: {counted_suffixes(self.found.others)}" if self.found.others else ""


def _is_split(folder: str) -> bool:
    return standard_split_name(split_of_folder(folder)) is not None


@lru_cache
def _warn_of_class(folder: str, root: str) -> None:
    """Once, however often the folder is looked at."""
    logger.warning(
        "The folder '%s' of '%s' is read as a class, because there is no train beside it. If it is a split, put the "
        "class folders into a folder train.", folder, root,
    )  # fmt: skip

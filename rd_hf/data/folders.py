"""Finds the images of a folder, which folders are splits, and whether the others can be read as classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePath

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder as ImageFolderBuilder

from .columns import DataError
from .split_names import standard_split_name

IMAGE_SUFFIXES = frozenset(ImageFolderBuilder.EXTENSIONS)
METADATA_STEM = "metadata"
TABLE_LOADERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json"}


@dataclass(frozen=True)
class ImageFolder:
    """The visible files below a folder, relative to it, in order.

    :param root: the folder.
    :param images: files with a suffix that `datasets` knows as an image's.
    :param others: all other files.
    """

    root: Path
    images: tuple[PurePath, ...]
    others: tuple[PurePath, ...]

    def split_folders(self) -> dict[str, PurePath]:
        """Give the folder of each split, relative to the root, or else the whole as `train`.

        Folders named like splits count if there is one for training or nothing else: "test" may be a class.

        :raises DataError: if two folders mean one split, or an image lies outside the split folders.
        """
        tops = sorted({file.parts[0] for file in self.images if len(file.parts) > 1})
        found: dict[str, PurePath] = {}
        for top in tops:
            split = standard_split_name(top)
            if split in found:
                raise DataError(
                    f"folders '{found[split]}' and '{top}' of '{self.root}' both stand for {split}; keep only one of "
                    "them"
                )
            if split is not None:
                found[split] = PurePath(top)
        if not found or ("train" not in found and len(found) < len(tops)):
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
        files = [file for file in self.others if file.stem == METADATA_STEM and is_table(file)]
        if any(len(file.parts) == 1 for file in files):
            return {"train": [self.root / file for file in files if len(file.parts) == 1]}
        if not any(len(file.parts) == 2 and standard_split_name(file.parts[0]) for file in files):
            return {}
        splits = self.split_folders()
        found = {split: [file for file in files if file.parent == folder] for split, folder in splits.items()}
        for split, folder in splits.items():
            if not found[split]:
                raise DataError(
                    f"'{self.root / folder}' has no metadata file, but other split folders have one; add one"
                )
        return {split: [self.root / file for file in paths] for split, paths in found.items()}

    def has_class_folders(self) -> bool:
        """Tell whether images lie in at least two folders where class folders would be."""
        classes = set()
        for file in self.images:
            folders = file.parts[:-1]
            inner = folders[1:] if folders and standard_split_name(folders[0]) else folders
            if len(inner) == 1:
                classes.add(inner[0])
        return len(classes) > 1

    def check_class_folders(self) -> None:
        """Make sure that each image lies directly in a class folder, and that there are at least two of these.

        `datasets` silently drops the labels if images lie at several depths, and takes the last folder as the
        class where there are several levels, which may be the patient's.

        :raises DataError: naming an image that lies elsewhere.
        """
        folders = self.split_folders().values()
        classes = set()
        for file in self.images:
            inner = file.relative_to(next(folder for folder in folders if file.is_relative_to(folder)))
            if len(inner.parts) != 2:
                where = "not in a class folder" if len(inner.parts) == 1 else "in a folder within a class folder"
                raise DataError(
                    f"'{self.root / file}' is {where}; labels are read from class folders that contain the images "
                    "directly. For any other layout, list images and labels in a metadata.csv"
                )
            classes.add(inner.parts[0])
        if len(classes) < 2:
            raise DataError(
                f"'{self.root}' has only one class folder, '{classes.pop()}'; add a second one, or a metadata.csv "
                "that lists images and labels"
            )


def scan_folder(root: Path) -> ImageFolder:
    """List the files below a folder, without names that start with a dot or two underscores (as `datasets` does).

    :param root: an existing folder.
    """
    images, others = [], []
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__")))
        for name in sorted(name for name in names if not name.startswith((".", "__"))):
            file = PurePath(os.path.relpath(os.path.join(folder, name), root))
            (images if file.suffix.lower() in IMAGE_SUFFIXES else others).append(file)
    return ImageFolder(root, tuple(images), tuple(others))


def is_table(file: PurePath) -> bool:
    """Tell whether a file's suffix is that of a table that `datasets` reads."""
    return file.suffix.lower() in TABLE_LOADERS

"""Refuses folders that may hold masks, but do not clearly say so."""

from __future__ import annotations

import logging

from ..columns import DataError
from ..mask_names import is_drawn_by_hand, unclear_mask_folders
from ..scanner import FoundFiles, printable

logger = logging.getLogger(__name__)


def refuse_unclear_classes(found: FoundFiles) -> None:
    """:raises DataError: where one of the folders that would be classes may hold the masks of another."""
    for folder, other in unclear_mask_folders(found.images):
        raise DataError(
            f"'{printable(found.root)}' has the folders '{printable(folder)}' and '{printable(other)}', and the names "
            "say that the first may hold the masks of the second. For masks, call them masks and images, with a mask "
            "named like its image, or give a table with columns image and mask. If they are two classes, give `task` "
            "classification"
        )


def refuse_other_masks(found: FoundFiles) -> None:
    """:raises DataError: where a folder that is read as images, such as `1st_manual`, may hold masks."""
    beside = {(folder, other) for folder, other in unclear_mask_folders(found.images) if is_drawn_by_hand(folder)}
    for folder, other in sorted(beside):
        masks = {file.parent for file in found.masks if file.parent.parent == folder.parent}
        raise DataError(
            f"'{printable(found.root)}' has '{printable(folder)}', which may hold the masks of '{printable(other)}'"
            + (f", and so may '{printable(min(masks))}'" if masks else "")
            + ". Call the folder of the masks that are meant masks, with a mask named like its image, and move the "
            "other elsewhere; or give a table with columns image and mask"
        )


def tell_unclear_masks(found: FoundFiles) -> None:
    """Warn of folders that may hold masks where the images of all folders are read without labels."""
    for folder, other in unclear_mask_folders(found.images):
        logger.warning(
            "'%s' may hold the masks of '%s', and is read as images all the same; move it elsewhere if it does.",
            printable(found.root / folder), printable(other),
        )  # fmt: skip

"""Which columns hold the images and the labels, and the images as one undecoded column."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from datasets import ClassLabel, Features, Image, List, Nifti, Value

IMAGE_NAMES = (
    "image", "img", "images", "file_name", "filename", "image_path", "file_path", "filepath", "path", "pixel_values",
    "image_file", "image_filename", "image_file_name", "image_name", "image_index", "image_id", "id_code", "isic_id",
    "dicom_path", "dicom_id", "file", "volume", "volume_path", "nifti", "nifti_path", "series", "series_path",
)  # fmt: skip
LABEL_NAMES = (
    "label", "labels", "target", "targets", "finding", "findings", "diagnosis", "class", "category",
    "finding_labels", "finding_label", "diagnoses", "classes", "dx",
)  # fmt: skip
MASK_NAMES = (
    "mask", "masks", "mask_path", "mask_file", "mask_filename", "mask_file_name", "mask_name", "segmentation_mask",
    "segmentation", "segmentation_path", "seg", "seg_path", "semantic_mask", "semantic_segmentation", "label_path",
    "label_file", "label_filename", "label_file_name", "label_image", "label_mask", "annotation", "annotations",
    "annotation_path", "annotation_file", "annotation_file_name", "ground_truth", "ground_truth_path", "gt", "gt_path",
    "label", "labels", "target",
)  # fmt: skip


class DataError(ValueError):
    """A data set that cannot be used as it is. The message names the file, column or row, and the way out."""


class OtherKindError(DataError):
    """Data of another kind than was asked for: images or volumes, classes or masks.

    :param found: what the data is, and why it cannot be read.
    :param way_out: what to do where an argument asked for the kind. Where a model did, only other data helps.
    """

    def __init__(self, found: str, way_out: str):
        super().__init__(f"{found}; {way_out}")
        self.found = found


def find_image_column(features: Features, wanted: str | None = None, of_volumes: Sequence[str] = ()) -> str:
    """Find the column that holds the images: the one `Image` or `Nifti` column, or else a usual name.

    Without either, it is the one column of paths of volumes that is not one of masks by its name.

    :param features: the features of a split.
    :param wanted: the column that the user named, if any.
    :param of_volumes: the columns of text in which paths of NIfTI files are written, without that of the masks.
    :return: the column's name.
    :raises DataError: if the column is not there, or if several could be meant; lists the columns found.
    """
    if wanted is not None:
        return _named(features, wanted, "image_column")
    typed = [name for name, feature in features.items() if isinstance(feature, (Image, Nifti))]
    masks = usual_columns(features, MASK_NAMES)
    paths = [name for name in of_volumes if name not in masks]
    usual = usual_columns(features, IMAGE_NAMES) or (paths if len(paths) == 1 else [])
    return _choose(features, typed, usual, "image")


def find_label_column(features: Features, wanted: str | Sequence[str] | None = None) -> str | list[str]:
    """Find the column(s) that hold the labels: the one `ClassLabel` column, or else a usual name.

    :param features: the features of a split.
    :param wanted: the column that the user named, or a list of columns of 0 and 1, one per label.
    :return: the column's name, or the list of names.
    :raises DataError: if a column is not there, or if several could be meant; lists the columns found.
    """
    if isinstance(wanted, str):
        return _named(features, wanted, "label_column")
    if wanted is not None:
        if not wanted or len(set(wanted)) < len(wanted):
            raise DataError(f"label_column is {list(wanted)}; give one column, or a list of distinct columns")
        return [_named(features, name, "label_column") for name in wanted]
    typed = [name for name, feature in features.items() if _is_class_label(feature)]
    usual = usual_columns(features, LABEL_NAMES)
    return _choose(features, typed, usual, "label")


def find_mask_column(
    features: Features, image: str, wanted: str | None = None, written: Sequence[str] = ()
) -> str | None:
    """Find the column that holds masks: an `Image` or `Nifti` column of a usual name, or one of paths.

    :param features: the features of a split.
    :param image: the column of images.
    :param wanted: the column that the user named, if any.
    :param written: the columns of text in which paths of images are written.
    :return: the column's name; None if there is none.
    :raises DataError: if the column that the user named is not there; lists the columns found.
    """
    if wanted is not None:
        return _named(features, wanted, "mask_column")
    possible = {name for name, feature in features.items() if isinstance(feature, (Image, Nifti))} or {*written}
    usual = [name for name in usual_columns(features, MASK_NAMES) if name in possible and name != image]
    return usual[0] if usual else None


def has_label_column(features: Features, mask: str) -> bool:
    """Tell whether a column besides that of masks holds labels of classes, by its type or a usual name."""
    others = Features({name: feature for name, feature in features.items() if name != mask})
    return any(map(_is_class_label, others.values())) or bool(usual_columns(others, LABEL_NAMES))


def columns_found(features: Features) -> str:
    """Describe a split's columns for an error message.

    :param features: the features of a split.
    :return: names with their types, for example ``image (Image), finding (string)``.
    """
    return ", ".join(f"{name} ({_type_name(feature)})" for name, feature in features.items()) or "none"


def usual_columns(features: Features, names: Sequence[str]) -> list[str]:
    """The columns that have one of the names, in the names' order: "Image Index" is `image_index`."""
    written = {re.sub(r"[\s-]+", "_", name.strip().lower()): name for name in reversed(list(features))}
    return [written[name] for name in names if name in written]


def column_values(split: Any, column: str) -> list[Any]:
    """The values of a column, without the rows that a selection of rows leaves out."""
    return split.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()


def named_values(split: Any, column: str) -> list[Any]:
    """The values of a column, with the names of classes in place of their numbers; None where there is none."""
    values, feature = column_values(split, column), split.features[column]
    if not isinstance(feature, ClassLabel):
        return values
    return [None if value is None or value < 0 else feature.names[value] for value in values]


def _named(features: Features, wanted: str, argument: str) -> str:
    if wanted not in features:
        raise DataError(
            f"{argument} is '{wanted}', but there is no such column; columns found: {columns_found(features)}"
        )
    return wanted


def _choose(features: Features, typed: list[str], usual: list[str], kind: str) -> str:
    candidates = typed or usual
    if not candidates:
        raise DataError(
            f"no {kind} column found; name it with --{kind}_column. Columns found: {columns_found(features)}"
        )
    if len(typed) > 1:
        candidates = [name for name in usual if name in typed]
        if not candidates:
            raise DataError(f"the {kind} column could be any of {', '.join(typed)}; name one with --{kind}_column")
    return candidates[0]


def _is_class_label(feature: object) -> bool:
    return isinstance(feature.feature if isinstance(feature, List) else feature, ClassLabel)


def _type_name(feature: object) -> str:
    if isinstance(feature, Value):
        return feature.dtype
    if isinstance(feature, List):
        return f"List of {_type_name(feature.feature)}"
    return type(feature).__name__

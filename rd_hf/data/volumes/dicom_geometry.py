"""How the slices of a DICOM series lie in the patient, and whether they make up a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...arguments.words import by
from .source import VolumeError

_SAME_DIRECTION = 1e-3  # between direction cosines of slices of one orientation
_SAME_SPACING = 1e-3  # share of the spacing within slices
_SAME_DISTANCE = 0.05  # share of the median distance; files round positions
_SAME_PLACE = 1e-3  # mm
_ASIDE = 0.5  # pixels that a slice may lie beside the straight line through the others
_UPRIGHT = 0.5  # degrees between the normal and the way from slice to slice
_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # DICOM's axes point to the patient's left and back
_RESAMPLE = "resample it to a box, for example with dcm2niix, and give the NIfTI file"


@dataclass(frozen=True)
class Plane:
    """Where a slice lies, in DICOM's terms; None for what its file does not say.

    :param name: what an error calls the slice.
    :param size: rows and columns.
    :param position: of its first pixel, ImagePositionPatient.
    :param orientation: directions of rows and of columns, ImageOrientationPatient.
    :param spacing: mm from row to row and from column to column, PixelSpacing.
    """

    name: str
    size: tuple[int, int]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None

    @property
    def normal(self) -> np.ndarray:
        """Direction that the slices are counted along, in DICOM's axes."""
        return np.cross(self.orientation[:3], self.orientation[3:])


@dataclass(frozen=True)
class Stack:
    """Slices as a volume.

    :param order: number of the plane of each slice, along the normal.
    :param shape: (X, Y, Z): columns, rows, slices.
    :param affine: (4, 4) float64 from voxel indices to RAS+ millimetres.
    """

    order: tuple[int, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray


def stack(planes: Sequence[Plane]) -> Stack:
    """Sort slices along their normal.

    :raises VolumeError: in a predicate of the series, when they do not make up a box.
    """
    if len(planes) < 2:
        raise VolumeError(
            "has a single slice, which is no volume: put all slices of the series into one folder, or train on images"
        )
    _check_alike(planes)
    first = planes[0]
    along = np.array([plane.position for plane in planes]) @ first.normal
    order = tuple(np.argsort(along, kind="stable").tolist())
    ordered = [planes[number] for number in order]
    _check_box(ordered)
    rows, columns = first.size
    step = np.subtract(ordered[-1].position, ordered[0].position) / (len(planes) - 1)
    row_spacing, column_spacing = first.spacing
    affine = np.eye(4)
    affine[:3, 0] = np.multiply(first.orientation[:3], column_spacing)
    affine[:3, 1] = np.multiply(first.orientation[3:], row_spacing)
    affine[:3, 2] = step
    affine[:3, 3] = ordered[0].position
    affine[:3] = _TO_RAS @ affine[:3]
    return Stack(order, (columns, rows, len(planes)), affine)


def orientations(planes: Sequence[Plane]) -> list[int]:
    """How many slices have each orientation, the most frequent first; those without one are left out."""
    groups: list[tuple[tuple[float, ...], int]] = []
    for plane in planes:
        if plane.orientation is None:
            continue
        for number, (other, count) in enumerate(groups):
            if _is_close(plane.orientation, other, _SAME_DIRECTION):
                groups[number] = other, count + 1
                break
        else:
            groups.append((plane.orientation, 1))
    return sorted((count for _, count in groups), reverse=True)


def _check_alike(planes: Sequence[Plane]) -> None:
    """All slices have a place, one size, one orientation and one spacing."""
    first = planes[0]
    for plane in planes:
        missing = [
            name
            for name, value in (
                ("ImagePositionPatient", plane.position),
                ("ImageOrientationPatient", plane.orientation),
                ("PixelSpacing", plane.spacing),
            )
            if value is None
        ]
        if missing:
            raise VolumeError(
                f"does not say where {plane.name} lies ({', '.join(missing)} is missing or damaged): export the "
                "original images, or give a NIfTI file"
            )
        if plane.size != first.size:
            raise VolumeError(
                f"has slices of several sizes, such as {first.name} with {by(first.size)} pixels and {plane.name} "
                f"with {by(plane.size)}: move those of one size to a folder of their own"
            )
        if not _is_close(plane.orientation, first.orientation, _SAME_DIRECTION):
            raise VolumeError(
                f"has slices of several orientations, such as {first.name} and {plane.name}: move those of one "
                "orientation to a folder of their own"
            )
        if not _is_close(plane.spacing, first.spacing, _SAME_SPACING * min(first.spacing)):
            raise VolumeError(
                f"has slices of several spacings, such as {first.name} with {by(first.spacing, 6)} mm and "
                f"{plane.name} with {by(plane.spacing, 6)} mm: move those of one spacing to a folder of their own"
            )


def _check_box(planes: Sequence[Plane]) -> None:
    """Sorted slices follow each other at one distance, straight along their normal."""
    normal = planes[0].normal
    steps = np.diff([plane.position for plane in planes], axis=0)
    distances = steps @ normal
    same = np.flatnonzero(distances < _SAME_PLACE)
    if same.size:
        one, other = planes[same[0]].name, planes[same[0] + 1].name
        raise VolumeError(
            f"has several slices at one place, such as {one} and {other}, as of several times, echoes or phases: move "
            "one slice of each place to a folder of their own"
        )
    way = steps.sum(axis=0)
    tilt = float(np.degrees(np.arccos(np.clip(way @ normal / np.linalg.norm(way), -1, 1))))
    if tilt > _UPRIGHT:
        raise VolumeError(f"is of a gantry tilted by {tilt:.1f} degrees, so its slices are no box: {_RESAMPLE}")
    straight = planes[0].position + np.outer(np.cumsum(distances), way / distances.sum())
    aside = np.linalg.norm(np.subtract([plane.position for plane in planes[1:]], straight), axis=1)
    if aside.max() > _ASIDE * min(planes[0].spacing):
        name = planes[int(np.argmax(aside)) + 1].name
        raise VolumeError(f"has slices that are shifted sideways, such as {name} by {aside.max():.3g} mm: {_RESAMPLE}")
    usual = float(np.median(distances))
    unlike = np.flatnonzero(np.abs(distances - usual) > _SAME_DISTANCE * usual)
    if not unlike.size:
        return
    widest = int(np.argmax(distances))
    share = distances[widest] / usual
    if np.isclose(share, np.rint(share), atol=_SAME_DISTANCE) and (distances[unlike] > usual).all():
        raise VolumeError(
            f"lacks {'a slice' if share < 2.5 else 'slices'} between {planes[widest].name} and "
            f"{planes[widest + 1].name}, which are {distances[widest]:.4g} mm apart, the others {usual:.4g} mm: fetch "
            "the whole series again, or leave it out"
        )
    raise VolumeError(
        f"has slices at several distances, from {distances.min():.4g} to {distances.max():.4g} mm: {_RESAMPLE}"
    )


def _is_close(values: Sequence[float], others: Sequence[float], tolerance: float) -> bool:
    return bool(np.allclose(values, others, rtol=0, atol=tolerance))

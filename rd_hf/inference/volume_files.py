"""The masks that a segmenter predicts for volumes, as files: NIfTI, DICOM SEG, and pictures to look at."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..arguments.values import ArgumentError
from ..data.scanner import printable
from ..data.volumes.finding import FoundVolume
from ..data.volumes.nifti_writing import write_nifti
from ..data.volumes.source import Source, VolumeError, kind_of
from ..data.volumes.volume import Volume
from ..runtime.files import check_folder, written_whole
from .dicom_seg import check_highdicom, write_dicom_seg
from .label_values import LabelValues
from .mask_files import OVERLAY_FOLDER, check_files_are_free, check_files_differ, without_mask


class VolumeFiles:
    """Where the masks of volumes are written, over nothing of the user's.

    A mask is a NIfTI file with the shape, affine and orientation of its source, and the value of each voxel's class.
    Volumes in folders of their own keep these below the output folder.

    :param volumes: all that will be answered.
    :param output_dir: folder of the masks.
    :param with_overlays: whether a picture of each volume under its mask is written too, into `OVERLAY_FOLDER`.
    :param with_dicom_seg: whether each is written as DICOM SEG too.
    :param skip_existing: whether volumes that have a mask there are left out; other files without a mask are replaced.
    :param values: what stands for each class in a NIfTI file; class numbers by default.
    :ivar volumes: those that are to be answered.
    :raises ArgumentError: when a file that would be written exists, two volumes would have the same, or a DICOM SEG is
        wanted of what is not DICOM.
    """

    def __init__(
        self,
        volumes: Sequence[FoundVolume],
        output_dir: str,
        with_overlays: bool,
        with_dicom_seg: bool,
        skip_existing: bool = False,
        values: LabelValues | None = None,
    ) -> None:
        self.folder = Path(os.path.expanduser(output_dir))
        check_folder(self.folder)
        self.with_overlays, self.with_dicom_seg = with_overlays, with_dicom_seg
        self.values = values
        if with_dicom_seg:
            check_highdicom()
            _check_dicom(volumes)
        planned = [(path, volume.shown) for volume in volumes for path in self._paths(volume).values()]
        check_files_differ(planned, "volumes")
        self.volumes = list(volumes)
        if skip_existing:
            self.volumes = without_mask(volumes, [self._paths(volume)["mask"] for volume in volumes], "volumes")
        else:
            check_files_are_free([path for path, _ in planned])

    def write(
        self, volume: FoundVolume, read: Volume, mask: np.ndarray, names: list[str], picture: np.ndarray | None
    ) -> dict[str, Any]:
        """Write the files of one volume.

        :param read: the volume, on whose voxels the mask lies.
        :param mask: (X, Y, Z) uint8 class numbers.
        :param names: of the classes.
        :param picture: (rows, columns, 3) uint8 of the overlay, where one is wanted.
        :return: the file under `mask`, and under `overlay` and `dicom_seg` where they are wanted.
        """
        paths = self._paths(volume)
        for path in paths.values():
            path.parent.mkdir(parents=True, exist_ok=True)
        if self.with_dicom_seg:  # first: a series that it cannot refer to leaves no files, so that it can be run again
            write_dicom_seg(mask, names, Path(volume.source["path"]), paths["dicom_seg"])
        if picture is not None:
            with written_whole(paths["overlay"]) as aside:
                Image.fromarray(picture).save(aside)
        stored = mask if self.values is None else self.values.stored(mask)
        write_nifti(stored, read.affine, paths["mask"], like=volume.source)  # last: a volume with a mask is complete
        return {kind: printable(path) for kind, path in paths.items()}

    def _paths(self, volume: FoundVolume) -> dict[str, Path]:
        paths = {"mask": self.folder / f"{volume.stem}.nii.gz"}
        if self.with_overlays:
            paths["overlay"] = self.folder / OVERLAY_FOLDER / f"{volume.stem}.png"
        if self.with_dicom_seg:
            paths["dicom_seg"] = self.folder / f"{volume.stem}.seg.dcm"
        return paths


def _check_dicom(volumes: Sequence[FoundVolume]) -> None:
    """:raises ArgumentError: for a volume that is not DICOM; what cannot be read is told later."""
    for volume in volumes:
        try:
            kind = kind_of(Source.of(volume.source))
        except (VolumeError, OSError):
            continue
        if kind != "dicom":
            raise ArgumentError(
                f"`dicom_seg` refers to the slices of a DICOM series, but {printable(volume.shown)} is not DICOM: "
                "leave it out, or predict such volumes apart."
            )

"""Whether a data set is read as images or as volumes, and in how many channels: what the user says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..columns import DataError
from .volume import VolumeReading

Dimensions = Literal["auto", 2, 3]


@dataclass(frozen=True)
class VolumeChoice:
    """What is asked for.

    :param dimensions: 2 for images, 3 for volumes; "auto" takes NIfTI files and arrays of volumes for volumes, and
        DICOM files for images.
    :param channels: of each volume; None takes the number that the data set states, or else one.
    """

    dimensions: Dimensions = "auto"
    channels: int | None = None

    @classmethod
    def of(cls, dimensions: Dimensions, channels: int | None, recorded: VolumeReading | None) -> VolumeChoice:
        """What arguments ask for, or else what a trained model was given.

        :param recorded: how the volumes of a trained model were read.
        :raises DataError: for images where the model reads volumes, or for another number of channels.
        """
        if recorded is None:
            return cls(dimensions, channels)
        if dimensions == 2:
            raise DataError("dimensions is 2, but the model reads volumes; leave it out")
        if channels not in (None, recorded.channels):
            raise DataError(
                f"volume_channels is {channels}, but the model reads volumes of {_counted(recorded.channels)}; leave "
                "it out"
            )
        return cls(3, recorded.channels)


def check_channels_of_model(reading: VolumeReading, recorded: VolumeReading | None) -> None:
    """:raises DataError: if a data set's volumes have another number of channels than those of a trained model."""
    if recorded is not None and reading.channels != recorded.channels:
        raise DataError(
            f"the volumes have {_counted(reading.channels)}, but the model reads {_counted(recorded.channels)}; give "
            "the data that it was made for"
        )


def check_alike(reading: VolumeReading, labelled: VolumeReading) -> None:
    """:raises DataError: if unlabelled volumes are not stored in the way of the labelled ones beside them."""
    if reading != labelled:
        raise DataError(
            f"the volumes without labels have {_stored(reading)}, but those with labels have {_stored(labelled)}; "
            "store them alike"
        )


def _stored(reading: VolumeReading) -> str:
    how = "" if reading.channels == 1 else " along a fourth axis" if reading.channel_axis else " in files of their own"
    return f"{_counted(reading.channels)}{how}"


def _counted(channels: int) -> str:
    return "one channel" if channels == 1 else f"{channels} channels"

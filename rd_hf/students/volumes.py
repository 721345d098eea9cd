"""Students of volumes: networks of MONAI in three dimensions, for the channels and the size that the data have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from ..models.configuration_monai import MonaiNetConfig
from ..models.grids import Grid
from ..models.modeling_rd_student import RDStudent
from .kinds import Kind, StudentError


@dataclass(frozen=True)
class VolumeStudent:
    """What a student of volumes reads.

    :param channels: of the volumes.
    :param size: the three sides, in voxels, of what it is shown at once: a window of a volume, or a whole one.
    """

    channels: int
    size: Grid


def volume_fields(kind: Kind, student: Mapping[str, Any], volumes: VolumeStudent) -> dict[str, Any]:
    """The fields of an inline config, with what the data say where the user says nothing.

    :raises StudentError: for a model of images, or one of other channels.
    """
    model_type = student.get("model_type")
    if model_type != MonaiNetConfig.model_type:
        raise StudentError(
            f"The student has model_type {model_type!r}, but the data are volumes, which models of transformers do not "
            f"read: {_way_out(kind)}"
        )
    fields = {"spatial_dims": 3, "in_channels": volumes.channels, "image_size": list(volumes.size), **student}
    _check(kind, str(fields.get("network")), fields["spatial_dims"], fields["in_channels"], volumes)
    return fields


def check_volume_config(kind: Kind, name: str, config: PreTrainedConfig, volumes: VolumeStudent | None) -> None:
    """Refuse the config of a model that reads images where the data are volumes, or volumes where they are images.

    :param name: the student as the user named it.
    :raises StudentError: for such a model, or one of other channels.
    """
    wrapped = config.classifier_config if config.model_type == RDStudent.config_class.model_type else config
    is_monai = wrapped.model_type == MonaiNetConfig.model_type
    if volumes is not None and not is_monai:
        raise StudentError(
            f"The student {name!r} is a {wrapped.model_type} of transformers, which reads images, but the data are "
            f"volumes: {_way_out(kind)}"
        )
    if is_monai:
        _check(kind, name, wrapped.spatial_dims, wrapped.in_channels, volumes)


def _check(kind: Kind, name: str, spatial_dims: int, channels: int, volumes: VolumeStudent | None) -> None:
    if volumes is None:
        if spatial_dims == 3:
            raise StudentError(
                f"The student {name!r} reads volumes (spatial_dims: 3), but the data are images: set spatial_dims to "
                "2, or leave it out."
            )
        return
    if spatial_dims != 3:
        raise StudentError(
            f"The student {name!r} reads images (spatial_dims: {spatial_dims}), but the data are volumes: set "
            "spatial_dims to 3, or leave it out of an inline config."
        )
    if channels != volumes.channels:
        raise StudentError(
            f"The student {name!r} reads volumes of {channels} channel{'s' * (channels != 1)}, but those of the data "
            f"have {volumes.channels}: set in_channels to {volumes.channels}, or choose another student."
        )


def _way_out(kind: Kind) -> str:
    return (
        f"write a network of MONAI inline, as {{model_type: monai, network: {kind.networks[-1]}}}, one of "
        f"{', '.join(kind.networks)}; `rd-hf students --dimensions 3` lists ready ones."
    )

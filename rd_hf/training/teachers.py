"""Loads the frozen teacher, and puts projectors between it and the student."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from ..arguments.distillation import MODEL_IN_MEMORY, DistillationArguments
from ..arguments.values import ArgumentError
from ..data.pixels import PixelTransform, load_processor, whole_image_processor
from ..data.timm_processor import open_clip_processor
from ..data.volumes.transform import VolumeTransform
from ..inference.model_names import loading, naming
from ..models.backbone import Backbone
from ..models.image_processing_rd_volume import RDVolumeProcessor
from ..models.modeling_rd_teacher import RDTeacherForImageClassification
from ..models.modeling_rd_teacher_segmentation import RDTeacherForSemanticSegmentation
from ..models.packed_tower import PackedTower
from ..models.probe import UnfitImageError
from ..models.slices import SliceReading
from ..models.tape import input_channels
from ..models.teacher_network import TeacherNetwork
from ..models.tower_loading import HUB_PREFIX
from ..runtime.processes import processes_of_machine
from ..tasks.segmentation import Segmentation
from .checks import unfit
from .run_data import RunData
from .run_models import LoadedTeacher, Models
from .volume_processor import has_processor

logger = logging.getLogger(__name__)

BYTE = 255
ONLY_IMAGES = "is only for teachers of images, but the teacher reads whole volumes: leave it out."


def load_teacher(arguments: DistillationArguments, accelerator: Accelerator) -> LoadedTeacher:
    """The teacher that the arguments name.

    :raises ArgumentError: when several processes of one machine would each spread it over all of its devices.
    """
    options = {"revision": arguments.teacher_revision, "trust_remote_code": arguments.trust_remote_code}
    if arguments.teacher_device_map is not None and processes_of_machine() > 1:
        raise ArgumentError(
            "`teacher_device_map` splits the teacher over all GPUs of a machine: launch one process per machine."
        )
    name = arguments.teacher.removeprefix(HUB_PREFIX)
    with loading("teacher", name):
        backbone = Backbone.from_pretrained(
            name,
            dtype=arguments.teacher_dtype,
            batch_size=arguments.teacher_batch_size,
            device_map=arguments.teacher_device_map,
            **options,
        )
        if isinstance(backbone.tower, TeacherNetwork):
            arguments.refuse_changed(["teacher_image_size"], "is not for models of open_clip, which read one size.")
            return LoadedTeacher(backbone, open_clip_processor(name, arguments.teacher_revision))
        if reads_volumes(backbone.tower):
            arguments.refuse_changed(["teacher_image_size"], ONLY_IMAGES)
            if not has_processor(name, arguments.teacher_revision):
                return LoadedTeacher(backbone, None)
        return LoadedTeacher(backbone, load_processor(name, image_size=arguments.teacher_image_size, **options))


def reads_volumes(model: nn.Module) -> bool:
    """Whether a model reads volumes, by its config or its convolutions."""
    if isinstance(model, PackedTower):  # its convolution's third axis is that of a video's frames
        return False
    stated = model.config.to_dict().get("spatial_dims") if isinstance(model, PreTrainedModel) else None
    return stated == 3 if stated is not None else any(isinstance(module, nn.Conv3d) for module in model.modules())


def add_teacher(
    models: Models, arguments: DistillationArguments, loaded: LoadedTeacher, run_data: RunData, accelerator: Accelerator
) -> None:
    """Tap the teacher's stages, and put new projectors between them and the student's."""
    models.backbone, models.teacher_processor = loaded
    is_segmentation = isinstance(run_data.task, Segmentation)
    prepare = _prepare_for_images if run_data.volumes is None else _prepare_for_volumes
    with naming("teacher", arguments.teacher):
        transform = prepare(models, arguments, is_segmentation)
    models.transforms = models.transforms._replace(teacher=transform)
    kind, options = RDTeacherForImageClassification, {"teacher_features": arguments.teacher_features}
    if is_segmentation:
        if arguments.teacher_features != "stage":
            raise ArgumentError(
                "`teacher_features` is only for classes, because masks need the maps of the teacher: leave it out."
            )
        kind = RDTeacherForSemanticSegmentation
        options = {"skips": arguments.skips, "hybrid_norms": arguments.hybrid_norms}
    try:
        models.teacher = kind.from_parts(
            models.student,
            models.backbone,
            teacher_image_size=transform.size,
            stages="all" if arguments.method == "drd" else "last",
            hidden_channels=arguments.projector_channels,
            projector_layers=arguments.projector_layers,
            teacher_stages=arguments.teacher_stages,
            student_stages=arguments.student_stages,
            **options,
        )
    except UnfitImageError as error:
        raise unfit(error, models, arguments) from error
    models.backbone.to(accelerator.device)
    models.teacher.to(accelerator.device)
    if accelerator.device.type == "cpu" and is_emulated(models.backbone.dtype):
        in_hand = arguments.teacher == MODEL_IN_MEMORY
        logger.warning(
            "This CPU has no instructions for %s, so the teacher runs several times slower than in float32. %s is "
            "faster here, and its cached features take two bytes a value too.",
            str(models.backbone.dtype).removeprefix("torch."),
            "model.float()" if in_hand else "`teacher_dtype` float32",
        )


def is_emulated(dtype: torch.dtype) -> bool:
    """Whether the CPU computes a precision of two bytes by way of float32; 4 to 7 times slower where measured."""
    return dtype in (torch.bfloat16, torch.float16) and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")


def _prepare_for_images(models: Models, arguments: DistillationArguments, is_segmentation: bool) -> PixelTransform:
    channels = input_channels(models.backbone.tower)
    if is_segmentation:  # the student's maps and the teacher's have to show the same places
        models.teacher_processor = whole_image_processor(models.teacher_processor, channels)
    transform = PixelTransform(models.teacher_processor, channels)
    if channels == 1:
        logger.info("The teacher %r reads grey images, so it gets the mean of the three channels.", arguments.teacher)
    return transform


def _prepare_for_volumes(models: Models, arguments: DistillationArguments, is_segmentation: bool) -> VolumeTransform:
    """What the teacher reads of a volume: the student's grid in 0..1, as a whole or slice by slice.

    :raises ArgumentError: for a teacher of other channels.
    """
    own, backbone = models.teacher_processor, models.backbone
    if reads_volumes(backbone.tower):
        channels = models.student.config.in_channels
        if input_channels(backbone.tower) != channels:
            raise ArgumentError(
                f"The teacher {arguments.teacher!r} reads volumes of another number of channels "
                f"({input_channels(backbone.tower)}) than those of the data have ({channels}): choose another teacher."
            )
        arguments.refuse_changed(["slice_axis"], ONLY_IMAGES)
    else:
        backbone.slices = slice_reading(own, input_channels(backbone.tower), arguments.slice_axis)
        neighbours = ", each with its two neighbours as the three channels" if len(backbone.slices.mean) == 3 else ""
        logger.info(
            "The teacher %r reads images, so it gets the %s slices of each volume, %d x %d pixels%s.",
            arguments.teacher, arguments.slice_axis, *backbone.slices.size, neighbours,
        )  # fmt: skip
    models.teacher_processor = _processor_of_teacher(models.student_processor, own, arguments.teacher)
    return VolumeTransform(models.teacher_processor)


def slice_reading(processor: BaseImageProcessor, channels: int, axis: str) -> SliceReading:
    """How a model of images reads slices: at the size and with the normalisation of its own image processor.

    :param channels: that the model reads: 3, or 1.
    """
    transform = PixelTransform(processor, channels)
    # pixel = byte * scale + bias = (byte / 255 - mean) / std
    std = 1 / (BYTE * transform.scale.double())
    mean = -transform.bias.double() * std
    return SliceReading(
        axis, transform.size, *(tuple(round(v, 7) + 0.0 for v in part[:channels].tolist()) for part in (mean, std))
    )


def _processor_of_teacher(
    of_student: RDVolumeProcessor, own: RDVolumeProcessor | BaseImageProcessor | None, name: str
) -> RDVolumeProcessor:
    """The student's grid and intensities, in 0..1 unless the teacher's own processor of volumes normalises them.

    :param name: of the teacher, for messages.
    :raises ArgumentError: where the run does not have the values that the teacher reads.
    """
    processor = copy.deepcopy(of_student)
    processor.do_normalize = isinstance(own, RDVolumeProcessor) and own.do_normalize
    if isinstance(own, RDVolumeProcessor):
        if own.do_normalize:
            _check_normalised_values(of_student, own, name)
        _warn_of_differences(of_student, own)
    return processor


def _check_normalised_values(of_student: RDVolumeProcessor, own: RDVolumeProcessor, name: str) -> None:
    """:raises ArgumentError: where the student's values are z-scores and the teacher's not, or the other way round."""
    if not of_student.do_normalize:
        raise ArgumentError(
            f"The teacher {name!r} reads normalised values, but the student's processor shows 0..1: give the student "
            "an RDVolumeProcessor with do_normalize=True."
        )
    if own.intensity == of_student.intensity:
        return
    if own.window is None:
        raise ArgumentError(
            f"The teacher {name!r} reads the z-scores of each volume, but this run shows the window "
            f"{of_student.window}: leave `intensity_window` out (in the student's processor: `window` and "
            "`intensity`), or choose another teacher."
        )
    window = ",".join(f"{value:g}" for value in own.window)
    raise ArgumentError(
        f"The teacher {name!r} reads a window of fixed values, but this run shows the z-scores of each volume: set "
        f"`intensity_window` to {window} (or the student's processor to intensity='window' and window={own.window}), "
        "or choose another teacher."
    )


def _warn_of_differences(of_student: RDVolumeProcessor, own: RDVolumeProcessor) -> None:
    settings: dict[str, tuple[Any, Any]] = {
        "spacing": (of_student.spacing, own.spacing),
        "intensity_window": (of_student.window, own.window),
    }
    for name, (used, made_for) in settings.items():
        if made_for is not None and used != made_for:
            logger.warning(
                "The teacher's processor has %s %s, but this run shows volumes with %s. If the teacher was trained "
                "that way, give --%s %s.",
                name.replace("_", " "), made_for, used, name, ",".join(f"{value:g}" for value in made_for),
            )  # fmt: skip

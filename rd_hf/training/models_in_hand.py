"""Checks of the image processors that come with models in hand: those of models with names come from their folders."""

from __future__ import annotations

from transformers import BaseImageProcessor

from ..arguments.distillation import OF_THE_PROCESSOR, DistillationArguments
from ..arguments.values import ArgumentError
from ..models.backbone import Backbone
from ..models.image_processing_rd_volume import RDVolumeProcessor
from ..tasks.segmentation import Segmentation
from .run_data import RunData
from .teachers import reads_volumes


def check_processor_of_student(
    processor: BaseImageProcessor | None, arguments: DistillationArguments, run_data: RunData
) -> None:
    """:raises ArgumentError: where the processor does not give what the data's task needs."""
    of_volumes = isinstance(processor, RDVolumeProcessor)
    if run_data.volumes is None:
        if processor is None or of_volumes:
            given = "has no processor" if processor is None else "has an RDVolumeProcessor"
            raise ArgumentError(
                f"The student {given}, but the data are images: give its image processor beside it, such as "
                "AutoImageProcessor.from_pretrained(its folder)."
            )
        return
    if processor is None:
        return
    if not of_volumes:
        raise ArgumentError(
            f"The student has a {type(processor).__name__}, which reads images, but the data are volumes: give an "
            "RDVolumeProcessor, or None for what the arguments and the data say."
        )
    arguments.refuse_changed(OF_THE_PROCESSOR, "is stated by the student's processor already: leave it out.")
    if processor.channels != run_data.volumes.channels:
        raise ArgumentError(
            f"The student's processor has channels={processor.channels}, but the volumes of the data have "
            f"{run_data.volumes.channels}: set it to that."
        )
    if isinstance(run_data.task, Segmentation):
        if processor.crop_size is None:
            raise ArgumentError(
                "The student's processor has no crop_size, the window that a model of masks reads: set it, or give "
                "None for the processor and `crop_size` among the arguments."
            )
    elif processor.size is None or processor.crop_size is not None:
        raise ArgumentError(
            f"The student's processor has size={processor.size} and crop_size={processor.crop_size}, but volumes with "
            "classes are resized as a whole: set size, and leave crop_size out."
        )


def check_processor_of_teacher(backbone: Backbone, processor: BaseImageProcessor | None) -> None:
    """:raises ArgumentError: where a model of images has no image processor; slices of volumes need one too."""
    if reads_volumes(backbone.tower) or not (processor is None or isinstance(processor, RDVolumeProcessor)):
        return
    given = "no processor" if processor is None else "an RDVolumeProcessor"
    raise ArgumentError(
        f"The teacher is a model of images but has {given}: give its image processor beside it, such as "
        "AutoImageProcessor.from_pretrained(its folder)."
    )

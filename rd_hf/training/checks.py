"""Checks of a run before any training: what would otherwise stop it late, or in a library's own words."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from math import ceil
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..arguments.distillation import DistillationArguments
from ..arguments.values import ArgumentError
from ..arguments.words import by, counted
from ..data.order import RowOrder, StepPlan
from ..models.probe import UnfitImageError, probe, random_pixels, undisturbed
from ..models.tape import call_model, input_channels
from .decisions import check_operating_point
from .run_data import RunData
from .run_models import Models

logger = logging.getLogger(__name__)

STEPS = (2, 4, 8, 16, 32)  # by which networks of one to five halvings divide a side

FEW_CKA_ROWS = 16  # the standard deviation of debiased CKA of 8 unrelated rows is .23, of 16 it is .10

LEAST_DIFFERENCE = 1e-12  # between the logits of two images


def check_labels(arguments: DistillationArguments, run_data: RunData) -> None:
    """Check that the labels allow what the arguments ask for; no image is needed for that.

    :raises MetricError: where validation does not define the metric that chooses the model.
    :raises ArgumentError: where it cannot define the operating point.
    :raises ValueError: for a setting of the loss that the task does not have.
    """
    labels = run_data.labels[run_data.labelled_rows]
    run_data.task.for_training(labels, arguments.class_weights == "balanced", arguments.label_smoothing)
    splits = {"train": labels.numpy()}
    splits |= {split.name: split.used_labels for split in (run_data.validation, run_data.test)}
    run_data.task.check_metric(splits, run_data.task.selection_metric(arguments.metric_for_best_model))
    check_operating_point(arguments, run_data)


def unfit(error: UnfitImageError, models: Models, arguments: DistillationArguments) -> ArgumentError:
    """The error of a model that does not run on the images that it would be shown, in the words of its role."""
    of_volumes = len(models.transforms.student.size) == 3
    if error.model is models.student.model:
        size, advice = models.transforms.student.size, f"choose another {_size(models)}, or another student"
        role, name = "student", "" if isinstance(arguments.student, dict) else f" {arguments.student!r}"
    else:
        slices = models.backbone.slices
        size, role, name = models.transforms.teacher.size, "teacher", f" {arguments.teacher!r}"
        size, of_volumes = (size, of_volumes) if slices is None else (slices.size, False)
        advice = (
            f"choose another {_size(models)}" if of_volumes else "choose another teacher_image_size, or another teacher"
        )
    sides = by(size)
    shown = (
        f"volumes of {sides} voxels" if of_volumes else f"images of {sides} pixels, as its image processor makes them"
    )
    step = _fitting_step(error.model, size) if of_volumes else None
    if step is not None:
        way_out = f"It runs where each side is a multiple of {step}: {advice}."
    else:
        way_out = f"If it takes {'volumes' if of_volumes else 'images'} of another size, {advice}."
    return ArgumentError(
        f"The {role}{name} ({type(error.model).__name__}) does not run on {shown}: {error.reason.rstrip('.')}. "
        f"{way_out}"
    )


def _fitting_step(model: nn.Module, size: tuple[int, ...]) -> int | None:
    """The power of two to whose multiples sides are rounded up until a model of volumes runs on them; None without."""
    for step in STEPS:
        sides = tuple(step * ceil(side / step) for side in size)
        try:
            with undisturbed(model):
                probe(model, random_pixels(model, input_channels(model), sides), ())
        except UnfitImageError:
            continue
        return step
    return None


def _size(models: Models) -> str:
    """The argument of the student's size."""
    transform = models.transforms.student
    if len(transform.size) == 2:
        return "student_image_size"
    return "volume_size" if transform.processor.crop_size is None else "crop_size"


def distinct_images(plan: StepPlan, batches: int) -> int:
    """How many images the rows of some batches are of at most: rows of an image in several views count once."""
    labelled = min(plan.labelled_size * batches, len(plan.labelled.rows))
    if plan.unlabelled is None:
        return labelled
    unlabelled = plan.unlabelled_size * batches
    if isinstance(plan.unlabelled, RowOrder):  # a stream's length is not known
        unlabelled = min(unlabelled, len(plan.unlabelled.rows))
    return labelled + unlabelled


def warn_of_few_cka_images(
    arguments: DistillationArguments,
    plan: StepPlan,
    batches: int,
    positions: int,
    of_masks: bool,
    unit: str = "image",
) -> None:
    """Log where CKA says little: it has few images, however many rows show them, or rows of one image in several views.

    :param batches: over which CKA is computed.
    :param positions: rows per image.
    :param unit: what the log calls an image.
    """
    rows = (plan.labelled_size + (plan.unlabelled_size if plan.unlabelled else 0)) * batches
    images = distinct_images(plan, batches)
    repeated = f" in {rows} views" if images < rows else ""
    if images * positions < FEW_CKA_ROWS:
        ways_out = ["raise the batch sizes or `gradient_accumulation_steps`"] if images == rows else []
        ways_out += [f"add {unit}s without labels"] if repeated and not plan.unlabelled else []
        ways_out += [
            "set `cka_weight` to 0",
            *(["set `cka_features` to positions"] if of_masks and positions == 1 else []),
        ]
        logger.warning(
            "CKA compares %s%s at each step, which is too few: it is mostly noise, and can spoil the training. "
            "To avoid it, %s.", counted(images, unit), repeated, ", or ".join(ways_out),
        )  # fmt: skip
    elif repeated and arguments.cka_estimator == "debiased":
        logger.info(
            "CKA compares %s%s at each step. Views of one %s resemble each other, so the debiased estimator is above 0 "
            "for unrelated features.", counted(images, unit), repeated, unit,
        )  # fmt: skip


def check_dist(arguments: DistillationArguments, rows: int, of_masks: bool) -> None:
    """Check that a step has enough rows to correlate; of masks each pixel is a row.

    :param rows: images or volumes over which DIST is computed.
    :raises ArgumentError: where there is only one.
    """
    has_term = arguments.kl_weight or arguments.kl_weight_end
    if arguments.divergence == "dist" and has_term and not of_masks and rows < 2:
        raise ArgumentError(
            "`divergence` dist correlates the rows of a step, but a step has one row only: raise "
            "`per_device_train_batch_size`, or set `divergence` kl."
        )


def check_student(models: Models, arguments: DistillationArguments, rows: int) -> None:
    """Check that the student can be trained on its images.

    :param rows: images per batch over which its batch norms take their statistics.
    :raises ArgumentError: when it reads other than colour images, does not run on images of their size, answers crops
        of volumes with another size, or has a batch norm that would see one value.
    """
    model, size = models.student.model, models.transforms.student.size
    if models.teacher is None:  # with a teacher, the search for stages has run it
        try:
            with undisturbed(model):
                probe(model, random_pixels(model, models.student.config.in_channels, size), ())
        except UnfitImageError as error:
            raise unfit(error, models, arguments) from error
    check_logits_vary(model, models.student.config.in_channels, size)
    if len(size) == 3 and models.transforms.student.processor.crop_size is not None:
        check_answered_size(model, models.student.config.in_channels, size)
    check_batch_norm(model, size, rows, _size(models))


def check_logits_vary(model: nn.Module, channels: int, image_size: tuple[int, ...]) -> None:
    """Refuse a student whose signal dies on its way to the logits, so that no loss moves its weights.

    :param model: a classifier or segmenter that runs on such images.
    :param image_size: rows and columns, or the three sides of volumes.
    :raises ArgumentError: where its logits of two images of noise are the same, and no head that starts at zero is why.
    """
    heads = [p for p in model.parameters() if p.ndim > 1 and p.shape[0] == model.config.num_labels]
    if any(not head.any() for head in heads):
        return
    with undisturbed(model):
        for module in model.modules():  # as in training: what norms of batches make of a weak signal
            if isinstance(module, _BatchNorm):
                module.train()
        logits = call_model(model, random_pixels(model, channels, image_size), {}).logits
    difference = float((logits[0] - logits[1]).abs().max())
    if difference < LEAST_DIFFERENCE:
        raise ArgumentError(
            f"The logits of the student ({type(model).__name__}) do not depend on the image: those of two images "
            f"differ by {difference:.0e}, so it would learn nothing. Set a larger initializer_range in its inline "
            "config, such as 0.1, or choose another student."
        )


def check_answered_size(model: nn.Module, channels: int, crop_size: tuple[int, ...]) -> None:
    """Refuse a segmenter whose logits have other sides than the crop, which a sliding window would not put right.

    :param model: a network of MONAI that runs on such crops.
    :param channels: of the volumes.
    :param crop_size: the three sides in voxels.
    :raises ArgumentError: naming the multiple that the sides must be of, where there is one.
    """
    with undisturbed(model):
        answered = _answered(model, channels, crop_size)
        if answered == crop_size:
            return
        # odd multiples, of which a smaller step than the network's does not fit
        near = {step: tuple((side // step | 1) * step for side in crop_size) for step in STEPS}
        step = next((step for step, sides in near.items() if _answered(model, channels, sides) == sides), None)
    advice = "choose another student" if step is None else f"choose a crop_size that is a multiple of {step}"
    raise ArgumentError(
        f"{model.config.network} answers {by(answered)} voxels for a crop of {by(crop_size)}: {advice}."
    )


def _answered(model: nn.Module, channels: int, sides: tuple[int, ...]) -> tuple[int, ...]:
    """The sides of a segmenter's logits; none where it does not run on volumes of these sides."""
    try:
        return tuple(call_model(model, random_pixels(model, channels, sides)[:1], {}).logits.shape[2:])
    except (ValueError, RuntimeError):
        return ()


def check_batch_norm(
    model: nn.Module, image_size: tuple[int, ...], rows: int, argument: str = "student_image_size"
) -> None:
    """Refuse batches of one image for a model whose batch norms would then see one value per channel.

    Batches are always full, so that no last batch is smaller than the others.

    :param image_size: rows and columns of the model's images, or the three sides of volumes.
    :param rows: images per batch and process.
    :param argument: that sets `image_size`.
    :raises ArgumentError: naming the argument.
    """
    norms = {module: name for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
    if rows > 1 or not norms:
        return
    single: list[str] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
        if args[0][:1, 0].numel() == 1:
            single.append(norms[module])

    with undisturbed(model), ExitStack() as stack:
        for module in norms:
            stack.enter_context(module.register_forward_hook(note))
        call_model(model, random_pixels(model, input_channels(model), image_size), {})
    if single:
        raise ArgumentError(
            "`per_device_train_batch_size` is 1, and so the batch norm of the student has one value per channel to "
            f"normalise (in {single[0]}, where the map is a single pixel). Use batches of 2 or more, a larger "
            f"{argument}, or a student without batch norm (convnextv2, vit, swin)."
        )

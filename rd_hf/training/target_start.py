"""The start of RD+, before the first step: a linear probe of the teacher, and projectors that give its logits.

Of masks the probe is a dense one, which reads the last map of the teacher at each place.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from ..arguments.distillation import DistillationArguments
from ..arguments.target_checks import check_targets, has_probe, has_targets
from ..arguments.values import ArgumentError
from ..data.order import StepPlan, Visit
from ..data.pixel_store import Visits, collate
from ..models.features import StageFeature, concatenated, of_parts, picked
from ..models.grids import at_least_float32
from ..models.modeling_rd_teacher import RDTeacher
from ..models.tape import input_channels, without_running_statistics
from ..tasks.classification import Classification
from ..tasks.task import Task
from .ensemble import Ensemble
from .inputs import Inputs
from .linear_probe import LIKELIHOOD, ROWS_AT_ONCE, labelled_features, linear_head, linear_probe, scored_features
from .mask_probe import ProbedSplit, mask_probe
from .run_data import RunData
from .run_models import Models
from .schedules import Rise
from .targets import TargetMaker, probe_logits
from .teacher_features import in_bytes
from .view_means import check_view_means, read_view_means

logger = logging.getLogger(__name__)

FIT_STEPS = 300


class Fit(NamedTuple):
    """How projectors are fitted to a probe.

    :param rows: of train, whose features they are fitted on.
    :param batch: images of a step.
    :param rate: of Adam, at the first step.
    """

    rows: int
    batch: int
    rate: float


FITS = {0: Fit(512, 64, 3e-3), 2: Fit(64, 8, 1e-2), 3: Fit(8, 2, 1e-2)}  # by the sides of masks, 0 for classes


def open_targets(
    arguments: DistillationArguments,
    run_data: RunData,
    models: Models,
    plan: StepPlan,
    inputs: Inputs,
    max_steps: int,
    accelerator: Accelerator,
    goes_on: bool,
) -> TargetMaker | None:
    """What the arguments ask for besides RD: the maker of targets, and projectors that start at the probe.

    :param goes_on: whether a checkpoint holds what would be fitted here.
    :return: None where the hybrid logits of the view at hand are the targets.
    :raises ArgumentError: for targets that the task, the features or the views do not have.
    """
    starts = arguments.projector_start == "probe"
    if not (starts or has_targets(arguments)):
        return None
    _check(arguments, run_data, models)
    probe = _empty_probe(models, run_data)
    if not goes_on and (starts or has_probe(arguments)):
        probe = fitted_probe(arguments, run_data, models, inputs, accelerator)
    if not goes_on and starts:
        features = _features_of_train(run_data, plan, inputs, FITS[_sides(probe)].rows)
        error = start_at_probe(models.teacher, probe, features, run_data.task, arguments.seed)
        logger.info(
            "The projectors start at a linear probe of the teacher. The hybrid logits differ from its logits by %.2g "
            "of their size (root mean square).",
            error,
        )
    if not has_targets(arguments):
        return None
    ensemble = None
    if arguments.ensemble_share:
        rows = 1 + int(max(part.max() for part in (run_data.labelled_rows, run_data.unlabelled_rows) if len(part)))
        ensemble = Ensemble(rows, len(run_data.task.names), probe.weight)
        logger.info("What the student says of %d rows takes %s of memory.", rows, in_bytes(ensemble.bytes))
    rise = Rise(arguments.ensemble_share, max_steps)
    used = probe if has_probe(arguments) else None
    maker = TargetMaker(run_data.task, rise, used, arguments.probe_share, ensemble=ensemble)
    if arguments.target_views == "mean":
        maker.means, maker.read_means = (
            inputs.mean_features,
            partial(read_view_means, arguments, run_data, inputs, accelerator),
        )
    return maker


def _check(arguments: DistillationArguments, run_data: RunData, models: Models) -> None:
    """:raises ArgumentError: see `open_targets`."""
    of_masks = not isinstance(run_data.task, Classification)
    if not of_masks:
        check_view_means(arguments, run_data)
    check_targets(arguments, of_masks=of_masks, of_stream=run_data.stream is not None)
    if of_masks and arguments.projector_start == "probe" and models.teacher.needs_student_pixels:
        raise ArgumentError(
            "`projector_start` probe needs hybrid logits that follow the teacher alone, but those of this student also "
            "depend on its own image: set `skips` to reprogrammed, choose a student that does not read its image again "
            "(not UNETR or SwinUNETR), or set `projector_start` to scaled."
        )


def _empty_probe(models: Models, run_data: RunData) -> nn.Module:
    """A probe without weights, for those of a checkpoint."""
    stage, like = models.teacher.teacher_stages[-1], next(models.teacher.projectors.parameters())
    classes, has_masks = len(run_data.task.names), not isinstance(run_data.task, Classification)
    return linear_head(stage, classes, has_masks, device=like.device, dtype=like.dtype).requires_grad_(False)


def fitted_probe(
    arguments: DistillationArguments, run_data: RunData, models: Models, inputs: Inputs, accelerator: Accelerator
) -> nn.Module:
    """A linear probe, whose penalty the likelihood of validation chooses."""
    empty = _empty_probe(models, run_data)
    if not isinstance(run_data.task, Classification):
        validation = ProbedSplit(arguments, models, run_data.validation, accelerator)
        probe, penalty = mask_probe(arguments, run_data, inputs, validation, LIKELIHOOD)
        logger.info(
            "A dense probe of the teacher is fitted to places of the %d labelled rows, with C = %g.",
            len(run_data.labelled_rows), penalty,
        )  # fmt: skip
        empty.load_state_dict(probe.state_dict())
        return empty
    of_validation = scored_features(arguments, models, run_data.validation, accelerator)
    features, labels = labelled_features(arguments, run_data, inputs, accelerator)
    if accelerator.is_main_process:
        probe, penalty = linear_probe(arguments, run_data, (features, labels), of_validation, LIKELIHOOD)
        logger.info(
            "A linear probe of the teacher is fitted to %d features of the %d labelled rows, with C = %g.",
            len(features), len(run_data.labelled_rows), penalty,
        )  # fmt: skip
        empty.load_state_dict(probe.state_dict())
    for tensor in empty.state_dict().values():
        broadcast(tensor)
    return empty


def _features_of_train(run_data: RunData, plan: StepPlan, inputs: Inputs, most: int) -> list[StageFeature]:
    """The teacher's features of the first rows that are trained on, and as many of those without a label.

    :param most: rows.
    """
    visits: list[Visit] = []
    orders = ((plan.labelled, run_data.labelled_rows, True), (plan.unlabelled, run_data.unlabelled_rows, False))
    for order, rows, labelled in orders:
        if order is not None:
            endless = run_data.stream is not None and not labelled
            visits += order.visits(0, most // 2 if endless else min(len(rows), most // 2), labelled)
    visits = plan.with_images(visits)
    fetched = Visits(inputs.store, run_data.labels, inputs.needs_teacher_pixels)
    parts, size = [], min(ROWS_AT_ONCE, most)
    for start in range(0, len(visits), size):
        parts.append(inputs.teacher_features(collate([fetched[v] for v in visits[start : start + size]])))
    return [of_parts(Tensor.float, feature) for feature in concatenated(parts)]


def start_at_probe(
    teacher: RDTeacher, probe: nn.Module, features: Sequence[StageFeature], task: Task, seed: int
) -> float:
    """Fit the projectors such that every hybrid pass gives the probe's logits; the student stays as it is.

    Of masks the rest of the student is a decoder, which may be random still: then they only come near.

    They are fitted by gradient, so that any head will do. As the probe is linear, its logits are known for all mixtures
    of features, and mixtures are what is shown: an image's features moved along the difference of two others'.

    :param features: of some images, a `StageFeature` for each projector.
    :return: the root mean square of what is left of the difference, divided by that of the logits.
    """
    generator = torch.Generator().manual_seed(seed)
    teacher.train()
    size = tuple(teacher.config.student_config.image_size)
    fit = FITS[_sides(probe)]
    blank = torch.zeros(fit.batch, input_channels(teacher.student.model), *size).to(probe.weight)
    parameters = list(teacher.projectors.parameters())
    optimizer = torch.optim.Adam(parameters, lr=fit.rate)
    with torch.no_grad(), without_running_statistics(teacher.student.model):
        _, tape = teacher.staged_student.forward(blank)

    def error(shown: list[StageFeature]) -> Tensor:
        pairs = zip(teacher.projectors, shown, strict=True)
        reprogrammed = {index: project(feature) for index, (project, feature) in enumerate(pairs)}
        hybrids = teacher.hybrid_passes(tape, reprogrammed, range(len(teacher.config.hybrid_stages)))
        passes = [task.centred(at_least_float32(logits)) for logits in hybrids]
        wanted = probe_logits(probe, shown[-1], task, passes[-1].shape[2:])
        left = sum((logits - wanted).square().mean() for logits in passes) / len(passes)
        return left / wanted.square().mean().clamp(min=torch.finfo(wanted.dtype).tiny)

    for step in range(FIT_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = fit.rate * (1.0 - step / FIT_STEPS)
        gradients = torch.autograd.grad(error(_mixed(features, fit.batch, generator)), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        own = torch.randint(len(features[0].map), (fit.batch,), generator=generator)
        return float(error([picked(feature, own) for feature in features]).sqrt())


def _sides(probe: nn.Module) -> int:
    """Of the masks that a probe is for, 0 where it is for classes."""
    return 0 if isinstance(probe, nn.Linear) else probe.weight.ndim - 2


def _mixed(features: Sequence[StageFeature], batch: int, generator: torch.Generator) -> list[StageFeature]:
    """Features of some images, each moved along the difference of two other images' by a random share of it."""
    count = len(features[0].map)
    first, second, third = torch.randint(count, (3, batch), generator=generator)
    share = torch.rand(batch, generator=generator)

    def mix(part: Tensor) -> Tensor:
        along = share.to(part).view(-1, *[1] * (part.ndim - 1))
        return part[first] + along * (part[second] - part[third])

    return [of_parts(mix, feature) for feature in features]

"""The start of RD+, before the first step: a linear probe of the teacher, and projectors that give its logits."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..arguments.distillation import DistillationArguments
from ..arguments.values import ArgumentError
from ..data.order import StepPlan, Visit
from ..data.pixel_store import Visits, collate
from ..models.features import StageFeature
from ..models.modeling_rd_teacher import RDTeacher
from ..models.tape import input_channels, without_running_statistics
from ..tasks.classification import Classification
from ..tasks.task import at_least_float32
from .ensemble import Ensemble
from .inputs import Inputs
from .linear_probe import LIKELIHOOD, ROWS_AT_ONCE, fit_probe, labelled_features, scored_features
from .objective import comparable
from .run_data import RunData
from .run_models import Models
from .schedules import Rise
from .targets import TargetMaker
from .teacher_features import in_bytes
from .view_means import check_view_means, read_view_means

logger = logging.getLogger(__name__)

FITTED_ROWS = 512  # of train, whose features the projectors are fitted to the probe on
FIT_STEPS, FIT_BATCH, FIT_RATE = 300, 64, 3e-3


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
    has_probe = bool(arguments.probe_weight or arguments.probe_share)
    has_targets = has_probe or arguments.ensemble_share > 0 or arguments.target_views == "mean"
    if not (starts or has_targets):
        return None
    _check(arguments, run_data, has_targets)
    probe = _empty_probe(models, run_data)
    if not goes_on and (starts or has_probe):
        probe = fitted_probe(arguments, run_data, models, inputs, accelerator)
    if not goes_on and starts:
        features = _features_of_train(run_data, plan, inputs)
        error = start_at_probe(models.teacher, probe, features, run_data.task, arguments.seed)
        logger.info(
            "The projectors start at a linear probe of the teacher. The hybrid logits differ from its logits by %.2g "
            "of their size (root mean square).",
            error,
        )
    if not has_targets:
        return None
    ensemble = None
    if arguments.ensemble_share:
        rows = 1 + int(max(part.max() for part in (run_data.labelled_rows, run_data.unlabelled_rows) if len(part)))
        ensemble = Ensemble(rows, len(run_data.task.names), probe.weight)
        logger.info("What the student says of %d rows takes %s of memory.", rows, in_bytes(ensemble.bytes))
    rise = Rise(arguments.ensemble_share, max_steps)
    maker = TargetMaker(run_data.task, rise, probe if has_probe else None, arguments.probe_share, ensemble=ensemble)
    if arguments.target_views == "mean":
        maker.means, maker.read_means = (
            inputs.mean_features,
            partial(read_view_means, arguments, run_data, inputs, accelerator),
        )
    return maker


def _check(arguments: DistillationArguments, run_data: RunData, has_targets: bool) -> None:
    """:raises ArgumentError: see `open_targets`."""
    if not isinstance(run_data.task, Classification):
        raise ArgumentError(
            f"`method` {arguments.method}, with a probe, an ensemble or targets of several views, is for classes, but "
            "the data has masks: set `method` to rd or drd."
        )
    check_view_means(arguments, run_data)
    if has_targets and not arguments.detach_hybrid_in_kl:
        raise ArgumentError(
            "`detach_hybrid_in_kl` false needs the hybrid logits themselves as targets: leave it out, or set "
            "`target_views` to one and `probe_weight`, `probe_share` and `ensemble_share` to 0."
        )


def _empty_probe(models: Models, run_data: RunData) -> nn.Linear:
    """A probe without weights, for those of a checkpoint."""
    stage, like = models.teacher.teacher_stages[-1], next(models.teacher.projectors.parameters())
    width = stage.channels * (2 if stage.prefix_tokens else 1)
    return nn.Linear(width, len(run_data.task.names), device=like.device, dtype=like.dtype).requires_grad_(False)


def fitted_probe(
    arguments: DistillationArguments, run_data: RunData, models: Models, inputs: Inputs, accelerator: Accelerator
) -> nn.Linear:
    """A linear probe, whose penalty the likelihood of validation chooses."""
    features, labels = labelled_features(arguments, run_data, inputs)
    split = run_data.validation
    probe, penalty = fit_probe(
        run_data.task, features, labels, scored_features(arguments, models, split, accelerator),
        split.labels[split.rows], LIKELIHOOD, arguments.class_weights == "balanced",
    )  # fmt: skip
    logger.info(
        "A linear probe of the teacher is fitted to %d features of the %d labelled rows, with C = %g.",
        len(features), len(run_data.labelled_rows), penalty,
    )  # fmt: skip
    empty = _empty_probe(models, run_data)
    empty.load_state_dict(probe.state_dict())
    return empty


def _features_of_train(run_data: RunData, plan: StepPlan, inputs: Inputs) -> list[StageFeature]:
    """The teacher's features of the first rows that are trained on, as many labelled as unlabelled ones."""
    visits: list[Visit] = []
    orders = ((plan.labelled, run_data.labelled_rows, True), (plan.unlabelled, run_data.unlabelled_rows, False))
    for order, rows, labelled in orders:
        if order is not None:
            visits += order.visits(0, min(len(rows), FITTED_ROWS // 2), labelled)
    fetched = Visits(inputs.store, run_data.labels, inputs.needs_teacher_pixels)
    parts = []
    for start in range(0, len(visits), ROWS_AT_ONCE):
        parts.append(inputs.teacher_features(collate([fetched[v] for v in visits[start : start + ROWS_AT_ONCE]])))
    return [
        StageFeature(*(None if part[0] is None else torch.cat(part).float() for part in zip(*stage, strict=True)))
        for stage in zip(*parts, strict=True)
    ]


def start_at_probe(
    teacher: RDTeacher, probe: nn.Linear, features: Sequence[StageFeature], task: Classification, seed: int
) -> float:
    """Fit the projectors such that every hybrid pass gives the probe's logits; the student stays as it is.

    They are fitted by gradient, so that any head will do. As the probe is linear, its logits are known for all mixtures
    of features, and mixtures are what is shown: an image's features moved along the difference of two others'.

    :param features: of some images, a `StageFeature` for each projector.
    :return: the root mean square of what is left of the difference, divided by that of the logits.
    """
    generator = torch.Generator().manual_seed(seed)
    teacher.train()
    size = tuple(teacher.config.student_config.image_size)
    blank = torch.zeros(FIT_BATCH, input_channels(teacher.student.model), *size).to(probe.weight)
    parameters = list(teacher.projectors.parameters())
    optimizer = torch.optim.Adam(parameters, lr=FIT_RATE)
    with torch.no_grad(), without_running_statistics(teacher.student.model):
        _, tape = teacher.staged_student.forward(blank)

    def error(shown: list[StageFeature]) -> Tensor:
        wanted = task.centred(probe(comparable(shown[-1], "pooled").to(probe.weight.dtype)))
        pairs = zip(teacher.projectors, shown, strict=True)
        reprogrammed = {index: project(feature) for index, (project, feature) in enumerate(pairs)}
        hybrids = teacher.hybrid_passes(tape, reprogrammed, range(len(teacher.config.hybrid_stages)))
        passes = [task.centred(at_least_float32(logits)) for logits in hybrids]
        left = sum((logits - wanted).square().mean() for logits in passes) / len(passes)
        return left / wanted.square().mean().clamp(min=torch.finfo(wanted.dtype).tiny)

    for step in range(FIT_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = FIT_RATE * (1.0 - step / FIT_STEPS)
        gradients = torch.autograd.grad(error(_mixed(features, generator)), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        own = torch.randint(len(features[0].map), (FIT_BATCH,), generator=generator)
        return float(error([_rows(feature, own) for feature in features]).sqrt())


def _mixed(features: Sequence[StageFeature], generator: torch.Generator) -> list[StageFeature]:
    """Features of some images, each moved along the difference of two other images' by a random share of it."""
    count = len(features[0].map)
    first, second, third = torch.randint(count, (3, FIT_BATCH), generator=generator)
    share = torch.rand(FIT_BATCH, generator=generator)

    def mix(part: Tensor | None) -> Tensor | None:
        if part is None:
            return None
        along = share.to(part).view(-1, *[1] * (part.ndim - 1))
        return part[first] + along * (part[second] - part[third])

    return [StageFeature(mix(feature.map), mix(feature.prefix)) for feature in features]


def _rows(feature: StageFeature, rows: Tensor) -> StageFeature:
    return StageFeature(feature.map[rows], None if feature.prefix is None else feature.prefix[rows])

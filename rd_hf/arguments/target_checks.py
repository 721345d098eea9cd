"""What student and hybrid logits learn from besides labels, and which of it the arguments contradict."""

from __future__ import annotations

from .distillation import OF_MASKS, DistillationArguments
from .effect_rules import Known, Uses
from .values import ArgumentError

NO_VIEW_MEANS = (
    "`target_views` mean is for classes, and needs a number of views and one vector of the teacher for each of them: "
    "give `num_views` a number and set `teacher_features` to all or last, or set `target_views` to one."
)
ONE_AT_A_TIME = ("round_robin", "random", "optima")  # of `stage_schedule`


def has_probe(arguments: DistillationArguments) -> bool:
    """Whether a linear probe is among what student or hybrid logits learn from."""
    return bool(arguments.probe_weight or arguments.probe_share)


def has_targets(arguments: DistillationArguments) -> bool:
    """Whether the student learns from other logits than the hybrid ones of the view at hand, or these from others."""
    return has_probe(arguments) or arguments.ensemble_share > 0 or arguments.target_views == "mean"


def check_targets(
    arguments: DistillationArguments, uses: Uses | None = None, of_masks: bool | None = None, of_stream: bool = False
) -> None:
    """Check that the targets that are asked for can be made. A resumed run has made them.

    :param uses: of a method of a comparison; by default those of `arguments.method`.
    :param of_masks: whether the data has masks; before that is known, defaults that masks change are not looked at.
    :param of_stream: whether the images without a label are known to be a stream.
    :raises ArgumentError: naming the arguments that exclude each other.
    """
    uses = uses or Uses.of(arguments.method)
    if arguments.resume or not uses.logits:
        return
    of_masks = Known(of_masks=of_masks).stated_by(arguments).of_masks
    if of_masks is None:
        waiting = arguments.not_given & OF_MASKS.get(arguments.method, {}).keys()
        without = {"target_views": "one", "ensemble_share": 0.0}
        arguments = arguments.with_values(**{name: value for name, value in without.items() if name in waiting})
    if uses.reprogramming:
        _check_reprogramming(arguments, bool(of_masks), of_stream)
    lacking = arguments.views is None or arguments.teacher_features == "stage"
    if arguments.target_views == "mean" and lacking:
        raise ArgumentError(NO_VIEW_MEANS)


def _check_reprogramming(arguments: DistillationArguments, of_masks: bool, of_stream: bool) -> None:
    if of_masks and (arguments.ensemble_share or arguments.target_views == "mean"):
        raise ArgumentError(
            "`ensemble_share` and `target_views` mean are for classes, because the views of an image have masks that "
            "differ: set `ensemble_share` to 0 and `target_views` to one, or leave them out."
        )
    if arguments.ensemble_share and (of_stream or arguments.unlabeled_streaming):
        raise ArgumentError(
            "`ensemble_share` needs what the student said of the same image before, but the images of a stream are not "
            "known again: set `ensemble_share` to 0, or leave `unlabeled_streaming` out."
        )
    if not has_targets(arguments):
        return
    if not arguments.detach_hybrid_in_kl:
        raise ArgumentError(
            "`detach_hybrid_in_kl` false needs the hybrid logits themselves as targets: leave it out, or set "
            "`target_views` to one and `probe_weight`, `probe_share` and `ensemble_share` to 0."
        )
    one_at_a_time = arguments.method == "drd" and arguments.stage_schedule in ONE_AT_A_TIME
    are_read = arguments.kl_weight or arguments.kl_weight_end or arguments.ensemble_share
    if one_at_a_time and are_read and arguments.target_views == "one":
        asking = [name for name in ("probe_share", "probe_weight", "ensemble_share") if getattr(arguments, name)]
        raise ArgumentError(
            f"`stage_schedule` {arguments.stage_schedule} has one stage on at a time, but `{asking[0]}` makes targets "
            "of the last hybrid logits, whose stage is off at most steps: set `stage_schedule` to all or last, or "
            f"{' and '.join(f'`{name}`' for name in asking)} to 0."
        )

"""`rd-hf cache build`: computes teacher features before a run."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from ..arguments.distillation import DistillationArguments
from ..arguments.effects import check_effects
from ..arguments.values import ArgumentError
from ..data.decoding.images import BadImageError
from ..runtime.interrupts import with_more
from ..runtime.processes import end_run, report_lost_process, start_accelerator
from ..runtime.progress import Progress
from ..teacher_cache.features import FeatureCache
from ..teacher_cache.key import cache_root
from .assembly import build_inputs, build_models
from .inputs import Inputs
from .run_data import load_run_data
from .teacher_features import in_bytes
from .volume_inputs import VOLUMES_AT_ONCE

MINUTES_OF_WAITING = 7 * 24 * 60.0  # of a process that has filled its share, for those whose share takes longer


def build(arguments: DistillationArguments) -> str:
    """Compute the teacher's features of every train image that a run with these arguments would use, in all its views.

    Processes share the work (accelerate launch, torchrun); an entry that is there is left as it is.

    :return: what was computed, in a sentence.
    :raises ArgumentError: when the arguments leave no cache to build.
    """
    if not arguments.uses_cache:
        raise ArgumentError(
            "There is no cache to build. A cache needs a teacher and a number of views, and `cache` must be true."
        )
    check_effects(arguments)
    patience = max(arguments.process_timeout, MINUTES_OF_WAITING)
    arguments = arguments.with_values(verify_cache=None, report_to=None, process_timeout=patience)
    accelerator = start_accelerator(arguments)
    with report_lost_process(accelerator):
        done = _build_joined(arguments, accelerator)
        end_run(accelerator)
    return done


def _build_joined(arguments: DistillationArguments, accelerator: Accelerator) -> str:
    with accelerator.main_process_first():
        run_data = load_run_data(arguments)
    arguments = run_data.with_defaults(arguments)
    check_effects(arguments, run_data.known(), tell=True)
    if run_data.views(arguments) is None:
        raise ArgumentError(
            "There is no cache to build, because `num_views` asks for other crops in every epoch: give a number of "
            "views."
        )
    models = build_models(arguments, run_data, accelerator)
    run_data.open_train(models.transforms, arguments.bytes_for_volumes())
    inputs = build_inputs(arguments, run_data, models, accelerator)
    if inputs.cache is None or not inputs.cache.has_folder:
        raise OSError(f"The cache cannot be written to {cache_root(arguments.cache_dir)}: choose another `cache_dir`.")
    visits = [(int(row), view) for view in range(run_data.views(arguments)) for row in run_data.kept_rows]
    own = visits[accelerator.process_index :: accelerator.num_processes]
    missing = [visit for visit in own if inputs.cache.lacks(*visit)]
    size = models.backbone.chunk_size or 64 if run_data.volumes is None else VOLUMES_AT_ONCE
    shown = accelerator.is_main_process
    there = len(own) - len(missing)
    with Progress("teacher features", there + min(len(missing), inputs.cache.room), "view", there, shown) as progress:
        try:
            computed = _fill_missing(inputs, missing, size, arguments.on_bad_image, progress)
        except KeyboardInterrupt as interrupt:
            share = "" if accelerator.num_processes == 1 else " of this process"
            kept = f"{progress.done} of {len(own)} entries{share} are kept."
            raise with_more(interrupt, f"{kept} Repeat the command to continue with the others.") from None
    accelerator.wait_for_everyone()
    return _outcome(inputs.cache, visits, computed)


def _fill_missing(
    inputs: Inputs, missing: list[tuple[int, int]], size: int, on_bad_image: str, progress: Progress
) -> int:
    """Compute what has room.

    :param missing: rows and views.
    :param size: how many of them are computed at once.
    :return: how many were computed.
    """
    computed = 0
    while computed < len(missing) and inputs.cache.room > 0:
        visits = missing[computed : computed + min(size, inputs.cache.room)]
        _fill(inputs, visits, on_bad_image)
        computed += len(visits)
        progress.advance(len(visits))
        if inputs.cache.full:
            raise OSError(
                f"The cache in {inputs.cache.folder.path} is not complete, because the disk is full: free some space, "
                "or choose another `cache_dir`."
            )
    return computed


def _outcome(cache: FeatureCache, visits: list[tuple[int, int]], computed: int) -> str:
    lacking = sum(cache.lacks(*visit) for visit in visits)
    if cache.has_room_for(lacking):
        return f"{cache.folder.path}: {len(visits)} entries, of which this process computed {computed}."
    return (
        f"{cache.folder.path}: {len(visits) - lacking} of {len(visits)} entries are cached, and this process computed "
        f"{computed}. The limit of {in_bytes(cache.limit)} leaves no room for the others: raise `cache_limit`."
    )


def _fill(inputs: Inputs, visits: list[tuple[int, int]], on_bad_image: str) -> None:
    readable, pixels = [], []
    for visit in visits:
        try:
            pixels.append(inputs.teacher_pixels(*visit))
            readable.append(visit)
        except BadImageError:
            if on_bad_image != "skip":
                raise
    if readable:
        rows, views = zip(*readable, strict=True)
        inputs.cache.write(rows, views, inputs.run_teacher(rows, views, torch.stack(pixels)))

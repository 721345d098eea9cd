"""`rd-hf cache build`: computes teacher features before a run."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..arguments.distillation import DistillationArguments
from ..arguments.values import ArgumentError
from ..data.decoding.images import BadImageError
from ..data.pixel_store import PixelStore
from ..runtime.processes import start_accelerator
from ..runtime.progress import Progress
from ..teacher_cache.key import cache_root
from .assembly import build_inputs, build_models
from .inputs import Inputs
from .run_data import load_run_data


def build(arguments: DistillationArguments) -> str:
    """Compute the teacher's features of every train image that a run with these arguments would use, in all its views.

    Processes share the work (accelerate launch, torchrun); an entry that is there is left as it is.

    :return: what was computed, in a sentence.
    :raises ArgumentError: when the arguments leave no cache to build.
    """
    if not arguments.uses_cache:
        raise ArgumentError(
            "There is no cache to build. A cache needs a teacher and a number of views, and `no_cache` must be left "
            "out."
        )
    arguments = replace(arguments, verify_cache=None, report_to=None)
    accelerator = start_accelerator(arguments)
    with accelerator.main_process_first():
        run_data = load_run_data(arguments)
    models = build_models(arguments, run_data, accelerator)
    run_data.store = PixelStore(run_data.train, models.transforms, "train", run_data.reading)
    inputs = build_inputs(arguments, run_data, models, accelerator)
    if inputs.cache is None:
        raise OSError(f"The cache cannot be written to {cache_root(arguments.cache_dir)}: choose another --cache_dir.")
    visits = [
        (int(row), view)
        for view in range(arguments.views)
        for rows in (run_data.labelled_rows, run_data.unlabelled_rows)
        for row in rows
    ]
    own = visits[accelerator.process_index :: accelerator.num_processes]
    missing = [visit for visit in own if inputs.cache.lacks(*visit)]
    size = models.backbone.chunk_size or 64
    shown = accelerator.is_main_process
    with Progress("teacher features", len(own), "view", len(own) - len(missing), shown) as progress:
        for start in range(0, len(missing), size):
            _fill(inputs, missing[start : start + size], arguments.on_bad_image)
            progress.advance(len(missing[start : start + size]))
            if inputs.cache.full:
                raise OSError(
                    f"The cache in {inputs.cache.folder.path} is not complete, because the disk is full: free some "
                    "space, or choose another --cache_dir."
                )
    accelerator.wait_for_everyone()
    return f"{inputs.cache.folder.path}: {len(visits)} entries, of which this process computed {len(missing)}."


def _fill(inputs: Inputs, visits: list[tuple[int, int]], on_bad_image: str) -> None:
    readable, pixels = [], []
    for visit in visits:
        try:
            pixels.append(inputs.store.teacher[visit[0]])
            readable.append(visit)
        except BadImageError:
            if on_bad_image != "skip":
                raise
    if readable:
        rows, views = zip(*readable, strict=True)
        inputs.cache.write(rows, views, inputs.run_teacher(rows, views, torch.stack(pixels)))

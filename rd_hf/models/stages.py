"""Find the stages of a vision model by running it once, without per-architecture code.

Blocks are the children of the outermost `nn.ModuleList`s, in the order in which they run. A hierarchical model is cut
where the resolution drops, an isotropic one into equal parts; stages can be named by hand as well.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .features import Form, Grid, Stage, StageError, StageFeature, find_form
from .tape import Cut, StagedModel, Tape, call_model

__all__ = [
    "Stage",
    "StageError",
    "StageFeature",
    "StagedModel",
    "Tape",
    "find_stages",
    "image_tower",
    "pair_stages",
]

# Two images, so that the batch's side of a tensor can be told from others.
PROBE_BATCH = 2
NUM_CHANNELS = 3


def find_stages(
    model: nn.Module, image_size: Grid, names: Sequence[str] | None = None, num_stages: int = 4
) -> StagedModel:
    """Find the stages of a vision model: transformers classifiers, bare backbones and image towers, `nn.Sequential`s.

    The model runs twice on random pixels, in eval mode and without gradients; its training flags, its buffers and the
    global random state are left as they were.

    :param model: reads images (B, 3, H, W); on any device, of any floating dtype.
    :param image_size: rows and columns of those images.
    :param names: module paths of the stages' last blocks, where they are to be chosen by hand; any module whose output
        is a map or a token sequence, put into the order in which they run.
    :param num_stages: into how many stages an isotropic model is cut; a hierarchical one has as many as resolutions.
    :raises StageError: if the model does not run on such images, if no stages are found, or if a name is wrong.
    """
    image_size = (image_size[0], image_size[1])
    with _quiet(model):
        pixel_values = _random_pixels(model, image_size)
        random_state = _random_state(pixel_values.device)
        calls = _probe(model, pixel_values)
        if not torch.equal(random_state, _random_state(pixel_values.device)):
            raise StageError(
                f"{type(model).__name__} draws random numbers in eval mode, as masked autoencoders do that shuffle "
                "their tokens: what it hands on is no image map. Load its weights into the plain encoder's class."
            )
        if names is None:
            chosen = _automatic_stages(model, calls, image_size, num_stages)
        else:
            chosen = _named_stages(model, calls, names)
        stages = [Stage(call.name, call.form.channels, call.form.grid, call.form.prefix_tokens) for call in chosen]
        staged = StagedModel(model, stages, [_cut(call, calls) for call in chosen])
        staged.note_overwritten(pixel_values)
    return staged


def pair_stages(num_teacher: int, num_student: int) -> list[int]:
    """For each student stage the index of the teacher stage at the nearest relative depth; the last with the last.

    :raises ValueError: if either count is below one.
    """
    if min(num_teacher, num_student) < 1:
        raise ValueError(f"both models need a stage, got {num_teacher} for the teacher, {num_student} for the student.")
    return [max(0, math.floor((i + 1) * num_teacher / num_student + 0.5) - 1) for i in range(num_student)]


def image_tower(model: nn.Module) -> nn.Module:
    """The image tower of a model with several (CLIP, SigLIP, SAM); a model with a single one is returned as it is."""
    return model.get_encoder(modality="image") if isinstance(model, PreTrainedModel) else model


@dataclass(eq=False)
class _Call:
    """One call of a module in the probe."""

    name: str
    number: int  # which call of this module
    caller: _Call | None
    started: int  # events so far, to compare with `finished` of other calls
    input_grid: Grid | None
    finished: int = -1
    form: Form | None = None

    def callers(self) -> list[_Call]:
        """Who is running during this call, outermost first."""
        return [] if self.caller is None else [*self.caller.callers(), self.caller]


@contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients; afterwards training flags, buffers and the global random state are as before."""
    training = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            for module, mode in training.items():
                module.train(mode)  # not the flag alone: some modules drop caches here
            for name, buffer in model.named_buffers():
                if name in buffers and not torch.equal(buffer, buffers[name]):
                    buffer.copy_(buffers[name])


def _random_pixels(model: nn.Module, image_size: Grid) -> Tensor:
    """Random images on the model's device and of its dtype; zeros would hide a model's differences."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    pixels = torch.randn(PROBE_BATCH, NUM_CHANNELS, *image_size, generator=torch.Generator().manual_seed(0))
    return pixels.to(parameter.device, parameter.dtype)


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _probe(model: nn.Module, pixel_values: Tensor) -> list[_Call]:
    """Run the model once; every call of every module, in the order in which they started."""
    image_size = (pixel_values.shape[-2], pixel_values.shape[-1])
    names = {module: name for name, module in model.named_modules()}
    blocks = set(list_blocks(model).values())
    calls: list[_Call] = []
    running: list[_Call] = []
    counts = dict.fromkeys(names.values(), 0)
    seen: list[Grid] = []  # grids of convolutions and blocks, latest first
    clock = 0

    def note_grid(grid: Grid) -> None:
        if grid in seen:
            seen.remove(grid)
        seen.insert(0, grid)

    def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        nonlocal clock
        clock += 1
        form = find_form((args, kwargs), PROBE_BATCH, seen, image_size)
        name = names[module]
        call = _Call(name, counts[name], running[-1] if running else None, clock, form.grid if form else None)
        counts[name] += 1
        calls.append(call)
        running.append(call)

    def after(module: nn.Module, args: tuple, output: Any) -> None:
        nonlocal clock
        clock += 1
        call = running.pop()
        call.finished = clock
        if isinstance(module, nn.Conv2d) and output.ndim == 4:
            note_grid(tuple(output.shape[-2:]))
        call.form = find_form(output, PROBE_BATCH, seen, image_size)
        if module in blocks and call.form is not None:
            note_grid(call.form.grid)

    with ExitStack() as stack:
        for module in names:
            stack.enter_context(module.register_forward_pre_hook(before, with_kwargs=True))
            stack.enter_context(module.register_forward_hook(after))
        try:
            call_model(model, pixel_values, {})
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise StageError(
                f"{type(model).__name__} does not run on images of shape {tuple(pixel_values.shape)} alone: {error}\n"
                "Give find_stages the image size the model is made for; of a model with several towers (CLIP, SigLIP) "
                "take image_tower(model)."
            ) from error
    return calls


def list_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The children of a model's outermost lists, by name: its blocks, whether or not a stage ends there."""
    names = {module: name for name, module in model.named_modules()}
    blocks = [module for block_list in _outermost_lists(model) for module in _leaves_of_list(block_list)]
    return {names[block]: block for block in blocks}


def _outermost_lists(module: nn.Module) -> list[nn.ModuleList]:
    if isinstance(module, nn.ModuleList):
        return [module]
    return [found for child in module.children() for found in _outermost_lists(child)]


def _leaves_of_list(module: nn.Module) -> list[nn.Module]:
    """The children of a list; of a list of lists, the children's children."""
    if isinstance(module, nn.ModuleList):
        return [leaf for child in module for leaf in _leaves_of_list(child)]
    return [module]


def _automatic_stages(model: nn.Module, calls: Sequence[_Call], image_size: Grid, num_stages: int) -> list[_Call]:
    """The last block of every stage."""
    names = {module: name for name, module in model.named_modules()}
    by_name: dict[str, list[_Call]] = {}
    for call in calls:
        by_name.setdefault(call.name, []).append(call)
    blocks: list[_Call] = []
    reasons: list[str] = []
    for block_list in _outermost_lists(model):
        runs = [by_name.get(names[module], []) for module in _leaves_of_list(block_list)]
        called = [call for run in runs for call in run]
        if called and all(call.number == 0 and call.form is not None for call in called):
            blocks.extend(called)
        else:
            why = "children give no map or token sequence, or run more than once" if called else "children do not run"
            reasons.append(f"{names[block_list]} (its {why})")
    blocks.sort(key=lambda call: call.started)
    if not blocks:
        raise StageError(_not_found(model, calls, reasons))
    return _group(blocks, image_size, num_stages)


def _not_found(model: nn.Module, calls: Sequence[_Call], reasons: Sequence[str]) -> str:
    looked_at = "; ".join(reasons) if reasons else "it has none"
    usable = [call.name for call in calls if call.form is not None and call.name]
    shallow = [name for name in usable if name.count(".") <= min(name.count(".") for name in usable) + 1]
    return (
        f"no stages found in {type(model).__name__}. Looked at the children of its outermost nn.ModuleLists: "
        f"{looked_at}. Name the last block of each stage by hand: find_stages(model, image_size, names=[...]) takes "
        f"the paths of modules whose output is a map or a token sequence, here for example {shallow[:12]}."
    )


def _group(blocks: list[_Call], image_size: Grid, num_stages: int) -> list[_Call]:
    """The last block of every stage: where the resolution drops, or evenly where it never does.

    A block that reduces the resolution begins a stage, so the drop is looked for in the output grids. Models that list
    whole stages may reduce it at a stage's end instead (swin, levit): there the last two output grids are equal, but
    each stage reads a smaller input than the one before.
    """
    outputs = [math.prod(block.form.grid) for block in blocks]
    rise = next((i for i in range(1, len(blocks)) if outputs[i] > outputs[i - 1]), len(blocks))
    blocks, outputs = blocks[:rise], outputs[:rise]  # a decoder is part of the rest
    inputs = [
        output if block.input_grid in (None, image_size) else math.prod(block.input_grid)
        for block, output in zip(blocks, outputs, strict=True)
    ]
    every_block_a_stage = len(_before_drops(inputs)) == len(blocks)
    last = _before_drops(inputs if every_block_a_stage else outputs)
    if len(last) == 1:
        count = min(num_stages, len(blocks))
        last = [index - 1 for index in ((i + 1) * len(blocks) // count for i in range(count))]
    return [blocks[i] for i in last]


def _before_drops(sizes: Sequence[int]) -> list[int]:
    """Indices after which a sequence of sizes drops, and the last index."""
    return [i for i in range(len(sizes) - 1) if sizes[i + 1] < sizes[i]] + [len(sizes) - 1]


def _named_stages(model: nn.Module, calls: Sequence[_Call], names: Sequence[str]) -> list[_Call]:
    """The calls of the modules named by hand, in the order in which they run."""
    known = [name for name, _ in model.named_modules() if name]
    chosen = []
    for name in dict.fromkeys(names):
        runs = [call for call in calls if call.name == name]
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"; the nearest name is {nearest[0]!r}" if nearest else ""
            raise StageError(f"{type(model).__name__} has no module {name!r}{hint}.")
        if len(runs) != 1:
            raise StageError(
                f"module {name!r} of {type(model).__name__} is called {len(runs)} times in a pass; a stage must end in "
                "a module that is called once."
            )
        if runs[0].form is None:
            raise StageError(
                f"the output of module {name!r} of {type(model).__name__} is neither a map (B, C, H, W) or "
                "(B, H, W, C) nor a token sequence (B, N, C); name a module whose output is one."
            )
        chosen.append(runs[0])
    if not chosen:
        raise StageError("names is empty; name at least one module, or leave it out to have the stages found.")
    return sorted(chosen, key=lambda call: call.finished)


def _cut(block: _Call, calls: Sequence[_Call]) -> Cut:
    """What had finished before `block` started, while its caller was still running."""
    callers = block.callers()
    frontier: dict[str, tuple[int, ...]] = {}
    for call in calls:
        if call.caller in callers and call.finished < block.started and call not in callers:
            frontier[call.name] = (*frontier.get(call.name, ()), call.number)
    return Cut(block.form, frontier, tuple(call.name for call in callers))

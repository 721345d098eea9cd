"""Find the stages of a vision model by running it once, without per-architecture code.

Stages lie in the encoder. Blocks are the children of its outermost `nn.ModuleList`s, in the order in which they run;
models of timm name theirs. A hierarchical model is cut where the resolution drops, an isotropic one into equal parts;
an encoder without blocks is cut after the last module of each resolution. Stages can be named by hand as well.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel

from .features import Form, Stage, StageError, StageFeature
from .grids import Grid
from .probe import Call, probe, quiet, random_pixels, random_state, reaching
from .stage_ends import group, level_ends
from .tape import Cut, StagedModel, Tape, input_channels
from .timm_models import stated_blocks
from .token_order import has_groups, kept_strides

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

Choice = Callable[[Sequence[Call]], list[Call]]  # those of some calls that can be stages


def find_stages(
    model: nn.Module,
    image_size: Grid,
    names: Sequence[str] | None = None,
    num_stages: int = 4,
    in_channels: int | None = None,
    must_reach_output: bool = True,
) -> StagedModel:
    """Find the stages of a vision model: transformers' models, bare backbones and image towers, plain `nn.Module`s.

    The model runs a few times on random pixels in eval mode; its training flags, its buffers, its gradients and the
    global random state are left as they were.

    :param model: reads images (B, C, *image_size); on any device, of any floating dtype.
    :param image_size: rows and columns of those images, or depth, rows and columns of volumes.
    :param names: module paths of the stages' last blocks, where they are to be chosen by hand; any module whose output
        is a map or a token sequence, put into the order in which they run.
    :param num_stages: into how many stages an isotropic model is cut; a hierarchical one has as many as resolutions.
    :param in_channels: channels of the images; by default what the model's config says, else 3.
    :param must_reach_output: whether features will be injected, so that the output must depend on each stage by
        gradient. Blocks that it does not depend on are then no stages. A model that is only read needs none of this.
    :raises StageError: if the model does not run on such images, if no stages are found, if a name is wrong, or if its
        tokens stand for groups of patches.
    """
    image_size = tuple(image_size)
    if has_groups(model):
        raise StageError(
            f"{type(model).__name__} gathers its patches in groups, which lie on no grid, so that it has no maps: "
            "choose another model."
        )
    with quiet(model):
        pixel_values = random_pixels(model, in_channels or input_channels(model), image_size)
        state = random_state(pixel_values.device)
        calls = probe(model, pixel_values, set(list_blocks(model).values()))
        if not torch.equal(state, random_state(pixel_values.device)):
            raise StageError(
                f"{type(model).__name__} draws random numbers in eval mode, as masked autoencoders do to shuffle "
                "their tokens, so its output is not an image map. Load its weights into the class of the plain encoder."
            )

        def keep(candidates: Sequence[Call]) -> list[Call]:
            return reaching(model, pixel_values, candidates) if must_reach_output else list(candidates)

        if names is None:
            chosen = _automatic_stages(model, calls, image_size, num_stages, keep)
        else:
            chosen = _named_stages(model, calls, names, keep)
        for call in chosen:
            strides = kept_strides(model, call.name, call.form.grid, image_size)
            call.form = replace(call.form, unrolled=strides)
        stages = [_stage(call.name, call.form) for call in chosen]
        staged = StagedModel(model, stages, [_cut(call, calls) for call in chosen])
        staged.note_overwritten(pixel_values)
    return staged


def pair_stages(num_teacher: int, num_student: int) -> list[int]:
    """For each student stage the index of the teacher stage at the nearest relative depth; the last with the last.

    :raises ValueError: if either count is below one.
    """
    if min(num_teacher, num_student) < 1:
        raise ValueError(
            f"both models need at least one stage, but the teacher has {num_teacher} and the student has {num_student}."
        )
    return [max(0, math.floor((i + 1) * num_teacher / num_student + 0.5) - 1) for i in range(num_student)]


def image_tower(model: nn.Module) -> nn.Module:
    """The image tower of a model with several (CLIP, SigLIP, SAM); a model with a single one is returned as it is."""
    if not isinstance(model, PreTrainedModel):
        return model
    tower = model.get_encoder(modality="image")
    if tower is model and _modalities(model) != {"image"}:  # transformers does not find those of GIT and FLAVA
        towers = [m for m in model.children() if isinstance(m, PreTrainedModel) and _modalities(m) == {"image"}]
        tower = towers[0] if towers else model
    return tower


def _modalities(model: PreTrainedModel) -> set[str]:
    stated = model.input_modalities
    return {stated} if isinstance(stated, str) else set(stated)


def list_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a model by name, whether or not a stage ends there.

    They are those that the model names itself, or else the children of its outermost lists.
    """
    stated = stated_blocks(model)
    if stated:
        return stated
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


def _encoder(model: nn.Module) -> nn.Module:
    """The part of a model that has the stages: its backbone or encoder, else its base model, else the model itself."""
    children = dict(model.named_children())
    names = ["backbone", "encoder", *([model.base_model_prefix] if isinstance(model, PreTrainedModel) else [])]
    inner = [children[name] for name in names if name in children]
    return _encoder(inner[0]) if inner else model


def _automatic_stages(
    model: nn.Module,
    calls: Sequence[Call],
    image_size: Grid,
    num_stages: int,
    keep: Choice,
) -> list[Call]:
    """The last block of every stage: of the blocks that the model names, of its encoder's lists, or by resolution."""
    stated = _stated_stages(model, calls, image_size, num_stages, keep)
    if stated:
        return stated
    encoder = _encoder(model)
    lists = _outermost_lists(encoder)
    listed, reasons = _running_blocks(model, lists, calls)
    behind = None if listed else _behind_windows(model, lists, calls)
    if behind is not None:
        if not (chosen := keep(behind)):
            raise StageError(_not_found(model, calls, reasons, behind))
        return chosen
    blocks = keep(listed)
    inner = [
        found for block_list in lists for block in _leaves_of_list(block_list) for found in _outermost_lists(block)
    ]
    if len(blocks) < len(listed) and inner:  # the output reads another tensor of these blocks than the next block does
        blocks = keep(_running_blocks(model, inner, calls)[0]) or blocks
    chosen = group(blocks, image_size, num_stages) if blocks else []
    weighted = _weighted_calls(model, encoder, calls)
    if not chosen or _miss_a_level(blocks, chosen, weighted):
        chosen = keep(level_ends(weighted))
    if not listed and _is_stem(model, lists, chosen, calls):
        raise StageError(_not_found(model, calls, reasons, []))
    if not chosen:
        raise StageError(_not_found(model, calls, reasons, listed or weighted))
    return chosen


def _behind_windows(model: nn.Module, lists: Sequence[nn.ModuleList], calls: Sequence[Call]) -> list[Call] | None:
    """The first module that gives a map again behind blocks of windows, whose tokens are in another order (RF-DETR).

    :return: none where there is no such module; None for models of other blocks.
    """
    names = {module: name for name, module in model.named_modules()}
    blocks = {names[block] for block_list in lists for block in _leaves_of_list(block_list)}
    last = next((call for call in reversed(calls) if call.name in blocks and call.folds), None)
    if last is None:
        return None
    callers = last.callers()
    return [c for c in calls if c.caller in callers and c.started > last.finished and c.form and c not in callers][:1]


def _is_stem(model: nn.Module, lists: Sequence[nn.ModuleList], chosen: Sequence[Call], calls: Sequence[Call]) -> bool:
    """Whether the only stage lies in front of blocks that cannot be read, as of models that pack a batch's tokens."""
    names = {module: name for name, module in model.named_modules()}
    blocks = {names[block] for block_list in lists for block in _leaves_of_list(block_list)}
    return len(chosen) == 1 and any(call.name in blocks and call.started > chosen[0].finished for call in calls)


def _stated_stages(
    model: nn.Module, calls: Sequence[Call], image_size: Grid, num_stages: int, keep: Choice
) -> list[Call]:
    """The last block of every stage among those that the model names; none where it does not call each of them once."""
    runs = [[call for call in calls if call.name == name] for name in stated_blocks(model)]
    if not all(len(run) == 1 and run[0].form is not None for run in runs):
        return []
    blocks = keep(sorted((call for run in runs for call in run), key=lambda call: call.started))
    return group(blocks, image_size, num_stages) if blocks else []


def _running_blocks(
    model: nn.Module, lists: Sequence[nn.ModuleList], calls: Sequence[Call]
) -> tuple[list[Call], list[str]]:
    """The blocks of these lists in the order in which they run, and why some lists have none."""
    names = {module: name for name, module in model.named_modules()}
    by_name: dict[str, list[Call]] = {}
    for call in calls:
        by_name.setdefault(call.name, []).append(call)
    blocks: list[Call] = []
    reasons: list[str] = []
    for block_list in lists:
        runs = [by_name.get(names[module], []) for module in _leaves_of_list(block_list)]
        called = [call for run in runs for call in run]
        if called and all(call.number == 0 and call.form is not None for call in called):
            blocks.extend(called)
        else:
            why = "children output no map or token sequence, or run more than once" if called else "children do not run"
            reasons.append(f"{names[block_list]} (its {why})")
    return sorted(blocks, key=lambda call: call.started), reasons


def _weighted_calls(model: nn.Module, encoder: nn.Module, calls: Sequence[Call]) -> list[Call]:
    """The calls inside an encoder, in the order in which they end, of modules that have weights and give a feature.

    Paddings and poolings have none. Features of a single position are left out: they are a squeeze-and-excitation's.
    """
    inside = {module for module in encoder.modules() if next(module.parameters(), None) is not None} - {encoder}
    names = {name for name, module in model.named_modules() if module in inside}
    repeated = {call.name for call in calls if call.number > 0}
    found = [call for call in calls if call.name in names - repeated and call.form and math.prod(call.form.grid) > 1]
    return sorted(found, key=lambda call: call.finished)


def _miss_a_level(blocks: Sequence[Call], chosen: Sequence[Call], calls: Sequence[Call]) -> bool:
    """Whether a module outside of the blocks goes below the last stage's resolution: lists without the bottleneck.

    :param blocks: all blocks of the lists.
    :param chosen: the last block of every stage.
    :param calls: in the order in which they end.
    """
    last, size = chosen[-1], math.prod(chosen[-1].form.grid)
    for call in calls:
        is_block = call in blocks or any(caller in blocks for caller in call.callers())
        if is_block or call.started < chosen[0].started:
            continue
        if math.prod(call.form.grid) < size:
            return True
        if call.started > last.finished and math.prod(call.form.grid) > size:  # a decoder
            return False
    return False


def _not_found(model: nn.Module, calls: Sequence[Call], reasons: Sequence[str], candidates: Sequence[Call]) -> str:
    name = type(model).__name__
    if candidates:
        return (
            f"no stages found in {name}: no gradient leads from its output to any of its blocks "
            f"({', '.join(call.name for call in candidates[:6])} ...), so a feature injected there would change "
            "nothing."
        )
    looked_at = "; ".join(reasons) if reasons else "it has none"
    usable = [call.name for call in calls if call.form is not None and call.name]
    shallow = [name for name in usable if name.count(".") <= min(name.count(".") for name in usable) + 1]
    return (
        f"no stages found in {name}. rd_hf looked at the children of its encoder's outermost nn.ModuleLists "
        f"({looked_at}) and for modules with weights that run once and output a map. Name the last block of each "
        "stage yourself: find_stages(model, image_size, names=[...]) takes the paths of modules whose output is a "
        f"map or a token sequence, for example {shallow[:12]}."
    )


def _named_stages(model: nn.Module, calls: Sequence[Call], names: Sequence[str], keep: Choice) -> list[Call]:
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
                f"module {name!r} of {type(model).__name__} is called {len(runs)} times in one forward pass; a stage "
                "must end in a module that is called once."
            )
        if runs[0].form is None:
            raise StageError(
                f"the output of module {name!r} of {type(model).__name__} is neither a map (B, C, *grid) or "
                "(B, *grid, C) nor a token sequence (B, N, C); name a module whose output is one."
            )
        chosen.append(runs[0])
    if not chosen:
        raise StageError(
            "names is empty; name at least one module, or leave names out so that the stages are found automatically."
        )
    chosen.sort(key=lambda call: call.finished)
    reached = keep(chosen)
    silent = [call.name for call in chosen if call not in reached]
    if silent:
        raise StageError(
            f"the output of {type(model).__name__} does not depend on the output of module {silent[0]!r}: its "
            "gradient there is zero, so a feature injected there would change nothing. Name a shallower module, or "
            "one inside it."
        )
    return chosen


def _stage(name: str, form: Form) -> Stage:
    return Stage(name, form.channels, form.grid, form.prefix_tokens, unrolled=form.unrolled)


def _cut(block: Call, calls: Sequence[Call]) -> Cut:
    """What had finished before `block` started, while its caller was still running."""
    callers = block.callers()
    frontier: dict[str, tuple[int, ...]] = {}
    for call in calls:
        if call.caller in callers and call.finished < block.started and call not in callers:
            frontier[call.name] = (*frontier.get(call.name, ()), call.number)
    return Cut(block.form, frontier, tuple(call.name for call in callers))

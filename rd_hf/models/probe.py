"""One pass of a model on random images: which modules run, what they hand on, and which of it reaches the output."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .features import Form, Path, StageError, StageFeature, find_form, find_tokens_first, replace_tensors, tensors
from .grids import CONVOLUTION, Grid
from .tape import StagedModel, call_model, input_channels, instance_attribute, other_inputs

# Two images, so that the batch's side of a tensor can be told from others.
PROBE_BATCH = 2


class UnfitImageError(StageError):
    """A model that does not run on images of the size and channels that it is given.

    :ivar model: that model.
    :ivar reason: what it says, in one line.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, ...], error: Exception) -> None:
        """:param shape: of the images."""
        self.model = model
        self.reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        super().__init__(
            f"{type(model).__name__} does not run on images of shape {shape} alone: {self.reason} Give the image size "
            "(and in_channels) that the model is made for. For a model with several towers (CLIP, SigLIP), pass "
            "image_tower(model)."
        )


@dataclass(eq=False)
class Call:
    """One call of a module in the probe.

    :ivar name: path of the module.
    :ivar number: which call of this module, from 0.
    :ivar caller: the call during which it was made.
    :ivar started: events (starts and ends of calls) before it, to compare with `finished` of other calls.
    :ivar input_grid: of the first feature among its arguments.
    :ivar form: how its output carries a feature; None where it carries none.
    :ivar folds: of a block, whether its output has windows or parts of images in the place of images.
    """

    name: str
    number: int
    caller: Call | None
    started: int
    input_grid: Grid | None
    finished: int = -1
    form: Form | None = None
    folds: bool = False

    def callers(self) -> list[Call]:
        """Who is running during this call, outermost first."""
        return [] if self.caller is None else [*self.caller.callers(), self.caller]


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
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


def random_pixels(model: nn.Module, channels: int, image_size: Grid) -> Tensor:
    """Random images on the model's device and of its dtype; zeros would hide a model's differences."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    pixels = torch.randn(PROBE_BATCH, channels, *image_size, generator=torch.Generator().manual_seed(0))
    return pixels.to(parameter.device, parameter.dtype)


def random_state(device: torch.device) -> Tensor:
    """The state of a device's global generator."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def probe(model: nn.Module, pixel_values: Tensor, blocks: Collection[nn.Module]) -> list[Call]:
    """Run the model once; every call of every module, in the order in which they started.

    :param pixel_values: images (B, C, *image size).
    :param blocks: modules whose outputs are known to be features.
    :raises UnfitImageError: if the model does not run on these images.
    """
    image_size = tuple(pixel_values.shape[2:])
    names = {module: name for name, module in model.named_modules()}
    calls: list[Call] = []
    running: list[Call] = []
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
        call = Call(name, counts[name], running[-1] if running else None, clock, form.grid if form else None)
        counts[name] += 1
        calls.append(call)
        running.append(call)

    def after(module: nn.Module, args: tuple, output: Any) -> None:
        nonlocal clock
        clock += 1
        call = running.pop()
        call.finished = clock
        if isinstance(module, CONVOLUTION[len(image_size)]) and output.ndim == pixel_values.ndim:
            note_grid(tuple(output.shape[2:]))
        call.form = find_form(output, PROBE_BATCH, seen, image_size)
        if module in blocks and call.form is None:
            call.form = find_tokens_first(output, PROBE_BATCH, seen, image_size)
        if module in blocks and call.form is not None:
            note_grid(call.form.grid)
        call.folds = module in blocks and call.form is None and _is_folded(output)

    with ExitStack() as stack:
        for module in names:
            stack.enter_context(module.register_forward_pre_hook(before, with_kwargs=True))
            stack.enter_context(module.register_forward_hook(after))
        try:
            call_model(model, pixel_values, {})
        except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError) as error:
            raise UnfitImageError(model, tuple(pixel_values.shape), error) from error
    return calls


def _is_folded(output: Any) -> bool:
    """Whether the first tensor of an output is a sequence for each of several parts of the probed images."""
    first = next((tensor for _, tensor in tensors(output) if tensor.is_floating_point()), torch.empty(0))
    return first.ndim == 3 and first.shape[0] > PROBE_BATCH and first.shape[0] % PROBE_BATCH == 0


def refuse_other_inputs(model: nn.Module, name: str) -> None:
    """:raises StageError: for a model of transformers, called `name`, that does not read images alone."""
    others = other_inputs(model)
    if others:
        raise StageError(
            f"The backbone {name!r} ({type(model).__name__}) reads {', '.join(others)} beside its images, in a way "
            "that rd_hf does not know, so it cannot be shown whole images: choose another one, such as "
            "google/siglip2-base-patch16-224."
        )


def used_before(model: nn.Module, last: str, image_size: Grid, weights: Sequence[str]) -> list[str]:
    """Those of some weights that a pass reads before the module `last` has returned."""
    started = _started_around(model, last, image_size)
    return [name for name in weights if _owner(name, started) in started["before"]]


def _started_around(model: nn.Module, last: str, image_size: Grid) -> dict[str, set[str]]:
    """Names of the modules that a pass calls `before` the module `last` has returned, and `after`."""
    started: dict[str, set[str]] = {"before": set(), "after": set()}
    phase = ["before"]

    def start(name: str) -> Any:
        return lambda module, args: started[phase[0]].add(name)

    def end(module: nn.Module, args: Any, output: Any) -> None:
        phase[0] = "after"

    with ExitStack() as stack, torch.no_grad():
        for name, module in model.named_modules():
            stack.enter_context(module.register_forward_pre_hook(start(name)))
        stack.enter_context(model.get_submodule(last).register_forward_hook(end))
        parameter = next(model.parameters())
        shape = (1, input_channels(model), *image_size)
        call_model(model, torch.zeros(shape, device=parameter.device, dtype=parameter.dtype), {})
    return started


def _owner(key: str, started: dict[str, set[str]]) -> str:
    """The innermost module around a weight that is called: some weights are read without calling their own module."""
    path = key
    while path:
        path = path.rpartition(".")[0]
        if path in started["before"] or path in started["after"]:
            return path
    return ""


def reaching(model: nn.Module, pixel_values: Tensor, calls: Sequence[Call]) -> list[Call]:
    """Those of the calls whose feature reaches the model's output: by gradient, from one backward pass.

    A gradient that is zero in every entry counts as none where a shallower call has one: the output is reached around
    this call. In front of the first call with a gradient it may have vanished on the way (tiny random weights, a head
    that starts at zero), so there being connected is enough. Parameters get no gradient.

    :param calls: of modules that are called once, each with a form, shallow to deep.
    :return: the same calls in the same order, without those that the output does not depend on.
    """
    if not calls:
        return []
    zeros: dict[str, list[Tensor]] = {}

    def with_zeros(call: Call, forward: Callable) -> Callable:
        def add_zeros(path: Path, tensor: Tensor) -> Tensor:
            if path not in (call.form.path, call.form.prefix_path):
                return tensor
            zeros.setdefault(call.name, []).append(torch.zeros_like(tensor, requires_grad=True))
            return tensor + zeros[call.name][-1]

        return lambda *args, **kwargs: replace_tensors(forward(*args, **kwargs), add_zeros)

    with ExitStack() as stack, torch.enable_grad():
        for call in calls:
            # as a resumed pass does it: hooks, with which transformers collects hidden states, see what it returns
            module = model.get_submodule(call.name)
            stack.enter_context(instance_attribute(module, "forward", with_zeros(call, module.forward)))
        found = [tensor for _, tensor in tensors(call_model(model, pixel_values, {})) if tensor.is_floating_point()]
        # unequal weights: a softmax sums to one, a layer norm to nothing, whatever the features are
        total = sum((torch.linspace(1, 2, t.numel()).to(t).view_as(t) * t).sum() for t in found if t.requires_grad)
        if not found:  # an output of an unknown kind tells nothing
            return list(calls)
        if not isinstance(total, Tensor):
            return []
        leaves = [leaf for call in calls for leaf in zeros[call.name]]
        gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    by_leaf = dict(zip(map(id, leaves), gradients, strict=True))
    of_call = [[g for leaf in zeros[call.name] if (g := by_leaf[id(leaf)]) is not None] for call in calls]
    moved = [any(bool(gradient.any()) for gradient in connected) for connected in of_call]
    first = moved.index(True) if True in moved else len(calls)
    return [call for index, call in enumerate(calls) if moved[index] or (of_call[index] and index < first)]


def read_together(staged: StagedModel, image_size: Grid) -> list[int]:
    """The stages that the output depends on where features are injected after all of them in one pass.

    A model that reads the last stage alone, a chain, reads none of the others then.

    :param staged: of a model with `logits`.
    :return: indices of stages, shallow to deep.
    """
    model = staged.model
    with undisturbed(model):
        _, tape = staged.forward(random_pixels(model, input_channels(model), image_size))
        leaves = {
            i: StageFeature(feature.map.clone().requires_grad_(), feature.prefix)
            for i, feature in enumerate(tape.features)
        }
        with torch.enable_grad():
            total = staged.resume(tape, leaves).logits.sum()
        gradients = torch.autograd.grad(total, [leaf.map for leaf in leaves.values()], allow_unused=True)
    return [index for index, gradient in enumerate(gradients) if gradient is not None]

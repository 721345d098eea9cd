"""Records a model's ordinary pass, and runs the rest of it from a stage on.

The rest of a model (final norms, a last convolution, pooling, the head) is code inside its forward, so it is run, not
taken out: the modules that had finished before the stage's last block replay what they returned in the recorded pass,
the block returns the injected feature, and whatever comes after it computes. This is how a reprogrammed feature passes
through the student's remaining stages and classifier (DRD, arXiv 2605.04447; RD, arXiv 2407.06504, is the case of the
last stage).
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from .features import Form, Stage, StageError, StageFeature, replace_tensors, tensors
from .hybrid_norms import PassStatistics


@dataclass(frozen=True)
class Cut:
    """Where a pass is cut to resume it after a stage.

    :ivar form: how the stage's last block carries the feature.
    :ivar frontier: per module that finished before that block while its caller was still running, which of its calls
        (counted from 0 over the pass) these were.
    :ivar callers: the modules that are running when the block is called, outermost first.
    """

    form: Form
    frontier: Mapping[str, tuple[int, ...]]
    callers: tuple[str, ...]


@dataclass
class Tape:
    """A recorded pass: what `StagedModel.resume` needs of it.

    :ivar features: the feature after each stage, shallow to deep, with its autograd graph.
    :ivar outputs: per recorded module its outputs, by the number of the call.
    :ivar pixel_values: the call's images (B, C, *image size).
    :ivar kwargs: the call's other arguments.
    """

    features: list[StageFeature]
    outputs: dict[str, dict[int, Any]]
    pixel_values: Tensor
    kwargs: dict[str, Any]


class StagedModel:
    """A vision model as a chain of stages, which `rd_hf.models.stages.find_stages` makes. The model is not changed.

    :ivar model: the model itself.
    :ivar stages: its stages, shallow to deep.
    """

    def __init__(self, model: nn.Module, stages: Sequence[Stage], cuts: Sequence[Cut]) -> None:
        """:param cuts: where to cut the pass, one per stage."""
        self.model = model
        self.stages = tuple(stages)
        self._cuts = tuple(cuts)
        self._recorded_calls: dict[str, set[int]] = {stage.name: {0} for stage in self.stages}
        for cut in self._cuts:
            for name, calls in cut.frontier.items():
                self._recorded_calls.setdefault(name, set()).update(calls)
        self._overwritten: frozenset[str] = frozenset()

    @property
    def recorded_modules(self) -> list[str]:
        """Names of the modules whose outputs a tape holds."""
        return list(self._recorded_calls)

    def note_overwritten(self, pixel_values: Tensor) -> None:
        """Run the model once to find the recorded outputs that later code writes over in place: tapes copy those.

        :param pixel_values: images (B, C, *image size).
        """
        seen: list[tuple[str, Tensor, int]] = []

        def noter(name: str) -> Callable:
            def note(module: nn.Module, args: tuple, output: Any) -> None:
                seen.extend((name, tensor, tensor._version) for _, tensor in tensors(output))

            return note

        with ExitStack() as stack:
            for name in self._recorded_calls:
                stack.enter_context(self.model.get_submodule(name).register_forward_hook(noter(name)))
            call_model(self.model, pixel_values, {})
        self._overwritten = frozenset(name for name, tensor, version in seen if tensor._version != version)

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> tuple[Any, Tape]:
        """The model's ordinary pass, recorded.

        :param pixel_values: images (B, C, *image size); any batch size.
        :param kwargs: the model's other arguments, e.g. labels.
        :returns: the model's output and the tape. The tape refers to what the modules returned, it copies nothing.
        :raises StageError: if a module that the probe saw was not called, or a feature does not have the probed form.
        """
        outputs: dict[str, dict[int, Any]] = {}
        with _recording(self.model, self._recorded_calls, self._overwritten, outputs):
            result = call_model(self.model, pixel_values, kwargs)
        for name, calls in self._recorded_calls.items():
            if not calls <= outputs.get(name, {}).keys():
                raise StageError(
                    f"module {name!r} of {type(self.model).__name__} was called when its stages were searched, but "
                    "not in this pass. Turn off whatever skips modules at random (layer drop)."
                )
        image_size = tuple(pixel_values.shape[2:])
        features = [
            cut.form.read(outputs[stage.name][0], image_size)
            for stage, cut in zip(self.stages, self._cuts, strict=True)
        ]
        return result, Tape(features, outputs, pixel_values, kwargs)

    def resume(
        self,
        tape: Tape,
        stages: int | Mapping[int, StageFeature],
        feature: StageFeature | None = None,
        statistics: PassStatistics | None = None,
    ) -> Any:
        """Run the rest of the model after one or several stages on injected features: the hybrid pass.

        What had finished before the shallowest of these stages comes from the tape, detached: what earlier modules hand
        around it (skip connections, position embeddings) is the recorded pass's own. Everything after it runs, except
        that each named stage returns its injected feature; so `{0: ..., 1: ..., 2: ...}` leaves nothing of the image in
        a model that reads it through its stages alone.

        Batch norms in train mode use the batch's statistics and neither read nor write their running ones; in eval mode
        they use the running ones. With `statistics` they read and write these, as norms do. Dropout and stochastic
        depth draw masks as in any pass. See docs/explanation/decisions.md, "Batch norm in hybrid passes" and "Dropout
        in hybrid passes".

        :param tape: a recorded pass of this model over the same number of images.
        :param stages: one stage, counted from 0, shallow to deep, with `feature`; or the feature of each stage.
        :param feature: of the shape that the one stage hands on; keeps its autograd graph, as those of several do.
        :param statistics: running statistics of this pass's own, in place of those of the model's norms.
        :returns: the model's output.
        :raises StageError: if a feature does not have its stage's shape, or the rest of the model never asked for it.
        """
        features = dict(stages) if isinstance(stages, Mapping) else {stages: feature}
        first = self._cuts[min(features)]
        injections = {self.stages[index].name: self._injection(tape, index, f) for index, f in features.items()}
        callers = {caller for index in features for caller in self._cuts[index].callers}
        with ExitStack() as stack:
            for name, calls in first.frontier.items():
                module, recorded = self.model.get_submodule(name), [tape.outputs[name][call] for call in calls]
                replay = _Replay(recorded, module.forward, name in self._overwritten)
                stack.enter_context(instance_attribute(module, "forward", replay))
            for name, injection in injections.items():
                stack.enter_context(instance_attribute(self.model.get_submodule(name), "forward", injection))
            stack.enter_context(_without_side_effects(self.model, callers, statistics))
            result = call_model(self.model, tape.pixel_values, tape.kwargs)
        unused = [name for name, injection in injections.items() if not injection.used]
        if unused:
            raise StageError(f"the resumed pass never called {unused[0]!r}, so it did not read the injected feature.")
        return result

    def _injection(self, tape: Tape, index: int, feature: StageFeature) -> _Injection:
        """What the last block of a stage returns in a resumed pass."""
        stage, form = self.stages[index], self._cuts[index].form
        _check_shape(stage, tape.features[index], feature)
        injected = form.write(tape.outputs[stage.name][0], feature)
        if stage.name in self._overwritten:
            injected = replace_tensors(injected, lambda path, tensor: tensor.clone())
        return _Injection(injected)


def call_model(model: nn.Module, pixel_values: Tensor, kwargs: Mapping[str, Any]) -> Any:
    """Call a vision model on images: a transformers model by the name of its input, any other by position."""
    if isinstance(model, PreTrainedModel):
        return model(**{_image_argument(type(model)): pixel_values}, **kwargs)
    return model(pixel_values, **kwargs)


@cache
def _image_argument(kind: type[PreTrainedModel]) -> str:
    """The name under which a class of models takes images; an image tower has inherited `main_input_name` of text."""
    names = [parameter.name for parameter in _parameters(kind)]
    stated = kind.main_input_name
    if stated in names and not (stated == "input_ids" and "pixel_values" in names):
        return stated
    return "pixel_values" if "pixel_values" in names else names[0]


def other_inputs(model: nn.Module) -> list[str]:
    """What a model's forward asks for beside images, such as the grid of packed patches; empty for models of images."""
    if not isinstance(model, PreTrainedModel):
        return []
    asked = [p for p in _parameters(type(model)) if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return [p.name for p in asked if p.name != _image_argument(type(model))]


def _parameters(kind: type[PreTrainedModel]) -> list[inspect.Parameter]:
    """Of a class's forward, without `self`."""
    return list(inspect.signature(kind.forward).parameters.values())[1:]


def input_channels(model: nn.Module) -> int:
    """Channels of the images or volumes that a model reads: what its config says, else 3."""
    values = model.config.to_dict() if isinstance(model, PreTrainedModel) else {}
    values = values.get("classifier_config", values)  # of a student
    values = values | (values.get("model_args") or {})  # of timm
    names = ("num_channels", "in_channels", "in_chans")
    stated = [values[name] for name in names if isinstance(values.get(name), int)]
    return stated[0] if stated else 3


class _Injection:
    """A block's `forward` that returns the injected output."""

    def __init__(self, output: Any) -> None:
        self.output = output
        self.used = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.used = True
        return self.output


class _Replay:
    """A module's `forward` that returns recorded outputs, detached, and computes again once they are used up."""

    def __init__(self, recorded: Sequence[Any], forward: Callable, copy: bool) -> None:
        self.recorded = deque(recorded)
        self.forward = forward
        self.copy = copy

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.recorded:
            return self.forward(*args, **kwargs)
        output = self.recorded.popleft()
        return replace_tensors(output, lambda path, tensor: tensor.detach().clone() if self.copy else tensor.detach())


def _check_shape(stage: Stage, own: StageFeature, feature: StageFeature) -> None:
    for part in StageFeature._fields:
        expected, given = [
            None if tensor is None else tuple(tensor.shape) for tensor in (getattr(own, part), getattr(feature, part))
        ]
        if expected != given:
            raise StageError(
                f"stage {stage.name!r} outputs a {part} of shape {expected} in the recorded pass, but the feature to "
                f"inject has {given}. Project it to the stage's channels, grid and prefix tokens, for the same images."
            )


@contextmanager
def _recording(
    model: nn.Module, calls: Mapping[str, set[int]], copied: frozenset[str], outputs: dict[str, dict[int, Any]]
) -> Iterator[None]:
    """Collect the outputs of the given calls of modules in `outputs`."""
    counts = dict.fromkeys(calls, 0)

    def recorder(name: str) -> Callable:
        def record(module: nn.Module, args: tuple, output: Any) -> None:
            if counts[name] in calls[name]:
                kept = replace_tensors(output, lambda path, tensor: tensor.clone()) if name in copied else output
                outputs.setdefault(name, {})[counts[name]] = kept
            counts[name] += 1

        return record

    with ExitStack() as stack:
        for name in calls:
            stack.enter_context(model.get_submodule(name).register_forward_hook(recorder(name)))
        yield


@contextmanager
def instance_attribute(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """Set an attribute on this one module, and put back what its instance had (or had not) afterwards."""
    attributes = vars(module)
    before = {name: attributes[name]} if name in attributes else {}
    attributes[name] = value
    try:
        yield
    finally:
        del attributes[name]
        attributes.update(before)


@contextmanager
def _without_side_effects(
    model: nn.Module, callers: Iterable[str], statistics: PassStatistics | None
) -> Iterator[None]:
    """Keep the running statistics of norms in train mode out of a resumed pass, or put the pass's own in their place.

    Layers with such norms, and the callers of the injected blocks, run without gradient checkpointing meanwhile: their
    backward pass would run them a second time, when the running statistics are back and the injected feature is gone.
    """
    with ExitStack() as stack:
        open_modules = {model.get_submodule(name) for name in callers}
        stack.enter_context(statistics.installed(model) if statistics else without_running_statistics(model))
        for module in model.modules():
            if not isinstance(module, GradientCheckpointingLayer) or not module.gradient_checkpointing:
                continue
            if module in open_modules or any(isinstance(inner, _NormBase) for inner in module.modules()):
                stack.enter_context(instance_attribute(module, "gradient_checkpointing", False))
        yield


@contextmanager
def without_running_statistics(model: nn.Module) -> Iterator[None]:
    """In this context norms in train mode use the batch's statistics, and neither read nor write running ones.

    That holds for their own and for those of `PassStatistics`.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if _tracks(module):
                # instance norms write what statistics they have, even if they do not track them
                hidden = module._buffers | {"running_mean": None, "running_var": None}
                stack.enter_context(instance_attribute(module, "track_running_stats", False))
                stack.enter_context(instance_attribute(module, "_buffers", hidden))
        yield


def _tracks(module: nn.Module) -> bool:
    return isinstance(module, _NormBase) and module.training and module.track_running_stats

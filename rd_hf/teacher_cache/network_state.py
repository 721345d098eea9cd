"""What the features of a plain network depend on besides its weights: the code and the attributes of its modules."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # parameters, hooks and the like
NO_VALUE = object()


def network_state(network: nn.Module) -> str:
    """SHA-256 over what the forwards of a network may read, in the order of its modules.

    That is the code of their classes, plain values among their attributes, and tensors that `state_dict` leaves out.
    """
    modules = [[name, _named(type(module)), _attributes(module)] for name, module in network.named_modules()]
    classes = {kind for module in network.modules() for kind in type(module).__mro__}
    code = {_named(kind): _code(kind) for kind in classes if not _is_of_torch(kind)}
    return hashlib.sha256(json.dumps([modules, code], sort_keys=True).encode()).hexdigest()


def _attributes(module: nn.Module) -> dict[str, Any]:
    own = {name: value for name, value in vars(module).items() if name not in OF_EVERY_MODULE}
    own |= {name: module._buffers[name] for name in module._non_persistent_buffers_set}
    values = {name: _plain(value) for name, value in own.items()}
    return {name: value for name, value in values.items() if value is not NO_VALUE}


def _plain(value: Any) -> Any:
    """A value as JSON that is the same in every process; `NO_VALUE` for objects that have no such form."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return [str(value.dtype), list(value.shape), hashlib.sha256(content).hexdigest()]
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, list | tuple):
        return _without_others(enumerate(value))
    if isinstance(value, Mapping):
        return _without_others(value.items())
    if isinstance(value, partial):
        return _plain((value.func, value.args, value.keywords))
    if isinstance(value, FunctionType) and not _is_of_torch(value):
        return [_named(value), _compiled(value.__code__)]
    return _named(value) if inspect.isroutine(value) or inspect.isclass(value) else NO_VALUE


def _without_others(items: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    values = {str(name): _plain(value) for name, value in items}
    return {name: value for name, value in values.items() if value is not NO_VALUE}


def _is_of_torch(value: Any) -> bool:
    return value.__module__.split(".")[0] in ("torch", "builtins")


def _named(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def _code(kind: type) -> Any:
    """The content of a class's file, or, for one that was typed into a session, what its functions are compiled to."""
    try:
        return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()
    except (TypeError, OSError):
        functions = {name: getattr(value, "__code__", None) for name, value in vars(kind).items()}
        return {name: _compiled(code) for name, code in functions.items() if code is not None}


def _compiled(value: Any) -> Any:
    """A function without the lines that it stands in, with its constants."""
    if isinstance(value, CodeType):
        return [value.co_code.hex(), list(value.co_names), [_compiled(constant) for constant in value.co_consts]]
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)  # a set has no order of its own

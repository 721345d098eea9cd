"""Applies torch.compile block by block, so that a model's stages can still be tapped and resumed from.

What is compiled is each block's `forward`, as an attribute of the instance: hooks that record a block's output run
outside of it, and a resumed pass puts its own `forward` in place for as long as it runs (`rd_hf.models.tape`). Names of
modules and weights stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..arguments.values import ArgumentError
from ..models.stages import list_blocks
from ..models.tape import instance_attribute

if TYPE_CHECKING:
    from .run_models import Models

logger = logging.getLogger(__name__)

# Blocks of one class share their code, and with it the graphs that torch keeps: each block has one for the ordinary
# pass, one for hybrid passes and one for evaluation. After the usual 8 torch would leave all of them uncompiled.
FORMS = 256


def check_compiler(device: torch.device) -> None:
    """:raises ArgumentError: when torch.compile does not work for a device, as without a C++ compiler or Triton."""
    try:
        torch.compile(lambda values: values.sin() + 1, fullgraph=True)(torch.zeros(8, device=device))
    except Exception as error:  # whatever a missing or broken tool chain raises
        reason = str(error).strip().splitlines()[0]
        raise ArgumentError(f"`torch_compile` does not work on this machine ({reason}): leave it out.") from error


@contextmanager
def compiled(model: nn.Module, recorded: Collection[str] = ()) -> Iterator[list[str]]:
    """A context in which the blocks of a model run compiled; each is compiled at its first calls.

    :param recorded: modules whose outputs are recorded; blocks that one of them lies inside of are left as they are.
    :return: names of the compiled blocks.
    :raises ArgumentError: when the model has no such block, as an `nn.Sequential` has none.
    """
    blocks = {
        name: block
        for name, block in list_blocks(model).items()
        if not any(other.startswith(f"{name}.") for other in recorded)
    }
    if not blocks:
        raise ArgumentError(
            f"`torch_compile` finds no blocks to compile in the nn.ModuleLists of {type(model).__name__}: leave it out."
        )
    with ExitStack() as stack:
        for block in blocks.values():
            stack.enter_context(instance_attribute(block, "forward", torch.compile(block.forward)))
        yield list(blocks)


@contextmanager
def compiled_models(models: Models) -> Iterator[None]:
    """Compile the blocks of student and teacher for as long as this lasts: for the training, not for the report."""
    with ExitStack() as stack:
        stack.enter_context(torch._dynamo.config.patch(recompile_limit=FORMS))
        if models.teacher is None:
            parts = [stack.enter_context(compiled(models.student.model))]
        else:
            staged = (models.teacher.staged_student, models.backbone.staged)
            parts = [stack.enter_context(compiled(one.model, one.recorded_modules)) for one in staged]
        logger.info("Compiled: %s.", " and ".join(f"{len(names)} blocks" for names in parts))
        yield

"""Running statistics of a student's norms in a hybrid pass, apart from those of its own pass.

Reprogrammed features are distributed otherwise than the student's own. Where a hybrid pass in eval mode is to be used,
its batch norms need statistics of such features, as adversarial images need norms of their own in AdvProp
(arXiv 1911.09665).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class PassStatistics(nn.Module):
    """Running statistics, in one hybrid pass, of every norm of a model that has such statistics.

    :param model: the student's model; nothing of it is kept.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        for number, norm in enumerate(_norms(model)):
            for name in STATISTICS:
                self.register_buffer(f"{name}_{number}", torch.empty_like(norm.get_buffer(name)))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Start as norms do: mean 0, variance 1."""
        for name, buffer in self.named_buffers():
            buffer.fill_(1 if name.startswith("running_var") else 0)

    @torch.no_grad()
    def copy_from(self, model: nn.Module) -> None:
        """Start from the running statistics of the model's own pass."""
        for number, norm in enumerate(_norms(model)):
            for name in STATISTICS:
                self.get_buffer(f"{name}_{number}").copy_(norm.get_buffer(name))

    @contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """In this context the model's norms read these statistics, and in train mode move these and not their own.

        :param model: the one that this was made for, or a copy of it.
        """
        # those without their own statistics at the moment are to have none; see `without_running_statistics`
        norms = {number: norm for number, norm in enumerate(_norms(model)) if norm.running_mean is not None}
        own = {number: {name: norm.get_buffer(name) for name in STATISTICS} for number, norm in norms.items()}
        try:
            for number, norm in norms.items():
                norm._buffers.update({name: self.get_buffer(f"{name}_{number}") for name in STATISTICS})
            yield
        finally:
            for number, norm in norms.items():
                norm._buffers.update(own[number])


def _norms(model: nn.Module) -> list[_NormBase]:
    found = (module for module in model.modules() if isinstance(module, _NormBase))
    return [norm for norm in found if norm.num_batches_tracked is not None]

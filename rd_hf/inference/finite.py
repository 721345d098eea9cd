"""The check that a model's output is made of numbers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class OutputError(ValueError):
    """A model's output that is no answer."""


def check_finite(outputs: Tensor, names: Sequence[str]) -> None:
    """Refuse NaN and infinity, of which a decision would make a class without a finding, or an empty mask.

    :param outputs: (B, ...), such as logits.
    :param names: what the B images or volumes are called.
    :raises OutputError: for the first one.
    """
    for name, is_finite in zip(names, outputs.isfinite().flatten(1).all(dim=1).tolist(), strict=True):
        if not is_finite:
            raise OutputError(
                f"The model's output for {name} is not finite (NaN or infinite), so it has no answer. Fetch, train or "
                "export the model again if it is so for every image."
            )

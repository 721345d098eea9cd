"""Plots that are composed but not drawn: drawing them takes half of the time of a small run.

Tests of plots draw them, and so do the commands that tests run in processes of their own, unless they ask for this.
"""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure
from PIL import Image


def leave_plots_empty(set_attribute: Callable = setattr) -> None:
    """From now on a figure is saved as one pixel.

    :param set_attribute: the `setattr` of a MonkeyPatch, where it is for a test only.
    """
    set_attribute(Figure, "savefig", lambda self, path, **options: Image.new("L", (1, 1)).save(path))

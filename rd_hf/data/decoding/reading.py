"""How image files are read where a file leaves a choice: which page, and which window of a DICOM file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ...arguments.values import window_of

if TYPE_CHECKING:
    from ...arguments.commands import EvaluationArguments
    from ...arguments.distillation import DistillationArguments

LARGEST = 2**31  # bytes of a decoded image
# after the number of a page that a file does not have
FROM_WHERE = ", by the command or by the training of the model"


@dataclass(frozen=True)
class Reading:
    """The choices of a run; what a student was trained with is recorded with it.

    :param page: number of the page or frame to read, from 1; None refuses a file that has several.
    :param dicom_window: "center,width", "none" for the whole range of the stored bits, or "minmax" for the image's own
        range; None takes the file's VOI LUT or first window, and its own range where it has neither.
    :raises ArgumentError: when the window is none of these.
    """

    page: int | None = None
    dicom_window: str | None = None

    def __post_init__(self) -> None:
        window_of(self.dicom_window)

    @classmethod
    def of(cls, arguments: DistillationArguments | EvaluationArguments) -> Reading:
        """The reading that arguments ask for."""
        return cls(arguments.page, arguments.dicom_window)

    @classmethod
    def recorded(cls, trained_on: dict[str, Any], page: int | None = None, dicom_window: str | None = None) -> Reading:
        """The reading of a trained model, where nothing else is asked for.

        :param trained_on: what is recorded of the model's training data.
        """
        kept = trained_on.get("reading", {})
        return cls(page or kept.get("page"), dicom_window or kept.get("dicom_window"))

    @property
    def window(self) -> tuple[float, float] | None:
        """The (center, width) that was given in numbers."""
        return window_of(self.dicom_window)

    def chosen(self) -> dict[str, Any]:
        """The choices that are not the default, as plain JSON values; empty if there is none."""
        return {name: value for name, value in asdict(self).items() if value is not None}

"""The start of the projectors: at the scale of the features at hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..data.augmentation import EVALUATION_VIEW
from ..data.order import StepPlan, Visit
from ..data.pixel_store import PixelStore
from ..models.backbone import BackboneError
from .run_data import RunData
from .run_models import Models
from .volume_inputs import seen_by_teacher

CALIBRATION_ROWS = 64  # labelled, and as many unlabelled ones
CALIBRATION_VOLUMES = 4  # of each; one has as many positions as hundreds of images


@torch.no_grad()
def calibrate_projectors(models: Models, run_data: RunData, plan: StepPlan) -> None:
    """Start the projectors at the scale of the features at hand, from the first step's first rows, un-augmented.

    The rows are those of all processes and accumulated batches: the start does not depend on how these share them.
    It helps where a teacher has outlying channels, as vision transformers do; see docs/explanation/decisions.md.
    """
    batches, most = plan.accumulation * plan.processes, CALIBRATION_ROWS
    if run_data.volumes is not None:
        most = CALIBRATION_VOLUMES
    visits = plan.labelled.visits(0, min(plan.labelled_size * batches, most), True)
    if plan.unlabelled is not None:
        visits += plan.unlabelled.visits(0, min(plan.unlabelled_size * batches, most), False)
    visits = {visit.row: visit for visit in plan.with_images(visits)}
    student_pixels, teacher_pixels = _unaugmented(models, run_data, [visits[row] for row in sorted(visits)])
    models.teacher.train()
    buffers = {name: buffer.clone() for name, buffer in models.student.named_buffers()}
    _, tape = models.teacher.staged_student.forward(student_pixels)
    models.student.load_state_dict(buffers, strict=False)  # running statistics as they were
    features = zip(models.teacher.projectors, models.backbone.extract(teacher_pixels), tape.features, strict=True)
    for projector, of_teacher, of_student in features:
        if not of_teacher.map.isfinite().all():
            raise BackboneError(
                f"The teacher {models.backbone.name!r} gives features that are not finite (NaN or infinity). Download "
                "it again, because its weights may be damaged, or set teacher_dtype to float32 if they overflow in "
                "another."
            )
        projector.calibrate(of_teacher, of_student)


def _unaugmented(models: Models, run_data: RunData, visits: Sequence[Visit]) -> tuple[Tensor, Tensor]:
    """What student and teacher see of some rows as they are, or of the middle of volumes."""
    store, device = run_data.store, models.student.device
    fetched = [store.fetch(visit._replace(view=EVALUATION_VIEW), True) for visit in visits]
    own, other = (torch.stack(parts) for parts in list(zip(*fetched, strict=True))[:2])
    if isinstance(store, PixelStore):
        return store.student.transform.normalize(own.to(device)), store.teacher.transform.normalize(other.to(device))
    rows = [visit.row for visit in visits]
    return own.to(device), seen_by_teacher(store, models.transforms.teacher, rows, other).to(device)

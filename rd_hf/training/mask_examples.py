"""Pictures of a segmenter's best, median and worst test images or volumes: image, truth and prediction."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from ..data.decoding.image_notes import Note
from ..data.open_split import OpenSplit
from ..inference.examples import mask_example, volume_example
from ..inference.rows import evaluating
from ..models.modeling_rd_segmentation import RDStudentForSemanticSegmentation
from ..scoring.mask_pictures import draw_masks
from ..scoring.segmentation import MaskRows
from ..scoring.volume_pictures import draw_volumes
from ..tasks.segmentation import Segmentation, VolumeSegmentation

logger = logging.getLogger(__name__)

EXAMPLES_FILE = "examples.png"
EACH = 2  # best, median and worst images
EACH_OF_VOLUMES = 1  # of which three slices are drawn


@torch.no_grad()
def draw_examples(
    task: Segmentation,
    student: RDStudentForSemanticSegmentation,
    split: OpenSplit,
    rows: np.ndarray,
    folder: Path,
) -> None:
    """Write `EXAMPLES_FILE`: pictures of patients, which nothing publishes unless the user asks for it.

    :param rows: of the split, as `Task.row` gives them; an image's Dice is the mean over its foreground classes.
    """
    dice = MaskRows.of(rows, task.names).per_image["dice"]
    defined = np.flatnonzero(~np.isnan(dice).all(axis=1) & ~_with_text(split))
    values = np.nanmean(dice[defined], axis=1)
    of_volumes = isinstance(task, VolumeSegmentation)
    chosen = defined[chosen_positions(values, EACH_OF_VOLUMES if of_volumes else EACH)]
    titles = [f"{split.name}, row {split.rows[number]}\nDice {np.nanmean(dice[number]):.2f}" for number in chosen]
    (folder / EXAMPLES_FILE).unlink(missing_ok=True)  # of an earlier report
    if not titles:
        return
    example = volume_example if of_volumes else mask_example

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        return student(pixel_values=pixels).logits

    pairs = zip(chosen, titles, strict=True)
    examples = (example(task, forward, student.device, split, split.rows[n], title) for n, title in pairs)
    with evaluating(student):
        if of_volumes:
            draw_volumes(examples, task.names, folder / EXAMPLES_FILE)
        else:
            draw_masks(list(examples), task.names, folder / EXAMPLES_FILE)


def _with_text(split: OpenSplit) -> np.ndarray:
    """(N,) bool, which images say that text, perhaps a patient's name, is burned into their pixels."""
    notes = split.store.notes(split.rows)
    found = np.array([bool(notes[int(row)] & Note.BURNED_IN) for row in split.rows], dtype=bool)
    if found.any():
        words = (
            "%s leaves out %d of %d images of %s, which have text burned into the pixels (BurnedInAnnotation is YES)."
        )
        logger.warning(words, EXAMPLES_FILE, found.sum(), len(found), split.name)
    return found


def chosen_positions(values: np.ndarray, each: int) -> np.ndarray:
    """Positions of the best, the median and the worst of some values, in this order, none twice.

    :param values: (N,).
    :param each: how many best ones, median ones and worst ones.
    """
    order = np.argsort(-values, kind="stable")
    middle = max(0, len(order) // 2 - each // 2)
    picked = [*order[:each], *order[middle : middle + each], *order[-each:]]
    return np.array(list(dict.fromkeys(picked)), dtype=np.int64)

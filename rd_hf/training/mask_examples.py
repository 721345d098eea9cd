"""Pictures of a segmenter's best, middling and worst test images: image, truth and prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..data.decoding.images import read_image
from ..data.open_split import OpenSplit
from ..inference.rows import pixel_values
from ..models.modeling_rd_segmentation import RDStudentForSemanticSegmentation
from ..scoring.mask_pictures import MaskExample, draw_masks
from ..scoring.segmentation import MaskRows
from ..tasks.segmentation import Segmentation

EXAMPLES_FILE = "examples.png"
EACH = 2  # best, median and worst images


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
    defined = np.flatnonzero(~np.isnan(dice).all(axis=1))
    values = np.nanmean(dice[defined], axis=1)
    chosen = defined[chosen_positions(values)]
    titles = [f"{split.name}, row {split.rows[number]}\nDice {np.nanmean(dice[number]):.2f}" for number in chosen]
    examples = [
        _example(task, student, split, split.rows[number], title) for number, title in zip(chosen, titles, strict=True)
    ]
    if examples:
        draw_masks(examples, task.names, folder / EXAMPLES_FILE)


def chosen_positions(values: np.ndarray) -> np.ndarray:
    """Positions of the best, the median and the worst of some values, in this order, none twice.

    :param values: (N,).
    """
    order = np.argsort(-values, kind="stable")
    middle = max(0, len(order) // 2 - EACH // 2)
    picked = [*order[:EACH], *order[middle : middle + EACH], *order[-EACH:]]
    return np.array(list(dict.fromkeys(picked)), dtype=np.int64)


@torch.no_grad()
def _example(
    task: Segmentation, student: RDStudentForSemanticSegmentation, split: OpenSplit, row: int, title: str
) -> MaskExample:
    image = np.asarray(read_image(split.images[row]["image"], reading=split.store.reading).rgb)
    truth = split.store.source_mask(row)
    was_training = student.training
    logits = student.eval()(pixel_values=pixel_values(split.store.student, [row], student.device)).logits.float()
    student.train(was_training)
    return MaskExample(image, truth, task.masks_of(logits, [truth.shape])[0], title)

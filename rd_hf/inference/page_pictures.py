"""The pictures of a report page: which images it shows, and as what."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.open_split import OpenSplit
from ..data.volumes.store import VolumeStore
from ..pages.cells import wanted_positions
from ..pages.choice import Case, confident_errors, least_certain
from ..pages.facts import Example, Gallery, Picture, ReportFacts
from ..pages.pictures import GALLERY_SIDE
from ..scoring.mask_pictures import overlay, shrunk
from ..scoring.operating_point import decisions
from ..scoring.segmentation import MaskRows
from ..scoring.volume_pictures import PLANES, compared_slices, grey_slice, lettered
from ..tasks.segmentation import Segmentation, VolumeSegmentation
from .examples import mask_example, volume_example, volume_shown
from .rows import pixel_values
from .saliency import NOT_INSTALLED, WHAT, WITHOUT_GRADIENTS, can_map, saliency_map, under_map

SHOWN = 12  # images in a gallery
SHOWN_VOLUMES = 6
MAPPED = 6  # of the images in a gallery
MAPS_SECONDS = 20.0  # after which a page makes no further map
THUMBNAILS = 240
WORST, OTHERS = 12, 3  # images of a segmenter
WORST_VOLUMES, OTHER_VOLUMES = 3, 1  # each is segmented anew
AS_SEEN = "as the model sees it"

Forward = Callable[[Tensor], Tensor]


def add_pictures(
    facts: ReportFacts, task: Any, forward: Forward, device: torch.device, split: OpenSplit, has_gradients: bool
) -> None:
    """Fill in the galleries and thumbnails of a page.

    :param forward: pixel values on `device` -> logits; the model is in eval mode.
    :param has_gradients: whether the logits have any, which maps need.
    """
    if isinstance(task, Segmentation):
        facts.galleries = mask_galleries(facts.masks, task, forward, device, split)
        facts.maps = "Left to right: the image, the truth and the prediction over it."
        if isinstance(task, VolumeSegmentation):
            facts.maps = (
                "Slices through the largest true region, or else the largest predicted one. The prediction is tinted, "
                "the truth outlined with a white edge."
            )
        return
    predictions, point = facts.predictions, facts.operating_point
    decided = decisions(predictions.probabilities, facts.names, predictions.exclusive, point)
    of_volumes = isinstance(split.store, VolumeStore)
    count = SHOWN_VOLUMES if of_volumes else SHOWN
    with_maps = has_gradients and can_map() and not of_volumes
    facts.maps = WHAT if with_maps else NOT_INSTALLED if has_gradients else WITHOUT_GRADIENTS
    if of_volumes:
        facts.maps = "Three slices through the middle of each volume. Maps are made of images only."

    mapped = Mapped(forward, device, split) if with_maps else None

    def examples(cases: list[Case]) -> list[Example]:
        return [
            Example(case.position, class_pictures(split, case, mapped if number < MAPPED else None))
            for number, case in enumerate(cases)
        ]

    closest = "two likeliest classes lie closest"
    if point is not None or not predictions.exclusive:
        closest = "probability lies closest to its threshold"
    facts.galleries = [
        Gallery(
            "Most confident errors", "Wrong answers, the surest first.",
            examples(confident_errors(predictions, decided, point, count)),
        ),
        Gallery(
            "Least certain", f"Right and wrong answers whose {closest}.",
            examples(least_certain(predictions, decided, point, count)),
        ),
    ]  # fmt: skip
    if not of_volumes:
        wanted = wanted_positions(facts, decided, THUMBNAILS)
        facts.thumbnails = {position: seen(split, split.rows[position]) for position in wanted}


def seen(split: OpenSplit, row: int) -> np.ndarray:
    """An image as the model sees it, before normalisation, (h, w, 3) uint8; its colours in the usual order."""
    pixels = split.store.student
    picture = pixels[row].permute(1, 2, 0).numpy()
    is_turned = getattr(pixels.transform.processor, "do_flip_channel_order", False)  # of few processors
    return picture[..., ::-1] if is_turned else picture


class Mapped:
    """Makes maps of answers, for a while.

    :param forward: see `add_pictures`.
    """

    def __init__(self, forward: Forward, device: torch.device, split: OpenSplit):
        self.forward, self.device, self.split = forward, device, split
        self.until = time.monotonic() + MAPS_SECONDS

    def __call__(self, case: Case, picture: np.ndarray) -> list[Picture]:
        """The picture of a case under its map; nothing once the time is over."""
        if time.monotonic() > self.until:
            return []
        pixels = pixel_values(self.split.store.student, [self.split.rows[case.position]], self.device)
        return [Picture(under_map(picture, saliency_map(self.forward, pixels, case.label)), "map of the answer")]


def class_pictures(split: OpenSplit, case: Case, mapped: Mapped | None) -> list[Picture]:
    """An image, and its map where one is wanted; three slices of a volume."""
    row = split.rows[case.position]
    if isinstance(split.store, VolumeStore):
        shown, spacing = volume_shown(split, row)
        place = tuple(side // 2 for side in shown.shape)
        slices = {plane: lettered(grey_slice(shown, plane, place, spacing), plane) for plane in PLANES}
        return [Picture(picture, plane) for plane, picture in slices.items()]
    picture = seen(split, row)
    return [Picture(picture, AS_SEEN), *([] if mapped is None else mapped(case, picture))]


def mask_galleries(
    rows: MaskRows, task: Segmentation, forward: Forward, device: torch.device, split: OpenSplit
) -> list[Gallery]:
    """The worst images or volumes, then some middling and good ones, by the mean Dice over their classes."""
    dice = rows.per_image["dice"]
    defined = np.flatnonzero(~np.isnan(dice).all(axis=1))
    order = defined[np.argsort(np.nanmean(dice[defined], axis=1), kind="stable")]
    of_volumes = isinstance(task, VolumeSegmentation)
    worst, others = (WORST_VOLUMES, OTHER_VOLUMES) if of_volumes else (WORST, OTHERS)
    middle = max(0, len(order) // 2 - others // 2)
    unit = f"{task.measured.image}s"
    parts = {
        f"Worst {unit}": (f"The {unit} with the lowest Dice, the worst first.", order[:worst]),
        f"Middling and best {unit}": (
            f"{unit.capitalize()} in the middle of the order, and at its end.",
            [*order[middle : middle + others], *order[-others:]],
        ),
    }
    galleries, drawn = [], set()
    for title, (text, positions) in parts.items():
        new = [position for position in dict.fromkeys(map(int, positions)) if position not in drawn]
        drawn.update(new)
        pictures = volume_pictures if of_volumes else mask_pictures
        examples = [Example(p, pictures(task, forward, device, split, split.rows[p])) for p in new]
        if examples:
            galleries.append(Gallery(title, text, examples))
    return galleries


def mask_pictures(
    task: Segmentation, forward: Forward, device: torch.device, split: OpenSplit, row: int
) -> list[Picture]:
    """An image, its truth over it, and its prediction over it."""
    found = mask_example(task, forward, device, split, row)
    # an outline is one pixel wide, so it is drawn at the size that is shown
    image, truth, prediction = (shrunk(part, GALLERY_SIDE) for part in found[:3])
    pictures = [image, overlay(image, truth), overlay(image, prediction)]
    return [Picture(picture, head) for picture, head in zip(pictures, ("image", "truth", "prediction"), strict=True)]


def volume_pictures(
    task: VolumeSegmentation, forward: Forward, device: torch.device, split: OpenSplit, row: int
) -> list[Picture]:
    """Three slices of a volume with truth and prediction."""
    slices = compared_slices(volume_example(task, forward, device, split, row))
    return [Picture(picture, plane) for plane, picture in zip(PLANES, slices, strict=True)]

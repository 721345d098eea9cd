"""Decodes images, applies the geometry of each model's processor at first use, and keeps the uint8 pixels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL.Image import Image, Resampling, fromarray
from torch import Tensor
from torch.utils.data import Dataset

from ..arguments.words import counted
from ..runtime.progress import Progress
from ..scoring.segmentation import IGNORED_LABEL
from .decoding.image_notes import Note, log_notes
from .decoding.images import AS_IT_IS, BadImageError, described, read_image
from .decoding.reading import Reading
from .leaks import DIGEST_BYTES, pixel_digest
from .order import Visit
from .pixels import PixelTransform, Transforms
from .scratch import scratch

if TYPE_CHECKING:
    from .masks.reading import MaskReading
    from .shards import ImageShards
    from .volumes.store import VolumeStore

logger = logging.getLogger(__name__)

SHOW_PROGRESS_ROWS = 2000
SHOWN_PROBLEMS = 5


class ModelPixels:
    """The rows of a store as one model sees them.

    :param transform: the model's own geometry and normalisation.
    """

    def __init__(self, store: PixelStore, transform: PixelTransform):
        self.transform, self._store = transform, store
        self._pixels = scratch(len(store), 3, *transform.size)

    def __getitem__(self, row: int) -> Tensor:
        """A row's pixels: uint8 (3, h, w).

        :raises BadImageError: where its image cannot be decoded.
        """
        if row >= len(self._store):
            return self.transform.geometry(self._store.of_shards(row))
        self._store.decode(row)
        return torch.from_numpy(np.array(self._pixels[row]))

    def batch(self, rows: Sequence[int]) -> Tensor:
        """Some rows' pixels: uint8 (B, 3, h, w)."""
        return torch.stack([self[row] for row in rows])

    def take(self, row: int, rgb: Image) -> None:
        """Keep what the model sees of a decoded image."""
        self._pixels[row] = self.transform.geometry(rgb)


class PixelStore:
    """The rows of a split as each model sees them before augmentation: uint8 (3, h, w).

    Arrays live in unlinked temporary files mapped into memory, so that they outgrow neither memory nor the run, and
    forked data-loading processes share what any of them has decoded. Images of shards or a stream follow the rows of
    the split; they are decoded at every visit, and nothing of them is kept.

    :param split: data set with an `image` column, decoding off.
    :param transforms: of student and teacher.
    :param name: what errors call the split.
    :param reading: which page of a file, and which window.
    :param masks: how the column `mask` is read, in which rows without label are None; None where labels are classes.
    :cvar unit: what progress lines count.
    :ivar student: what the student sees.
    :ivar teacher: what the teacher sees; None without one.
    """

    unit = "image"

    def __init__(
        self,
        split,
        transforms: Transforms,
        name: str,
        reading: Reading = AS_IT_IS,
        masks: MaskReading | None = None,
        shards: ImageShards | None = None,
    ):
        self.split, self.name, self.reading, self.masks, self.shards = split, name, reading, masks, shards
        self.student = ModelPixels(self, transforms.student)
        self.teacher = None if transforms.teacher is None else ModelPixels(self, transforms.teacher)
        if masks is not None:
            self._masks = scratch(len(split), *transforms.student.size)
        self._digests = scratch(len(split), DIGEST_BYTES)
        self._notes = scratch(len(split))
        self._present = scratch(len(split))
        self._told = 0  # of the problems of a stream, by this process

    def __len__(self) -> int:
        """The rows whose pixels are kept."""
        return len(self.split)

    def of_shards(self, row: int) -> Image:
        """Decode the image of a row that is not kept.

        :raises BadImageError: where it cannot be decoded.
        """
        return self.shards.image(row - len(self), self.reading).rgb

    def of_stream(self, visit: Visit) -> Image:
        """Decode the image of a visit of a stream.

        :raises BadImageError: where it cannot be decoded; where such are skipped, if none of the batch can.
        """
        read, own = visit.images, visit.row - visit.images.first
        for place in range(own, own + len(read.images)):
            number = place % len(read.images)
            try:
                name = f"image {read.first + number - len(self)} of the stream"
                return read_image(read.images[number], name, self.reading).rgb
            except BadImageError as error:
                if not read.skip_bad:
                    raise BadImageError(
                        f"{error} Fix the data, or show another image in its place with `on_bad_image` skip."
                    ) from error
                if self._told < SHOWN_PROBLEMS:
                    logger.warning("Skipped, another image of the batch is shown in its place: %s", error)
                self._told += 1
        raise BadImageError(f"None of the {len(read.images)} images of a batch of the stream can be read.")

    def digests(self, rows: Sequence[int]) -> dict[int, bytes]:
        """What identifies the images of rows that are decoded, pixel by pixel."""
        return {int(row): self._digests[row].tobytes() for row in rows}

    def notes(self, rows: Iterable[int]) -> dict[int, Note]:
        """What is remarkable about the images of rows that are decoded."""
        return {int(row): Note(int(self._notes[row])) for row in rows}

    def decode(self, row: int) -> None:
        """Make sure that a row's pixels are ready for every model.

        :raises BadImageError: where its image or mask cannot be decoded, or they differ in size.
        """
        if not self._present[row]:
            found = self.split[row]
            image = read_image(found["image"], f"row {row} of {self.name}", self.reading)
            if self.masks is not None:
                self._masks[row] = self._shown_mask(row, found["mask"], image.rgb)
            for model in (self.student, self.teacher):
                if model is not None:
                    model.take(row, image.rgb)
            self._digests[row] = pixel_digest(image.rgb)
            self._notes[row] = image.notes
            self._present[row] = 1

    def fetch(self, visit: Visit, needs_teacher: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What a training step needs of a visit, before its view, which the models' device applies to the batch.

        :return: uint8 (3, h, w) as the student sees the image, and as the teacher does where it is needed; uint8
            (h, w) the mask, None where labels are classes.
        :raises BadImageError: where the image or mask cannot be decoded.
        """
        if visit.row >= len(self):
            rgb, mask = self.of_shards(visit.row) if visit.images is None else self.of_stream(visit), None
            if self.masks is not None:
                mask = torch.full(self.student.transform.size, IGNORED_LABEL, dtype=torch.uint8)
            of_teacher = self.teacher.transform.geometry(rgb) if needs_teacher else None
            return self.student.transform.geometry(rgb), of_teacher, mask
        of_teacher = self.teacher[visit.row] if needs_teacher else None
        mask = None if self.masks is None else self.mask(visit.row)
        return self.student[visit.row], of_teacher, mask

    def mask(self, row: int) -> Tensor:
        """A row's mask as the student sees the image: uint8 (h, w), `IGNORED_LABEL` throughout where it has none.

        :raises BadImageError: where its image or mask cannot be decoded.
        """
        self.decode(row)
        return torch.from_numpy(np.array(self._masks[row]))

    def source_mask(self, row: int) -> np.ndarray:
        """A row's mask (H, W) at the size of its source image."""
        return self.masks.read(self.split[row]["mask"], f"row {row} of {self.name}")

    def _shown_mask(self, row: int, mask: dict | None, rgb: Image) -> np.ndarray:
        """A mask at the student's size: each pixel takes the class of the nearest one."""
        height, width = self.student.transform.size
        if mask is None:
            return np.full((height, width), IGNORED_LABEL, dtype=np.uint8)
        classes = self.masks.read(mask, f"row {row} of {self.name}")
        check_size(classes, rgb, f"row {row} of {self.name}")
        return np.asarray(fromarray(classes).resize((width, height), Resampling.NEAREST))


def check_images(store: PixelStore | VolumeStore, rows: Sequence[int], on_bad_image: str) -> dict[int, str]:
    """Decode `rows` now, so that a bad image shows before any training; what is decoded is kept, and remarked on.

    :return: skipped rows with the reason; the log has the first ones and the number of the others.
    :raises BadImageError: for the first unreadable one, unless `on_bad_image` is "skip".
    """
    problems: dict[int, str] = {}
    with Progress(f"reading {store.name}", len(rows), store.unit, shown=len(rows) >= SHOW_PROGRESS_ROWS) as progress:
        for row in rows:
            try:
                store.decode(row)
            except BadImageError as error:
                problems[int(row)] = str(error)
            progress.advance()
    if problems and on_bad_image != "skip":
        first = next(iter(problems.values()))
        more = (
            f" ({counted(len(problems) - 1, 'more row')} of {store.name} cannot be read.)" if len(problems) > 1 else ""
        )
        raise BadImageError(f"{first}{more} Fix the data, or leave such rows out with `on_bad_image` skip.")
    for reason in list(problems.values())[:SHOWN_PROBLEMS]:
        logger.warning("Skipped: %s", reason)
    if len(problems) > SHOWN_PROBLEMS:
        logger.warning("Skipped: %s of %s.", counted(len(problems) - SHOWN_PROBLEMS, "more row"), store.name)
    notes = store.notes(row for row in rows if row not in problems)
    log_notes(logger, notes, store.name, lambda row: described(store.split[row]["image"], f"row {row}"))
    return problems


def check_size(mask: np.ndarray, rgb: Image, where: str) -> None:
    """:raises BadImageError: when a mask (H, W) has not the size of its image."""
    size = mask.shape[::-1]
    if size != rgb.size:
        turned = " The image is turned by its EXIF orientation; turn the mask too." if size == rgb.size[::-1] else ""
        raise BadImageError(
            f"{where}: the mask has {size[0]} x {size[1]} pixels (columns x rows), but its image {rgb.width} x "
            f"{rgb.height}.{turned} Give a mask of the image's size."
        )


class Visits(Dataset):
    """Fetches what a training step needs of a visit.

    :param store: of images or of volumes.
    :param labels: (N,) int64 or (N, K) float32, of which those of rows without label are not used; where the store
        reads masks, these are the labels.
    :param needs_teacher_pixels: asked for each visit, in the process that fetches it.
    """

    def __init__(self, store: PixelStore | VolumeStore, labels: Tensor, needs_teacher_pixels: Callable[[Visit], bool]):
        self.store, self.labels, self.needs_teacher_pixels = store, labels, needs_teacher_pixels

    def __getitem__(self, visit: Visit) -> tuple[Visit, Tensor, Tensor | None, Tensor]:
        of_student, of_teacher, mask = self.store.fetch(visit, self.needs_teacher_pixels(visit))
        row = visit.row if visit.labelled else 0  # any, as its label is not used; a stream has more rows than labels
        return visit, of_student, of_teacher, self.labels[row] if mask is None else mask


def collate(items: list[tuple[Visit, Tensor, Tensor | None, Tensor]]) -> dict:
    """Stack visits to a batch.

    :return: `student_pixels` uint8 (B, 3, h, w), or of volumes float32 (B, C, X, Y, Z); `teacher_pixels` likewise at
        `teacher_positions` of the batch, None if there are none; `labels` those of the labelled rows, which come
        first; `rows` and `views` of all.
    """
    visits, of_student, of_teacher, labels = zip(*items, strict=True)
    labelled = sum(visit.labelled for visit in visits)
    positions = [position for position, pixels in enumerate(of_teacher) if pixels is not None]
    return {
        "student_pixels": torch.stack(of_student),
        "teacher_pixels": torch.stack([of_teacher[position] for position in positions]) if positions else None,
        "teacher_positions": positions,
        "labels": torch.stack(labels[:labelled])
        if labelled
        else torch.empty(0, *labels[0].shape, dtype=labels[0].dtype),
        "rows": [visit.row for visit in visits],
        "views": [visit.view for visit in visits],
    }

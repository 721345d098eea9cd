"""The order of a stream's images: endless, the same for any number of processes, and never kept in memory.

A stream has no numbers to permute and must be read from its start. So `datasets` shuffles the order of its files and
mixes the images in a buffer, from (seed, epoch), and an image is known by its place in what comes out of that.

Each place of an optimiser step belongs to one of a few lanes, and each lane reads files of its own. Lanes follow from
the rows of a step and the files of the stream alone, not from the processes. A process reads only the lanes that its
places belong to, and decodes only its own images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .columns import DataError
from .order import StreamedImages, Visit
from .streams import ImageStream

logger = logging.getLogger(__name__)

MOST_LANES = 8  # each has files open and a share of the buffer
EVEN_SHARDS = 16  # files of a lane from which on one more or less makes little difference
SHARDS_AT_ONCE = 10  # whose images are mixed
TOLD_IMAGES = 10_000


def number_of_lanes(rows_a_step: int, shards: int) -> int:
    """The largest number of lanes among which the places of a step and the files of a stream divide evenly."""
    return max(
        lanes
        for lanes in range(1, MOST_LANES + 1)
        if rows_a_step % lanes == 0 and (shards % lanes == 0 or shards >= EVEN_SHARDS * lanes)
    )


class StreamOrder:
    """What `RowOrder` is for rows: the visits of a stream's images, each of which is a row number of its own.

    :param stream: the images.
    :param rows_a_step: images of an optimiser step, over processes and accumulated batches.
    :param first_row: row number of the first image; the numbers below are those of train.
    :param seed: of the order.
    :param buffer_size: images among which one is drawn, in all lanes together.
    :param skip_bad: show the next readable image of the batch in place of one that cannot be decoded.
    """

    def __init__(
        self, stream: ImageStream, rows_a_step: int, first_row: int, seed: int, buffer_size: int, skip_bad: bool
    ):
        self.rows_a_step, self.first_row, self.skip_bad = rows_a_step, first_row, skip_bad
        self.fingerprint = f"{stream.fingerprint()}, mixed in a buffer of {buffer_size}"
        count = number_of_lanes(rows_a_step, stream.dataset.num_shards)
        self.lanes = [_Lane(stream, count, number, seed, buffer_size) for number in range(count)]

    def visits(self, start: int, stop: int, labelled: bool) -> list[Visit]:
        """The visits at places start to stop. Each shows its image in a view of its own, drawn from its row number."""
        return [Visit(self.first_row + place, 0, labelled) for place in range(start, stop)]

    def with_images(self, visits: Sequence[Visit]) -> list[Visit]:
        """Read the images of those visits that are of the stream, one place after the other; the others stay.

        :raises DataError: if the stream has no image, or not as many as before.
        """
        places = [visit.row - self.first_row for visit in visits if visit.row >= self.first_row]
        if not places:
            return list(visits)
        read = StreamedImages(self.first_row + places[0], [self._image(place) for place in places], self.skip_bad)
        return [visit._replace(images=read) if visit.row >= self.first_row else visit for visit in visits]

    def lengths(self) -> list[int | None]:
        """The images of each lane, as far as this process has read one to its end: what a checkpoint holds."""
        return [lane.length for lane in self.lanes]

    def take_over(self, lengths: Sequence[int | None]) -> None:
        """Take over what `lengths` gave, so that an epoch is found without reading the ones before."""
        for lane, length in zip(self.lanes, lengths, strict=True):
            lane.length = length

    def _image(self, place: int) -> Any:
        step, place = divmod(place, self.rows_a_step)
        share = self.rows_a_step // len(self.lanes)
        lane, place = divmod(place, share)
        return self.lanes[lane].image(step * share + place)


class _Lane:
    """A share of a stream's files, read in order again and again.

    :param count: lanes of the stream.
    :param number: of this one.
    :ivar length: its images in an epoch; None until one has ended.
    """

    def __init__(self, stream: ImageStream, count: int, number: int, seed: int, buffer_size: int):
        rows = stream.dataset if count == 1 else stream.dataset.shard(count, number, contiguous=False)
        at_once = max(1, SHARDS_AT_ONCE // count)
        generator, own = np.random.default_rng([seed, number]), max(1, buffer_size // count)
        rows = rows.shuffle(generator=generator, buffer_size=own, max_buffer_input_shards=at_once)
        self.stream, self.name = stream._replace(dataset=rows), f"part {number + 1} of {count} of the stream"
        self.length: int | None = None
        self._images: Iterator[Any] | None = None
        self._epoch = self._start = self._next = 0  # the epoch, the place where it starts, the place that comes next

    def image(self, place: int) -> Any:
        """The image at a place; those before it are passed over, and read again from the epoch's start if need be."""
        if self._images is None or place < self._next:
            epoch = 0 if self.length is None else place // self.length
            self._begin(epoch, 0 if self.length is None else epoch * self.length)
            if place - self._start >= TOLD_IMAGES:
                logger.info("Reading %s again up to image %d.", self.name, place - self._start)
        while True:
            image = next(self._images, None)
            if image is None:
                self._end()
                continue
            self._next += 1
            if self._next > place:
                return image

    def _begin(self, epoch: int, start: int) -> None:
        self._epoch, self._start, self._next = epoch, start, start
        self.stream.dataset.set_epoch(epoch)
        self._images = self.stream.images()

    def _end(self) -> None:
        read = self._next - self._start
        if not read:
            raise DataError(f"{self.name} of unlabelled images is empty: check `unlabeled_dataset`")
        if self.length is None:
            logger.info("%s has ended after %d images, and begins again.", self.name.capitalize(), read)
        elif read != self.length:
            raise DataError(
                f"{self.name} had {self.length} images before and now has {read}, so no run can be resumed on it: give "
                "`unlabeled_dataset` that does not change"
            )
        self.length = read
        self._begin(self._epoch + 1, self._next)

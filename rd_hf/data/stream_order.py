"""The order of a stream's images: endless, the same for any number of processes, and never kept in memory.

A stream has no numbers to permute and must be read from its start. So `datasets` shuffles the order of its files and
mixes the images in a buffer, from (seed, epoch), and an image is known by its place in what comes out of that.

Each place of an optimiser step belongs to one of a few lanes, and each lane reads files of its own. Lanes follow from
the rows of a step and the files of the stream alone, not from the processes. A process reads only the lanes that its
places belong to, and decodes only its own images. All lanes show equally many images, so they need about equally many:
a stream of few files has one lane.
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
EVEN_SHARDS = 16  # files of a lane from which on one more, or a short one, makes little difference
SHARDS_AT_ONCE = 10  # whose images are mixed
TOLD_IMAGES = 10_000
END = object()  # of an epoch; None is an image that is missing


def number_of_lanes(rows_a_step: int, shards: int) -> int:
    """The most lanes among which the places of a step divide evenly, and that have enough files each."""
    return max(
        lanes
        for lanes in range(1, MOST_LANES + 1)
        if rows_a_step % lanes == 0 and (lanes == 1 or shards >= EVEN_SHARDS * lanes)
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

    def epochs(self, step: int) -> list[list[int]]:
        """For each lane the epoch that a step begins in and the place where that epoch starts, as far as known here."""
        return [lane.epoch_of(self._first_place(step)) for lane in self.lanes]

    def take_over(self, epochs: Sequence[Sequence[int]], step: int) -> None:
        """Take over what `epochs` gave for a step, so that earlier epochs are not read again.

        :param epochs: the latest that any process knew of.
        """
        for lane, (epoch, start) in zip(self.lanes, epochs, strict=True):
            lane.take_over(epoch, start, self._first_place(step))

    def close(self) -> None:
        """Stop reading; what is asked for later is read from the epoch's start again."""
        for lane in self.lanes:
            lane.close()

    def _first_place(self, step: int) -> int:
        return step * (self.rows_a_step // len(self.lanes))

    def _image(self, place: int) -> Any:
        step, place = divmod(place, self.rows_a_step)
        share = self.rows_a_step // len(self.lanes)
        lane, place = divmod(place, share)
        return self.lanes[lane].image(step * share + place)


class _Lane:
    """A part of a stream's files, read in order again and again.

    :param count: lanes of the stream.
    :param number: of this one.
    """

    def __init__(self, stream: ImageStream, count: int, number: int, seed: int, buffer_size: int):
        self._stream, self._count, self._number, self._seed = stream, count, number, seed
        self._buffer_size, self._at_once = max(1, buffer_size // count), max(1, SHARDS_AT_ONCE // count)
        self.name = "the stream" if count == 1 else f"part {number + 1} of {count} of the stream"
        self._starts = {0: 0}  # the place where each known epoch starts; epochs may differ in length
        self._least = (0, 0)  # an epoch, and the place before which it does not end
        self._images: Iterator[Any] | None = None
        self._epoch = self._next = 0  # the epoch that is read, and the place that comes next

    def image(self, place: int) -> Any:
        """The image at a place; those before it are passed over, and read again from the epoch's start if need be."""
        if self._images is None or place < self._next:
            epoch, start = self.epoch_of(place)
            self._begin(epoch)
            if place - start >= TOLD_IMAGES:
                logger.info("Reading %s again up to image %d.", self.name, place - start)
        while True:
            image = next(self._images, END)
            if image is END:
                self._end()
                continue
            self._next += 1
            if self._next > place:
                return image

    def epoch_of(self, place: int) -> list[int]:
        """The last known epoch that starts no later than a place, and its start."""
        return list(max((epoch, start) for epoch, start in self._starts.items() if start <= place))

    def take_over(self, epoch: int, start: int, place: int) -> None:
        """Take over an epoch that starts at a place and has been read up to another one."""
        self._starts[epoch], self._least = start, (epoch, place)

    def _begin(self, epoch: int) -> None:
        self._epoch, self._next = epoch, self._starts[epoch]
        numbers = range(self._number, self._number + self._count)
        self._images = _images_of([self._part(number % self._count, epoch) for number in numbers])

    def _end(self) -> None:
        read, following = self._next - self._starts[self._epoch], self._epoch + 1
        is_short = self._epoch == self._least[0] and self._next < self._least[1]
        if is_short or self._starts.get(following, self._next) != self._next:
            raise DataError(
                f"{self.name} has another number of images than before (now {read} in epoch {following}), so the run "
                "cannot go on with the images that it would have shown: give `unlabeled_dataset` that does not change"
            )
        if following not in self._starts:
            logger.info("%s has ended after %d images, and begins again.", self.name.capitalize(), read)
        self._starts[following] = self._next
        self._begin(following)

    def close(self) -> None:
        """Stop reading."""
        self._images = None

    def _part(self, number: int, epoch: int) -> ImageStream:
        rows = self._stream.dataset
        if self._count > 1:
            rows = rows.shard(self._count, number, contiguous=False)
        generator = np.random.default_rng([self._seed, self._number])
        rows = rows.shuffle(generator=generator, buffer_size=self._buffer_size, max_buffer_input_shards=self._at_once)
        rows.set_epoch(epoch)
        return self._stream._replace(dataset=rows)


def _images_of(parts: Sequence[ImageStream]) -> Iterator[Any]:
    """The images of the first part that has some.

    The lane that reads them is not known here: in a cycle with it, the garbage collector would end the threads of
    `datasets`, in whichever thread it runs, and wait for itself if that is a thread about to start.

    :raises DataError: if no part has any.
    """
    for part in parts:
        is_empty = True
        for image in part.images():
            is_empty = False
            yield image
        if not is_empty:
            return
    raise DataError("the stream of unlabelled images is empty: check `unlabeled_dataset`")

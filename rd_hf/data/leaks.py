"""Finds images or patients that two splits share, and images with two labels, before any training."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

from ..arguments.words import some_of
from ..runtime.quiet import escaped
from .columns import DataError

logger = logging.getLogger(__name__)

FileOf = Callable[[str, int], str | None]  # the file of a split's row, where it has one

SHOWN = 5
DIGEST_BYTES = 16


class LeakError(DataError):
    """Splits share images or patients; the message counts them."""


def pixel_digest(rgb: Image.Image) -> np.ndarray:
    """(16,) uint8 that identify a decoded image: its size and pixels, not the bytes of its file."""
    digest = hashlib.blake2b(repr(rgb.size).encode(), digest_size=DIGEST_BYTES)
    digest.update(rgb.tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def shared_groups(groups: Mapping[str, Iterable[Hashable]]) -> list[str]:
    """Count the patients (or other groups) that two splits share.

    :param groups: of each split, the group of each row; None where a row names none.
    :return: a sentence for each pair of splits that share some.
    """
    sets = {name: set(values) - {None} for name, values in groups.items()}
    return [
        f"{len(shared)} groups are in both '{first}' and '{second}' of the original data, so scores on '{second}' "
        "will be too good."
        for first, second in combinations(sets, 2)
        if (shared := sets[first] & sets[second])
    ]


def shared_images(images: Mapping[str, Mapping[int, bytes]]) -> list[str]:
    """Count the images that two splits share, pixel by pixel.

    :param images: of each split, the digest of each row's pixels.
    :return: a sentence for each pair of splits that share some.
    """
    sentences = []
    for first, second, rows in _shared(images):
        pairs = [f"row {row} is row {earlier} of '{first}'" for row, earlier in rows]
        sentences.append(
            f"{len(rows)} of {len(images[second])} rows of '{second}' are also in '{first}', value by value "
            f"({some_of(pairs, SHOWN, last=', and ')}), so scores on '{second}' will be too good."
        )
    return sentences


def shared_files(images: Mapping[str, Mapping[int, bytes]], file_of: FileOf) -> list[str]:
    """Name the files of the images that `shared_images` counts, for a log: their names are not for cards.

    :return: a sentence for each pair of splits that share files.
    """
    sentences = []
    for first, second, rows in _shared(images):
        pairs = [(file_of(second, row), file_of(first, earlier)) for row, earlier in rows[:SHOWN]]
        named = [escaped(f"{file} is {earlier}") for file, earlier in pairs if file and earlier]
        if named:
            more = f", and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
            sentences.append(f"Of '{second}' and '{first}': {', '.join(named)}{more}.")
    return sentences


def _shared(images: Mapping[str, Mapping[int, bytes]]) -> Iterator[tuple[str, str, list[tuple[int, int]]]]:
    """Two splits, and rows of the second that are rows of the first, for each pair of splits that share some."""
    firsts = {name: {digest: row for row, digest in reversed(split.items())} for name, split in images.items()}
    for first, second in combinations(images, 2):
        rows = [(row, firsts[first][digest]) for row, digest in images[second].items() if digest in firsts[first]]
        if rows:
            yield first, second, rows


def conflicting_labels(
    images: Mapping[str, Mapping[int, bytes]],
    labels: Mapping[str, Mapping[int, str]],
    file_of: FileOf = lambda split, row: None,
) -> list[str]:
    """Find identical images with different labels, in one split or in two.

    :param images: of each split, the digest of each row's pixels.
    :param labels: of each split, the label of each row that has one.
    :param file_of: the file of a split's row, where it has one.
    :return: a sentence for each such image.
    """
    found: dict[bytes, dict[str, tuple[str, int]]] = {}
    for split, given in labels.items():
        for row, label in given.items():
            if row in images[split]:
                found.setdefault(images[split][row], {}).setdefault(label, (split, row))
    sentences = []
    for places in found.values():
        if len(places) > 1:
            uses = [_use(label, split, row, file_of(split, row)) for label, (split, row) in places.items()]
            sentences.append(f"Equal rows have different labels: {', '.join(uses)}.")
    return sentences


def _use(label: str, split: str, row: int, file: str | None) -> str:
    return f"{label!r} in row {row} of '{split}'" + (f" ({escaped(file)})" if file else "")


def report_leaks(sentences: Sequence[str], on_leak: str, source: dict[str, Any], files: Sequence[str] = ()) -> None:
    """Warn about what splits share, and note it in `source`, which configs, scores and cards repeat.

    :param files: sentences that name the user's files, which are not noted.
    :raises LeakError: where there is anything and `on_leak` is "error".
    """
    if sentences and on_leak == "error":
        way_out = "Fix the splits, or train anyway with `on_leak` warn."
        if "made_splits" in source:
            way_out = (
                "rd_hf made splits: remove the copies, name a column with `group_column` whose value copies share, or "
                "train anyway with `on_leak` warn."
            )
        raise LeakError("\n".join([*sentences, *files, way_out]))
    for sentence in sentences:
        logger.warning("%s", sentence)
        source.setdefault("leaks", []).append(sentence)
    for sentence in files:
        logger.warning("  %s", sentence)


def report_conflicts(sentences: Sequence[str]) -> None:
    """Warn about contradictory labels: their number, and the first ones."""
    if sentences:
        logger.warning("Equal rows with different labels: %d.", len(sentences))
    for sentence in sentences[:SHOWN]:
        logger.warning("  %s", sentence)
    if len(sentences) > SHOWN:
        logger.warning("  and %d more", len(sentences) - SHOWN)

"""What is remarkable about how an image was read, counted and told in one line per kind."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from enum import IntFlag
from typing import TypeVar


class Note(IntFlag):
    """Facts about one image; their sum fits a byte."""

    NONE = 0
    TRANSPARENT = 1
    DEEP = 2
    WHITE_IS_ZERO = 4
    DICOM = 8
    BURNED_IN = 16
    PAGES = 32
    HUGE = 64


# The name under which a run records the count, the level of the log line, and what the line says of the images.
_FACTS = {
    Note.TRANSPARENT: (
        "transparent", logging.WARNING,
        "have transparent pixels. Their alpha channel is dropped, as transformers' pipeline does: what is below shows",
    ),
    Note.DEEP: (
        "deeper_than_8_bits", logging.INFO,
        "have more than 8 bits per value. Each is stretched from its own minimum and maximum to 0..255",
    ),
    Note.WHITE_IS_ZERO: (
        "white_is_zero", logging.INFO, "have zero for white (PhotometricInterpretation) and more than 8 bits; inverted",
    ),
    Note.DICOM: ("dicom", logging.INFO, "are DICOM files"),
    Note.BURNED_IN: (
        "burned_in_annotation", logging.WARNING,
        "have text burned into the pixels (BurnedInAnnotation is YES), which may name patients or give the class away",
    ),
    Note.PAGES: ("several_pages", logging.INFO, "have several pages or frames, of which `page` chooses one"),
    Note.HUGE: (
        "huge", logging.WARNING,
        "have more pixels than Pillow's limit of 89 million. They are read; make them smaller if that takes too long",
    ),
}  # fmt: skip
_SINGULAR = {"have": "has", "are DICOM files": "is a DICOM file", "are": "is"}

Key = TypeVar("Key")


def count_notes(notes: Iterable[Note]) -> dict[str, int]:
    """How many images have each note, by its recorded name; those that none has are left out."""
    kept = list(notes)
    counts = {name: sum(bool(note & kind) for note in kept) for kind, (name, *_) in _FACTS.items()}
    return {name: count for name, count in counts.items() if count}


def log_notes(logger: logging.Logger, notes: Mapping[Key, Note], where: str, named: Callable[[Key], str] = str) -> None:
    """Log one line per kind of note.

    :param notes: by what an image is known by, such as its row.
    :param where: what the images are of, such as "train".
    :param named: what an image is called.
    """
    for kind, (_, level, words) in _FACTS.items():
        found = [name for name, note in notes.items() if note & kind]
        if found:
            count = f"{len(found)} images"
            if len(found) == 1:
                plural = f"^({'|'.join(_SINGULAR)})"
                count, words = "1 image", re.sub(plural, lambda verb: _SINGULAR[verb.group()], words)
            logger.log(level, "%s of %s %s. The first is %s.", count, where, words, named(found[0]))

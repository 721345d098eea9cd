"""Keeps out of the log what does not belong there.

A library's own words about a file may quote what the file says of a patient. A name may steer a terminal.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # and turned directions


def escaped(text: str) -> str:
    r"""A name as one line: line breaks and what else steers a terminal become `\n`, `\x1b` and so on."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


@contextmanager
def quiet(library: str) -> Iterator[None]:
    """Let neither the loggers of a library nor Python's warnings through."""
    logger = logging.getLogger(library)
    kept = logger.handlers, logger.propagate
    # Not by its level: each change of one clears the caches of all loggers, which would be done for every image.
    logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.handlers, logger.propagate = kept

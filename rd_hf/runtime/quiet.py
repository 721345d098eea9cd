"""Keeps a library's own words about a file out of the log: they may quote what the file says of a patient."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


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

"""Shows the progress of a long loop: a bar on a terminal or in a notebook, elsewhere log lines at intervals."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from types import TracebackType

from tqdm.auto import notebook_tqdm, std_tqdm, tqdm

logger = logging.getLogger(__name__)

SHARE_OF_A_LINE = 0.05  # a line is due after this share of the loop, but not before SHORTEST_INTERVAL
SHORTEST_INTERVAL, LONGEST_INTERVAL = 10.0, 300.0  # seconds between two lines
MEASURED_SECONDS = 1e-3  # no rate is shown before

_shown: ContextVar[bool] = ContextVar("rd_hf_progress_shown", default=True)


def has_bars() -> bool:
    """Whether stderr can redraw a bar: a terminal or a notebook."""
    return sys.stderr.isatty() or notebook_tqdm is not std_tqdm


class Progress:
    """Progress of one loop, as a context manager.

    :param title: what the loop does, such as "training".
    :param total: passes of the loop.
    :param unit: one pass, such as "step".
    :param initial: passes that an earlier run has done.
    :param shown: False for silence, as in `hidden_progress` and in processes other than the main one.
    """

    def __init__(self, title: str, total: int, unit: str, initial: int = 0, shown: bool = True) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.first = self.done = initial
        shown = shown and _shown.get()
        self.bar = tqdm(total=total, initial=initial, desc=title, unit=unit, disable=not (shown and has_bars()))
        self.writes_lines = shown and not has_bars()
        self.values: dict[str, str] = {}
        self.started = self.last_line_at = time.monotonic()
        self.last_line_done = initial

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()
        if self.writes_lines and self.done > self.last_line_done:
            self._write_line()

    def advance(self, count: int = 1) -> None:
        """Count finished passes, and write a line if one is due."""
        self.done += count
        self.bar.update(count)
        if self.writes_lines and self._line_is_due():
            self._write_line()

    def note(self, **values: str) -> None:
        """Set the values shown after the count, such as the loss."""
        self.values = values
        self.bar.set_postfix(values)

    def line(self) -> str:
        """The progress in one line: passes, values, rate and remaining time."""
        parts = [f"{self.title}: {self.unit} {self.done} of {self.total}"]
        parts += [f"{name} {value}" for name, value in self.values.items()]
        seconds, passes = time.monotonic() - self.started, self.done - self.first
        if passes and seconds > MEASURED_SECONDS:
            parts.append(f"{passes / seconds:.3g} {self.unit}s/s")
            if self.done < self.total:
                parts.append(f"{_duration(seconds / passes * (self.total - self.done))} left")
        return ", ".join(parts)

    def _line_is_due(self) -> bool:
        if self.done == self.total:  # the last line is written at the end, with the last values
            return False
        waited = time.monotonic() - self.last_line_at
        has_gone_on = self.done - self.last_line_done >= SHARE_OF_A_LINE * self.total
        return waited >= LONGEST_INTERVAL or (waited >= SHORTEST_INTERVAL and has_gone_on)

    def _write_line(self) -> None:
        logger.info("%s", self.line())
        self.last_line_at, self.last_line_done = time.monotonic(), self.done


def hide_progress() -> None:
    """Loops begun from now on show nothing, in a process beside the main one."""
    _shown.set(False)


@contextmanager
def hidden_progress() -> Iterator[None]:
    """Loops inside show no progress, because their caller shows its own."""
    token = _shown.set(False)
    try:
        yield
    finally:
        _shown.reset(token)


@contextmanager
def console(verbose: bool = True) -> Iterator[None]:
    """Show log lines and bars of rd_hf on the screen, and bars of the libraries only if a bar can be redrawn.

    Handlers that the user has set for logging are used as they are, and so is a level set for the logger `rd_hf`.

    :param verbose: False for silence: no bars, and of the log only warnings and errors.
    """
    with ExitStack() as stack:
        stack.enter_context(_log_level(logging.INFO if verbose else logging.WARNING))
        if not verbose:
            stack.enter_context(hidden_progress())
        stack.enter_context(_transformers_errors_only())
        if not (verbose and has_bars()):
            stack.enter_context(_no_library_bars())
        yield


@contextmanager
def _log_level(level: int) -> Iterator[None]:
    """Set the level of rd_hf's logger, and a handler to stderr, where the user has set none; silence is always set."""
    root = logging.getLogger("rd_hf")
    before, handler = root.level, logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    is_own = not root.hasHandlers()
    if is_own:
        root.addHandler(handler)
    if before == logging.NOTSET or level > logging.INFO:
        root.setLevel(max(before, level))
    try:
        yield
    finally:
        root.setLevel(before)
        if is_own:
            root.removeHandler(handler)


@contextmanager
def _transformers_errors_only() -> Iterator[None]:
    """Hide transformers' reports on loading; rd_hf checks and reports itself what matters in them."""
    from transformers.utils import logging as of_transformers

    before = of_transformers.get_verbosity()
    of_transformers.set_verbosity_error()
    try:
        yield
    finally:
        of_transformers.set_verbosity(before)


@contextmanager
def _no_library_bars() -> Iterator[None]:
    """Hide the bars of datasets and transformers, and restore the user's setting afterwards."""
    from datasets import utils as of_datasets
    from transformers.utils import logging as of_transformers

    had = of_datasets.are_progress_bars_disabled(), of_transformers.is_progress_bar_enabled()
    of_datasets.disable_progress_bars()
    of_transformers.disable_progress_bar()
    try:
        yield
    finally:
        if not had[0]:
            of_datasets.enable_progress_bars()
        if had[1]:
            of_transformers.enable_progress_bar()


def _duration(seconds: float) -> str:
    """A time for people: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"

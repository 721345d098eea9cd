"""Errors that name the model at fault: the Hub's client often says only that something could not be reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..arguments.values import nearest_name


class ModelNameError(ValueError):
    """A teacher or student that cannot be loaded under the name given."""


@contextmanager
def loading(role: str, name: str) -> Iterator[None]:
    """A context for loading a model: errors name `role` and `name`.

    :param role: the argument, such as "teacher".
    :raises ModelNameError: when `name` looks like a folder that is not there, or loading fails.
    """
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    if looks_local and not Path(name).expanduser().is_dir():
        raise ModelNameError(f"The {role} {name!r} is not a folder ({nearest_name(Path(name).absolute())}).")
    folder = Path(name).expanduser()
    if not (folder / "config.json").is_file() and (folder / "student" / "config.json").is_file():
        raise ModelNameError(
            f"The {role} {name!r} is the folder of a run. Give its student, {str(folder / 'student')!r}."
        )
    try:
        yield
    except OSError as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelNameError(f"The {role} {name!r} cannot be loaded: {reason}") from error

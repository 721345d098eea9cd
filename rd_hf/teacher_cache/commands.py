"""`rd-hf cache info | build | verify | clear`: lists, fills, checks and deletes caches of teacher features."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from ..arguments.values import ArgumentError
from ..arguments.words import counted
from .file import FeatureFile, open_file
from .key import FORMAT, KEY_FILE, VIEW_FILES, KeyFolder, cache_root, entry_layout, in_words, list_folders

DAY = 24 * 3600


def info(cache_dir: str | None = None) -> str:
    """What each cache holds, the key in words, its size and age."""
    root = cache_root(cache_dir)
    folders = list_folders(root)
    if not folders:
        return f"There is no cache of teacher features in {root}."
    return "\n\n".join(
        [
            f"{counted(len(folders), 'cache')} in {root}, most recently used first",
            *map(_described, folders),
        ]
    )


def _described(folder: KeyFolder) -> str:
    files = [file for file in _files(folder) if isinstance(file, FeatureFile)]
    entries = sum(len(file.present()) for file in files)
    size, views = _on_disk(folder) / 1e6, counted(len(files), "view")
    on_disk = f"{size:.1f} MB" if size >= 0.1 else f"{size * 1000:.1f} KB"
    head = (
        f"{folder.path.name}  teacher {folder.teacher}: {counted(entries, 'entry', 'entries')} in {views}, "
        f"{on_disk} on disk ({entry_layout(folder.key).entry_bytes / 1000:.1f} KB per entry), "
        f"created {_ago(folder.made)}, last used {_ago(folder.used)}"
    )
    return "\n    ".join([head, *in_words(folder.key)])


def verify(cache_dir: str | None = None, key: str | None = None) -> str:
    """Compare every entry with its checksum; damaged ones are dropped, so that a run computes them again."""
    lines = []
    for folder in _chosen(cache_dir, key):
        entries = dropped = 0
        for file in _files(folder):
            if isinstance(file, Path):
                lines.append(f"{file}: deleted, because its header or size was damaged")
                file.unlink()
            else:
                entries += len(file.present())
                dropped += file.drop_damaged()
        lines.append(f"{folder.path.name}: {entries} entries, {dropped} of them damaged and dropped")
    return "\n".join(lines) or f"There is no cache of teacher features in {cache_root(cache_dir)}."


def clear(cache_dir: str | None = None, key: str | None = None, older_than_days: float | None = None) -> str:
    """Delete caches: all, that of `key`, or those not used for some days. Other files and folders stay.

    :return: what was deleted.
    """
    lines = []
    for folder in _chosen(cache_dir, key):
        if older_than_days is not None and time.time() - folder.used < older_than_days * DAY:
            continue
        size = _on_disk(folder)
        for path in [*folder.path.glob(VIEW_FILES), *folder.path.glob(f".{VIEW_FILES}.*"), folder.path / KEY_FILE]:
            path.unlink(missing_ok=True)
        kept = ""
        if any(folder.path.iterdir()):
            kept = ", except files that do not belong to the cache"
        else:
            folder.path.rmdir()
        lines.append(f"Deleted {folder.path} (teacher {folder.teacher}, {size / 1e6:.1f} MB){kept}.")
    return "\n".join(lines) or f"There is nothing to delete in {cache_root(cache_dir)}."


def _chosen(cache_dir: str | None, key: str | None) -> list[KeyFolder]:
    folders = list_folders(cache_root(cache_dir))
    chosen = [folder for folder in folders if key is None or folder.path.name.startswith(key)]
    if key is not None and (not key or len(chosen) != 1):
        names = ", ".join(folder.path.name for folder in chosen or folders) or "none"
        raise ArgumentError(f"`key` {key!r} matches {len(chosen)} caches; give the key of one cache: {names}.")
    return chosen


def _files(folder: KeyFolder) -> Iterator[FeatureFile | Path]:
    """A cache's view files, opened; for a file with a wrong header or size, its path."""
    for path in sorted(folder.path.glob(VIEW_FILES)):
        view = path.stem.removeprefix("view_")
        metadata = {"format": FORMAT, "key": folder.path.name, "view": str(int(view)) if view.isdecimal() else view}
        yield open_file(path, entry_layout(folder.key), metadata, make=False) or path


def _on_disk(folder: KeyFolder) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.path.iterdir())


def _ago(moment: float) -> str:
    days = (time.time() - moment) / DAY
    if days >= 2:
        return f"{days:.0f} days ago"
    if days >= 1 / 12:
        return f"{days * 24:.0f} hours ago"
    return f"{counted(round(days * 24 * 60), 'minute')} ago"

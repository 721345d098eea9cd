"""How the channels of a folder's volumes are stored: in files of nnU-Net's or BraTS's names, or along a fourth axis."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from ..columns import DataError
from ..mask_names import bases_of_mask, key_of_name
from ..scanner import FoundFiles, printable
from ..tables import read_json
from .names import Channel, channel_of, file_of_channel, is_nifti, stem_of
from .volume import VolumeReading


def with_channels(found: FoundFiles, wanted: int | None) -> tuple[FoundFiles, VolumeReading]:
    """Keep the first channel's file of each case, which stands for all, and tell how channels are stored.

    Numbers such as `_0000` are those of channels where a label has the name without it, or where several channels are
    stated, by `wanted` or by dataset.json, and a file `_0001` lies beside. So are BraTS's words where there are several
    of a case, and a label such as `CASE_seg` or that statement. Of these a case has four.

    :param found: volumes, see `rd_hf.data.volumes.layouts.volumes_among`.
    :param wanted: the number of channels that is asked for.
    :raises DataError: if a case lacks a channel, or if the number is not the one that is stated; names the case.
    """
    stated = channels_stated(found.root)
    if wanted is not None and stated is not None and wanted != len(stated):
        raise DataError(
            f"volume_channels is {wanted}, but dataset.json in '{printable(found.root)}' names {len(stated)}: "
            f"{', '.join(stated)}; leave volume_channels out, or correct the file"
        )
    expected = wanted or (None if stated is None else len(stated))
    numbered = _numbered(found.images)
    if not _are_channels(numbered, found.masks, expected):
        channels = expected or 1
        return found, VolumeReading(channels, channel_axis=channels > 1)
    cases: dict[tuple[PurePath, str], dict[int, PurePath]] = {}
    for file, channel in numbered.items():
        cases.setdefault((file.parent, channel.case), {})[channel.number] = file
    count = expected or max(len(channel.words) or 1 + channel.number for channel in numbered.values())
    _check_cases(found.root, cases, count)
    if count > 1:
        _check_all_numbered(found, numbered)
    firsts = {files[0] for files in cases.values()}
    kept = tuple(file for file in found.images if file in firsts or file not in numbered)
    return replace(found, images=kept), VolumeReading(count)


def first_channels(files: Sequence[PurePath], reading: VolumeReading) -> list[PurePath]:
    """Leave out the further channels of cases whose first channel is there too."""
    if reading.channels == 1 or reading.channel_axis:
        return [*files]
    numbered, there = _numbered(files), {*files}

    def is_further(file: PurePath) -> bool:
        return file in numbered and numbered[file][1] > 0 and file_of_channel(file, 0) in there

    return [file for file in files if not is_further(file)]


def reading_of_file(file: str | None, wanted: int | None) -> VolumeReading:
    """Tell how the channels of a volume of a table are stored, by what lies beside its file.

    :param file: the first volume of the table; None if it has no path.
    :param wanted: the number of channels that is asked for; None for one.
    """
    channels = wanted or 1
    path = None if file is None else Path(file)
    channel = None if path is None else _numbered([path]).get(path)
    is_named = channel is not None and bool(channel.words)
    in_files = channel is not None and os.path.exists(file_of_channel(path, 1))
    if is_named and (channel.number or len(channel.words) != channels):  # the word says nothing of this file's axes
        in_files = False
    return VolumeReading(channels, channel_axis=channels > 1 and not in_files)


def channels_stated(folder: Path) -> list[str] | None:
    """The names of the channels in dataset.json: nnU-Net's ``channel_names``, or ``modality`` of the Decathlon.

    :return: None if there is no such file, or if it says nothing of channels.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        return None
    content = read_json(path)
    names = content.get("channel_names") or content.get("modality") if isinstance(content, dict) else None
    if isinstance(names, dict) and names and all(str(key).isdecimal() for key in names):
        return [str(name) for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    return None


def _numbered(images: Sequence[PurePath]) -> dict[PurePath, Channel]:
    """The files whose names are of a channel."""
    channels = {file: channel_of(file) for file in images if is_nifti(file)}
    return {file: channel for file, channel in channels.items() if channel is not None}


def _are_channels(numbered: Mapping[PurePath, Channel], masks: Sequence[PurePath], expected: int | None) -> bool:
    of_masks = {key_of_name(stem_of(mask)) for mask in masks}
    bases = {base for mask in masks for base in bases_of_mask(stem_of(mask))}
    for file, channel in numbered.items():
        case, has_first = key_of_name(channel.case), file_of_channel(file, 0) in numbered
        if not channel.words and case in of_masks and key_of_name(stem_of(file)) not in of_masks:
            return True
        if channel.number > 0 and has_first and ((expected or 1) > 1 or (channel.words and case in bases)):
            return True
    return False


def _check_cases(root: Path, cases: Mapping[tuple[PurePath, str], Mapping[int, PurePath]], count: int) -> None:
    for (folder, case), files in cases.items():
        named = channel_of(next(iter(files.values())))
        if count > (len(named.words) or count):
            raise DataError(
                f"case '{printable(root / folder / case)}' has BraTS's channels, {', '.join(named.words)}, but "
                f"volume_channels or dataset.json says that there are {count}; correct the number"
            )
        lacking = [named.ending(channel) for channel in range(count) if channel not in files]
        if lacking:
            raise DataError(
                f"case '{printable(root / folder / case)}' lacks the channel {', '.join(lacking)} of {count}: add the "
                "file, or remove the case"
            )
        beyond = [file for channel, file in files.items() if channel >= count]
        if beyond:
            raise DataError(
                f"'{printable(root / beyond[0])}' is of channel {named.ending(max(files))}, but volume_channels or "
                f"dataset.json says that there are {count}; correct the number, or remove the file"
            )


def _check_all_numbered(found: FoundFiles, numbered: Mapping[PurePath, tuple[str, int]]) -> None:
    others = [file for file in found.images if is_nifti(file) and file not in numbered]
    if others:
        raise DataError(
            f"'{printable(found.root / others[0])}' has no number of a channel such as _0000, but other volumes of the "
            "folder have; add the number, or move the file elsewhere"
        )

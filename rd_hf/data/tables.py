"""Tables as they are written: separated values as columns of text, and JSON with its own types."""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..runtime.stand_ins import HEAD_BYTES, stand_in
from .columns import DataError
from .scanner import IMAGE_SUFFIXES, names_image, printable

logger = logging.getLogger(__name__)

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SAMPLED_ROWS = 50
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_table(path: Path) -> pa.Table:
    """Read a .csv or .tsv file, whatever separates its columns (comma, semicolon, tab or bar).

    No type is guessed, so `007` stays `007`. An empty cell is null. Text that is not UTF-8 is read as Windows-1252.

    :return: columns of text, named by the first line.
    :raises DataError: if the file is no table, has no line of names, or a row has more cells than there are names.
    """
    lines = io.StringIO(_text(path), newline="").readlines()
    separator = None
    if lines and lines[0].strip().lower().startswith("sep=") and len(lines[0].strip()) == 5:
        separator, lines = lines[0].strip()[4], lines[1:]  # Excel's own way of stating the separator
    rows = _rows(lines, separator or _separator(lines, path), path)
    if not rows:
        raise DataError(
            f"'{printable(path)}' has no line of text; expected a line of column names, then one row for each image"
        )
    names = _names(rows[0][1], path)
    columns: list[list[str | None]] = [[] for _ in names]
    for line, cells in rows[1:]:
        if any(cells[len(names) :]):
            raise DataError(
                f"'{printable(path)}', line {line}: {len(cells)} cells, but the first line names {len(names)} columns; "
                "put text that contains the separator in double quotes"
            )
        for position, column in enumerate(columns):
            column.append((cells[position] or None) if position < len(cells) else None)
    return pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)})


def read_json(path: Path) -> Any:
    """What a JSON file that describes the data holds.

    :raises DataError: if it is not valid.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
    except ValueError as error:
        raise DataError(f"'{printable(path)}' is not valid JSON: {error}") from error


def read_json_lines(path: Path) -> pa.Table:
    """Read a .jsonl file, one object per line. Text stays text, also where it is written like a date.

    :return: columns by key; a key that a line lacks is null there.
    :raises DataError: if a line is no JSON object, or a column mixes types.
    """
    rows = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"'{printable(path)}', line {number} is not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(
                f"'{printable(path)}', line {number} is no JSON object; write each row as {{...}} on one line"
            )
        rows.append(row)
    if not rows:
        raise DataError(f"'{printable(path)}' has no line of text; expected one JSON object for each image")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _json_column([row.get(name) for row in rows], name, path) for name in names})


def _json_column(values: list[Any], name: str, path: Path) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        kinds = " and ".join(sorted({type(value).__name__ for value in values if value is not None}))
        raise DataError(
            f"'{printable(path)}': column '{name}' mixes values of type {kinds}; write all of them in one type"
        ) from error


def _text(path: Path) -> str:
    content = path.read_bytes()
    if reason := stand_in(content[:HEAD_BYTES]):
        raise DataError(f"'{printable(path)}' is no table: {reason}")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
        logger.warning("'%s' is not in UTF-8; it is read as Windows-1252.", printable(path))
    if "\0" in text:
        raise DataError(f"'{printable(path)}' is no table of text, but a binary file; give the table itself")
    return text


def _separator(lines: list[str], path: Path) -> str:
    """The separator that divides the first line into most columns, among those that fit the lines below best."""
    best, best_score = ",", (0.0, 1)
    for separator in SEPARATORS:
        rows = [cells for _, cells in _rows(lines, separator, path, SAMPLED_ROWS)]
        if rows and len(rows[0]) > 1:
            fitting = sum(len(cells) == len(rows[0]) for cells in rows) / len(rows)
            if (fitting, len(rows[0])) > best_score:
                best, best_score = separator, (fitting, len(rows[0]))
    if best != "," and path.suffix.lower() != ".tsv":
        logger.info("The columns of '%s' are separated by %s.", printable(path), SEPARATORS[best])
    return best


def _rows(lines: list[str], separator: str, path: Path, limit: int | None = None) -> list[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of its last line.

    :raises DataError: for a quote that nothing closes, or another stray one, in which further rows would be lost.
    """
    before = csv.field_size_limit(sys.maxsize)  # a cell may hold a whole image
    written = {"delimiter": separator, "skipinitialspace": _has_space_before_quotes(lines[:limit], separator)}
    try:
        reader, last, rows = csv.reader(lines, **written), 0, []
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((reader.line_num, cells))
                if limit is None and reader.line_num - last > 1:
                    _check_quotes(lines, last, reader.line_num, rows, written, path)
            last = reader.line_num
            if len(rows) == limit:
                break
        if rows and limit is None and rows[-1][0] == len(lines):
            _check_closed(lines, rows[-2][0] if len(rows) > 1 else 0, written, path)
        return rows
    except csv.Error as error:
        raise DataError(f"'{printable(path)}' cannot be read as a table: {error}") from error
    finally:
        csv.field_size_limit(before)


def _has_space_before_quotes(lines: list[str], separator: str) -> bool:
    """Whether cells are written as in `1.png, "a, b"`, whose quotes would not count."""
    pattern = re.compile(re.escape(separator) + ' +"')
    return any(map(pattern.search, lines))


def _check_quotes(
    lines: list[str], start: int, end: int, rows: list[tuple[int, list[str]]], written: dict[str, Any], path: Path
) -> None:
    """Check a row that goes on over several lines.

    :param start: number of lines before it.
    :param end: number of its last line.
    :param rows: those read so far; the first has the names.
    :raises DataError: where text follows a closing quote, or the lines are rows themselves: two stray quotes took them.
    """
    is_torn = False
    try:
        list(csv.reader(lines[start:end], **written, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):  # which `_check_closed` tells
            return
        is_torn = True
    inside = [cells for line in lines[start + 1 : end] for cells in csv.reader([line], **written)]
    if is_torn or any(len(cells) == len(rows[0][1]) and any(map(names_image, cells)) for cells in inside):
        raise DataError(
            f"'{printable(path)}', line {start + 1}: a quote is opened there and the next one is in a line below, up "
            f"to line {end}, so that the rows between would be one cell; remove the stray quotes, or write each twice "
            "and put the whole text in quotes if it belongs there"
        )


def _check_closed(lines: list[str], start: int, written: dict[str, Any], path: Path) -> None:
    """:raises DataError: where the last row, which begins after `start` lines and blank ones, ends within quotes."""
    while not lines[start].strip():
        start += 1
    try:
        for _ in csv.reader(lines[start:], **written, strict=True):
            pass
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise DataError(
                f"'{printable(path)}', line {start + 1}: a quote is opened and never closed, so that all lines below "
                "would be one cell; close it, or write it twice if it belongs to the text"
            ) from error


def _names(cells: list[str], path: Path) -> list[str]:
    while cells and not cells[-1].strip():  # spreadsheets write empty columns at the end
        cells = cells[:-1]
    names = [cell.strip() or f"column {position + 1}" for position, cell in enumerate(cells)]
    like_data = next((name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES), None)
    if like_data is not None:
        raise DataError(
            f"the first line of '{printable(path)}' holds '{like_data}', so it is a row and not the names of the "
            "columns; put a line such as file_name,label before it"
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"'{printable(path)}' has two columns named '{twice}'; rename or remove one")
    return names

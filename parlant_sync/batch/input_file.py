"""Rows out of a file: JSON lines, or what a spreadsheet exports."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from parlant_sync import ConfigurationError
from parlant_sync.batch.rows import FIELDS, Row, find_rows, misspelled, refuse

Format = Literal["jsonl", "csv"]
_ENDINGS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv"}
_DELIMITERS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
# Two bytes a character without a mark: "Unicode text" of some programs.
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_JSON_FIELDS = ("messages", "metadata", "expect_contains", "expect_tool")
_NUMBERS = ("timeout", "expect_seconds")
# A long prompt in a cell is no mistake; csv's own limit is 128 KiB.
_LONGEST_CELL = 16 * 1024 * 1024


@dataclass
class InputFile:
    """What a file holds: its ``rows``, checked, and ``notes`` about how it was read (an encoding that was guessed)."""

    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    @property
    def unused(self) -> list[str]:
        """The fields that no batch looks at, in the order in which they appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row.columns))


def read_rows(
    path: str | os.PathLike[str],
    *,
    input_format: Format | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    message_column: str | None = None,
) -> list[Row]:
    """The rows of a JSONL or CSV file, checked; ``-`` is stdin. Arguments and errors: ``read_file``."""
    return read_file(
        path, input_format=input_format, encoding=encoding, delimiter=delimiter, message_column=message_column
    ).rows


def read_file(
    path: str | os.PathLike[str],
    *,
    input_format: Format | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    message_column: str | None = None,
) -> InputFile:
    """Read and check a file of rows; ``-`` is stdin.

    What is left out is found out: ``input_format`` by the file's ending (stdin: JSONL), ``encoding`` (UTF-8, UTF-16
    or CP949) and ``delimiter`` (comma, semicolon or tab) by the content. ``message_column`` names the column that holds
    the message. Raises one ConfigurationError that names every row that cannot be asked, by the number that a
    spreadsheet shows; OSError if the file cannot be read.
    """
    name = os.fspath(path)
    data = sys.stdin.buffer.read() if name == "-" else Path(path).read_bytes()
    input_format = input_format or ("jsonl" if name == "-" else _ENDINGS.get(Path(name).suffix.lower()))
    if data.startswith(b"PK\x03\x04"):
        raise ConfigurationError(f"{name}: this is a workbook; save it as CSV (UTF-8) and give that file")
    if input_format is None:
        raise ConfigurationError(
            f"{name}: the name does not end in .jsonl, .csv or .tsv; say what the file is with input_format="
        )
    text, notes = _decode(data, name, encoding)
    trouble: list[str] = []
    if input_format == "jsonl":
        objects = _jsonl(text, message_column, trouble)
    else:
        objects = _csv(text, name, delimiter, message_column, trouble)
    rows, wrong = find_rows(objects)
    refuse(trouble + wrong, f"{name}, ")
    return InputFile(rows, notes)


def _decode(data: bytes, name: str, encoding: str | None) -> tuple[str, list[str]]:
    if encoding is not None:
        try:
            return data.decode(encoding).removeprefix("\ufeff"), []
        except LookupError:
            raise ConfigurationError(
                f"there is no encoding {encoding!r}; well-known ones: utf-8, cp949, cp1252"
            ) from None
        except UnicodeDecodeError as error:
            where = _line(data, error)
            raise ConfigurationError(f"{name}, {where}: not {encoding}; give another encoding=") from None
    marked = next((known for mark, known in _MARKS if data.startswith(mark)), None)
    if marked is None and b"\0" in data[:200]:
        marked = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    try:
        return data.decode(marked or "utf-8"), []
    except UnicodeDecodeError as error:
        where = _line(data, error)
    try:
        text = data.decode("cp949")
    except UnicodeDecodeError:
        text = ""
    if any("\uac00" <= char <= "\ud7a3" for char in text):  # Korean syllables
        return text, [f"{name} is not UTF-8; it was read as CP949; give its encoding if that is wrong"]
    raise ConfigurationError(
        f"{name}, {where}: not UTF-8; say what it is with encoding= (cp1252 for a Western Excel, cp949 for a Korean "
        "one), or save it as UTF-8"
    )


def _line(data: bytes, error: UnicodeDecodeError) -> str:
    newline = b"\n"
    return f"line {data[: error.start].count(newline) + 1}"


def _jsonl(text: str, message_column: str | None, trouble: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            trouble.append(f"line {number}: not JSON: {error}")
            continue
        if not isinstance(value, dict):
            trouble.append(f'line {number}: one object a line is needed, like {{"message": "..."}}')
            continue
        if message_column is not None and message_column in value:
            value = {"message" if key == message_column else key: item for key, item in value.items()}
        yield f"line {number}", value


def _csv(
    text: str, name: str, delimiter: str | None, message_column: str | None, trouble: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        skipped = 0
        if text[:4].lower() == "sep=":  # a hint for Excel
            first, _, text = text.partition("\n")
            delimiter, skipped = delimiter or first.strip()[4:5] or None, 1
        separator = _DELIMITERS.get(delimiter or "", delimiter)
        if separator is not None and len(separator) != 1:
            raise ConfigurationError(f"delimiter= must be one character, or tab, not {delimiter!r}")
        headers = {each: _header(text, each, message_column) for each in ([separator] if separator else ",;\t")}
        fitting = [each for each, names in headers.items() if {"message", "messages"} & set(names)]
        if not fitting:
            found = max(headers.values(), key=len)
            if not found:
                raise ConfigurationError(f"{name}: no columns; the first row must name them, one of them message")
            columns = ", ".join(map(repr, found[:10]))
            if message_column is not None:
                raise ConfigurationError(f"{name}: no column {message_column!r} in its first row; it has {columns}")
            meant = next((each for each in map(misspelled, found) if each.endswith(("message?", "messages?"))), "")
            raise ConfigurationError(
                f"{name}: its first row must name the columns, one of them message (or messages); it has {columns}: "
                + (meant or "message_column= says which column holds the message")
            )
        best = max(fitting, key=lambda each: len(headers[each]))
        yield from _records(text, best, headers[best], skipped, trouble)
    except csv.Error as error:
        raise ConfigurationError(f"{name}: not CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _header(text: str, delimiter: str, message_column: str | None) -> list[str]:
    """The names of the columns: those that a batch knows in its own spelling, the others as they are."""
    try:
        names = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
    except csv.Error:
        return []
    while names and not names[-1].strip():
        names.pop()
    return [_column(name.strip(), message_column) for name in names]


def _column(name: str, message_column: str | None) -> str:
    plain = name.lower().replace(" ", "_").replace("-", "_")
    if message_column is not None:
        if name.lower() == message_column.strip().lower():
            return "message"
        if plain in ("message", "messages"):
            return f"{name} (not used)"
    return plain if plain in FIELDS else name


def _records(
    text: str, delimiter: str, names: list[str], skipped: int, trouble: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    next(reader)
    # A spreadsheet counts records, not lines: a cell may hold several lines.
    for number, cells in enumerate(reader, 2 + skipped):
        while cells and not cells[-1].strip():
            cells.pop()
        if not cells:
            continue  # an empty row
        place = f"row {number}"
        if len(cells) > len(names):
            trouble.append(f"{place}: more cells than columns; quote texts that hold {delimiter!r}")
            continue
        value: dict[str, Any] = {}
        errors: list[str] = []
        for column, cell in zip(names, cells, strict=False):
            if cell:  # an empty cell is a field that is not there
                try:
                    value[column] = _cell(column, cell)
                except (ValueError, RecursionError) as error:
                    errors.append(f"{place}: {column}: {error}")
        trouble += errors
        if not errors:
            yield place, value


def _cell(column: str, cell: str) -> Any:
    """What a cell stands for: lists and objects are JSON in CSV, too."""
    if column in ("messages", "metadata") or (column in _JSON_FIELDS and cell.lstrip().startswith("[")):
        return json.loads(cell)
    if column in _NUMBERS:
        try:
            return float(cell)
        except ValueError:
            raise ValueError(f"a number of seconds is needed, not {cell!r:.60}") from None
    return cell.strip() if column in FIELDS and column != "message" else cell

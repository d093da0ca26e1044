"""Rows out of a file: JSONL or CSV."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from parlant_sync import ConfigurationError
from parlant_sync.batch.rows import FIELDS, Row, check_rows

Format = Literal["jsonl", "csv"]
_ENDINGS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
# A long prompt in a cell is no mistake; csv's own limit is 128 KiB.
_LONGEST_CELL = 16 * 1024 * 1024


def read_rows(path: str | os.PathLike[str], *, input_format: Format | None = None) -> list[Row]:
    """The rows of a JSONL or CSV file, checked; ``-`` is stdin.

    ``input_format``: else by the file's ending; stdin is JSONL. Raises ConfigurationError that names the line,
    OSError where the file cannot be read.
    """
    return check_rows(read_objects(path, input_format=input_format))


def read_objects(path: str | os.PathLike[str], *, input_format: Format | None = None) -> list[dict[str, Any]]:
    """The same, not yet checked: with the fields that a batch does not know."""
    name = os.fspath(path)
    if name == "-":
        data = sys.stdin.buffer.read()
        input_format = input_format or "jsonl"
    else:
        data = Path(path).read_bytes()
    input_format = input_format or _ENDINGS.get(Path(name).suffix.lower())
    if input_format is None:
        raise ConfigurationError(f"{name}: its ending is neither .jsonl nor .csv; say --input-format (input_format=)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"{name}, line {line}: not UTF-8; convert the file first") from None
    return list(_jsonl(text, name) if input_format == "jsonl" else _csv(text, name))


def unknown_fields(objects: Iterable[dict[str, Any]]) -> list[str]:
    """The fields that no batch looks at, in the order they were met."""
    found: dict[str, None] = {}
    for row in objects:
        found.update(dict.fromkeys(name for name in row if name not in FIELDS))
    return list(found)


def _jsonl(text: str, name: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{name}, line {number}: no JSON: {error}") from None
        if not isinstance(value, dict):
            raise ConfigurationError(f'{name}, line {number}: one object a line is needed, like {{"message": "..."}}')
        yield value


def _csv(text: str, name: str) -> Iterator[dict[str, Any]]:
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = reader.fieldnames or []
        if not {"message", "messages"} & set(names):
            raise ConfigurationError(f"{name}: its first line must name the columns, one of them message or messages")
        for row in reader:
            where = f"{name}, line {reader.line_num}"
            if None in row:
                raise ConfigurationError(f"{where}: more cells than columns; quote texts that hold commas")
            # An empty cell is a field that is not there.
            yield {field: _cell(field, value, where) for field, value in row.items() if value}
    except csv.Error as error:
        raise ConfigurationError(f"{name}: no CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)


def _cell(field: str, value: str, where: str) -> Any:
    """What a cell stands for: lists and objects are JSON in CSV, too."""
    try:
        if field in ("messages", "metadata"):
            return json.loads(value)
        return float(value) if field == "timeout" else value
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where}: {field}: {error}") from None

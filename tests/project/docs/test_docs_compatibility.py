"""The tables of docs/compatibility.md: every row is whole, and the tests that it names exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/compatibility.md").read_text("utf-8")
TESTS = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in ROOT.glob("tests/**/test_*.py")}


def tables() -> Iterator[tuple[list[str], list[list[str]]]]:
    """The heads and the rows of each table."""
    for block in re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        yield head, rows


def test_every_row_has_a_version_a_result_and_a_test() -> None:
    tried = [(head, rows) for head, rows in tables() if head[-1] == "test"]
    assert len(tried) >= 2
    for head, rows in tried:
        assert head[0] in ("package", "what")
        assert head[1] == "version"
        assert head[-2] == "result"
        for row in rows:
            assert len(row) == len(head), row
            assert all(row), row
            assert re.search(r"`(tests/|test_)", row[-1]), row


def test_the_tests_that_are_named_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)?(?:::)?(test_\w+)?(?:\[([\w-]+)\])?`", PAGE)
    named = [each for each in named if each[0] or each[1]]
    assert len(named) > 30
    for path, name, parameter in named:
        places = {path: TESTS[path]} if path else TESTS
        if name:
            places = {where: text for where, text in places.items() if f"def {name}(" in text}
        assert places, f"{path} {name}: no such test"
        if parameter:
            assert any(f'"{parameter}"' in text for text in places.values()), f"{name}[{parameter}]: no such case"

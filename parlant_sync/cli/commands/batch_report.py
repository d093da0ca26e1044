"""``parlant-sync batch report`` and ``parlant-sync batch compare``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from parlant_sync.batch import Row
from parlant_sync.batch import report as reports
from parlant_sync.cli import output
from parlant_sync.cli.app import App
from parlant_sync.cli.errors import ROWS, usage
from parlant_sync.cli.options import Command, complete, option, pass_app

_F = TypeVar("_F", bound=Callable[..., Any])


def _load(path: str) -> reports.Report:
    try:
        return reports.load(path)
    except OSError as error:
        raise usage(f"{path}: {error.strerror}") from None


def _form(name: str, text: str) -> Callable[[_F], _F]:
    return option(f"--{name}", is_flag=True, from_environment=False, help=text)


@click.command("report", cls=Command, formats=("text", "json", "markdown", "html"))
@click.argument("results", shell_complete=lambda ctx, param, start: complete("file", start))
@_form("markdown", "As Markdown, with a table of all rows.")
@_form("csv", "As a table for spreadsheets, with the input's columns.")
@_form("html", "As one page that needs nothing else.")
@_form("junit", "As a JUnit report, for CI.")
@pass_app
def report(app: App, /, results: str, **forms: bool) -> None:
    """Report the results of a batch: counts, times, problems.

    RESULTS is the file that batch --results has written; the batch may
    still be running.

    \b
      parlant-sync batch report answers.jsonl
      parlant-sync batch report answers.jsonl --html > answers.html
    """
    chosen = [name for name, given in forms.items() if given]
    if len(chosen) > 1:
        raise usage(f"--{chosen[0]} and --{chosen[1]} are two forms of one report; choose one")
    found = _load(results)
    form = chosen[0] if chosen else app.output
    if form == "csv":
        output.write(reports.as_csv(found))
    elif form == "html":
        output.write(reports.as_html(found) + "\n")
    elif form == "junit":
        output.write(reports.as_junit(found))
    elif form == "markdown":
        output.answer(reports.as_markdown(found))
    elif form == "json":
        output.answer_json(reports.as_json(found))
    else:
        output.answer(reports.as_text(found))


@click.command("compare", cls=Command)
@click.argument("old", shell_complete=lambda ctx, param, start: complete("file", start))
@click.argument("new", shell_complete=lambda ctx, param, start: complete("file", start))
@pass_app
def compare(app: App, /, old: str, new: str) -> int | None:
    """Report what got worse between two batches.

    OLD and NEW are two files of results; rows are compared by their ids. Ends
    with 9 if a row got worse: it failed, or lost its text.

    \b
      parlant-sync batch compare yesterday.jsonl today.jsonl
    """
    found = reports.compare(_load(old), _load(new))
    if app.json:
        output.answer_json(found.to_json())
    else:
        output.answer(reports.comparison_text(found))
    return ROWS if found.worse else None


def write_junit(path: str, results: str, rows: Sequence[Row], *, empty_fails: bool) -> None:
    """The results as a JUnit report: the file is there whole, or as it was."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.write_text(reports.as_junit(_load(results), rows, empty_fails=empty_fails), "utf-8", newline="\n")
    os.replace(temporary, target)

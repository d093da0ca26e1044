"""What scripts/test.py does once it runs on a Python that is new enough."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import _env
import _matrix
from _servers_command import NAMES
from _steps import Steps

EXTRAS = ("demo", "test")
SLOW = "(real or slow)"


def servers(text: str) -> tuple[str, ...]:
    """The versions of the server to test on besides the one in .venv, which is the newest and always used."""
    if text == "newest":
        return ()
    wanted = tuple(NAMES if text == "all" else text.split(","))
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: choose newest, all, or some of {','.join(NAMES)}")
    return tuple(name for name in wanted if name != "newest")


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="scripts/test.py",
        description="Runs the linters, the type checker and all tests. Other arguments are pytest's.",
        allow_abbrev=False,  # -k and --co are pytest's, not the beginning of one of ours
    )
    parser.add_argument("--unit", action="store_true", help="only the quick part: nothing marked real or slow")
    parser.add_argument("--full", action="store_true", help="also the long matrices (marked full)")
    parser.add_argument(
        "--servers",
        type=servers,
        default=(),
        metavar="newest|all|VERSION,...",
        help=f"the contract tests also on other versions of the server: {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--within",
        type=float,
        metavar="MINUTES",
        help="leave out the older servers whose turn comes later than so many minutes after the start",
    )
    parser.add_argument(
        "--pythons",
        choices=("this", "all"),
        default="this",
        help="all: the quick part on every supported Python found here, and with the lowest dependencies",
    )
    return parser.parse_known_args(arguments)


def selection(which: str, full: bool) -> list[str]:
    """The -m expression of one part: every test is in exactly one of the two parts."""
    return ["-m", which if full else f"{which} and not full"]


def lint(steps: Steps, python: Path) -> None:
    steps.run("ruff check", [str(python), "-m", "ruff", "check", "--no-fix", "."])
    steps.run("ruff format", [str(python), "-m", "ruff", "format", "--check", "."])
    steps.run("mypy --strict", [str(python), "-m", "mypy"])  # the rest of its settings is in setup.cfg


def side_by_side(pytest_arguments: Sequence[str]) -> list[str]:
    """Four at a time, a file each: most tests wait for a server or a process more than they compute."""
    alone = ("-n", "-s", "--pdb", "--capture=no", "--co", "--collect-only")
    if any(argument.startswith(alone) for argument in pytest_arguments):
        return []
    return ["-n", "4", "--dist", "loadfile"]


def run(options: argparse.Namespace, pytest_arguments: Sequence[str]) -> Steps:
    python = _env.project(EXTRAS)
    steps = Steps()
    lint(steps, python)
    unit = [*selection(f"not {SLOW}", options.full), "--durations=10", "--durations-min=1", *pytest_arguments]
    steps.pytest("unit tests", python, [*side_by_side(pytest_arguments), *unit])
    if not options.unit:
        slow = [*selection(SLOW, options.full), *pytest_arguments]
        steps.pytest("contract and slow tests", python, [*side_by_side(pytest_arguments), *slow])
    for name in options.servers:
        title = f"contract tests on Parlant {name}"
        if options.within is not None and steps.seconds > 60 * options.within:
            steps.left_out(title, f"{options.within:g} minutes have passed")
            continue
        _matrix.on_server(steps, python, name, title, [*selection("real", options.full), *pytest_arguments])
    if options.pythons == "all":
        _matrix.on_pythons(steps, python, unit)
    return steps


def main(arguments: Sequence[str] | None = None) -> int:
    options, pytest_arguments = parse(arguments)
    try:
        steps = run(options, pytest_arguments)
    except _env.SetupError as error:
        _env.say(str(error))
        return 1
    except KeyboardInterrupt:
        _env.say("interrupted")
        return 130
    print(steps.summary(), flush=True)
    return 0 if steps.ok else 1

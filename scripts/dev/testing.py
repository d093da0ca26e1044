"""What ``scripts/test.py`` runs: linters, types, the tests, and the same tests on other servers and Pythons."""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dev import environments, servers
from dev.steps import Steps

# Demo server and tests start the server with this interpreter instead of their own.
SERVER_PYTHON = "PARLANT_SYNC_SERVER_PYTHON"
# Tests of packages that change sockets, TLS or urllib3 run in the environment of this interpreter.
PATCHED_PYTHON = "PARLANT_SYNC_PATCHED_PYTHON"
REPLACED_PYTHON = "PARLANT_SYNC_REPLACED_PYTHON"  # one whose urllib3 is another one
PATCHES = (  # those of docs/compatibility.md
    "gevent eventlet pyopenssl opentelemetry-instrumentation-urllib3<=0.60b1 "
    "opentelemetry-instrumentation-requests<=0.60b1 vcrpy requests-cache sentry-sdk ddtrace elastic-apm newrelic "
    "truststore time-machine requests-mock ipykernel jupyter_client"
).split()
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
SLOW = "(real or slow)"
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")
_FLOOR = re.compile(r"^([A-Za-z0-9._-]+)\s*>=\s*([0-9][^,;\s]*)")


def chosen(known: Sequence[str], default: str) -> Callable[[str], tuple[str, ...]]:
    """The type of an option: ``all``, or some of ``known`` with commas; ``default`` stands for none of them."""

    def choose(text: str) -> tuple[str, ...]:
        names = tuple(known if text == "all" else () if text == default else text.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)}: choose {default}, all, or some of {','.join(known)}"
            )
        return names

    return choose


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="scripts/test.py",
        description="Runs ruff, mypy and all tests. Other arguments go to pytest; with a path, only that is run.",
        allow_abbrev=False,  # -k and --co are pytest's, not the beginning of one of ours
    )
    older = tuple(name for name in servers.SERVERS if name != "newest")
    parser.add_argument("--unit", action="store_true", help="only the quick part: nothing marked real or slow")
    parser.add_argument("--full", action="store_true", help="also the long matrices (marked full)")
    parser.add_argument(
        "--servers",
        type=chosen(older, "newest"),
        default=(),
        metavar="newest|all|VERSION,...",
        help=f"run the contract tests on older servers as well: {', '.join(older)}",
    )
    parser.add_argument(
        "--pythons",
        type=chosen(PYTHONS, "this"),
        default=(),
        metavar="this|all|VERSION,...",
        help="run the quick part on other Pythons as well (those found here), and with the lowest dependencies",
    )
    parser.add_argument(
        "--within", type=float, metavar="MINUTES", help="leave out what would start later than this after the start"
    )
    parser.add_argument(
        "--retry-alone",
        action="store_true",
        help="run up to five failed tests once more, alone; those that pass then are named, and fail nothing",
    )
    return parser.parse_known_args(arguments)


def selection(which: str, full: bool) -> list[str]:
    """The ``-m`` expression of one part. Every test is in exactly one of the two parts."""
    return ["-m", which if full else f"{which} and not full"]


def names_a_path(pytest_arguments: Sequence[str]) -> bool:
    """True if the caller has said which files to run."""
    paths = (argument.partition("::")[0] for argument in pytest_arguments if argument[:1] != "-")
    return any((environments.ROOT / path).exists() for path in paths)


def side_by_side(pytest_arguments: Sequence[str]) -> list[str]:
    """Six tests at a time: most wait for a server or a process more than they compute."""
    alone = ("-n", "-s", "--pdb", "--capture=no", "--co", "--collect-only")
    if names_a_path(pytest_arguments) or any(argument.startswith(alone) for argument in pytest_arguments):
        return []
    return ["-n", "6"]


def run(options: argparse.Namespace, pytest_arguments: Sequence[str]) -> Steps:
    extras = ["test"] if options.unit else ["demo", "test", *(["uwsgi"] if options.full and can_build() else [])]
    python = environments.project(*extras)
    steps = Steps(retry_alone=options.retry_alone)
    if not names_a_path(pytest_arguments):
        steps.run("ruff check", [str(python), "-m", "ruff", "check", "--no-fix", "."])
        steps.run("ruff format", [str(python), "-m", "ruff", "format", "--check", "."])
        steps.run("mypy --strict", [str(python), "-m", "mypy"])  # the rest of its settings is in setup.cfg
    parallel = side_by_side(pytest_arguments)
    unit = [*parallel, *selection(f"not {SLOW}", options.full), *pytest_arguments]
    steps.pytest("unit tests", python, unit)
    if not options.unit:
        slow = [*parallel, *selection(SLOW, options.full), "--durations=10", "--durations-min=5", *pytest_arguments]
        steps.pytest("contract, process and docs tests", python, slow, patched(steps, python) if options.full else None)
    for name in options.servers:
        title = f"contract tests on Parlant {name}"
        if late(steps, options, title):
            continue
        try:
            extra = {SERVER_PYTHON: str(servers.make(name))}
        except environments.SetupError as error:
            steps.left_out(title, str(error), ok=False)
            continue
        where = [] if names_a_path(pytest_arguments) else ["tests/contract"]
        steps.pytest(title, python, [*parallel, *selection("real", options.full), *where, *pytest_arguments], extra)
    if options.pythons:
        on_pythons(steps, options, unit, python)
    return steps


def late(steps: Steps, options: argparse.Namespace, title: str) -> bool:
    """Whether there is no time left for another step; it is left out then."""
    if options.within is None or steps.seconds <= 60 * options.within:
        return False
    steps.left_out(title, f"{options.within:g} minutes have passed")
    return True


def patched(steps: Steps, python: Path) -> dict[str, str]:
    """Makes the environments with ``PATCHES`` and with urllib3-future. Tests whose environment cannot be installed are
    skipped."""
    plans = {PATCHED_PYTHON: ("patched", [".[test]", *PATCHES]), REPLACED_PYTHON: ("replaced", [".", "urllib3-future"])}
    found = {}
    for variable, (name, packages) in plans.items():
        try:
            folder = environments.ROOT / ".venvs" / name
            found[variable] = str(environments.ensure(folder, ["-e", *packages], pip=python))
        except environments.SetupError as error:
            steps.left_out(f"tests in the environment {name}", str(error))
    return found


def can_build() -> bool:
    """True if uWSGI, of which there are no wheels, can be built here."""
    return shutil.which("cc") is not None and Path(sysconfig.get_path("include"), "Python.h").exists()


def on_pythons(steps: Steps, options: argparse.Namespace, unit: Sequence[str], python: Path) -> None:
    """The quick part on other Pythons with today's dependencies, and on the oldest one with the lowest."""
    today = datetime.date.today().isoformat()
    newest = ["--upgrade", "--upgrade-strategy", "eager"]
    plans = [(f"py{version}", version, newest) for version in options.pythons]
    plans.append(("lowest", options.pythons[0], floors(requirements(python))))
    for name, version, arguments in plans:
        title = f"unit tests, {name}"
        if late(steps, options, title):
            continue
        found = environments.find_python(version)
        if found is None:
            steps.left_out(title, f"Python {version} is not on this machine")
            continue
        folder = environments.ROOT / ".venvs" / name
        try:
            each = environments.ensure(folder, [*arguments, "-e", ".[unit]"], python=found, pip=python, day=today)
        except environments.SetupError as error:
            steps.left_out(title, str(error), ok=False)
            continue
        steps.pytest(title, each, unit)


def requirements(python: Path) -> list[str]:
    """What the installed project says it needs."""
    code = "import importlib.metadata, json; print(json.dumps(importlib.metadata.requires('parlant-sync')))"
    found = json.loads(subprocess.check_output([str(python), "-c", code], text=True, env=environments.environ()))
    return [str(requirement) for requirement in found]


def floors(found: Iterable[str]) -> list[str]:
    """The lowest allowed versions as pins; of the extras only those that users' code runs with."""
    pins = []
    for requirement in found:
        extra, floor = _EXTRA.search(requirement), _FLOOR.match(requirement)
        if floor and (extra is None or extra.group(1) == "prometheus"):
            pins.append(f"{floor.group(1)}=={floor.group(2)}")
    return pins


def main(arguments: Sequence[str] | None = None) -> int:
    options, pytest_arguments = parse(arguments)
    try:
        steps = run(options, pytest_arguments)
    except environments.SetupError as error:
        environments.say(str(error))
        return 1
    except KeyboardInterrupt:
        environments.say("interrupted")
        return 130
    print(steps.summary(), flush=True)
    return 0 if steps.ok else 1

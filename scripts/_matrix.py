"""The same tests on other versions: of the server, of Python, of the dependencies."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import _env
import _python
from _servers_command import named
from _steps import Steps

# The demo server and the tests start the server with this interpreter instead of their own.
SERVER_PYTHON = "PARLANT_SYNC_SERVER_PYTHON"
FOLDER = _env.ROOT / ".venvs"
CONTRACT = "tests/contract"
_EXTRA = re.compile(r"""extra\s*==\s*["']([^"']+)["']""")
_FLOOR = re.compile(r"^([A-Za-z0-9._-]+)\s*>=\s*([0-9][^,;\s]*)")
_SHOWN = ("requests", "urllib3", "tenacity", "click")


def on_server(steps: Steps, python: Path, name: str, title: str, pytest_arguments: Sequence[str]) -> None:
    """The contract tests against one version of the server."""
    try:
        server = named(name).make()
    except _env.SetupError as error:
        steps.failed(title, str(error))
        return
    where = [] if names_a_path(pytest_arguments) else [CONTRACT]
    steps.pytest(title, python, [*where, *pytest_arguments], {SERVER_PYTHON: str(server)})


def names_a_path(pytest_arguments: Sequence[str]) -> bool:
    """Whether the caller has said which files to run."""
    return any(
        (_env.ROOT / argument.partition("::")[0]).exists() for argument in pytest_arguments if argument[:1] != "-"
    )


def on_pythons(steps: Steps, python: Path, pytest_arguments: Sequence[str]) -> None:
    """The unit tests on every Python here, with the newest dependencies; on the oldest with the lowest as well."""
    found = _python.find_all()
    for version in _python.SUPPORTED:
        if version not in found:
            print(f"\n=== Python {version[0]}.{version[1]} is not on this machine: skipped", flush=True)
            continue
        interpreter = found[version]
        # Newest means newest today: the date asks for an upgrade once a day.
        newest = ["--upgrade", "--upgrade-strategy", "eager"]
        _unit_tests(
            steps, f"py{interpreter.label}", interpreter, newest, [datetime.date.today().isoformat()], pytest_arguments
        )
    if found:
        oldest = found[min(found)]
        pins = floors(requirements(python))
        _unit_tests(steps, "lowest", oldest, pins, pins, pytest_arguments)


def _unit_tests(
    steps: Steps,
    name: str,
    base: _python.Interpreter,
    pip_arguments: Sequence[str],
    mark: Sequence[str],
    pytest_arguments: Sequence[str],
) -> None:
    title = f"unit tests, {name} (Python {base.label})"
    environment = _env.Environment(FOLDER / name, lock=_env.PROJECT_LOCK)
    try:
        python = environment.ensure(
            _env.fingerprint([_env.project_fingerprint(), base.label, *mark]),
            ["test"],
            [*pip_arguments, "-e", ".[test]"],
            base=base,
        )
    except _env.SetupError as error:
        steps.failed(title, str(error))
        return
    steps.pytest(f"{title}, {versions(python)}", python, pytest_arguments)


def requirements(python: Path) -> list[str]:
    """What the installed project says it needs, as its metadata has it."""
    code = "import importlib.metadata, json; print(json.dumps(importlib.metadata.requires('parlant-sync')))"
    found = json.loads(subprocess.check_output([str(python), "-c", code], text=True, env=_env.environ()))
    return [str(requirement) for requirement in found]


def floors(found: Iterable[str]) -> list[str]:
    """The lowest versions allowed, as pins; of the extras only those that users' code runs with."""
    pins = []
    for requirement in found:
        extra = _EXTRA.search(requirement)
        floor = _FLOOR.match(requirement)
        if floor and (extra is None or extra.group(1) == "prometheus"):
            pins.append(f"{floor.group(1)}=={floor.group(2)}")
    return pins


def versions(python: Path) -> str:
    code = f"from importlib.metadata import version; print(*(f'{{n}} {{version(n)}}' for n in {_SHOWN!r}), sep=', ')"
    return subprocess.check_output([str(python), "-c", code], text=True, env=_env.environ()).strip()

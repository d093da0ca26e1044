"""Environments under .servers/, each with one version of the Parlant server and nothing of this project."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import _env
import _python

FOLDER = _env.ROOT / ".servers"


@dataclass(frozen=True)
class Server:
    name: str
    requirement: str
    # Versions of Python it installs on without building anything, the best tried first.
    pythons: tuple[_python.Version, ...] = ((3, 11), (3, 12), (3, 10), (3, 13))

    @property
    def environment(self) -> _env.Environment:
        return _env.Environment(FOLDER / self.name, lock=f"server-{self.name}")

    @property
    def mark(self) -> str:
        return _env.fingerprint([str(FOLDER), self.requirement])

    @property
    def python(self) -> Path | None:
        """Its interpreter, if it is ready."""
        environment = self.environment
        return environment.python if environment.is_ready(self.mark, [self.requirement]) else None

    def make(self) -> Path:
        """Its interpreter, made ready first if need be. Takes minutes and about a gigabyte."""
        ready = self.python
        if ready:
            return ready
        found = (_python.find(version) for version in self.pythons)
        base = next((interpreter for interpreter in found if interpreter), None)
        return self.environment.ensure(self.mark, [self.requirement], [self.requirement], base=base)


# One of each line of releases that behaves in a way of its own (3.0 to 3.2), and what is newest now.
SERVERS = (
    Server("3.0.4", "parlant==3.0.4"),
    Server("3.1.2", "parlant==3.1.2"),
    Server("3.2.2", "parlant==3.2.2"),
    Server("newest", "parlant>=3.3,<4"),
)
NAMES = tuple(server.name for server in SERVERS)


def named(name: str) -> Server:
    return next(server for server in SERVERS if server.name == name)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/servers.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="the versions, and which of them are ready")
    make = commands.add_parser("make", help="make an environment ready; minutes and about 1 GB for each version")
    make.add_argument("version", choices=[*NAMES, "all"])
    python = commands.add_parser("python", help="print the path of its interpreter, making it ready first if need be")
    python.add_argument("version", choices=NAMES)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        if options.command == "list":
            for server in SERVERS:
                print(f"{server.name:8} {server.requirement:16} {server.python or 'not made'}")
        elif options.command == "make":
            for server in SERVERS if options.version == "all" else [named(options.version)]:
                print(f"{server.name:8} {server.make()}", flush=True)
        else:
            print(named(options.version).make())
    except _env.SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # what was half installed is made anew next time
        return 130
    return 0

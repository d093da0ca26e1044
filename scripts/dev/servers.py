"""Environments under .servers/, each with one version of the Parlant server and nothing of this project."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dev import environments

# One of each line of releases that behaves in a way of its own, and the newest of today.
SERVERS = {
    "3.0.4": "parlant==3.0.4",
    "3.1.2": "parlant==3.1.2",
    "3.2.2": "parlant==3.2.2",
    "newest": "parlant>=3.3,<4",
}
# The Pythons that they install on without building anything, the best first.
PYTHONS = ("3.11", "3.12", "3.10", "3.13")


def make(name: str) -> Path:
    """The interpreter of one server version, installed first if need be. Takes minutes and about a gigabyte."""
    folder = environments.ROOT / ".servers" / name
    found = next(filter(None, map(environments.find_python, PYTHONS)), None)
    if found is None:
        raise environments.SetupError(f"Parlant {name} needs one of Python {', '.join(PYTHONS)}; none is on PATH")
    return environments.ensure(folder, [SERVERS[name]], python=found, pip=environments.project())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/servers.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="the versions")
    making = commands.add_parser("make", help="install one version, or all: minutes and about 1 GB each")
    making.add_argument("version", choices=[*SERVERS, "all"])
    python = commands.add_parser("python", help="print the path of its interpreter, installing it first if need be")
    python.add_argument("version", choices=SERVERS)
    options = parser.parse_args(arguments)
    try:
        if options.command == "list":
            print(*SERVERS, sep="\n")
        elif options.command == "make":
            for name in SERVERS if options.version == "all" else [options.version]:
                print(f"{name:8} {make(name)}", flush=True)
        else:
            print(make(options.version))
    except environments.SetupError as error:
        environments.say(str(error))
        return 1
    except KeyboardInterrupt:  # what was half installed is made anew next time
        return 130
    return 0

"""Find the Python interpreters of this machine, and go on with one that is new enough.

This file must parse on Python 3.6, so that an old `python3` gets a clear line and not a SyntaxError.
"""

import json
import os
import re
import subprocess
import sys
from typing import Iterator, NamedTuple, NoReturn, Tuple  # noqa: UP035 - see above

Version = Tuple[int, int]  # noqa: UP006 - see above

OLDEST: Version = (3, 10)
SUPPORTED: "list[Version]" = [(3, 10), (3, 11), (3, 12), (3, 13)]

_REEXECUTED = "PARLANT_SYNC_REEXECUTED"
# `-I` keeps PYTHONPATH and the user's site out; the base is what a new environment is made from.
_PROBE = """
import json, sys
try:
    import ensurepip, venv
except ImportError:
    usable = False
else:
    usable = True
exe = getattr(sys, "_base_executable", None) or sys.executable
print(json.dumps([exe, sys.version_info[0], sys.version_info[1], usable]))
"""


class Interpreter(NamedTuple):
    path: str
    version: Version
    can_make_venv: bool

    @property
    def label(self) -> str:
        return "{}.{}".format(*self.version)


def probe(path: str) -> "Interpreter | None":
    """What the interpreter at this path says of itself; None if it does not run (as many a pyenv shim)."""
    try:
        out = subprocess.run(
            [path, "-I", "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=True,
        ).stdout
        exe, major, minor, usable = json.loads(out.decode("utf-8").strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return Interpreter(exe, (major, minor), usable)


def search_path() -> "list[str]":
    """Folders that may hold interpreters: PATH in its order, then pyenv's, the newest release first."""
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    root = os.environ.get("PYENV_ROOT") or os.path.join(os.path.expanduser("~"), ".pyenv")
    versions = os.path.join(root, "versions")
    try:
        names = os.listdir(versions)
    except OSError:
        names = []
    releases = [name for name in names if re.match(r"3\.\d+\.\d+$", name)]
    releases.sort(key=lambda name: [int(part) for part in name.split(".")], reverse=True)
    folders += [os.path.join(versions, name, "bin") for name in releases]
    return folders


def candidates(version: Version) -> "Iterator[str]":
    """Paths of files that are called like this version, without running them."""
    name = "python{}.{}".format(*version)
    for folder in search_path():
        for suffix in ("", ".exe"):
            path = os.path.join(folder, name + suffix)
            if os.access(path, os.X_OK) and os.path.isfile(path):
                yield path


def find(version: Version) -> "Interpreter | None":
    """The first interpreter of exactly this version that runs and can make environments."""
    if sys.version_info[:2] == version:
        current = probe(sys.executable)
        if current and current.can_make_venv:
            return current
    for path in candidates(version):
        found = probe(path)
        if found and found.version == version and found.can_make_venv:
            return found
    return None


def find_all() -> "dict[Version, Interpreter]":
    """Every supported version that is on this machine."""
    found = {version: find(version) for version in SUPPORTED}
    return {version: interpreter for version, interpreter in found.items() if interpreter}


def newest() -> "Interpreter | None":
    """The interpreter of the newest supported version that is on this machine."""
    for version in reversed(SUPPORTED):
        found = find(version)
        if found:
            return found
    return None


def give_up(message: str) -> "NoReturn":
    sys.stderr.write(message + "\n")
    raise SystemExit(1)


def require() -> None:
    """Return on a Python that is new enough; otherwise start this same command again with one that is."""
    if sys.version_info[:2] >= OLDEST:
        return
    running = "{}.{}".format(*sys.version_info[:2])
    found = None if os.environ.get(_REEXECUTED) else newest()
    if found is None:
        give_up(
            f"parlant_sync needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is Python {running} ({sys.executable}), "
            "and no newer python3.x is on PATH or under ~/.pyenv/versions. "
            f"Install one and run: python3.12 {' '.join(sys.argv)}"
        )
    sys.stderr.write(f"Python {running} is too old, going on with {found.label} ({found.path})\n")
    sys.stderr.flush()
    environment = dict(os.environ, **{_REEXECUTED: "1"})
    command = [found.path] + sys.argv  # noqa: RUF005 - see the first lines
    if os.name == "nt":  # exec on Windows returns to the shell before the work is done
        raise SystemExit(subprocess.call(command, env=environment))
    os.execve(found.path, command, environment)

"""Make and keep virtual environments: quick when nothing changed, whole or not at all, one maker at a time.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import _lock
import _python

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / ".locks"
STAMP = "parlant-sync.json"
# All that install the project itself share one lock: they share its egg-info.
PROJECT_LOCK = "project"
OLDEST_PIP = (25, 0)
# Seconds before pip is tried again.
PAUSES = (2.0, 5.0)
# What the project is installed from; a change here asks for another `pip install`.
SOURCES = ("pyproject.toml", "parlant_sync/_version.py")
# The caller's own settings that would lead pip or the new interpreter out of the environment.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX")


class SetupError(Exception):
    """An environment could not be made; the text says what to do, without a traceback."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def interpreter_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def environ(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would lead out of a virtual one."""
    clean = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return {**clean, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", **(extra or {})}


def fingerprint(parts: Iterable[str | bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(b"%d:" % len(data) + data)  # the length keeps ("ab", "c") and ("a", "bc") apart
    return digest.hexdigest()


def project_fingerprint(root: Path = ROOT) -> str:
    # The path is part of it: environments and editable installs do not survive a move of the folder.
    return fingerprint([str(root), *((root / name).read_bytes() for name in SOURCES)])


def base_interpreter() -> _python.Interpreter:
    """The running Python if it can make environments, else another supported one."""
    current = _python.probe(sys.executable)
    if current and current.can_make_venv:
        return current
    other = _python.newest()
    if other:
        return other
    raise SetupError(
        f"{sys.executable} cannot make virtual environments: its modules venv and ensurepip are missing. "
        f"On Debian or Ubuntu: apt-get install python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    )


class Environment:
    """One folder with a virtual environment, and a stamp that says what is in it."""

    def __init__(self, folder: Path, *, lock: str | None = None) -> None:
        self.folder = folder
        self.python = interpreter_of(folder)
        self._lock = LOCKS / (lock or folder.name)

    def stamp(self) -> dict[str, object]:
        try:
            found = json.loads((self.folder / STAMP).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write_stamp(self, **values: object) -> None:
        temporary = self.folder / (STAMP + ".new")
        temporary.write_text(json.dumps(values, indent=1) + "\n")
        temporary.replace(self.folder / STAMP)

    def is_ready(self, mark: str, wanted: Sequence[str]) -> bool:
        stamp = self.stamp()
        installed = stamp.get("installed")
        return (
            stamp.get("state") == "ready"
            and stamp.get("fingerprint") == mark
            and isinstance(installed, list)
            and set(wanted) <= set(installed)
            and self.python.exists()  # False for a link whose target was uninstalled
        )

    def ensure(
        self,
        mark: str,
        wanted: Sequence[str],
        pip_arguments: Sequence[str],
        *,
        base: _python.Interpreter | None = None,
    ) -> Path:
        """Make it ready for `wanted` and return its interpreter. Safe to call from any number of processes."""
        if self.is_ready(mark, wanted):
            return self.python
        with _lock.held(self._lock, lambda: say(f"waiting: another run is setting up {self._lock.name}")):
            if self.is_ready(mark, wanted):  # by the one we waited for
                return self.python
            self._remove_if_broken()
            if not self.folder.exists():
                self._create(base or base_interpreter())
            self._see_to_pip()
            self._write_stamp(state="installing")
            run_pip(self.python, ["install", *pip_arguments], what=f"installing into {self._shown()}")
            self._write_stamp(state="ready", fingerprint=mark, installed=sorted(wanted))
        return self.python

    def _remove_if_broken(self) -> None:
        """An unfinished install of ours may be broken in any way. A working one without a stamp is the user's: kept."""
        if self.stamp().get("state") != "installing" and self.python.exists():
            return
        if not self.folder.exists():
            return
        if not (self.folder / STAMP).exists() and not (self.folder / "pyvenv.cfg").exists():
            raise SetupError(f"{self.folder} is in the way: it is no virtual environment. Move it and try again.")
        shutil.rmtree(self.folder)

    def _shown(self) -> str:
        try:
            return self.folder.relative_to(ROOT).as_posix()
        except ValueError:
            return str(self.folder)

    def _see_to_pip(self) -> None:
        """Have a pip, and one that can tell within minutes what fits together: 23.0 needs hours for parlant's."""
        code, output = run_quietly([str(self.python), "-m", "pip", "--version"])
        if code:  # other tools make environments without it, and so does a `venv` that was interrupted
            code, complaint = run_quietly([str(self.python), "-m", "ensurepip", "--default-pip"])
            if code:
                raise SetupError(f"{self._shown()} has no pip; remove it and try again:\n{last_lines(complaint, 25)}")
        if pip_version(output) < OLDEST_PIP:
            wanted = "pip>={}.{}".format(*OLDEST_PIP)
            run_pip(self.python, ["install", "--upgrade", wanted], what=f"upgrading pip of {self._shown()}")

    def _create(self, base: _python.Interpreter) -> None:
        say(f"making {self._shown()} with Python {base.label}")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        code, complaint = run_quietly([base.path, "-m", "venv", str(self.folder)])
        if code:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise SetupError(f"{base.path} -m venv failed:\n{last_lines(complaint, 25)}")


def pip_version(told: str) -> tuple[int, int]:
    found = re.search(r"^pip (\d+)\.(\d+)", told, re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def run_quietly(command: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environ(),
        cwd=ROOT,
    )
    return done.returncode, readable(done.stdout)


def run_pip(python: Path, arguments: Sequence[str], *, what: str) -> None:
    """Run pip, quietly. A failure (most often the network's) is tried again twice, then told in pip's own words."""
    # Compiling all files at once takes longer than compiling, at their first import, the few that are used.
    command = [str(python), "-m", "pip", arguments[0], "--quiet", "--no-compile", *arguments[1:]]
    tries = len(PAUSES) + 1
    for attempt in range(tries):
        started = time.monotonic()
        with _Progress(what):
            code, complaint = run_quietly(command)
        if code == 0:
            say(f"{what}: done in {time.monotonic() - started:.0f} s")
            return
        if attempt < len(PAUSES):
            say(f"{what}: failed, trying again ({attempt + 1} of {len(PAUSES)})\n{last_lines(complaint, 3)}")
            time.sleep(PAUSES[attempt])
    raise SetupError(f"{what} failed {tries} times. pip said:\n{last_lines(complaint, 25)}")


def readable(output: str) -> str:
    """pip's output without the notes that mean nothing to the reader."""
    noise = re.compile(r"WARNING: Location '.*' is ignored|\[notice\]|WARNING: Running pip as the 'root' user")
    return "\n".join(line for line in output.splitlines() if line.strip() and not noise.search(line))


def last_lines(text: str, count: int) -> str:
    return "\n".join("    " + line for line in text.splitlines()[-count:])


class _Progress:
    """On a terminal a line that counts the seconds; elsewhere one line at the start, for the log."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        if not sys.stderr.isatty():
            say(f"{self._what} ...")
            return
        self._thread = threading.Thread(target=self._count, daemon=True)  # daemon: Ctrl-C must not wait for it
        self._thread.start()

    def _count(self) -> None:
        started = time.monotonic()
        while True:
            print(f"\r{self._what} ... {time.monotonic() - started:.0f} s ", end="", file=sys.stderr, flush=True)
            if self._over.wait(1):
                return

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread:
            self._thread.join()
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def project(extras: Sequence[str]) -> Path:
    """The interpreter of the project's own .venv, with these extras in it."""
    environment = Environment(ROOT / ".venv", lock=PROJECT_LOCK)
    already = environment.stamp().get("installed")
    # What an earlier command needed stays: test.py after demo.py adds to the same environment.
    together = sorted(set(extras) | {str(name) for name in (already if isinstance(already, list) else [])})
    mark = project_fingerprint()
    if environment.is_ready(mark, extras):
        return environment.python
    return environment.ensure(mark, together, ["-e", f".[{','.join(together)}]" if together else "."])

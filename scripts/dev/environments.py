"""Virtual environments for the scripts, made with ``venv`` and pip, and made again only if what they hold has changed.

Standard library only, because this runs before anything is installed. Two scripts that need one environment wait for
each other; an install that was interrupted is made anew.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for the file lock, which needs nothing that is not in the standard library
from parlant_sync._file_lock import FileLock  # noqa: E402

STAMP = "parlant-sync.json"
# pip 23.0 needs hours to find out which of parlant's dependencies fit together.
OLDEST_PIP = "pip>=25"
# What an editable install is made from: a change asks for another one.
SOURCES = ("pyproject.toml", "parlant_sync/_version.py")
# Settings of the caller's shell that would lead pip or the new interpreter out of the environment.
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX")


class SetupError(Exception):
    """An environment could not be made. The text says what to do."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def environ(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment variables without those that would lead out of a virtual environment."""
    clean = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return {**clean, "PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", **(extra or {})}


def find_python(version: str) -> str | None:
    """The path of a Python of this version (``"3.12"``) on PATH, under ~/.pyenv or in .interpreters; else None."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    places = [
        *glob.glob(str(ROOT / f".interpreters/{version}/python{version}")),
        *sorted(glob.glob(str(pyenv / f"versions/{version}.*/bin/python{version}")), reverse=True),
        shutil.which(f"python{version}"),
    ]
    for path in filter(None, places):
        code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False, env=environ())
        if done.stdout.strip() == version:
            return path
    return None


def project(*extras: str) -> Path:
    """The interpreter of the project's .venv with these extras installed, and those that earlier calls asked for."""
    stamp = _read_stamp(ROOT / ".venv")
    earlier = stamp.get("extras")
    extras = tuple(sorted({*extras, *(earlier if isinstance(earlier, list) else [])}))
    return ensure(ROOT / ".venv", ["-e", f".[{','.join(extras)}]" if extras else "."], extras=extras)


def ensure(
    folder: Path,
    requirements: Sequence[str],
    *,
    python: str = sys.executable,
    pip: Path | None = None,
    extras: Sequence[str] = (),
    day: str = "",
) -> Path:
    """The interpreter of the environment in ``folder``, with ``requirements`` (pip's arguments) installed.

    ``python`` makes the environment if there is none. ``pip`` is the interpreter whose pip installs (default: the new
    one itself, but some Pythons come without pip). ``day``: install again if it differs from the last one, for
    requirements that mean "newest". Raises :class:`SetupError`.
    """
    sources = [(ROOT / name).read_bytes() for name in SOURCES] if "-e" in requirements else []
    mark = hashlib.sha256(b"\0".join([repr([str(ROOT), *requirements, day]).encode(), *sources])).hexdigest()
    interpreter = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = {"state": "ready", "mark": mark, "extras": list(extras)}
    if interpreter.exists() and _read_stamp(folder) == ready:
        return interpreter
    folder.parent.mkdir(parents=True, exist_ok=True)
    # All installs of the project itself share one lock, because they share its egg-info.
    lock = FileLock(ROOT / (".install.lock" if sources else f".{folder.name}.lock"))
    lock.acquire(None, lambda: say(f"waiting: another script is setting up {folder.name}"))
    try:
        if interpreter.exists() and _read_stamp(folder) == ready:
            return interpreter
        if _read_stamp(folder).get("state") == "installing" or (folder.exists() and not interpreter.exists()):
            if not (folder / "pyvenv.cfg").exists() and not (folder / STAMP).exists():
                raise SetupError(f"{folder} is in the way: it is not a virtual environment. Move it and try again.")
            shutil.rmtree(folder)
        if not folder.exists():
            run([python, "-m", "venv", *(["--without-pip"] if pip else []), str(folder)], f"{python} -m venv failed")
        _write_stamp(folder, {"state": "installing"})
        # Compiling all files takes longer than compiling the few that are used, when they are first imported.
        install = ["install", "--no-compile", "--retries", "5"]
        failed = f"pip failed in {folder.name}; is the package index reachable?"
        if pip is None:
            run([str(interpreter), "-m", "pip", *install, "--upgrade", OLDEST_PIP], failed)
        run([str(pip or interpreter), "-m", "pip", "--python", str(interpreter), *install, *requirements], failed)
        _write_stamp(folder, ready)
    finally:
        lock.release()
    return interpreter


def run(command: Sequence[str], failed: str) -> None:
    """Run a command; all its output goes to stderr. Raises :class:`SetupError`."""
    say(f"$ {shlex.join(command)}")
    quiet = {} if sys.stderr.isatty() else {"PIP_QUIET": "1"}  # pip's progress is for people
    done = subprocess.run(command, cwd=ROOT, env=environ(quiet), stdout=sys.stderr, check=False)
    if done.returncode:
        raise SetupError(failed)


def _read_stamp(folder: Path) -> dict[str, object]:
    try:
        found = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_stamp(folder: Path, stamp: Mapping[str, object]) -> None:
    temporary = folder / f"{STAMP}.new"
    temporary.write_text(json.dumps(stamp))
    temporary.replace(folder / STAMP)


def become(extras: Sequence[str], command: Sequence[str], extra: Mapping[str, str] | None = None) -> int:
    """Go on as ``command`` (arguments for the interpreter of .venv), so that signals and the exit code are its own."""
    try:
        python = project(*extras)
    except SetupError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:  # what was half installed is made anew next time
        return 130
    if os.name == "nt":  # exec on Windows returns to the shell before the work is done
        return subprocess.call([str(python), *command], env=environ(extra))
    os.execve(python, [str(python), *command], environ(extra))

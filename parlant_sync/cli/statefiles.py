"""Small JSON files that outlive a run: written whole or not at all, and never thrown away unread."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

from parlant_sync.cli.failures import UNEXPECTED, CommandError, usage

FORMAT = 1


class Damaged(CommandError):
    """A state file that cannot be read as one; it was moved aside to ``kept``."""

    def __init__(self, path: Path, kept: Path, why: str) -> None:
        super().__init__(
            UNEXPECTED,
            f"state file {path} is damaged ({why}); it is kept as {kept}: mend it and put it back, "
            "or run this again to start anew",
        )
        self.kept = kept


def default_directory() -> Path:
    """``$XDG_STATE_HOME/parlant-sync``; a relative XDG_STATE_HOME counts as none, as its specification says."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "parlant-sync"
    try:
        return Path.home() / ".local" / "state" / "parlant-sync"
    except RuntimeError:  # no HOME, and a user that this system does not know: containers have that
        raise usage("there is no home folder to keep state in; say where with --state-dir") from None


def read(path: Path, kind: str, fields: dict[str, type]) -> dict[str, Any] | None:
    """What :func:`write` wrote; None where there is no such file. Raises Damaged, CommandError."""
    check_regular(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise _set_aside(path, "no JSON" if data.strip() else "empty") from None
    if not isinstance(value, dict) or value.get("kind") != kind:
        raise _set_aside(path, f"not a {kind}")
    if value.get("format") != FORMAT:
        raise CommandError(
            UNEXPECTED, f"state file {path} is of format {value.get('format')!r}, which this version does not know"
        )
    for name, wanted in fields.items():
        if type(value.get(name)) is not wanted:
            raise _set_aside(path, f"no {name} in it")
    return value


def check_regular(path: str | Path) -> None:
    """Raises CommandError for what is there and no file: a device must not be moved, and a FIFO is never read to its
    end."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise usage(f"{path} is no regular file, and state is kept in one; give another path")


def peek(path: Path) -> dict[str, Any]:
    """The same without a judgement: empty where it cannot be read. Moves nothing."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write(path: Path, kind: str, value: dict[str, Any]) -> None:
    """Whoever reads the file, at any moment and after any crash, finds the old content or the new one. Mode 0600.

    The caller holds the file's lock, so that what a killed run left of its new file can be cleared away.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = json.dumps({"kind": kind, "format": FORMAT, **value}, indent=2) + "\n"
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """The rename itself is safe only then. Not every file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _set_aside(path: Path, why: str) -> Damaged:
    check_regular(path)  # once more: what is moved is the thing that is there now
    kept = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    number = 0
    while True:
        try:
            os.link(path, kept)  # unlike a rename it never replaces what is there
            os.unlink(path)
            break
        except FileExistsError:
            number += 1
            kept = kept.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{number}")
        except (OSError, NotImplementedError):
            os.rename(path, kept)  # a file system without hard links
            break
    return Damaged(path, kept, why)

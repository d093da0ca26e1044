"""Runs of the command with a clean environment: in this process, or in one of its own as a user's shell starts it."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from parlant_sync.testing import FakeServer

COMMAND = [sys.executable, "-m", "parlant_sync"]
PATIENCE = 40.0
# What Python reads once, at the start of a process.
_OF_A_PROCESS = ("PYTHON", "LC_", "LANG", "TZ")
# The child makes its stdin its controlling terminal, so that Ctrl-C typed there becomes a signal.
_ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def posts(server: FakeServer) -> int:
    """How many events were posted to the server."""
    return sum(request.method == "POST" and request.path.endswith("/events") for request in server.requests)


@dataclass(frozen=True)
class Run:
    """How a run ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        [line] = self.out.splitlines()
        return json.loads(line)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    def failed(self, code: int, *words: str) -> None:
        """With that code, nothing on stdout, and one line on stderr that holds those words."""
        assert (self.code, self.out) == (code, ""), self
        [line] = self.err.splitlines()
        for word in words:
            assert word in line, line
        assert "Traceback" not in line


class Running:
    """A run that has begun."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def end(self, signum: int | None = None) -> Run:
        """Send the signal, and wait for the end."""
        started = time.monotonic()
        if signum is not None:
            self.process.send_signal(signum)
        out, err = self.process.communicate(timeout=PATIENCE)
        return Run(self.process.returncode, out.decode(), err.decode(), time.monotonic() - started)


class Terminal:
    """A run at a pseudo-terminal."""

    def __init__(self, command: list[str], environment: Mapping[str, str], columns: int) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        launcher = [sys.executable, "-c", _ON_TERMINAL, *command]
        self.process = subprocess.Popen(
            launcher,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
            cwd=environment["HOME"],
        )
        os.close(slave)
        self.screen = ""
        self._looked = 0

    @property
    def canonical(self) -> bool:
        """Whether the terminal collects lines, as it does for most programs."""
        import termios

        return bool(termios.tcgetattr(self._master)[3] & termios.ICANON)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str) -> str:
        """Wait until the text appears behind what was expected before; gives what came up to its end."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.screen.find(text, self._looked)) < 0:
            assert self._read(deadline - time.monotonic()), f"{text!r} did not come: {self.screen[self._looked :]!r}"
        seen = self.screen[self._looked : found + len(text)]
        self._looked = found + len(text)
        return seen

    def end(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def _read(self, seconds: float) -> bool:
        readable, _, _ = select.select([self._master], [], [], max(seconds, 0))
        if not readable:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # Linux says so where the other side is closed
                raise
            return False
        self.screen += data.decode(errors="replace")
        return bool(data)


class Cli:
    """Runs commands with a server, a state folder and nothing else in the environment."""

    def __init__(self, server: str, home: Path) -> None:
        self.server = server
        self.home = home
        kept = ("PATH", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR", "COVERAGE_PROCESS_START")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ}
        self.environment |= {
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "PARLANT_SERVER": server,
            "PYTHONWARNINGS": "error",
            "TERM": "xterm",
        }

    @property
    def states(self) -> list[Path]:
        """The state files of conversations."""
        return sorted((self.home / "state/parlant-sync/conversations").glob("*.json"))

    def run(
        self,
        *arguments: str,
        input: str | bytes = b"",
        env: Mapping[str, str] | None = None,
        process: bool = False,
        **options: Any,
    ) -> Run:
        """Run a command to its end: in this process, unless the test (``process``, pipes, ...) needs one of its own."""
        data = input.encode() if isinstance(input, str) else input
        environment = {**self.environment, **(env or {})}
        started = time.monotonic()
        if not options and not process and not any(name.startswith(_OF_A_PROCESS) for name in env or {}):
            code, out, err = self._run_here(arguments, data, environment)
        else:
            given = {"stdin": subprocess.DEVNULL} if "stdin" in options else {"input": data}
            done = subprocess.run(
                [*COMMAND, *arguments],
                env=environment,
                stdout=options.pop("stdout", subprocess.PIPE),
                stderr=subprocess.PIPE,
                timeout=PATIENCE,
                cwd=self.home,
                check=False,
                **{**given, **options},
            )
            code, out, err = done.returncode, done.stdout or b"", done.stderr
        return Run(code, out.decode(errors="replace"), err.decode(), time.monotonic() - started)

    def _run_here(
        self, arguments: Sequence[str], data: bytes, environment: Mapping[str, str]
    ) -> tuple[int, bytes, bytes]:
        from parlant_sync.cli import main

        streams = {name: io.BytesIO(data if name == "stdin" else b"") for name in ("stdin", "stdout", "stderr")}
        before = os.getcwd()
        with patch.dict(os.environ, environment, clear=True), contextlib.ExitStack() as stack:
            for name, stream in streams.items():
                text = io.TextIOWrapper(stream, encoding="utf-8", write_through=True)
                stack.callback(text.detach)
                stack.enter_context(patch.object(sys, name, text))
            os.chdir(self.home)
            stack.callback(os.chdir, before)
            try:
                code = main(arguments)
            except SystemExit as ended:  # a shell asked what to complete a word with
                code = int(ended.code or 0)
        return code, streams["stdout"].getvalue(), streams["stderr"].getvalue()

    def shell(self, script: str, env: Mapping[str, str] | None = None) -> Run:
        """A line of bash, in which ``$CLI`` is the command."""
        started = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", script],
            env={**self.environment, "CLI": " ".join(COMMAND), **(env or {})},
            capture_output=True,
            timeout=PATIENCE,
            cwd=self.home,
            check=False,
        )
        return Run(done.returncode, done.stdout.decode(), done.stderr.decode(), time.monotonic() - started)

    @contextlib.contextmanager
    def start(self, *arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> Iterator[Running]:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            env={**self.environment, **(env or {})},
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            cwd=self.home,
            bufsize=0,  # what a test reads early must not take away from what it reads at the end
            **options,
        )
        with process:
            try:
                yield Running(process)
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)

    @contextlib.contextmanager
    def terminal(self, *arguments: str, env: Mapping[str, str] | None = None, columns: int = 80) -> Iterator[Terminal]:
        terminal = Terminal([*COMMAND, *arguments], {**self.environment, **(env or {})}, columns)
        try:
            yield terminal
        finally:
            terminal.close()

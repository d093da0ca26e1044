"""Runs the demo server in a process of its own, and never leaves one behind.

Standard library only, so that tests and users' scripts can use it without anything else. The
server itself runs in any interpreter that has ``parlant``, of any version from 3.0 on.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal

_SERVER = Path(__file__).with_name("server")
_LOG = "server.log"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_HINT = 'pip install "parlant-sync[demo]"'


class DemoServerError(RuntimeError):
    """The server could not be started, or ended by itself. The text says why."""


class DemoServer:
    """A real Parlant server with this package's agents, in a subprocess.

    ``python`` is the interpreter that has ``parlant``; ``port`` 0 takes any free one. ``store``
    is ``"memory"``, or ``"local"`` for sessions that outlive ``restart``. ``policy`` is
    ``"development"``, or ``"production"`` with the restrictions and rate limits of a production
    server. ``home`` is a directory the server may write to; without it there is a temporary one,
    removed by ``stop``. ``startup_timeout`` is in seconds.

    A context manager. Not for several threads at once. The server also ends when the process
    that started it dies.
    """

    def __init__(
        self,
        *,
        python: str | os.PathLike[str] = sys.executable,
        port: int = 0,
        store: Literal["memory", "local"] = "memory",
        policy: Literal["development", "production"] = "development",
        test_agents: bool = False,
        home: str | os.PathLike[str] | None = None,
        startup_timeout: float = 120,
    ) -> None:
        self._python = os.fspath(python)
        self._wanted_port = port
        self._store = store
        self._policy = policy
        self._test_agents = test_agents
        self._given_home = Path(home).resolve() if home is not None else None
        self._home: Path | None = None
        self._startup_timeout = startup_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: Mapping[str, Any] = {}
        self._last_log = ""

    # -- what it is

    @property
    def base_url(self) -> str:
        """The address of the server, as in ``http://127.0.0.1:8800``."""
        return str(self._told("url"))

    @property
    def port(self) -> int:
        return int(self._told("port"))

    @property
    def version(self) -> str:
        """The version of Parlant that the server runs."""
        return str(self._told("version"))

    @property
    def agents(self) -> Mapping[str, str]:
        """The ids of the agents by their names: ``research``, ``welfare``, and those for tests."""
        return MappingProxyType(dict(self._told("agents")))

    @property
    def streaming(self) -> bool:
        """Whether this version of Parlant streams messages (3.2 and newer)."""
        return bool(self._told("streaming"))

    @property
    def home(self) -> Path:
        """The directory the server writes to."""
        if self._home is None:
            raise DemoServerError("the demo server has not been started")
        return self._home

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The server's process id while there is a process, else None."""
        return self._process.pid if self._process is not None else None

    @property
    def log(self) -> str:
        """What the server has logged since it was last started."""
        with contextlib.suppress(OSError):
            if self._home is not None:
                text = (self._home / _LOG).read_text("utf-8", errors="replace")
                return _ANSI.sub("", text)
        return self._last_log

    def _told(self, key: str) -> Any:
        if key not in self._ready:
            raise DemoServerError("the demo server has not been started")
        return self._ready[key]

    # -- life

    def start(self) -> DemoServer:
        """Start the server and wait until it takes requests. Raises ``DemoServerError``."""
        if self._process is not None:
            raise DemoServerError("the demo server is running already")
        if self._home is None:
            self._home = self._given_home or Path(tempfile.mkdtemp(prefix="parlant-sync-demo-"))
            self._home.mkdir(parents=True, exist_ok=True)
        # A server that is started again keeps its address.
        port = self._ready.get("port", self._wanted_port)
        try:
            self._spawn(port)
            self._ready = self._await_ready()
        except BaseException:
            self.kill()
            self._forget_home()
            raise
        return self

    def stop(self, timeout: float = 10) -> None:
        """End the server: politely, and after *timeout* seconds by force. Idempotent."""
        self._end(timeout)
        self._forget_home()

    def kill(self) -> None:
        """End the server as a crash would. ``restart`` or ``stop`` comes next."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def restart(self, timeout: float = 10) -> None:
        """Stop the server, where it still runs, and start it again: same port, same home."""
        self._end(timeout)
        self.start()

    def release(self, gate: str) -> None:
        """Open *gate*, which a message with ``[gate=...]`` waits at, for good."""
        directory = self.home / "gates"
        directory.mkdir(exist_ok=True)
        (directory / gate).touch()

    def __enter__(self) -> DemoServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # -- the process

    def _spawn(self, port: int) -> None:
        command = [self._python, "-W", "ignore", str(_SERVER), "--port", str(port), "--home", str(self.home)]
        command += ["--store", self._store, "--policy", self._policy]
        if self._given_home is None:
            command.append("--remove-home")
        if self._test_agents:
            command.append("--test-agents")
        with open(self.home / _LOG, "wb") as log:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    # Ctrl-C at a terminal is for us; what becomes of the server, we say.
                    start_new_session=True,
                )
            except OSError as error:
                raise DemoServerError(f"cannot run {self._python}: {error}") from error

    def _await_ready(self) -> Mapping[str, Any]:
        """Read the server's one line. In a thread, because pipes have no timeout."""
        process = self._process
        assert process is not None and process.stdout is not None
        lines: list[bytes] = []
        read = process.stdout.readline
        reader = threading.Thread(target=lambda: lines.append(read()), name="parlant-sync-demo-start", daemon=True)
        reader.start()
        try:
            reader.join(self._startup_timeout)
            late = reader.is_alive()
        finally:
            if reader.is_alive():
                process.kill()  # which ends the line, and with it the thread
                reader.join()
        if late:
            raise self._failure(f"was not ready after {self._startup_timeout:g} s")
        if not lines[0].endswith(b"\n"):
            process.wait()
            raise self._failure(f"ended with exit code {process.returncode}")
        ready: Mapping[str, Any] = json.loads(lines[0])
        return ready

    def _failure(self, what: str) -> DemoServerError:
        log = self.log
        if re.search(r"No module named 'parlant'", log):
            return DemoServerError(f"parlant is not installed in {self._python}: {_HINT}")
        tail = "\n".join(line for line in log.splitlines()[-20:] if line.strip())
        return DemoServerError(f"the demo server {what}; the end of its log:\n{tail}")

    def _end(self, timeout: float) -> None:
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
            self.kill()

    def _reap(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _forget_home(self) -> None:
        self._last_log = self.log
        if self._home is not None and self._given_home is None:
            shutil.rmtree(self._home, ignore_errors=True)
        self._home = None

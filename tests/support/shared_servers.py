"""The real servers that all tests of a run share: whichever process asks first starts one, and stops it last of all.

Tests that stop a server, or look into its folder, start one of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pytest

from parlant_sync._file_lock import FileLock
from parlant_sync.demo.launcher import DemoServer

Policy = Literal["development", "production"]


def server_python() -> str:
    """The interpreter that has the real server: this one, or another that a variable names."""
    return os.environ.get("PARLANT_SYNC_SERVER_PYTHON") or sys.executable


def need_a_server() -> str:
    """The interpreter that has the real server; skips the test where there is none."""
    if server_python() == sys.executable and importlib.util.find_spec("parlant") is None:
        pytest.skip("the real server is not installed here: pip install 'parlant-sync[demo]'")
    return server_python()


@dataclass(frozen=True)
class SharedServer:
    """What one needs to know of a ``DemoServer`` that another process may have started."""

    base_url: str
    version: str
    agents: Mapping[str, str]
    streaming: bool
    home: str

    @property
    def listens(self) -> bool:
        """Whether it is still there: it ends with the process that started it, which may have crashed."""
        host, _, port = self.base_url.rpartition("/")[2].partition(":")
        try:
            socket.create_connection((host, int(port)), 5).close()
        except OSError:
            return False
        return True

    def release(self, gate: str) -> None:
        """Open *gate*, which a message with ``[gate=...]`` waits at, for good."""
        folder = Path(self.home, "gates")
        folder.mkdir(exist_ok=True)
        (folder / gate).touch()


class SharedServers:
    """The shared servers as one process of the run sees them; ``folder`` is the run's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._using = FileLock(folder / f"{os.getpid()}.using")
        self._starting = FileLock(folder / "starting")
        self._started: list[DemoServer] = []
        self._known: dict[Policy, SharedServer] = {}

    def get(self, policy: Policy = "development") -> SharedServer:
        if not self._known:
            self._using.acquire()
        if policy not in self._known or not self._known[policy].listens:
            self._known[policy] = self._find_or_start(policy)
        return self._known[policy]

    def _find_or_start(self, policy: Policy) -> SharedServer:
        note = self._folder / f"{policy}.json"
        self._starting.acquire(None)
        try:
            found = SharedServer(**json.loads(note.read_text("utf-8"))) if note.exists() else None
            if found is None or not found.listens:
                server = DemoServer(python=need_a_server(), test_agents=True, policy=policy).start()
                self._started.append(server)
                found = SharedServer(
                    server.base_url, server.version, dict(server.agents), server.streaming, str(server.home)
                )
                note.write_text(json.dumps(asdict(found)), "utf-8")
            return found
        finally:
            self._starting.release()

    def close(self) -> None:
        """Stop what this process has started, once no other uses it. One that asks from now on starts its own."""
        self._using.release()
        if not self._started:
            return
        self._starting.acquire(None)
        for note in self._folder.glob("*.json"):
            note.unlink()
        self._starting.release()
        for path in self._folder.glob("*.using"):
            other = FileLock(path)
            other.acquire(None)
            other.release()
        for server in self._started:
            server.stop()

"""The real servers that the processes of a test run share, with listeners in their place."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import shared_servers
from support.shared_servers import SharedServers
from support.waiting import PATIENCE, wait_until


class Listener:
    """As far as it matters, a ``DemoServer``."""

    version, streaming, home = "3.3.2", True, "nowhere"

    def __init__(self, **_: Any) -> None:
        self._socket = socket.socket()
        self.agents: dict[str, str] = {}
        self.stopped = False

    def start(self) -> Listener:
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        return self

    def stop(self) -> None:
        self._socket.close()
        self.stopped = True


@pytest.fixture
def listeners(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Listener]]:
    made: list[Listener] = []

    def make(**options: Any) -> Listener:
        made.append(Listener(**options))
        return made[-1]

    monkeypatch.setattr(shared_servers, "DemoServer", make)
    monkeypatch.setattr(shared_servers, "need_a_server", lambda: sys.executable)
    yield made
    for listener in made:
        listener.stop()


def test_all_use_what_the_first_has_started_and_it_stops_that(listeners: list[Listener], tmp_path: Path) -> None:
    first, second = SharedServers(tmp_path), SharedServers(tmp_path)
    assert first.get() == second.get() == first.get()
    assert first.get("production") != first.get()
    second.close()
    assert [listener.stopped for listener in listeners] == [False, False]
    first.close()
    assert [listener.stopped for listener in listeners] == [True, True]
    assert list(tmp_path.glob("*.json")) == []


def test_a_server_whose_process_has_crashed_is_replaced(listeners: list[Listener], tmp_path: Path) -> None:
    gone = Listener().start()
    gone.stop()
    note = {"base_url": gone.base_url, "version": "3.3.2", "agents": {}, "streaming": True, "home": "nowhere"}
    (tmp_path / "development.json").write_text(json.dumps(note), "utf-8")
    early, late = SharedServers(tmp_path), SharedServers(tmp_path)
    assert early.get().base_url == listeners[0].base_url
    listeners[0].stop()  # as if another process had started it
    assert early.get() == late.get()
    assert early.get().base_url == listeners[1].base_url
    early.close()
    assert len(listeners) == 2


def test_a_server_is_stopped_when_no_other_process_uses_it(listeners: list[Listener], tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from parlant_sync._file_lock import FileLock; "
        "FileLock(Path(sys.argv[1])).acquire(); print(flush=True); sys.stdin.read()"
    )
    servers = SharedServers(tmp_path)
    servers.get()
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "other.using")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        closing = threading.Thread(target=servers.close, daemon=True)
        closing.start()
        wait_until(lambda: not list(tmp_path.glob("*.json")))
        assert not listeners[0].stopped
        other.kill()  # which says nothing, and uses nothing any more
    closing.join(PATIENCE)
    assert listeners[0].stopped

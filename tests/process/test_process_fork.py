"""``fork``: at any moment, with any lock held, the child works and the parent loses nothing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.process_helpers import PROGRAMS, environment, run

from parlant_sync.testing import FakeServer

pytestmark = pytest.mark.skipif("sys.platform == 'win32'", reason="there is no fork")
# Those that are known; the walk finds more.
LOCKS = [f"{owner}._lock" for owner in "transport list_limiter poller slot hub _process".split()]
LOCKS += ["mailbox.mutex", "].lock"]  # the last is the registry's


@pytest.mark.timeout(180)
def test_fork_while_every_lock_of_ours_is_held(server: FakeServer) -> None:
    done = run("fork_locks.py", server.base_url, "quick", timeout=170)
    lines = done.out.splitlines()
    assert (done.code, done.err) == (0, ""), done.out + done.err
    assert lines[0].startswith("READY"), done.out
    for name in LOCKS:
        assert any(name in line for line in lines[1:]), (name, lines)


def test_multiprocessing_with_fork(server: FakeServer) -> None:
    done = run("pool_workers.py", server.base_url)
    assert (done.code, done.err) == (0, ""), done.out + done.err
    assert done.out.startswith("READY")


class _Gunicorn:
    """``gunicorn --preload`` with two workers; its port is read from its own log."""

    def __init__(self, server: FakeServer) -> None:
        command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--threads", "4"]
        command += ["--bind", "127.0.0.1:0", "--graceful-timeout", "5", "--worker-class", "gthread"]
        self.process = subprocess.Popen(
            [*command, "--chdir", str(PROGRAMS), "preloaded_app:application"],
            stderr=subprocess.PIPE,
            text=True,
            env=environment(SERVER=server.base_url),
        )
        self.log: list[str] = []
        self.booted = threading.Semaphore(0)
        self.url = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if "Listening at: " in line:
                self.url = line.split("Listening at: ")[1].split()[0]
            if "Booting worker" in line:
                self.booted.release()

    def ask(self, say: str, session: str = "") -> Any:
        query = urllib.parse.urlencode({"say": say, "session": session})
        with urllib.request.urlopen(f"{self.url}/?{query}", timeout=30) as answer:
            return json.load(answer)

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(20)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@pytest.mark.skipif(importlib.util.find_spec("gunicorn") is None, reason="gunicorn is in the extra 'test'")
def test_gunicorn_preload_with_a_client_of_the_module(server: FakeServer) -> None:
    gunicorn = _Gunicorn(server)
    try:
        for _ in range(2):
            assert gunicorn.booted.acquire(timeout=30), "".join(gunicorn.log)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(gunicorn.ask, [f"hello {number}" for number in range(24)]))
        assert [a["text"] for a in answers] == [f"echo: hello {number}" for number in range(24)]
        assert {a["first"] for a in answers} == {"echo: from the master"}
        assert all(a["pid"] != a["master"] for a in answers)
        # A conversation goes on, whichever worker gets the next request.
        session = answers[0]["session"]
        for number in range(6):
            assert gunicorn.ask(f"again {number}", session)["text"] == f"echo: again {number}"
    finally:
        code = gunicorn.stop()
    assert code == 0, "".join(gunicorn.log)
    assert "Traceback" not in "".join(gunicorn.log), "".join(gunicorn.log)
    assert "Worker" not in "".join(line for line in gunicorn.log if "TIMEOUT" in line or "killed" in line)

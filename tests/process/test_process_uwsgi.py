"""Real uWSGI: it forks in C, so no hook of Python's runs in its workers. No worker gets what is another's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.process_helpers import PROGRAMS, environment

from parlant_sync.testing import FakeServer

UWSGI = shutil.which("uwsgi", path=str(Path(sys.executable).parent)) or shutil.which("uwsgi")
pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(180),
    pytest.mark.skipif(UWSGI is None, reason='uWSGI is not installed: pip install "parlant-sync[uwsgi]" needs gcc'),
]
WORKERS = 8
# Whether every request is answered, and with which options. A fork in C leaves Python's own thread machinery as it was
# in the parent: without py-call-osafterfork or lazy-apps, a worker may not be able to start threads at all, and hang.
OPTIONS = {
    "default": ([], False),
    "threads": (["--threads", "4"], False),
    "lazy": (["--lazy-apps"], True),
    "threads-lazy": (["--threads", "4", "--lazy-apps"], True),
    "hooks": (["--enable-threads", "--master", "--py-call-osafterfork"], True),
    "threads-hooks": (["--threads", "4", "--master", "--py-call-osafterfork"], True),
}
# Its standard input ends if these tests die, however they die (a watchdog, SIGKILL): then all of the group goes.
_GUARD = '"$@" & cat > /dev/null; kill -9 0'


@contextmanager
def uwsgi(server: FakeServer, *options: str) -> Iterator[tuple[str, list[str]]]:
    """Its address, once all its workers are up, and its log."""
    path = ":".join([str(PROGRAMS), *filter(None, sys.path)])
    command = [str(UWSGI), "--http-socket", "127.0.0.1:0", "--module", "uwsgi_app", "--processes", str(WORKERS)]
    env = environment(SERVER=server.base_url)
    env["PYTHONPATH"] = f"{env['PYTHONPATH']}:{path}"
    process = subprocess.Popen(
        ["sh", "-c", _GUARD, "sh", *command, "--die-on-term", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        start_new_session=True,
    )
    log: list[str] = []
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            loaded = sum("WSGI app 0" in line for line in log) >= (WORKERS if "--lazy-apps" in options else 1)
            if loaded and sum("spawned uWSGI" in line for line in log) >= WORKERS:
                ready.set()
        ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert ready.wait(60), "".join(log)
        bound = [line for line in log if "bound to TCP address" in line]
        assert bound, "".join(log)
        yield f"http://{bound[0].split('TCP address ')[1].split()[0]}", log
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its workers, too
        process.wait()
        reader.join()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


@pytest.mark.parametrize("name", OPTIONS)
def test_no_worker_gets_what_is_another_s(name: str, server: FakeServer) -> None:
    options, answers_all = OPTIONS[name]
    with uwsgi(server, *options) as (url, log):

        def ask(say: str) -> dict[str, Any] | None:
            try:
                with urllib.request.urlopen(f"{url}/?{urllib.parse.urlencode({'say': say})}", timeout=15) as answer:
                    found: dict[str, Any] = json.load(answer)
                return found
            except TimeoutError:
                assert not answers_all, f"no answer to {say}"
                return None

        says = [f"hello {number}" for number in range(40)]
        with ThreadPoolExecutor(16) as pool:
            answers = dict(zip(says, pool.map(ask, says), strict=True))
    text = "".join(log)
    assert "Traceback" not in text, text
    found = {say: answer for say, answer in answers.items() if answer is not None}
    assert found
    for say, answer in found.items():
        assert (answer["title"], answer["read"], answer["text"]) == (say, say, f"echo: {say}")
        assert answer["texts"] == [say, f"echo: {say}"]
        assert answer["first"] == "echo: from the master"
        assert answer["forked"] is (answer["pid"] != answer["imported"])
    assert len({answer["id"] for answer in found.values()}) == len(found)


def test_no_worker_outlives_the_tests(server: FakeServer) -> None:
    """Workers once went on, and spun, after the tests' own process had been killed."""
    with uwsgi(server, *OPTIONS["threads-lazy"][0]) as (_, log):
        workers = [
            int(line.rsplit("pid: ", 1)[1].split(",")[0].rstrip(")\n")) for line in log if "spawned uWSGI" in line
        ]
        assert len(workers) == WORKERS
        group = os.getpgid(workers[0])
        assert {os.getpgid(worker) for worker in workers} == {group} != {os.getpgid(0)}

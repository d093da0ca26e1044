"""Development servers that start themselves again when a file changes: Flask's (Werkzeug) and Django's."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.process_helpers import environment
from support.waiting import wait_until

from parlant_sync.testing import FakeServer

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="ends a process group"),
    pytest.mark.timeout(110),
]
# A client of the module, and a session that is polled while the process is replaced.
COMMON = """
import os
from parlant_sync import Client

VERSION = 1
client = Client(os.environ["SERVER"])
opened = client.session(os.environ["SESSION"])


def version():
    return {"version": VERSION, "pid": os.getpid()}


def talk():
    text = opened.send(f"version {VERSION}", timeout=20).text
    return {"text": text, "count": len(opened.history(kinds="message")), **version()}
"""
FLASK = """
from flask import Flask

app = Flask(__name__)
app.get("/talk")(talk)
app.get("/version")(version)
app.run(port=int(os.environ["PORT"]), debug=True, reloader_type="stat")
"""
DJANGO = """
import sys
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import JsonResponse
from django.urls import path

if not settings.configured:
    settings.configure(DEBUG=True, ROOT_URLCONF=__name__, SECRET_KEY="x", ALLOWED_HOSTS=["*"])
urlpatterns = [path("talk", lambda _: JsonResponse(talk())), path("version", lambda _: JsonResponse(version()))]
if __name__ == "__main__":
    execute_from_command_line([sys.argv[0], "runserver", "--skip-checks", os.environ["PORT"]])
"""


@contextmanager
def running(program: Path, server: FakeServer, session_id: str) -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it writes."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = str(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-u", str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(SERVER=server.base_url, SESSION=session_id, PORT=port),
        start_new_session=True,
    )
    log: list[str] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: log.extend(process.stdout or ()))
    reader.start()
    try:
        yield f"http://127.0.0.1:{port}", log
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its child, too
        process.wait()
        reader.join()
        process.stdout.close()


def get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def talk(url: str, version: int, log: list[str], changed: Path | None = None) -> dict[str, Any]:
    """What the program of this version says, once it runs."""
    touch_at = time.monotonic()

    def runs() -> bool:
        nonlocal touch_at
        if changed is not None and time.monotonic() >= touch_at:
            # Again now and then: a change before the reloader's first look at the files is no change to it.
            touch_at += 10
            os.utime(changed, (2e9 + time.monotonic(),) * 2)
        try:
            return bool(get(f"{url}/version")["version"] == version)
        except (OSError, ValueError, http.client.HTTPException):  # it is not up yet, or just ending
            return False

    wait_until(runs, lambda: "".join(log), timeout=60)
    return get(f"{url}/talk")


@pytest.mark.parametrize("framework", ["flask", "django"])
def test_a_changed_file(framework: str, server: FakeServer, tmp_path: Path) -> None:
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is in the extra 'test'")
    session_id = server.create_session("quick")
    program = tmp_path / "site_of_the_test.py"
    program.write_text(COMMON + {"flask": FLASK, "django": DJANGO}[framework])
    with running(program, server, session_id) as (url, log):
        before = talk(url, 1, log)
        assert before["text"] == "echo: version 1"
        server.wait_polls(1)
        program.write_text(program.read_text().replace("VERSION = 1", "VERSION = 2"))
        after = talk(url, 2, log, program)
        assert (after["text"], after["count"]) == ("echo: version 2", before["count"] + 2)
        assert after["pid"] != before["pid"]
        server.wait_polls(1)  # the old process has ended, and its poll with it
    said = "".join(log)
    assert "Traceback" not in said, said
    assert "Fatal Python error" not in said, said

"""Packages that change sockets, threads, TLS, urllib3 or requests. Their results are in docs/compatibility.md.

``$PARLANT_SYNC_PATCHED_PYTHON`` names the interpreter of an environment that has them; what is missing is skipped.
``$PARLANT_SYNC_REPLACED_PYTHON`` names one where urllib3-future has taken urllib3's place.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.process_helpers import run
from support.secret_tls import authority

from parlant_sync.testing import FakeServer

PYTHON = os.environ.get("PARLANT_SYNC_PATCHED_PYTHON", sys.executable)
REPLY = "echo: hello\nNone\nfound\ngrown\nclosed\n"
OVER_HTTPS = ["gevent", "eventlet", "pyopenssl", "opentelemetry", "truststore"]
OVER_HTTP = ["gevent", "eventlet", "pyopenssl", "opentelemetry", "vcrpy", "requests-cache", "sentry", "ddtrace"]
OVER_HTTP += ["elastic-apm", "newrelic", "time-machine", "requests-mock"]


def converse(patch: str, *arguments: object) -> str:
    done = run("patched.py", patch, *arguments, python=PYTHON, timeout=60)
    if done.code == 77:
        pytest.skip(f"{patch} is not installed")
    assert "READY" in done.out, done.out + done.err
    return done.out.removesuffix("READY\n")


@pytest.mark.full
@pytest.mark.parametrize("patch", OVER_HTTP)
def test_over_http(patch: str, server: FakeServer) -> None:
    # By its name, which is looked up in another thread.
    out = converse(patch, server.base_url.replace("127.0.0.1", "localhost"))
    before = {"vcrpy": "2 0\n2 1\n2\n", "requests-cache": REPLY, "requests-mock": "mocked\n"}.get(patch, "")
    assert out == before + REPLY


@pytest.fixture
def tls(server: FakeServer, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The address of the server over TLS, and the authority to trust."""
    made = authority(tmp_path)
    context = made.context()
    port = int(server.base_url.rpartition(":")[2])
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(*work: object) -> None:
        threads.append(threading.Thread(target=work[0], args=work[1:]))  # type: ignore[arg-type]
        threads[-1].start()

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            socket.socket.shutdown(target, socket.SHUT_RDWR)

    def accept() -> None:
        while True:
            try:
                near: socket.socket = context.wrap_socket(listener.accept()[0], server_side=True)
            except ssl.SSLError:
                continue
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            sockets.extend((near, far))
            start(copy, near, far)
            start(copy, far, near)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        start(accept)
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", made.bundle
        listener.shutdown(socket.SHUT_RDWR)
        for sock in list(sockets):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)
        for sock in sockets:
            sock.close()


@pytest.mark.full
@pytest.mark.parametrize("patch", OVER_HTTPS)
def test_over_https(patch: str, tls: tuple[str, str]) -> None:
    assert converse(patch, *tls) == REPLY


@pytest.mark.full
def test_urllib3_future_is_refused() -> None:
    python = os.environ.get("PARLANT_SYNC_REPLACED_PYTHON")
    if python is None:
        pytest.skip("no environment with urllib3-future")
    done = run("replaced.py", python=python)
    assert done.code == 0, done.err
    assert "urllib3-future has replaced urllib3" in done.out
    assert "pip install --force-reinstall urllib3" in done.out

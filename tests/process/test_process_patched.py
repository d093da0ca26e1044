"""Packages that change sockets, threads, TLS, urllib3 or requests. Their results are in docs/compatibility.md.

``$PARLANT_SYNC_PATCHED_PYTHON`` names the interpreter of an environment that has them; what is missing is skipped.
``$PARLANT_SYNC_REPLACED_PYTHON`` names one where urllib3-future has taken urllib3's place.
"""

from __future__ import annotations

import os
import sys
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


@pytest.mark.full
@pytest.mark.parametrize("patch", OVER_HTTPS)
def test_over_https(patch: str, tmp_path: Path) -> None:
    made = authority(tmp_path)
    with FakeServer(ssl_context=made.context()) as server:
        server.agent("quick").echoes()
        assert converse(patch, server.base_url, made.bundle) == REPLY


@pytest.mark.full
def test_urllib3_future_is_refused() -> None:
    python = os.environ.get("PARLANT_SYNC_REPLACED_PYTHON")
    if python is None:
        pytest.skip("no environment with urllib3-future")
    done = run("replaced.py", python=python)
    assert done.code == 0, done.err
    assert "urllib3-future has replaced urllib3" in done.out
    assert "pip install --force-reinstall urllib3" in done.out

"""``doctor`` where something is wrong on the way: it names what, and what to do about it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from support.cli_runs import Cli

from parlant_sync.cli import state
from parlant_sync.cli.app import App
from parlant_sync.cli.commands import checkup
from parlant_sync.cli.signals import Signals
from parlant_sync.testing import FakeServer


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    """For a server with a certificate that nobody vouches for."""
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def test_another_program_listens_there(fake: Cli, parlant_server: FakeServer) -> None:
    done = fake.run("doctor", "-s", parlant_server.base_url + "/elsewhere")
    said = " ".join(done.out.split())
    assert (done.code, "no Parlant server at" in said, "path of --server" in said) == (6, True, True), done.out
    assert "doctor" not in said  # which is running


def test_http_to_a_port_that_speaks_tls(fake: Cli, context: ssl.SSLContext) -> None:
    with FakeServer(ssl_context=context) as server:
        done = fake.run("doctor", "-s", server.base_url.replace("https:", "http:"))
    assert (done.code, "this port uses TLS" in done.out, "begin the address with https" in done.out) == (
        3,
        True,
        True,
    )


def test_a_failure_of_tls_is_told_once(fake: Cli, context: ssl.SSLContext) -> None:
    with FakeServer(ssl_context=context) as server:
        done = fake.run("doctor", "-s", server.base_url)
    assert (done.code, [line.split()[1] for line in done.out.splitlines() if line.startswith("FAIL")]) == (3, ["TLS"])


def test_nobody_has_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(state.Path, "home", none)
    check = next(each for each in checkup.Checkup(App(Signals()), None, None).run() if each.name == "state")
    assert (check.state, "--state-dir" in check.detail) == ("failed", True)


def test_a_port_that_never_answers_has_an_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkup, "_PATIENCE", 0.5)  # of 5 seconds
    monkeypatch.setattr(checkup, "_LONGEST", 0.5)  # of 10 seconds; a client's own would be 30
    app = App(Signals())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        app.take("server", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        try:
            checks = list(checkup.Checkup(app, None, str(tmp_path)).run())
        finally:
            app.stop()  # its handler of the log must not stay behind
        took = time.monotonic() - started
    assert [(check.name, check.exit_code) for check in checks if check.state == "failed"] == [("server", 3)]
    assert took < 5

"""``parlant-sync doctor``: where something is wrong on the way, it names what, and what to do about it."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli_runs import Cli
from support.secret_tls import authority
from support.shared_servers import SharedServer
from support.waiting import Background

from parlant_sync.cli import state
from parlant_sync.cli.app import App
from parlant_sync.cli.commands import checkup
from parlant_sync.cli.signals import Signals
from parlant_sync.testing import FakeServer


@pytest.mark.real
def test_doctor_finds_a_healthy_server(real: Cli, demo: SharedServer) -> None:
    before = len(real.run("sessions", "list").out.splitlines())
    done = real.run("doctor")
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.startswith("FAIL")]
    for text in ("address", "Parlant", "agents", "poll", "ms"):
        assert text in done.out
    report = real.run("doctor", "-o", "json").json
    assert report["ok"]
    assert [check["name"] for check in report["checks"]][-1] == "poll"
    assert len(real.run("sessions", "list").out.splitlines()) == before  # it cleans up


def test_doctor_without_a_server(nowhere: Cli) -> None:
    done = nowhere.run("doctor")
    assert done.code == 3
    assert "FAIL  address" in done.out
    assert "-> start the server" in done.out
    name = nowhere.run("doctor", "-s", "http://nosuch.invalid")
    assert (name.code, "cannot be resolved" in name.out) == (3, True)
    assert nowhere.run("doctor", "-s", "nonsense").code == 2


def test_doctor_and_the_token(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    parlant_server.token = "right"
    none = fake.run("doctor")
    assert (none.code, "FAIL  token" in none.out, "PARLANT_TOKEN" in none.out) == (6, True, True)
    wrong = fake.run("doctor", env={"PARLANT_TOKEN": "wrong-one"})
    assert (wrong.code, "check PARLANT_TOKEN" in wrong.out, "wrong-one" in wrong.out) == (6, True, False)
    right = fake.run("doctor", env={"PARLANT_TOKEN": "right"})
    assert (right.code, "accepted, from PARLANT_TOKEN" in right.out) == (0, True)


def test_doctor_in_production(fake: Cli) -> None:
    with FakeServer(policy="production") as server:
        server.agent("support")
        done = fake.run("doctor", "-s", server.base_url)
        assert done.code == 0
        assert "may not list" in done.out
        named = fake.run("doctor", "-s", server.base_url, "--agent-id", "support")
    assert named.code == 0
    assert "stays on the server" in " ".join(named.out.split())
    assert "listing events works" in named.out


def test_doctor_and_what_is_broken(fake: Cli, parlant_server: FakeServer) -> None:
    unknown = fake.run("doctor", "--agent-id", "nobody")
    assert unknown.code == 6
    parlant_server.agent("support")
    parlant_server.fail_next("GET /agents", 200, "<html>", times=None)
    other = fake.run("doctor")
    assert (other.code, "FAIL  agents" in other.out) == (3, True)
    state = fake.run("doctor", "--state-dir", "/proc/nothing")
    assert (state.code, "--state-dir" in state.out) == (1, True)


def test_doctor_shows_the_checks_of_healthz(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    body = json.dumps({"status": "unhealthy", "checks": {"store": "ok", "turns": {"status": "failing"}}})
    parlant_server.fail_next("GET /healthz", 200, body, times=None)
    assert "store: ok; turns: failing" in " ".join(fake.run("doctor").out.split())


def test_doctor_warns_of_a_check_that_fails_although_the_server_calls_itself_healthy(
    fake: Cli, parlant_server: FakeServer
) -> None:
    """The two are of two requests: the server may have become busy between them."""
    parlant_server.agent("support")
    body = json.dumps({"status": "healthy", "checks": {"event_loop": {"status": "unhealthy"}}})
    parlant_server.fail_next("GET /healthz", 200, body, times=None)
    checks = {check["name"]: check for check in fake.run("doctor", "-o", "json").json["checks"]}
    assert (checks["server"]["state"], "event_loop: unhealthy" in checks["server"]["detail"]) == ("warning", True)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[FakeServer, str]]:
    """A server with a certificate that nobody vouches for, as on a company's network; and the authority to trust."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    made = authority(tmp_path)
    with FakeServer(ssl_context=made.context()) as server:
        server.agent("support")
        yield server, made.bundle


def test_tls(fake: Cli, secure: tuple[FakeServer, str]) -> None:
    server, bundle = secure
    refused = fake.run("doctor", "-s", server.base_url)
    failed = [line.split()[1] for line in refused.out.splitlines() if line.startswith("FAIL")]
    assert (refused.code, failed, "REQUESTS_CA_BUNDLE" in refused.out) == (3, ["TLS"], True)
    trusted = fake.run("doctor", "-s", server.base_url, env={"REQUESTS_CA_BUNDLE": bundle})
    assert (trusted.code, "ok    TLS" in trusted.out) == (0, True), trusted
    plain = fake.run("doctor", "-s", server.base_url.replace("https:", "http:"))
    assert (plain.code, "this port uses TLS" in plain.out, "begin the address with https" in plain.out) == (
        3,
        True,
        True,
    )


def test_a_port_that_speaks_plain_http(fake: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        refusing = Background(refuse)
        done = fake.run("doctor", "-s", f"https://127.0.0.1:{listener.getsockname()[1]}")
        listener.shutdown(socket.SHUT_RDWR)
        refusing.result()
    assert (done.code, "FAIL  TLS" in done.out, "begin the address with" in done.out) == (3, True, True), done.out


def test_another_program_listens_there(fake: Cli, parlant_server: FakeServer) -> None:
    done = fake.run("doctor", "-s", parlant_server.base_url + "/elsewhere")
    said = " ".join(done.out.split())
    assert (done.code, "no Parlant server at" in said, "path of --server" in said) == (6, True, True), done.out
    assert "doctor" not in said  # which is running


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

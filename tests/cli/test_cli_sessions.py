"""``parlant-sync sessions`` and ``doctor``."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable

import pytest
from support.cli_runs import Cli
from support.shared_servers import SharedServer

from parlant_sync.testing import FakeServer


@pytest.mark.real
def test_create_show_list_delete(real: Cli, demo: SharedServer) -> None:
    agent = demo.agents["hesitant"]
    made = real.run("sessions", "create", "-o", "json", "--agent-id", agent, "--title", "A title").json
    session = made["session_id"]
    assert (made["agent_id"], made["title"], made["mode"]) == (agent, "A title", "auto")
    assert real.run("send", "--session-id", session, "a question").code == 0
    shown = real.run("sessions", "show", session)
    for text in (
        f"session   {session}",
        "title     A title",
        "\ncustomer  20",
        "    a question",
        "(preamble)",
        "    echo: a quest",
    ):
        assert text in shown.out
    assert max(map(len, shown.out.splitlines())) <= 80
    listed = real.run("sessions", "list", "--agent-id", agent)
    assert any(line.startswith(session) and line.endswith("A title") for line in listed.out.splitlines())
    rows = real.run("sessions", "list", "-o", "json", "--limit", "1").json_lines
    assert [set(row) >= {"session_id", "agent_id", "customer_id", "title", "created"} for row in rows] == [True]
    done = real.run("sessions", "delete", session)
    assert (done.code, done.out, done.err) == (0, "", "")
    real.run("sessions", "show", session).failed(6, session)


@pytest.mark.real
def test_options_anywhere_around_a_group(real: Cli, new_session: Callable[..., str]) -> None:
    session = new_session()
    for arguments in (
        ("-o", "json", "sessions", "show", session),
        ("sessions", "-o", "json", "show", session),
        ("sessions", "show", "-o", "json", "--session-id", session),
    ):
        assert real.run(*arguments).json["session_id"] == session
    two = [new_session(), session]
    assert [row["deleted"] for row in real.run("sessions", "delete", "-o", "json", *two).json_lines] == [True, True]


@pytest.mark.real
def test_one_that_is_not_there_keeps_no_other_from_being_deleted(real: Cli, new_session: Callable[..., str]) -> None:
    first, last = new_session(), new_session()
    real.run("sessions", "delete", first, "none-1", "none-2", last).failed(6, "'none-1', 'none-2'", "sessions list")
    for session in (first, last):
        real.run("sessions", "show", session).failed(6, session)


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


def test_doctor_in_production(tmp_path: object, fake: Cli) -> None:
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


def test_doctor_and_tls(fake: Cli) -> None:
    """A certificate that nobody vouches for, as a server on a company's network has it."""
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")
    key, certificate = fake.home / "key.pem", fake.home / "certificate.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, "-keyout", key]
    subprocess.run([*make, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with FakeServer(ssl_context=context) as server:
        server.agent("support")
        refused = fake.run("doctor", "-s", server.base_url)
        assert (refused.code, "FAIL  TLS" in refused.out, "REQUESTS_CA_BUNDLE" in refused.out) == (3, True, True)
        trusted = fake.run("doctor", "-s", server.base_url, env={"REQUESTS_CA_BUNDLE": str(certificate)})
    assert (trusted.code, "ok    TLS" in trusted.out) == (0, True), trusted


def test_doctor_at_a_port_that_speaks_plain_http(fake: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            done = fake.run("doctor", "-s", f"https://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert (done.code, "FAIL  TLS" in done.out, "begin the address with" in done.out) == (3, True, True), done.out


def test_ids_given_in_both_ways(fake: Cli, parlant_server: FakeServer) -> None:
    parlant_server.agent("support")
    one, two, three = (parlant_server.create_session("support") for _ in range(3))
    fake.run("sessions", "show", one, "--session-id", two).failed(2, "one of them")
    # What the environment says is shown, and never deleted.
    assert fake.run("sessions", "delete", one, env={"PARLANT_SESSION_ID": two}).code == 0
    fake.run("sessions", "delete", env={"PARLANT_SESSION_ID": two}).failed(2, "say which session")
    assert fake.run("sessions", "show", "-o", "json", env={"PARLANT_SESSION_ID": two}).json["session_id"] == two
    assert fake.run("sessions", "delete", two, "--session-id", three).code == 0
    assert fake.run("sessions", "list").out == ""

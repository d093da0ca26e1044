"""Starting, stopping, restarting; connections."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest
import requests
from support.raw_api import brief, in_background

from parlant_sync.testing import FakeServer
from parlant_sync.testing.httpd import Connection


def test_start_and_stop():
    before = threading.active_count()
    with FakeServer() as server:
        assert server.running
        assert repr(server) == f"<FakeServer 3.3 at {server.base_url}>"
        assert threading.active_count() == before + 1
        assert server.port == int(server.base_url.rpartition(":")[2])
        with pytest.raises(RuntimeError, match="already"):
            server.start()
    assert not server.running
    assert repr(server) == "<FakeServer 3.3 stopped>"
    assert threading.active_count() == before
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_it_can_be_prepared_before_it_starts():
    server = FakeServer()
    server.agent("support").replies("ready")
    session = server.create_session("support")
    server.add_event(session)
    with server:
        url = f"{server.base_url}/sessions/{session}/events"
        assert len(requests.get(url, params={"wait_for_data": 0}, timeout=5).json()) == 1
    assert len(server.events(session)) == 1  # and looked at after it has stopped
    with pytest.raises(RuntimeError, match="must be running"):
        server.say(session, "hi")


def test_a_port_that_is_taken(api):
    other = FakeServer(port=api.server.port)
    with pytest.raises(OSError, match="in use"):
        other.start()
    assert not other.running


def test_stopping_cuts_running_polls(api):
    session = api.session()
    polls = [in_background(api.list, session, 0, 60) for _ in range(5)]
    api.server.wait_polls(5)
    assert api.server.polls == 5
    began = time.monotonic()
    api.server.stop()
    for poll in polls:
        assert isinstance(poll.error(), requests.ConnectionError)
    assert time.monotonic() - began < 1


def test_stopping_with_an_answer(api):
    session = api.session()
    poll = in_background(api.list, session, 0, 60)
    api.server.wait_polls(1)
    api.server.stop(answer=500)
    assert poll.result().status_code == 500


def test_restart_keeps_sessions_but_not_their_turns(api):
    api.server.agent("support").replies("never").waits("g").replies("afterwards")
    session = api.begin("g")
    api.server.restart(keep=True)
    api.server.release("g")
    assert [brief(e) for e in api.events(session)] == [
        "customer:hi",
        "acknowledged",
        "processing(Interpreting)",
        "typing",
    ]
    assert api.server.polls == 0
    events = api.turn(session, "and now?")
    assert events[0]["offset"] == 4
    assert "cancelled" not in [brief(e) for e in events]
    assert "afterwards" in [brief(e) for e in events]


def test_a_post_is_carried_out_though_its_sender_has_left(api):
    session = api.session()
    api.server.agent("support").replies("one", then="two").waits("g", at="then").replies("x")
    api.send(session, "old")
    api.server.reached("g")
    with pytest.raises(requests.ReadTimeout):
        api.call("POST", f"/sessions/{session}/events", json=message("new"), timeout=0.2)
    api.finish("g")
    assert brief(api.events(session)[-1]) == "ready(completed)"
    assert "customer:new" in [brief(e) for e in api.events(session)]


def message(text: str) -> dict[str, str]:
    return {"kind": "message", "source": "customer", "message": text}


def test_a_poll_ends_when_its_client_leaves(api):
    session = api.session()
    with pytest.raises(requests.ReadTimeout):
        api.call("GET", f"/sessions/{session}/events", timeout=0.2)
    api.server.wait_no_polls()


# --- connections


def read_all(sock: socket.socket) -> bytes:
    received = b""
    while piece := sock.recv(65536):
        received += piece
    return received


def test_idle_connections_are_closed(serve):
    api = serve(idle_timeout=0.1)
    with socket.create_connection(("127.0.0.1", api.server.port), timeout=5) as sock:
        sock.sendall(b"GET /agents HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_poll_is_not_idle(serve):
    api = serve(idle_timeout=0.1)
    session = api.session()
    assert api.list(session, 0, 1).status_code == 504


def test_requests_one_behind_another(api):
    with socket.create_connection(("127.0.0.1", api.server.port), timeout=5) as sock:
        sock.sendall(b"GET /agents HTTP/1.1\r\n\r\n" * 2 + b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n")
        assert read_all(sock).count(b"HTTP/1.1 200 OK") == 3


def test_in_single_bytes(api):
    api.server.agent("support")
    head = b"POST /sessions HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: 23\r\n\r\n"
    with socket.create_connection(("127.0.0.1", api.server.port), timeout=5) as sock:
        for byte in head + b'{"agent_id": "support"}':
            sock.sendall(bytes([byte]))
        assert read_all(sock).startswith(b"HTTP/1.1 201 Created")


@pytest.mark.parametrize("rubbish", [b"hello\r\n\r\n", b"GET / SPDY/9\r\n\r\n", b"GET / HTTP/1.1\r\nbad\r\n\r\n"])
def test_rubbish(api, rubbish):
    with socket.create_connection(("127.0.0.1", api.server.port), timeout=5) as sock:
        sock.sendall(rubbish)
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request")
    assert answer.endswith(b"Invalid HTTP request received.")


def test_a_prefix(serve):
    api = serve(prefix="/parlant/")
    assert api.server.base_url.endswith("/parlant")
    assert api.call("GET", "/agents").status_code == 200
    root = api.server.base_url.removesuffix("/parlant")
    assert api.http.get(root + "/agents", timeout=5).status_code == 404
    assert api.server.requests[0].path == "/agents"
    assert api.server.requests[0].target == "/parlant/agents"


# --- waiting


def test_waiting_in_vain(api):
    session = api.session()
    for wait in (
        lambda: api.server.wait_polls(1, timeout=0.01),
        lambda: api.server.wait_events(session, 1, timeout=0.01),
        lambda: api.server.reached("g", timeout=0.01),
        lambda: api.server.hold_next("/x").wait(0.01),
    ):
        with pytest.raises(TimeoutError, match=r"not within 0\.01 s"):
            wait()


def test_waiting_for_a_server_that_is_stopped(api):
    waiting = [in_background(api.server.wait_polls, 1, timeout=60) for _ in range(20)]
    api.server.stop()
    for wait in waiting:  # before, meanwhile or after: none hangs
        with pytest.raises(RuntimeError, match="stopped"):
            wait.result()
    with pytest.raises(RuntimeError, match="stopped"):
        api.server.wait_polls(1)
    api.server.wait_idle()  # is so already


def test_a_text_function_may_use_the_server_but_not_wait_for_it(api):
    problems = []

    def text(message: str) -> str:
        api.server.human(session, "meanwhile")
        try:
            api.server.wait_idle()
        except RuntimeError as error:
            problems.append(str(error))
        return "done"

    api.server.agent("support").replies(text)
    session = api.session()
    events = [brief(e) for e in api.turn(session, "hi")]
    assert events.index("human_agent:meanwhile") < events.index("done")
    assert "not from the server's own thread" in problems[0]


class _Once(asyncio.Transport):
    """A TLS transport of Python 3.11.2, which fails if it is aborted after it was closed."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def abort(self) -> None:
        if "close" in self.steps:
            raise AttributeError("'NoneType' object has no attribute '_abort'")
        self.steps.append("abort")

    def close(self) -> None:
        self.steps.append("close")


def test_a_connection_is_cut_once_however_often_that_is_asked() -> None:
    transport = _Once()

    async def cut() -> None:
        connection = Connection(1, None, None, set())  # type: ignore[arg-type]
        connection.connection_made(transport)
        for _ in range(2):
            connection.kill()

    asyncio.run(cut())
    assert transport.steps == ["abort", "close"]

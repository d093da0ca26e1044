"""What our connections do besides: over real sockets, against a server that says exactly what it is told to."""

from __future__ import annotations

import errno
import gzip
import http.client
import os
import socket
from typing import Any

import pytest
import requests
import urllib3
from support.raw_api import in_background
from support.raw_server import CLOSE, RawServer, answer
from support.waiting import wait_until, within

from parlant_sync import Client, ConfigurationError, SessionClosed, TransportError, _process
from parlant_sync._http.connection import here
from parlant_sync._http.transport import Failure


def ask(client: Client, method: str = "POST", body: Any = None, **options: Any) -> tuple[bytes, bool]:
    failure = Failure()
    got = client._transport.request(method, "/x", body=body, failure=failure, **options)
    return got.body, failure.sent


# -- interim answers


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints", b"199 What"])
def test_interim_answers_are_none(status: bytes) -> None:
    """Taken for one, each later request of the connection would get the answer to the one before."""
    interim = b"HTTP/1.1 " + status + b"\r\nLink: </x>\r\n\r\n"
    with RawServer(lambda head, body, number: interim * 2 + answer(b"%d" % number)) as server:
        with Client(server.base_url) as client:
            assert [ask(client) for _ in range(3)] == [(b"0", True), (b"1", True), (b"2", True)]
        assert len(server.connections) == 1


def test_an_answer_that_ends_no_request_is_no_answer() -> None:
    """101 is the one that is not passed over: what follows it is no HTTP."""

    def say(head: bytes, body: bytes, number: int) -> bytes:
        return b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + answer(b"late") if number == 0 else answer(b"second")

    with RawServer(say) as server, Client(server.base_url) as client:
        failure = Failure()
        with pytest.raises(TransportError, match="101"):
            client._transport.request("POST", "/x", failure=failure)
        assert failure.sent
        assert ask(client) == (b"second", True)
        assert len(server.connections) == 2


# -- the time to send


def test_sending_has_the_request_s_time_not_that_of_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """urllib3 gives it the latter. In pieces, since TLS counts a timeout anew with each record."""
    sent: list[tuple[int, float]] = []
    send = http.client.HTTPConnection.send

    def noting(self: Any, data: Any) -> None:
        sent.append((len(data), self.sock.gettimeout()))
        send(self, data)

    monkeypatch.setattr(http.client.HTTPConnection, "send", noting)
    with RawServer(lambda head, body, number: answer(b"%d" % len(body))) as server:
        with Client(server.base_url, connect_timeout=5, request_timeout=60) as client:
            for _ in range(2):  # on a new connection, and on one that was used before
                assert ask(client, body="m" * 100_000) == (b"100002", True)
    assert sum(size for size, _ in sent) > 200_000
    assert max(size for size, _ in sent) <= 16 * 1024
    assert all(30 < left <= 60 for _, left in sent)


def test_sending_ends_with_the_request_s_time() -> None:
    """Nobody reads: more than the kernel takes on its own is never sent."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        with Client(f"http://127.0.0.1:{deaf.getsockname()[1]}", connect_timeout=20, request_timeout=0.3) as client:
            with within(5):
                failure = Failure()
                with pytest.raises(TransportError, match="did not go out in time"):
                    client._transport.request("POST", "/x", body="m" * 20_000_000, failure=failure)
                assert failure.sent


@pytest.mark.parametrize("forever", [1e10, 1e300])
def test_a_time_that_no_socket_takes(forever: float) -> None:
    with RawServer(lambda *_: answer(b"ok")) as server:
        with Client(server.base_url, connect_timeout=forever, request_timeout=forever) as client:
            assert [ask(client, body={}) for _ in range(2)] == [(b"ok", True)] * 2


# -- heads


@pytest.mark.parametrize("lengths", [b"5,6", b"5, 6", b"5\r\nContent-Length: 6", b"5, x"])
def test_lengths_that_contradict_each_other(lengths: bytes) -> None:
    """No fault of our configuration, as urllib3's error for it would say; and the request has gone."""
    with RawServer(lambda *_: b"HTTP/1.1 201 Created\r\nContent-Length: " + lengths + b"\r\n\r\nhello") as server:
        with Client(server.base_url) as client:
            failure = Failure()
            with pytest.raises(TransportError, match="several lengths"):
                client._transport.request("POST", "/x", failure=failure)
            assert failure.sent


@pytest.mark.parametrize("head", [b"Content-Length: 5, 5", b"Content-Length: 5\r\nContent-Length: 5"])
def test_lengths_that_agree(head: bytes) -> None:
    with RawServer(lambda *_: b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\nhello" + CLOSE) as server:
        with Client(server.base_url) as client:
            assert ask(client) == (b"hello", True)


def test_a_head_that_is_broken_in_the_middle(caplog: pytest.LogCaptureFixture) -> None:
    """What is before counts, as ever. But urllib3 logs the rest, whatever it repeats."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nno header\r\nX-Y: z\r\n\r\n"
    with RawServer(lambda *_: head + b"hello") as server, Client(server.base_url) as client:
        assert ask(client) == (b"hello", True)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("body", "whole"), [(b"\r\nhello", True), (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0", False)]
)
def test_the_end_of_the_stream_ends_what_has_no_length(body: bytes, whole: bool) -> None:
    """Not a body in chunks: this 0 is the first digit of another chunk's length."""
    with RawServer(lambda *_: b"HTTP/1.1 200 OK\r\n" + body + CLOSE) as server, Client(server.base_url) as client:
        if whole:
            assert ask(client) == (b"hello", True)
        else:
            with pytest.raises(TransportError):
                ask(client)


def test_a_body_that_is_unpacked_is_whole() -> None:
    """All of it has come by then, and most of it is still packed."""
    body = gzip.compress(b" " * 5_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    with RawServer(lambda *_: head + body) as server, Client(server.base_url) as client:
        assert [len(ask(client)[0]) for _ in range(2)] == [5_000_000] * 2
        assert len(server.connections) == 1


def test_time_that_is_over_before_anything_went(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting had the last of it. So delivery is not uncertain."""
    connect = urllib3.connection.HTTPConnection.connect

    def slow(self: Any) -> None:
        connect(self)
        wait_until(here.slot.deadline.expired)  # type: ignore[union-attr]

    monkeypatch.setattr(urllib3.connection.HTTPConnection, "connect", slow)
    with RawServer(lambda *_: answer(b"ok")) as server, Client(server.base_url, request_timeout=0.1) as client:
        failure = Failure()
        with pytest.raises(TransportError):
            client._transport.request("POST", "/x", failure=failure)
        assert not failure.sent
        assert server.requests == []


# -- stops


@pytest.mark.parametrize("way", ["direct", "tunnel"])
def test_a_stop_ends_a_handshake_that_hangs(way: str) -> None:
    """``wrap_socket`` takes the descriptor out of the socket that was connected, so a duplicate is shut down."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"127.0.0.1:{deaf.getsockname()[1]}"
        proxies = {"https": f"http://{url}"} if way == "tunnel" else {"no_proxy": "*"}
        client = Client(f"https://{url if way == 'direct' else 'x.test'}", proxies=proxies, connect_timeout=60)
        asking = in_background(client.agents)
        conn, _ = deaf.accept()
        if way == "tunnel":
            assert conn.recv(65536).startswith(b"CONNECT")
            conn.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        assert conn.recv(1) == b"\x16"  # a handshake has begun
        client.close()
        assert isinstance(asking.error(5), SessionClosed)
        conn.close()


@pytest.mark.parametrize(
    "failure",
    [socket.gaierror(-2, "unknown"), OSError(24, "Too many open files"), None],
    ids=["unknown", "descriptors", "no-address"],
)
def test_a_name_that_cannot_be_resolved(failure: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object) -> list[Any]:
        if failure is not None:
            raise failure
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with Client("http://nowhere.test") as client, pytest.raises((TransportError, ConfigurationError)):
        ask(client)


def test_why_nobody_is_reached_is_said_as_the_system_says_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with Client(url) as client, pytest.raises(TransportError) as caught:
        ask(client)
    assert str(caught.value).startswith(f"POST {url}/x: {os.strerror(errno.ECONNREFUSED)}; ")


def test_a_label_that_is_too_long() -> None:
    with (
        Client(f"http://{'a' * 70}.test") as client,
        pytest.raises((ConfigurationError, TransportError), match="label empty or too long"),
    ):
        ask(client)


# -- forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
# Python 3.12 and later warn of a fork in a process with threads. This one is meant.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("shared", [False, True], ids=["ours", "a-factory-s"])
def test_a_child_of_a_fork_without_hooks_uses_no_connection_of_its_parent(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uWSGI forks in C. On a shared socket, parent and child would get each other's answers."""
    with RawServer(lambda head, body, number: answer(b"%d" % number)) as server:
        session = requests.Session()
        with Client(server.base_url, session_factory=(lambda: session) if shared else None) as client:
            assert ask(client)[0] == b"0"
            monkeypatch.setattr(_process, "_clients", {})  # so that the hook finds nothing to renew, as in uWSGI
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    code = 0 if ask(client)[0] == b"1" else 2
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert len(server.connections) == 2
            assert ask(client)[0] == b"2"  # the parent's connection lives
            assert len(server.connections) == 2
        session.close()

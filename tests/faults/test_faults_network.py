"""What stands between a client and its server: load balancers, caches, proxies, slow names; servers that are down."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest
from support.fault_backends import Backend, connected
from support.raw_server import CLOSE, RawServer, answer

from parlant_sync import Client, DeliveryUncertain, NotFoundError, TransportError
from parlant_sync.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        fake.agent("quick").echoes()
        yield fake


def page(status: int, body: bytes = b"default backend") -> bytes:
    return answer(body, b"%d Whatever" % status, b"Content-Type: text/plain")


# -- a proxy's page


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("status", [401, 403, 404])
def test_an_ingress_that_restarts_ends_no_session(status: int, fake: Backend) -> None:
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        refused = proxy.answer(page(status), "poll", times=1)
        proxy.cut_all()
        refused.wait()
        assert session.send("still there", timeout=20).text == "echo: still there"
        assert list(client.sessions) == [session.id]
        # Parlant's own answer ends it.
        proxy.answer(answer(b'{"detail": "gone"}', b"%d Whatever" % status), "poll", times=1)
        proxy.cut_all()
        proxy.wait(lambda: session.closed, what="closed")


def test_the_text_says_that_a_proxy_answered(fake: Backend) -> None:
    with connected(fake) as (proxy, client):
        proxy.answer(page(404, b"<html>not here</html>"), "other", times=float("inf"))
        with pytest.raises(NotFoundError, match="a proxy answered, not Parlant") as caught:
            client.agent("quick")
        assert not caught.value.from_parlant


# -- cookies


def test_calls_and_polls_go_to_the_same_server_of_a_load_balancer() -> None:
    """Sticky by a cookie, which the first answer sets. Without it in the polls, these would go to another server."""
    seen: list[tuple[bytes, bool]] = []

    def say(head: bytes, body: bytes, number: int) -> bytes:
        seen.append((head.split(b" ")[1], b"sticky=one" in head))
        if b"wait_for_data=60" in head or b"wait_for_data=1" in head:
            polled.set()
            done.wait(10)
            return answer(b'{"detail": "Request timed out"}', b"504 Gateway Timeout")
        return answer(json.dumps({"id": "s1", "agent_id": "a"}).encode(), b"201 Created", b"Set-Cookie: sticky=one")

    polled, done = threading.Event(), threading.Event()
    with RawServer(say) as raw, Client(raw.base_url) as client:
        session = client.create_session("a")
        assert polled.wait(10)
        session.refresh()
        done.set()
        client.close()
    assert [sticky for _, sticky in seen[:3]] == [False, True, True]


def test_cookies_of_a_factory_s_sessions_are_shared_as_well() -> None:
    import requests

    def say(head: bytes, body: bytes, number: int) -> bytes:
        cookies.append(b"sticky=one" in head and b"own=1" in head)
        return answer(b"[]", b"200 OK", b"Set-Cookie: sticky=one")

    cookies: list[bool] = []

    def factory() -> requests.Session:
        session = requests.Session()
        session.cookies.set("own", "1")
        return session

    with RawServer(say) as raw, Client(raw.base_url, session_factory=factory) as client:
        client.agents()
        line = client._transport.line()
        line.get("/x", {}, read_timeout=5)
        line.close()
    assert cookies == [False, True]


# -- CONNECT


@pytest.mark.parametrize("status", [b"407 Needed", b"403 Forbidden"])
def test_a_connect_that_is_refused_fails_at_once(status: bytes) -> None:
    with RawServer(lambda *_: b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n" + CLOSE) as raw:
        with Client("https://parlant.test", proxies={"https": raw.base_url}, request_timeout=20) as client:
            started = time.monotonic()
            for call in (client.agents, lambda: client.create_session("a")):
                with pytest.raises(TransportError, match=status.decode()):
                    call()
            assert time.monotonic() - started < 5
            assert len(raw.requests) == 2


# -- time


@pytest.mark.parametrize("timeout", [0.6, 1.0])
def test_a_slow_token_makes_no_delivery_uncertain(timeout: float, server: FakeServer) -> None:
    quick = threading.Event()
    quick.set()

    def token() -> str:
        quick.wait(1.5)
        return "t0ken"

    with Client(server.base_url, token=token, request_timeout=30) as client:
        session = client.create_session("quick")
        server.wait_polls(1)
        quick.clear()
        started = time.monotonic()
        with pytest.raises(TransportError, match="nothing was sent"):
            session.send("nothing of it", timeout=timeout)
        assert time.monotonic() - started < 2 * 1.5
        quick.set()
    assert not [request for request in server.requests if b"nothing of it" in request.body]


@pytest.mark.parametrize("timeout", [60.0, 0.8])
def test_a_server_that_is_down(timeout: float, server: FakeServer) -> None:
    with Client(server.base_url, request_timeout=1.2) as client:
        session = client.create_session("quick")
        server.stop()
        started = time.monotonic()
        with pytest.raises(TransportError, match=r"refused.*tried \d+ times in \d\.\d s; nothing was posted"):
            session.send("anybody?", timeout=timeout)
        assert time.monotonic() - started < min(timeout, 1.2) + 1.0
        server.restart(keep=True)


# -- answers that are broken, or another's


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nA: b\r\n", b"HTTP/1.1 200"],
)
def test_a_fin_in_the_head_is_a_failure_of_the_network(head: bytes) -> None:
    with (
        RawServer(lambda *args: head + CLOSE if args[2] == 0 else answer(b"[]")) as raw,
        Client(raw.base_url) as client,
    ):
        assert client.agents() == []  # read again
        assert len(raw.requests) == 2
    with RawServer(lambda *_: head + CLOSE) as raw, Client(raw.base_url) as client:
        with pytest.raises(TransportError):
            client._transport.request("GET", "/x")


def test_an_answer_that_is_delivered_twice(fake: Backend) -> None:
    """The second post gets the answer to the first one: the message is looked for, and is another."""
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        first = session.post("first")
        body = json.dumps(first.raw).encode()
        # The server takes it, but the client gets what it got before.
        order = proxy.change(lambda _: (answer(body, b"201 Created"), "keep"), "post", times=1)
        second = session.post("second")
        order.wait()
        assert (second.message, second.id != first.id) == ("second", True)
        proxy.answer(answer(body, b"201 Created"), "post", times=1)
        with pytest.raises(DeliveryUncertain, match="belongs to another request"):
            session.post("third")


def test_a_connection_that_is_one_answer_behind_is_not_used_again(fake: Backend) -> None:
    with connected(fake) as (proxy, client):
        session = client.create_session("quick")
        first = session.post("first")
        (exchange,) = proxy.of("post")
        behind = proxy.change(
            lambda _: (answer(json.dumps(first.raw).encode(), b"201 Created"), "keep"),
            lambda each: each.kind == "post" and each.connection == exchange.connection,
            times=float("inf"),
        )
        assert [session.post(text).message for text in ("second", "third", "fourth")] == ["second", "third", "fourth"]
        assert len(behind.exchanges) == 1

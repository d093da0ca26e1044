"""The canary test: what a server echoes of our own headers never shows, wherever one looks."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import requests
from support.raw_server import CLOSE, RawServer
from support.secret_canaries import HEADERS, PASSWORD, TOKEN, check, echoes, found_in
from support.shared_servers import SharedServer

from parlant_sync import (
    AgentError,
    ApiError,
    Client,
    ConfigurationError,
    ParlantSyncError,
    RateLimitedError,
    TransportError,
)
from parlant_sync.testing import FakeServer, Response

pytestmark = pytest.mark.usefixtures("nothing_logged")
ALL = {"Authorization": f"Bearer {TOKEN}", **HEADERS}


def canary_client(url: str, **options: Any) -> Client:
    return Client(url, token=TOKEN, headers=HEADERS, **options)


def raised(call: Callable[[], Any]) -> ParlantSyncError:
    with pytest.raises(ParlantSyncError) as caught:
        call()
    check(caught.value)
    return caught.value


@pytest.mark.real
def test_a_real_production_server(production: SharedServer) -> None:
    """It repeats all headers of the request in its 403 and its 429."""
    raw = requests.get(f"{production.base_url}/agents", headers=ALL, timeout=10)
    assert raw.status_code == 403
    assert found_in(raw.text), "the server echoes nothing: this test tests nothing"
    with canary_client(production.base_url) as client:
        session = client.create_session("quick")
        assert session.send("hello", timeout=30).text == "echo: hello"
        calls: list[Callable[[], Any]] = [
            client.agents,
            lambda: client.create_session("quick", customer_id="somebody"),
            lambda: list(client.list_sessions()),
            lambda: client.delete_session(session.id),
            lambda: session.update(title="x"),
            session.delete,
            lambda: session.post_event("custom", {}),
            lambda: session.trigger(timeout=5),
            lambda: session.post("x", participant={"id": "p", "display_name": "P"}),
        ]
        for call in calls:
            assert isinstance(raised(call), ApiError)
        limited = raised(lambda: [session.refresh() for _ in range(40)])
        assert isinstance(limited, RateLimitedError)
        for thing in (client, session, session.health, client.stats(), client.sessions, client._settings):
            assert not found_in(repr(thing))


STATUSES = [400, 401, 403, 404, 409, 413, 418, 422, 429, 500, 502, 503, 302]
PRODUCTION = "as a production server"
CASES = [(PRODUCTION, status) for status in STATUSES]
CASES += [(way, status) for way in echoes(ALL) if way != PRODUCTION for status in (403, 429, 500)]


@pytest.mark.parametrize(("way", "status"), CASES)
def test_every_way_of_echoing(way: str, status: int, server: FakeServer) -> None:
    body = echoes(ALL)[way]
    assert found_in(body.decode())

    def echo(_: Response) -> Response:
        return Response(status, body, {"content-type": "application/json", "set-cookie": ALL["Cookie"]})

    with canary_client(server.base_url, request_timeout=1) as client:
        session = client.session(server.create_session("quick"))
        session.iter_events().close()  # it polls from here on
        server.alter_next("/agents/quick", echo, times=None)
        error = raised(lambda: client.agent("quick"))
        assert isinstance(error, ApiError)
        assert error.status == status
        if error.from_parlant and status in (401, 403, 404):
            server.wait_polls(1, session.id)
            server.fail_next("GET /events", status, body, times=None)
            server.cut_connections()
            reader = session.iter_events(timeout=5)
            raised(lambda: list(reader))  # what ended the poller is told to every waiter
            assert not found_in(repr(session.health))


# Where a server may put what it was sent, outside of any body: what the client libraries make of it is theirs to quote.
ODD_PLACES = {
    "status line": b"%s what?\r\n\r\n",
    "version": b"%s 200 OK\r\n\r\n",
    "status": b"HTTP/1.1 %s\r\n\r\n",
    "reason": b"HTTP/1.1 500 %s\r\nContent-Length: 0\r\n\r\n",
    "no header": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nnonsense %s\r\nX-Y: z\r\n\r\n[]",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 5, %s\r\n\r\n[]",
    "lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5,6\r\nX-Y: %s\r\n\r\n[]",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%s\r\nabc",
    "later chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n%s\r\nabc",
    "encoding": b"HTTP/1.1 200 OK\r\nContent-Encoding: %s, gzip\r\nContent-Length: 2\r\n\r\n[]",
    "cookie": b"HTTP/1.1 200 OK\r\nSet-Cookie: %s\r\nContent-Length: 1\r\n\r\n[",
    "location": b"HTTP/1.1 302 Found\r\nLocation: http://x.test/%s\r\nContent-Length: 0\r\n\r\n",
}


def echoing(place: bytes) -> Callable[[bytes, bytes, int], bytes]:
    def say(head: bytes, body: bytes, number: int) -> bytes:
        values = (line.partition(b": ")[2] for line in head.split(b"\r\n")[1:])
        return place % b" ".join(values) + CLOSE

    return say


@pytest.mark.parametrize("place", ODD_PLACES)
@pytest.mark.parametrize("token", [TOKEN, None], ids=["token", "no-token"])
def test_echoes_in_odd_places(place: str, token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parlant_sync._api.retry.jittered", lambda attempt: 0.0)
    with RawServer(echoing(ODD_PLACES[place])) as raw, Client(raw.base_url, token=token, headers=HEADERS) as client:
        try:
            client.agents()
        except ParlantSyncError as error:
            check(error)
        assert found_in(raw.requests[0][0].decode("latin-1"))


def test_a_proxy_that_repeats_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parlant_sync._api.retry.jittered", lambda attempt: 0.0)
    with RawServer(echoing(ODD_PLACES["status line"])) as raw:
        proxy = raw.base_url.replace("http://", f"http://user:{PASSWORD}@")
        with Client("http://parlant.example", proxies={"http": proxy}) as client:
            assert isinstance(raised(client.agents), TransportError)
        assert found_in(raw.requests[0][0].decode("latin-1"))


@pytest.mark.parametrize("rest", ["127.0.0.1:99999", "bad host:1", "[::1:3", "127.0.0.1:1:2"])
@pytest.mark.parametrize("factory", [None, requests.Session])
def test_a_proxy_whose_address_is_none(rest: str, factory: Any) -> None:
    proxies = {"http": f"http://user:{PASSWORD}@{rest}"}
    with Client("http://parlant.example", proxies=proxies, session_factory=factory) as client:
        assert isinstance(raised(client.agents), ConfigurationError)


def test_a_poller_that_fails_says_nothing(server: FakeServer, nothing_logged: pytest.LogCaptureFixture) -> None:
    body = echoes(ALL)["as a production server"]
    with canary_client(server.base_url) as client:
        session = client.create_session("quick")
        server.wait_polls(1)
        server.fail_next("GET /events", 429, body, times=1)
        server.fail_next("GET /events", 500, body, times=1)
        server.cut_connections()
        assert session.send("hello", timeout=30).text == "echo: hello"
        assert session.health.last_error
        assert not found_in(repr(session.health))
        assert any(record.levelno == logging.DEBUG for record in nothing_logged.records)


def test_errors_without_an_answer(server: FakeServer) -> None:
    port = server.port
    server.stop()
    with canary_client(f"http://127.0.0.1:{port}") as client:
        assert isinstance(raised(client.agents), TransportError)
    server.start()
    with canary_client(server.base_url) as client:
        server.cut_next("/agents", 20)
        server.cut_next("/agents", 20)
        server.cut_next("/agents", 20)
        raised(client.agents)


@pytest.mark.parametrize(
    "value", ["bad\r\nX-Injected: Canary+4711", "bad\nCanary+4711", " Canary+4711", "Canary+4711\r"]
)
def test_headers_that_cannot_be_sent(value: str, server: FakeServer) -> None:
    """``requests`` repeats the value in its complaint; ours does not, nor what it is chained to."""
    with pytest.raises(ConfigurationError) as caught:
        with Client(server.base_url, headers={"X-Api-Key": value}) as client:
            client.agent("quick")
    check(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("token", ["Canary+4711 with blanks", "Canary+4711\n", "Canary+4711 ü", "Canary+4711\x00"])
def test_a_token_that_cannot_be_sent(token: str, server: FakeServer) -> None:
    for given in (token, lambda: token):
        with pytest.raises(ConfigurationError) as caught:
            with Client(server.base_url, token=given) as client:
                client.agent("quick")
        check(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_with_a_password(scheme: str, server: FakeServer) -> None:
    proxies = {scheme: f"http://user:{PASSWORD}@127.0.0.1:9"}
    with Client(f"{scheme}://parlant.example", proxies=proxies) as client:
        assert isinstance(raised(client.agents), TransportError)
        assert not found_in(repr(client))


@pytest.mark.parametrize(
    "url", ["http://user:PasswordCanary2718@host", "http://host?token=ApiKeyCanary3141", "ftp://PasswordCanary2718@h"]
)
def test_a_base_url_with_a_password(url: str) -> None:
    raised(lambda: Client(url))


def _pickled(thing: object) -> str:
    try:
        return pickle.dumps(thing).decode("latin-1")
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        return str(error)  # a lock, a thread: it belongs to its process


def test_reprs_and_pickles_of_everything(server: FakeServer) -> None:
    server.agent("quick").forget().replies("hello").with_tool("t", {"a": 1})
    with canary_client(server.base_url) as client:
        session = client.create_session("quick", metadata={"a": 1})
        with session.stream("hello") as turn:
            reply = turn.reply()
        reader = session.iter_events(timeout=0)
        for thing in (client, session, turn, reply, reader, session.health, client.stats(), client.agent("quick")):
            assert not found_in(f"{thing!r} {thing}"), thing
            assert not found_in(_pickled(thing)), thing
        for thing in (client._settings, client._transport, client._transport._token, client._api):
            assert not found_in(repr(thing))


def test_an_engine_error_that_repeats_headers(server: FakeServer) -> None:
    """An exception of the engine may hold anything; ours must not be one more place where it shows credentials."""
    server.agent("quick").forget().fails(f"HTTPError: headers={ {'Authorization': f'Bearer {TOKEN}'} }")
    with canary_client(server.base_url) as client:
        with pytest.raises(AgentError) as caught:
            client.create_session("quick").send("hello")
        assert caught.value.detail
        assert not found_in(f"{caught.value} {caught.value.detail}")

"""The mapping of single requests: statuses, bodies, failures (by ``responses``; sockets are in tests/faults)."""

from __future__ import annotations

import gzip
import json
import os
import re
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import responses
import urllib3
from support.raw_api import in_background
from support.raw_server import RawServer, answer

from parlant_sync import Client, errors
from parlant_sync._api import retry
from parlant_sync._deadline import Deadline
from parlant_sync._http import connection, transport
from parlant_sync._http.transport import Failure

URL = "http://server.test:8800/prefix"
DETAIL = {"detail": "what it says"}


@pytest.fixture
def mocked() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def client(no_pauses: None) -> Iterator[Client]:
    with Client(URL, token="s3cret-token") as client:
        yield client


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequestError),
        (401, errors.AuthenticationError),
        (403, errors.PermissionDeniedError),
        (404, errors.NotFoundError),
        (409, errors.InvalidRequestError),
        (413, errors.InvalidRequestError),
        (422, errors.InvalidRequestError),
        (418, errors.ApiError),
        (301, errors.ApiError),
        (307, errors.ApiError),
        (429, errors.RateLimitedError),
        (500, errors.ServerError),
        (503, errors.ServerError),
        (599, errors.ServerError),
    ],
)
def test_each_status_has_its_type_of_error(
    mocked: responses.RequestsMock, client: Client, status: int, kind: type[errors.ApiError]
) -> None:
    headers = {"Location": "http://elsewhere.test/"} if status in (301, 307) else {}
    mocked.get(f"{URL}/agents/a%2Fb", status=status, json=DETAIL, headers=headers)
    with pytest.raises(errors.ApiError) as caught:
        client.agent("a/b")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.method, error.path, error.detail) == (status, "GET", "/agents/a%2Fb", "what it says")
    assert URL in str(error)
    assert "elsewhere" not in {call.request.url for call in mocked.calls}


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"detail": [{"loc": ["body", "x"], "msg": "bad"}]}', "body.x: bad"),
        (b'{"detail": [1]}', "[1]"),
        (b"Internal Server Error", "Internal Server Error"),
        (b"", ""),
        (b"<html><head><title>Oops</title></head><body><h1>Oops</h1></body></html>", "Oops Oops"),
        (b"\xff\xfe\x00", None),
    ],
)
def test_the_detail_in_each_kind_of_error_body(
    mocked: responses.RequestsMock, client: Client, body: bytes, detail: str | None
) -> None:
    mocked.get(f"{URL}/agents/a", status=404, body=body)
    with pytest.raises(errors.NotFoundError) as caught:
        client.agent("a")
    if detail is not None:
        assert caught.value.detail == detail


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"{}", b"[1]", b"[" * 100_000, b'[{"id": 7}]'])
def test_a_success_with_a_body_of_another_kind_is_a_protocol_error(
    mocked: responses.RequestsMock, client: Client, body: bytes
) -> None:
    mocked.get(f"{URL}/agents", body=body)
    with pytest.raises(errors.ProtocolError, match=re.escape(URL)):
        client.agents()


def test_a_failure_that_passes_is_repeated(mocked: responses.RequestsMock, client: Client) -> None:
    mocked.get(f"{URL}/agents", status=502)
    mocked.get(f"{URL}/agents", body=requests.ConnectionError("reset"))
    mocked.get(f"{URL}/agents", json=[{"id": "a", "name": "A"}])
    assert [agent.name for agent in client.agents()] == ["A"]


def test_a_failure_that_lasts_is_raised_after_three_attempts(mocked: responses.RequestsMock, client: Client) -> None:
    mocked.get(f"{URL}/agents", body=requests.ConnectionError("reset"))
    with pytest.raises(errors.TransportError, match=re.escape(URL)):
        client.agents()
    assert len(mocked.calls) == 3


def test_an_empty_200_is_asked_again(mocked: responses.RequestsMock, client: Client) -> None:
    mocked.get(f"{URL}/agents", body=b"")
    mocked.get(f"{URL}/agents", json=[])
    assert client.agents() == []
    mocked.get(f"{URL}/agents", body=b"")
    with pytest.raises(errors.TransportError, match="empty body"):
        client.agents()


@pytest.mark.parametrize(
    ("answer", "raised", "told"),
    [
        ({"status": 201, "body": b""}, errors.TransportError, "empty body"),
        ({"status": 502}, errors.ServerError, "502"),
        ({"body": requests.ConnectionError("reset")}, errors.TransportError, "reset"),
    ],
    ids=["no body", "502", "reset"],
)
def test_what_may_have_been_created_is_not_created_again(
    mocked: responses.RequestsMock, client: Client, answer: dict[str, Any], raised: type[Exception], told: str
) -> None:
    mocked.post(f"{URL}/sessions", **answer)
    with pytest.raises(raised, match=told):
        client.create_session("a")
    assert len(mocked.calls) == 1


def test_a_session_factory_must_return_a_session() -> None:
    with Client(URL, session_factory=lambda: 5) as client, pytest.raises(errors.ConfigurationError):  # type: ignore[arg-type, return-value]
        client.agents()


def test_a_body_over_the_limit(mocked: responses.RequestsMock, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parlant_sync._http.transport.MAX_BODY", 1000)
    bomb = gzip.compress(b"[" + b" " * 100_000 + b"]")
    assert len(bomb) < 1000
    mocked.get(f"{URL}/agents", body=bomb, headers={"Content-Encoding": "gzip"})
    with pytest.raises(errors.ProtocolError, match=f"more than 1000 bytes came from {URL}/agents$"):
        client.agents()


def read_body(read1: Callable[..., bytes], limit: float) -> bytearray:
    response = requests.Response()
    response.url, response.raw = f"{URL}/agents?secret=1", SimpleNamespace(read1=read1)
    return transport.read_body(response, Deadline(limit))


def test_a_body_that_there_is_no_memory_for() -> None:
    def read1(*_: object, **__: object) -> bytes:
        raise MemoryError

    with pytest.raises(errors.ProtocolError, match="memory") as caught:
        read_body(read1, 60)
    assert caught.value.__context__ is None  # whose frames would hold what there was no memory for


def test_a_long_body_takes_its_own_size_of_memory() -> None:
    pieces = iter([*([1_000_000] * 20), 0])
    tracemalloc.start()
    try:
        assert len(read_body(lambda *_, **__: bytes(next(pieces)), 60)) == 20_000_000
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


def test_a_body_has_its_time() -> None:
    with pytest.raises(requests.exceptions.ReadTimeout):
        read_body(lambda *_, **__: b"more", 0)


class Tokens:
    def __init__(self, *tokens: Any) -> None:
        self.tokens = list(tokens)

    def __call__(self) -> str:
        token = self.tokens.pop(0)
        if isinstance(token, Exception):
            raise token
        assert isinstance(token, str)
        return token


def sent_tokens(mocked: responses.RequestsMock) -> list[str | None]:
    return [call.request.headers.get("Authorization") for call in mocked.calls]


def test_a_callable_token_is_asked_each_time_and_once_more_after_401(mocked: responses.RequestsMock) -> None:
    mocked.get(f"{URL}/agents", status=401)
    mocked.get(f"{URL}/agents", json=[])
    mocked.get(f"{URL}/agents", json=[])
    with Client(URL, token=Tokens("old", "new", "newer")) as client:
        client.agents()
        client.agents()
    assert sent_tokens(mocked) == ["Bearer old", "Bearer new", "Bearer newer"]


def test_a_second_401_is_told(mocked: responses.RequestsMock) -> None:
    mocked.get(f"{URL}/agents", status=401, json=DETAIL)
    with Client(URL, token=Tokens("one", "two", "three")) as client, pytest.raises(errors.AuthenticationError):
        client.agents()
    assert len(mocked.calls) == 2


def test_a_fixed_token_is_not_tried_twice(mocked: responses.RequestsMock, client: Client) -> None:
    mocked.get(f"{URL}/agents", status=401, json=DETAIL)
    with pytest.raises(errors.AuthenticationError):
        client.agents()
    assert len(mocked.calls) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("body", [b"default backend - 404", b"", b"<html>no</html>", b'{"error": "x"}', b'["detail"]'])
def test_a_proxy_s_page_is_temporary(mocked: responses.RequestsMock, client: Client, status: int, body: bytes) -> None:
    """The class stays that of the status. Only Parlant's own answer is final."""
    mocked.get(f"{URL}/agents", status=status, body=body)
    mocked.get(f"{URL}/agents", json=[])
    assert client.agents() == []
    mocked.get(f"{URL}/agents", status=status, body=body)
    with pytest.raises(errors.ApiError, match="a proxy answered") as caught:
        client.agents()
    assert caught.value.status == status
    assert not caught.value.from_parlant
    assert not retry.is_final(caught.value)
    mocked.get(f"{URL}/agents", status=status, json=DETAIL)
    with pytest.raises(errors.ApiError) as caught:
        client.agents()
    assert caught.value.from_parlant
    assert retry.is_final(caught.value)


def test_no_cache_may_keep_an_answer(mocked: responses.RequestsMock, client: Client) -> None:
    mocked.get(f"{URL}/agents", status=502)
    mocked.get(f"{URL}/agents", json=[])
    client.agents()
    assert {call.request.headers["Cache-Control"] for call in mocked.calls} == {"no-store"}
    # A CDN that keeps failures for a while does not look at the request: the second one has another address.
    assert len({call.request.url for call in mocked.calls}) == 2


def test_two_polls_of_one_offset_have_two_addresses(mocked: responses.RequestsMock, client: Client) -> None:
    mocked.get(f"{URL}/x", status=504, json=DETAIL)
    line = client._transport.line()
    for offset in (0, 0, 0, 1):
        line.get("/x", {"min_offset": offset}, read_timeout=5)
    addresses = [str(call.request.url).removeprefix(URL) for call in mocked.calls]
    assert len(set(addresses)) == 4
    assert (addresses[0], addresses[3]) == ("/x?min_offset=0", "/x?min_offset=1")
    line.close()


@pytest.mark.parametrize("shared", [False, True], ids=["ours", "a-factory-s"])
def test_pollers_share_a_session_but_no_connection(shared: bool) -> None:
    """What one of them does to its connection is nothing to the others."""
    given = requests.Session()
    with RawServer(lambda *_: answer(b"{}")) as server:
        client = Client(server.base_url, session_factory=(lambda: given) if shared else None)
        first, second = (client._transport.line() for _ in range(2))
        assert first.session is second.session
        for _ in range(2):
            for line in (first, second):
                line.get("/agents", {}, read_timeout=5)
        assert len(server.connections) == 2
        first.close()
        assert server.connections[0].recv(1) == b""  # closed at once
        second.get("/agents", {}, read_timeout=5)
        assert len(server.connections) == 2
        second.close()
        client.close()
    given.close()


def test_a_forked_child_gives_an_idle_connection_back() -> None:
    with RawServer(lambda *_: answer(b"{}")) as server, Client(server.base_url) as client:
        line = client._transport.line()
        line.get("/agents", {}, read_timeout=5)
        line.drop_inherited()
        assert server.connections[0].recv(1) == b""


def test_a_token_callable_that_fails(no_pauses: None) -> None:
    with Client(URL, token=Tokens(*[KeyError("vault")] * 5)) as client, pytest.raises(errors.TransportError) as caught:
        client.agents()
    assert "KeyError" in str(caught.value)


def test_headers_of_the_caller(mocked: responses.RequestsMock) -> None:
    mocked.get(f"{URL}/agents", json=[])
    with Client(URL, headers={"X-Tenant": "t1"}) as client:
        client.agents()
    assert mocked.calls[0].request.headers["X-Tenant"] == "t1"
    assert mocked.calls[0].request.headers["User-Agent"].startswith("parlant-sync/")
    assert "Authorization" not in mocked.calls[0].request.headers


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else ()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"title": "broken \ud800"}, "surrogate"),
        ({"metadata": {"deep": nested(200)}}, "deep"),
        ({"metadata": {"x": object()}}, "no JSON"),
    ],
    ids=["lone surrogate", "deep", "no JSON"],
)
def test_what_nobody_could_read_again_is_not_posted(
    mocked: responses.RequestsMock, client: Client, options: dict[str, Any], told: str
) -> None:
    """Servers store it, and then fail at every list of the session, or clients do that read it."""
    with pytest.raises(errors.ConfigurationError, match=told):
        client.create_session("a", **options)
    assert len(mocked.calls) == 0


def test_text_goes_out_as_utf8(mocked: responses.RequestsMock, client: Client) -> None:
    mocked.post(f"{URL}/sessions", status=422)
    with pytest.raises(errors.InvalidRequestError):
        client.create_session("a", title="논문 é")
    body = mocked.calls[0].request.body
    assert isinstance(body, bytes)
    assert json.loads(body)["title"] == "논문 é"


# -- what is known of a request that failed


def refused() -> urllib3.exceptions.MaxRetryError:
    cause = urllib3.exceptions.NewConnectionError(None, "refused")  # type: ignore[arg-type]
    return urllib3.exceptions.MaxRetryError(None, "/", cause)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (requests.ConnectionError("reset"), True),
        (requests.exceptions.ReadTimeout("slow"), True),
        (requests.exceptions.ConnectTimeout("slow"), False),
        (requests.ConnectionError(refused()), False),
        (OSError("what?"), True),
    ],
    ids=repr,
)
def test_what_is_not_known_to_be_unsent_counts_as_sent(
    mocked: responses.RequestsMock, client: Client, error: Exception, sent: bool
) -> None:
    """Where nobody can look into the pools of the adapter: a caller's own, or a mock as here."""
    mocked.post(f"{URL}/x", body=error)
    failure = Failure()
    with pytest.raises(errors.TransportError):
        client._transport.request("POST", "/x", body={}, failure=failure)
    assert (failure.sent, len(mocked.calls)) == (sent, 1)


def fails(*_: object) -> Any:
    raise requests.exceptions.ReadTimeout("a login, or the identity provider, is slow")


@pytest.mark.parametrize(
    "options", [{"token": Tokens("old", KeyError("vault"))}, {"auth": fails}, {"session_factory": fails}], ids=list
)
def test_what_ends_a_request_before_it_goes_has_sent_nothing(options: dict[str, Any]) -> None:
    """Whatever became of the one before: a 401, and then the token callable fails."""
    with responses.RequestsMock(assert_all_requests_are_fired="token" in options) as mocked:
        mocked.post(f"{URL}/x", status=401)
        failure = Failure()
        with Client(URL, **options) as client, pytest.raises(errors.TransportError):
            client._transport.request("POST", "/x", body={}, failure=failure)
    assert failure.sent is False


# -- whose sessions they are


def test_a_factory_may_ask_its_own_client(mocked: responses.RequestsMock) -> None:
    mocked.get(f"{URL}/agents", json=[])
    made: list[requests.Session] = []

    def factory() -> requests.Session:
        made.append(requests.Session())
        if len(made) == 1:
            client.agents()
        return made[-1]

    with Client(URL, session_factory=factory) as client:
        client.agents()
        assert len(mocked.calls) == 2


def test_a_factory_that_is_slow_does_not_hold_up_the_close() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def factory() -> requests.Session:
        inside.set()
        go_on.wait(10)
        return requests.Session()

    client = Client(URL, session_factory=factory)
    asking = in_background(client.agents)
    assert inside.wait(5)
    client.close()  # returns
    go_on.set()
    assert isinstance(asking.error(), errors.SessionClosed)


def test_nothing_is_made_after_the_close(client: Client) -> None:
    client._transport.close()
    for call in (lambda: client._transport.request("GET", "/x"), client._transport.line):
        with pytest.raises(errors.SessionClosed, match=re.escape(URL)):
            call()


def test_a_session_of_the_caller_is_told_and_not_altered(mocked: responses.RequestsMock) -> None:
    mocked.get(f"{URL}/agents", json=[])
    shared = requests.Session()
    shared.headers["X-Mine"] = "yes"
    before = dict(shared.headers)
    options: dict[str, Any] = {"headers": {"X-Tenant": "t"}, "proxies": {"http": "http://127.0.0.1:9"}}
    for _ in range(3):
        with Client(URL, session_factory=lambda: shared, **options) as client:
            client.agents()
    sent = mocked.calls[-1].request.headers
    assert re.fullmatch(r"parlant-sync/\S+ python-requests/\S+", sent["User-Agent"])
    assert (sent["X-Mine"], sent["X-Tenant"], sent["Accept"]) == ("yes", "t", "application/json")
    assert mocked.calls[-1].request.req_kwargs["proxies"]["http"] == "http://127.0.0.1:9"
    assert (dict(shared.headers), dict(shared.proxies)) == (before, {})
    shared.close()


def test_a_fork_that_ran_no_hook_of_python_uses_no_connection_of_the_parent(
    client: Client, mocked: responses.RequestsMock
) -> None:
    mocked.get(f"{URL}/agents", json=[])
    client.agents()
    parents, client._transport._pid = client._transport._calls, -1
    client.agents()
    assert client._transport._calls is not parents
    assert client._transport._pid == os.getpid()


def test_a_fork_that_ran_no_hook_of_python_shares_no_poll_session_with_the_parent(client: Client) -> None:
    """Its adapter has a lock that a thread of the parent may hold."""
    transport = client._transport
    parents, _ = transport.poll_session()
    transport._pid = -1
    assert transport.poll_session()[0] is not parents


def test_a_fork_that_ran_no_hook_of_python_can_close_the_client(client: Client) -> None:
    """A thread of the parent may have held the lock, and is not there any more."""
    in_background(client._transport._lock.acquire).result(5)
    client._transport._pid = -1
    in_background(client.close).result(5)


def test_an_interrupt_at_the_end_of_a_request(
    mocked: responses.RequestsMock, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is not the time of what the thread asks next, elsewhere, with a session we have prepared."""
    mocked.get(f"{URL}/agents", json=[])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(connection.RunningRequest, "__exit__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.agents()
    assert connection.here.slot is None
    assert not client._api.calls.running
    monkeypatch.undo()

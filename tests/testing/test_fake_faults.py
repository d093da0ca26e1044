"""Faults on demand."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

import pytest
import requests
from support.raw_api import Api, in_background

from parlant_sync.testing import FakeServer, Request, Response
from parlant_sync.testing.faults import matches


def raw(api: Api, method: str, path: str, body: bytes | None = None) -> bytes:
    """All bytes of the answer, on a connection that is closed after it."""
    connection = http.client.HTTPConnection("127.0.0.1", api.server.port, timeout=10)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", "Connection": "close"})
        assert connection.sock is not None
        received = b""
        while piece := connection.sock.recv(65536):
            received += piece
        return received
    finally:
        connection.close()


def request(method: str, path: str) -> Request:
    return Request(method, path, path, {}, {}, b"", 0.0, 1)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/", True),
        ("", True),
        ("POST", True),
        ("GET", False),
        ("/events", True),
        ("/sessions", False),
        ("POST /events", True),
        ("GET /events", False),
        ("/sessions/*/events", True),
        ("/sessions/*", True),
        ("/agents/*", False),
        ("POST /sessions/*/events", True),
        (lambda r: r.path.startswith("/sessions"), True),
        (lambda r: False, False),
    ],
)
def test_patterns(pattern, expected):
    assert matches(pattern, request("POST", "/sessions/abc/events")) is expected


def test_fail_next(api):
    session = api.session()
    api.server.fail_next("POST /events", times=2)
    for _ in range(2):
        answer = api.post(session, kind="message", source="customer", message="x")
        assert (answer.status_code, answer.headers["content-type"]) == (502, "text/html")
    assert api.events(session) == []  # not carried out, and lists are not touched
    api.send(session, "x")
    api.server.wait_idle()


@pytest.mark.parametrize("status", [401, 403, 500, 502])
def test_a_failure_has_its_own_name(api, status):
    api.server.fail_next("/agents", status)
    answer = api.call("GET", "/agents")
    assert answer.text == f"<html><body>{answer.reason}</body></html>"
    assert answer.reason == HTTPStatus(status).phrase


@pytest.mark.parametrize("pattern", ["bogus pattern x", "post /events", "PSOT", "GET /agents/a b", "GET  /events"])
def test_a_pattern_that_no_request_is_like(api, pattern):
    with pytest.raises(ValueError, match="'POST /events'"):
        api.server.fail_next(pattern, 503)
    with pytest.raises(ValueError, match="'POST /events'"):
        api.server.wait_requests(pattern, timeout=0.01)


def test_impossible_faults_are_refused(api):
    for order in (
        lambda: api.server.hold_next("/agents", times=0),
        lambda: api.server.drip_next("/agents", size=0),
        lambda: api.server.drip_next("/agents", every=-1),
    ):
        with pytest.raises(ValueError, match=r"at least 1|0 or more"):
            order()
    assert api.call("GET", "/agents").status_code == 200


def test_fail_next_though_stored(api):
    session = api.session()
    api.server.fail_next("POST", 503, "", {"Retry-After": "3"}, stored=True)
    answer = api.post(session, kind="message", source="customer", message="x")
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (503, b"", "3")
    assert api.events(session)[0]["data"]["message"] == "x"
    api.server.wait_idle()


def test_cut_by_reset(api):
    api.server.cut_next("/agents", reset=True)
    with pytest.raises(requests.ConnectionError) as caught:
        api.call("GET", "/agents")
    assert "reset" in str(caught.value).lower()


@pytest.mark.parametrize("after", [0, 1, 12, 60])
def test_cut_after_some_bytes(api, after):
    api.server.agent("support")
    whole = raw(api, "GET", "/agents")
    api.server.cut_next("/agents", after)
    assert len(raw(api, "GET", "/agents")) == after < len(whole)


def test_cut_in_the_body(api):
    api.server.agent("support")
    head, _, body = raw(api, "GET", "/agents").partition(b"\r\n\r\n")
    api.server.cut_next("/agents", 5, of_body=True)
    assert raw(api, "GET", "/agents").partition(b"\r\n\r\n")[2] == body[:5]
    api.server.cut_next("/agents", None)
    assert raw(api, "GET", "/agents").partition(b"\r\n\r\n")[2] == body[: len(body) // 2]
    assert b"content-length: %d" % len(body) in head


def test_hold_next(api):
    session = api.session()
    hold = api.server.hold_next("POST /events", times=2)
    posts = [in_background(api.post, session, kind="custom", source="customer_ui", data=n) for n in (1, 2)]
    hold.wait(count=2)
    assert hold.count == 2
    assert len(api.events(session)) == 2
    assert all(p.running for p in posts)
    hold.release()
    assert {p.result().status_code for p in posts} == {201}
    assert api.post(session, kind="custom", source="customer_ui", data=3).status_code == 201


def test_a_hold_that_was_released_before(api):
    hold = api.server.hold_next("/agents")
    hold.release()
    assert api.call("GET", "/agents").status_code == 200


def test_drip_next(api):
    api.server.drip_next("/agents", size=50, every=0.01)
    began = time.monotonic()
    assert api.call("GET", "/agents").json() == []
    assert time.monotonic() - began > 0.02


def altered(change: Callable[[Response], Response | None], api: Api) -> requests.Response:
    api.server.alter_next("/agents", change)
    return api.call("GET", "/agents")


def test_alter_next(api):
    def change(response: Response) -> None:
        response.body = b'[{"odd": 1}]'

    assert altered(change, api).json() == [{"odd": 1}]
    answer = altered(lambda r: Response(302, headers={"location": "/elsewhere"}), api)
    assert answer.status_code == 404  # requests went there
    assert altered(lambda r: Response(999), api).status_code == 999


def body_of_text(response: Response) -> None:
    response.body = "a text"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda response: 5, "it gave 5; a Response is needed"),
        (lambda response: False, "it gave False; a Response is needed"),
        (body_of_text, "'a text' no bytes"),
        (lambda response: Response("200"), "status '200' is no int"),
        (lambda response: response.nothing, "has no attribute 'nothing'"),
    ],
)
def test_a_function_that_fails_is_told(function, told):
    def use() -> None:
        with FakeServer() as server:
            server.alter_next("/agents", function)
            answer = requests.get(server.base_url + "/agents", timeout=5)
            assert (answer.status_code, told in answer.json()["detail"]) == (500, True)
            assert requests.get(server.base_url + "/agents", timeout=5).status_code == 200

    with pytest.raises(RuntimeError, match=told):
        use()


def test_an_error_of_the_test_itself_goes_first():
    def use() -> None:
        with FakeServer() as server:
            server.alter_next("/agents", lambda response: 5)
            requests.get(server.base_url + "/agents", timeout=5)
            raise KeyError

    with pytest.raises(KeyError):
        use()


def test_a_pattern_that_fails_fails_who_waits_for_it(api):
    asked = threading.Event()

    def pattern(request: Request) -> bool:
        if asked.is_set():
            raise LookupError("no such header")
        asked.set()
        return False

    api.call("GET", "/agents")
    waiting = in_background(api.server.wait_requests, pattern)
    asked.wait(5)
    assert api.call("GET", "/agents", timeout=5).status_code == 200
    assert isinstance(waiting.error(), LookupError)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_answer_that_cannot_be_written_is_cut(api):
    api.server.fail_next("/agents", 503, headers={"X-Name": "日本"})
    with pytest.raises(requests.ConnectionError):
        api.call("GET", "/agents", timeout=5)


def test_requests_are_recorded(api):
    session = api.session(title="t")
    api.list(session, 3, 0, kinds="message")
    created, listed = api.server.requests[-2:]
    assert (created.method, created.path, created.json["title"]) == ("POST", "/sessions", "t")
    assert created.headers["content-type"] == "application/json"
    assert (listed.query, listed.body, listed.json, listed.waits) == (
        {"min_offset": "3", "wait_for_data": "0", "kinds": "message"},
        b"",
        None,
        False,
    )
    assert listed.target == f"/sessions/{session}/events?min_offset=3&wait_for_data=0&kinds=message"
    assert created.time <= listed.time <= time.monotonic()
    assert created.connection == listed.connection
    assert (created.status, listed.status) == (201, 200)
    assert api.server.wait_requests("GET /events") == [listed]
    api.server.forget_requests()
    assert api.server.requests == []
    with pytest.raises(TimeoutError, match="not within"):
        api.server.wait_requests(timeout=0.01)


def test_only_so_many_are_kept(serve):
    api = serve(record=3)
    for _ in range(5):
        api.call("GET", "/agents")
    assert len(api.server.requests) == 3

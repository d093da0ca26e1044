"""Faults on demand."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable

import pytest
import requests
from raw_api import Api, in_background

from parlant_sync.testing import Request, Response
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


def test_fail_next_though_stored(api):
    session = api.session()
    api.server.fail_next("POST", 503, "", {"Retry-After": "3"}, stored=True)
    answer = api.post(session, kind="message", source="customer", message="x")
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (503, b"", "3")
    assert api.events(session)[0]["data"]["message"] == "x"
    api.server.wait_idle()


def test_fail_until_cleared(api):
    api.server.fail_next("/agents", 429, '{"detail": "slow down"}', times=None)
    assert {api.call("GET", "/agents").status_code for _ in range(5)} == {429}
    assert api.call("GET", "/agents").json() == {"detail": "slow down"}
    api.server.clear_faults()
    assert api.call("GET", "/agents").status_code == 200


def test_cut_before_anything(api):
    session = api.session()
    api.server.cut_next("POST /events")
    with pytest.raises(requests.ConnectionError):
        api.post(session, kind="message", source="customer", message="x")
    assert api.events(session) == []
    assert api.server.requests[-2].status is None


def test_cut_though_stored(api):
    session = api.session()
    api.server.cut_next("POST /events", stored=True)
    with pytest.raises(requests.ConnectionError):
        api.post(session, kind="message", source="customer", message="x")
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

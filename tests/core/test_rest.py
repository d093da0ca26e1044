"""Single calls: the time they may take, what of them is repeated, who can end them."""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from support.raw_api import in_background
from support.waiting import within

from parlant_sync import Client, errors
from parlant_sync._api.rest import RestApi
from parlant_sync._api.retry import LEAST, may_repeat, not_taken
from parlant_sync._deadline import Deadline, StopSignal
from parlant_sync._http.connection import RunningRequests
from parlant_sync._http.transport import Failure, HttpAnswer
from parlant_sync.events import Event, read_events
from parlant_sync.testing import FakeServer, Response


class FakeTransport:
    """Answers everything with an empty list, and remembers how long it was given."""

    base_url = "http://test"
    settings = SimpleNamespace(request_timeout=30.0)

    def __init__(self) -> None:
        self.limits: list[float] = []

    def request(self, method: str, path: str, *, read_timeout: float, **_: Any) -> HttpAnswer:
        self.limits.append(read_timeout)
        return HttpAnswer(200, {}, b"[]")


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.mark.parametrize(
    ("left", "given"), [(0.0, LEAST), (0.1, LEAST), (3.0, 3.0), (None, 30.0), (1000.0, 30.0)], ids=str
)
def test_a_list_has_what_is_left_of_its_deadline(transport: FakeTransport, left: float | None, given: float) -> None:
    assert RestApi(transport).list_events("s", 0, deadline=Deadline(left)) == []  # type: ignore[arg-type]
    assert transport.limits == [pytest.approx(given, abs=0.5 if given == 3.0 else 1e-9)]


@pytest.mark.parametrize("request_line", ["POST /sessions", "POST /events"])
def test_a_pause_after_a_429_can_be_seen(parlant_server: FakeServer, request_line: str) -> None:
    parlant_server.agent("support")
    with Client(parlant_server.base_url) as client:
        assert client.stats().limited_for == 0.0
        parlant_server.fail_next(request_line, 429, '{"detail": "slow down"}', {"Retry-After": "20"})
        failed: list[errors.ParlantSyncError] = []

        def ask() -> None:
            try:
                client.create_session("support").post("hi")
            except errors.ParlantSyncError as error:
                failed.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        until = time.monotonic() + 10
        while client.stats().limited_for < 10:
            assert time.monotonic() < until
        assert client.stats().limited_for <= 20
    asking.join()
    assert failed, "closing ends the pause"


def test_pages_that_come_again_end_the_list() -> None:
    class Circle(FakeTransport):
        pages = 0

        def request(self, method: str, path: str, *, params: dict[str, Any], **_: Any) -> HttpAnswer:
            following = {"a": "b", "b": "a"}[params.get("cursor", "b")]
            self.pages += 1
            assert self.pages < 9
            return HttpAnswer(200, {}, json.dumps({"items": [], "has_more": True, "next_cursor": following}).encode())

    assert list(RestApi(Circle()).list_sessions({})) == []  # type: ignore[arg-type]


# -- ending


def test_the_requests_of_one_owner_are_ended_alone(server: FakeServer) -> None:
    session_id = server.create_session("a")
    with Client(server.base_url) as client:
        api = client._api
        one, other = api.scoped(RunningRequests(), StopSignal()), api.scoped(RunningRequests(), StopSignal())
        waiting = {"min_offset": 100, "wait_for_data": 60}
        asking = in_background(one.get, f"/sessions/{session_id}/events", read_events, params=waiting)
        server.wait_requests(lambda r: r.waits, 1)
        cause = errors.SessionClosed("closed by a test")
        one.stop(cause)
        raised = asking.error(5)
        assert (type(raised), str(raised)) == (errors.SessionClosed, "closed by a test")
        assert raised is not cause
        failure = Failure()
        with pytest.raises(errors.SessionClosed, match="closed by a test"):
            one.create_event(session_id, {}, failure=failure)
        assert not failure.sent
        assert other.read_session(session_id).id == session_id
        assert api.read_session(session_id).id == session_id
        assert not one.calls.running | other.calls.running | api.calls.running


def test_an_end_cuts_a_pause_short(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its caller is told is the end, not the trouble that the pause was for."""
    server.fail_next("GET /agents", 503, times=None)
    with Client(server.base_url) as client:
        api = client._api

        def pause(attempt: int) -> float:
            api.stop(errors.SessionClosed("closed in a pause"))
            return 20.0

        monkeypatch.setattr("parlant_sync._api.retry.jittered", pause)
        with within(5):
            with pytest.raises(errors.SessionClosed, match="closed in a pause"):
                api.list_agents()


def test_a_post_that_was_cut_is_known_to_have_gone(server: FakeServer) -> None:
    session_id = server.create_session("a")
    with Client(server.base_url) as client:
        api = client._api.scoped(RunningRequests(), StopSignal())
        failure = Failure()
        hold = server.hold_next("POST /sessions/*/events")
        body = {"kind": "custom", "source": "customer_ui", "data": {}}
        posting = in_background(api.create_event, session_id, body, failure=failure)
        hold.wait()
        api.stop(errors.SessionClosed("closed"))
        assert isinstance(posting.error(5), errors.SessionClosed)
        hold.release()
        assert failure.sent


def test_what_was_learnt_of_the_server_is_shared(server: FakeServer) -> None:
    with Client(server.base_url) as client:
        client._api.scoped(RunningRequests(), StopSignal())._server.single_reads = False
        assert not client._api.scoped(RunningRequests(), StopSignal()).single_reads


# -- no hope


def test_what_never_heals_is_not_repeated() -> None:
    hopeless = errors.TransportError("a certificate")
    hopeless._hopeless = True
    asked: list[str] = []

    class Untrusted(FakeTransport):
        def request(self, method: str, path: str, **_: Any) -> HttpAnswer:
            asked.append(path)
            raise hopeless

    api = RestApi(Untrusted())  # type: ignore[arg-type]
    for call in (api.list_agents, lambda: api.delete_session("s"), lambda: api.list_events("s", 0)):
        with pytest.raises(errors.TransportError):
            call()
    assert len(asked) == 3
    assert not_taken(hopeless, Failure())
    assert not may_repeat(hopeless, Failure())
    assert may_repeat(errors.TransportError("refused"), Failure())


# -- health


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        (Response(200, b'{"status": "ok"}'), True),
        (Response(200, b'{"status": "healthy"}'), True),
        (Response(200, b'{"status": "degraded"}'), False),
        (Response(200, b"<html>hello</html>"), False),
        (Response(200, b"{}"), False),
        (Response(200, b""), False),
        (Response(404, b""), True),
        (Response(403, b""), True),
        (Response(503, b""), False),
    ],
    ids=lambda value: str(getattr(value, "body", value)),
)
def test_what_is_healthy(answer: Response, healthy: bool, server: FakeServer) -> None:
    server.alter_next("GET /healthz", lambda _: answer, times=None)
    with Client(server.base_url) as client:
        assert client.server_info().healthy is healthy


@pytest.mark.parametrize("event_id", ["", ".", "..", "\ud800"])
def test_an_event_whose_id_is_no_path_is_listed(event_id: str, server: FakeServer) -> None:
    session_id = server.create_session("a")
    with Client(server.base_url) as client:
        assert client._api.held(session_id, Event({"offset": 0, "id": event_id})) is None
        assert client._api.single_reads
